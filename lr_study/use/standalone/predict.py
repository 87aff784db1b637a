"""The model of this folder: python predict.py photo.jpg ...

It needs jax, flatbuffers (with which jax reads programs), numpy and Pillow.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import images  # beside this file: decodes and resizes as in training
import numpy as np
from jax import export, nn

FOLDER = Path(__file__).resolve().parent


def load(folder: Path = FOLDER) -> Callable[[np.ndarray], np.ndarray]:
  """Reads the model: a function of uint8 images (batch, size, size, 3), RGB.

  It gives logits, float32 (batch, classes); the first call of each batch size compiles.
  """
  program = export.deserialize(bytearray((folder / 'model.jax').read_bytes()))
  with np.load(folder / 'weights.npz') as arrays:
    weights, mean = dict(arrays), np.load(folder / 'mean.npy')
  return lambda pixels: np.asarray(program.call(weights, mean, pixels))


def read(file: Path, folder: Path = FOLDER) -> np.ndarray:
  """An image file as the model takes it, uint8 (size, size, 3). ValueError if it is none."""
  given = json.loads((folder / 'input.json').read_text())
  return images.resize(images.decode(file.read_bytes()), given['size'], given['resize'])


def main(files: Sequence[str]) -> None:
  model, labels = load(), json.loads((FOLDER / 'labels.json').read_text())
  for file in files:
    probabilities = np.asarray(nn.softmax(model(read(Path(file))[None])[0]))
    best = np.argsort(-probabilities, kind='stable')[:5]
    print(file, *(f'{labels[i]} {100 * probabilities[i]:.1f} %' for i in best), sep='  ')


if __name__ == '__main__':
  main(sys.argv[1:])
