"""The model of this folder: python predict.py photo.jpg ...

Where it was trained on arrays it takes .npy files: samples.npy ...

It needs jax, flatbuffers (with which jax reads programs), numpy and, for image files, Pillow.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax import export, nn

FOLDER = Path(__file__).resolve().parent


def load(folder: Path = FOLDER) -> Callable[[np.ndarray], np.ndarray]:
  """Reads the model: a function of samples (batch, ...) as `read` gives them.

  It gives logits, float32 (batch, classes); the first call of each batch size compiles.
  """
  program = export.deserialize(bytearray((folder / 'model.jax').read_bytes()))
  with np.load(folder / 'weights.npz') as arrays:
    weights, mean = dict(arrays), np.load(folder / 'mean.npy')
  return lambda samples: np.asarray(program.call(weights, mean, samples))


def read(file: Path, folder: Path = FOLDER) -> np.ndarray:
  """A file as the model takes it: an image, uint8 (1, size, size, 3), RGB; or samples (n, ...).

  Raises:
    ValueError: it is no image, or holds samples of another shape.
  """
  given = json.loads((folder / 'input.json').read_text())
  if 'size' in given:
    import images  # noqa: PLC0415 - beside this file: decodes and resizes as in training

    scale = images.Scale(*given['scale']) if given.get('scale') else None
    image = images.decode(file.read_bytes(), scale)
    return images.resize(image, given['size'], given['resize'])[None]
  samples, shape = np.load(file, allow_pickle=False), tuple(given['shape'])
  if samples.shape == shape:
    samples = samples[None]
  # Numbers from 0 to 1, say, are none for a model that was trained on 0 to 255.
  if samples.shape[1:] != shape or not np.can_cast(samples.dtype, given['dtype'], 'same_kind'):
    raise ValueError(
      f'{file} holds {samples.dtype} {samples.shape}; the model takes {given["dtype"]} {shape}, '
      'or several of them in one array'
    )
  return samples.astype(given['dtype'])


def main(files: Sequence[str]) -> None:
  model, labels = load(), json.loads((FOLDER / 'labels.json').read_text())
  for file in files:
    every = np.asarray(nn.softmax(model(read(Path(file)))))
    for row, probabilities in enumerate(every):
      name = file if len(every) == 1 else f'{file}[{row}]'
      best = np.argsort(-probabilities, kind='stable')[:5]
      print(name, *(f'{labels[i]} {100 * probabilities[i]:.1f} %' for i in best), sep='  ')


if __name__ == '__main__':
  main(sys.argv[1:])
