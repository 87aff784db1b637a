"""Runs the model in this folder: python predict.py photo.jpg ...

If it was trained on arrays, it takes .npy files: python predict.py samples.npy ...

It needs jax, flatbuffers (with which jax reads programs), numpy and, for image files, Pillow.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jax import export, nn

FOLDER = Path(__file__).resolve().parent


def load(folder: Path = FOLDER) -> Callable[[np.ndarray], np.ndarray]:
  """Reads the model: a function of samples (batch, ...), as returned by `read`.

  The function returns logits, float32 (batch, classes). The first call with each batch size
  compiles.
  """
  program = export.deserialize(bytearray((folder / 'model.jax').read_bytes()))
  with np.load(folder / 'weights.npz') as arrays:
    weights, mean = dict(arrays), np.load(folder / 'mean.npy')
  return lambda samples: np.asarray(program.call(weights, mean, samples))


def read(file: Path, folder: Path = FOLDER) -> np.ndarray:
  """Reads a file for the model: an RGB image, uint8 (1, size, size, 3); or samples (n, ...).

  Raises:
    OSError: it cannot be read.
    ValueError: it is not an image, or holds samples of another shape.
  """
  given = json.loads((folder / 'input.json').read_text())
  if 'size' in given:
    import images  # noqa: PLC0415 - next to this file: decodes and resizes as in training

    scale = images.Scale(*given['scale']) if given.get('scale') else None
    image = images.decode(file.read_bytes(), scale)
    return images.resize(image, given['size'], given['resize'])[None]
  return read_samples(file, tuple(given['shape']), given['dtype'])


def read_samples(file: Path | IO[bytes], shape: tuple[int, ...], dtype: str) -> np.ndarray:
  """The samples, (n, *shape), of an .npy file that holds one or several.

  Raises:
    OSError: it cannot be read.
    ValueError: it holds something else.
  """
  try:
    samples = np.load(file, allow_pickle=False)
  except (EOFError, ValueError) as error:
    raise ValueError('not an .npy file of numbers') from error
  if not isinstance(samples, np.ndarray):
    raise ValueError('several arrays; the model takes an .npy file, which has one array')
  if samples.shape == shape:
    samples = samples[None]
  # For example, floats from 0 to 1 do not fit a model that was trained on uint8 from 0 to 255.
  if samples.shape[1:] != shape or not np.can_cast(samples.dtype, dtype, 'same_kind'):
    raise ValueError(
      f'it holds {samples.dtype} {samples.shape}; the model takes {dtype} {shape}, or several of '
      'them in one array'
    )
  return samples.astype(dtype)


def main(files: Sequence[str]) -> int:
  """Prints the most likely classes of each file; returns 1 if a file could not be read, else 0."""
  if not files:
    print('usage: python predict.py FILE ...', file=sys.stderr)
    return 2
  model, labels, status = load(), json.loads((FOLDER / 'labels.json').read_text()), 0
  for file in files:
    try:
      samples = read(Path(file))
    except (OSError, ValueError) as error:
      why = getattr(error, 'strerror', None) or error
      hint = f'; give the files in it: {file}/*' if os.path.isdir(file) else ''
      print(f'{file!r}: {why}{hint}', file=sys.stderr)
      status = 1
      continue
    every = np.asarray(nn.softmax(model(samples)))
    for row, probabilities in enumerate(every):
      name = file if len(every) == 1 else f'{file}[{row}]'
      best = np.argsort(-probabilities, kind='stable')[:5]
      print(name, *(f'{labels[i]} {100 * probabilities[i]:.1f} %' for i in best), sep='  ')
  return status


if __name__ == '__main__':
  try:
    ended = main(sys.argv[1:])
    sys.stdout.flush()
  except BrokenPipeError:  # the reader has stopped, as with `| head -1`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ended = 141
  sys.exit(ended)
