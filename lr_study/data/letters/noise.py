"""Smooth random fields, cut out of sheets that are drawn once per process."""

import functools

import numpy as np
from PIL import Image

_SHEET = 4  # the side of a sheet in images, so that its windows differ enough


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
  """Noise of mean 0 and variance 1, float32 (size, size), about `cells` bumps across.

  The result is a view of a shared sheet; do not write to it.
  """
  level = max(1, round(np.log2(cells)))
  sheet = _sheet(size, level)
  row, column, turn = rng.integers((len(sheet) - size, len(sheet) - size, 8)).tolist()
  field = sheet[row : row + size, column : column + size]
  if turn & 1:
    field = field[::-1]
  if turn & 2:
    field = field[:, ::-1]
  return field.T if turn & 4 else field


def fractal(rng: np.random.Generator, size: int, cells: int, octaves: int) -> np.ndarray:
  """Noise of `cells`, 2 `cells`, 4 `cells`, ... with halving heights; variance about 1."""
  total = np.zeros((size, size), np.float32)
  for octave in range(octaves):
    total += noise(rng, size, cells << octave) * np.float32(0.5**octave)
  total *= np.float32(1 / np.sqrt(sum(0.25**k for k in range(octaves))))
  return total


def stretched(rng: np.random.Generator, size: int, along: int, across: int) -> np.ndarray:
  """Noise with `along` bumps vertically and `across` horizontally, float32 (size, size)."""
  rows, columns = min(along, size), min(across, size)
  grid = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
  return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=16)
def _sheet(size: int, level: int) -> np.ndarray:
  side, cells = _SHEET * size, _SHEET << level
  rng = np.random.default_rng([size, level])
  if cells >= side:
    return rng.standard_normal((side, side), np.float32)
  grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
  sheet = np.array(grid.resize((side, side), Image.Resampling.BICUBIC))
  sheet -= sheet.mean(dtype=np.float64).astype(np.float32)
  sheet /= sheet.std(dtype=np.float64).astype(np.float32)
  return sheet
