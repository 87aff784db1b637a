"""The best rate of a part of a study, between the rates that were tried."""

import numpy as np

from lr_study.answer import landscape
from lr_study.studies.table import Table


def accuracies(part: Table, guessing: float | None = None) -> tuple[np.ndarray, np.ndarray]:
  """The rates, (rates,), and the validation accuracies, per cent, (rates, seeds).

  A trial that diverged has that of guessing: `guessing`, a share, or by default 1 / classes.
  """
  rates, _, found = part.grid('validation_accuracy', 'learning_rate', 'seed')
  guessing = 1 / part.about['classes'] if guessing is None else guessing
  return rates, 100 * np.where(np.isnan(found), guessing, found)


def best(part: Table, figure: str = 'validation_loss') -> np.ndarray:
  """The rate at which a loss is lowest, of each seed, (seeds,).

  It is the vertex of a parabola through the lowest loss and its neighbours, over the logarithm of
  the rate. A loss above that of guessing, or of a trial that diverged, counts as twice that of
  guessing: the parabola would bend to it. NaN if the lowest loss is at an end of the grid.

  Args:
    part: trials that differ in rate and seed.
    figure: the column with the losses.
  """
  rates, _, losses = part.grid(figure, 'learning_rate', 'seed')
  most = 2 * part.about['guessing_loss']
  losses = np.where(np.isfinite(losses), np.minimum(losses, most), most)
  found = []
  for own in losses.T:
    place, _ = landscape.peak(rates, -own[:, None], rates[np.argmin(own)])
    found.append(np.nan if place is None else place)
  return np.asarray(found)


def best_by(
  part: Table, axis: str, figure: str = 'validation_loss'
) -> tuple[np.ndarray, np.ndarray]:
  """The values of an axis, (values,), and the best rates for each of them, (values, seeds)."""
  found = [(value, best(own, figure)) for value, own in part.by(axis)]
  values, rates = zip(*found, strict=True)
  return np.asarray(values), np.stack(rates)
