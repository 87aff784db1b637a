"""The map of rates that train: its trials, its box counts, and the windows that it zooms into."""

import jax.numpy as jnp
import numpy as np
import pytest

from lr_study.studies import boundary


def test_a_pair_of_rates_is_trained_as_by_hand():
  """Of three pairs: one too small to do much, one that learns, one that diverges."""
  weights, points, targets = boundary.initial(0, 4)
  rates = np.float32([[1e-3, 1e-3], [2, 2], [1e4, 1e4]])
  found = np.asarray(boundary.train(weights, (points, targets), rates, 30, 2))
  hidden, output, losses = np.asarray(weights[0]), np.asarray(weights[1]), []
  x, y, rate = np.asarray(points), np.asarray(targets), 2.0
  for _ in range(30):
    values = np.tanh(x @ hidden * 0.5**0.5)
    error = values @ output / 4 - y
    losses.append(np.mean(error**2))
    slope = 2 * error / len(y) / 4
    before = slope[:, None] * output * (1 - values**2)
    output = output - rate * slope @ values
    hidden = hidden - rate * x.T @ before * 0.5**0.5
  assert found[1] == pytest.approx(-np.sum(losses) / losses[0], rel=1e-4)
  assert found[1] > found[0] > -30  # minus the sum: the faster, the larger
  assert found[2] > 0


def test_the_dimensions_of_known_sets():
  """A straight line has 1, Sierpinski's carpet log 8 / log 3, a filled square 2."""
  row, column = np.indices((256, 256))
  for marked, expected, within in (
    (row == column, 1, 1e-9),
    (boundary.edges(row > 100), 1, 1e-9),
    (np.ones((256, 256), bool), 2, 1e-9),
    (_carpet(243)[:192, :192], np.log(8) / np.log(3), 0.1),
  ):
    assert boundary.dimension(boundary.box_counts(marked)) == pytest.approx(expected, abs=within)


def _carpet(side):
  row, column = np.indices((side, side))
  kept = np.ones((side, side), bool)
  while side > 1:
    kept &= ~((row % 3 == 1) & (column % 3 == 1))
    row, column, side = row // 3, column // 3, side // 3
  return kept


def test_a_window_is_inside_and_holds_a_typical_part():
  """One point in a corner, a line, and a small filled square, which holds few of all points."""
  marked = np.zeros((100, 100), bool)
  marked[60] = True
  marked[10:14, 10:14] = True
  marked[0, 99] = True
  row, column = boundary.typical(marked, 5)
  assert 0 <= row <= 80
  assert 0 <= column <= 80
  assert marked[row : row + 20, column : column + 20].sum() == 20


def test_an_image_is_packed_and_unpacked():
  values = np.random.default_rng(0).normal(size=(32, 32))
  image = boundary.levels(values)
  np.testing.assert_array_equal(boundary.unpacked(boundary.packed(image)), image)
  np.testing.assert_array_equal(image < 8, values < 0)
  assert np.unique(image).tolist() == list(range(16))
  assert boundary.levels(-np.abs(values)).max() == 7  # all converge


def test_the_grid_of_rates():
  rates = boundary.grid((-1.0, 0.0), 2.0, 3).reshape(3, 3, 2)
  np.testing.assert_allclose(rates[0, :, 0], [0.1, 1, 10], rtol=1e-6)  # of the hidden layer
  np.testing.assert_allclose(rates[:, 1, 1], [1, 10, 100], rtol=1e-6)
  assert jnp.asarray(rates).dtype == np.float32
