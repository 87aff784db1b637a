"""Arrays in place of files: small grey digits in the manner of scikit-learn's, and a table."""

import numpy as np


def digits(images: int = 240, side: int = 8, noise: float = 0.5):
  """Ten blurred shapes and noise: uint8 (images, side, side, 1), and labels."""
  rng = np.random.default_rng(0)
  labels = np.arange(images) % 10
  shapes = rng.random((10, 4, 4)).repeat(side // 4, 1).repeat(side // 4, 2)
  x = shapes[labels] + noise * rng.normal(size=(images, side, side))
  return np.clip(128 * x + 32, 0, 255).astype(np.uint8)[..., None], labels


def table(rows: int = 240):
  """Measurements of flowers: floats (rows, 6), and names; to train and to validate."""
  rng = np.random.default_rng(1)
  names = np.asarray(['setosa', 'versicolor', 'virginica'])
  labels = rng.integers(0, 3, rows)
  x = rng.normal(size=(3, 6))[labels] + 0.5 * rng.normal(size=(rows, 6))
  train, validation = slice(0, 3 * rows // 4), slice(3 * rows // 4, rows)
  return (x[train], names[labels[train]]), (x[validation], names[labels[validation]])
