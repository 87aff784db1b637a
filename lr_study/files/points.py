"""The points of a study's curves, as TensorBoard and trackers take them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lr_study.answer.measure import Measure
from lr_study.files.history import STEP_CURVES, History, window_means
from lr_study.search.rounds import Planned

TRAIN, VALIDATION = 'train', 'validation'


class Point(NamedTuple):
  """A point of each trial's curve `name` of a part, after some steps: values (trials,).

  What is measured on validation images is of the part VALIDATION, all else of TRAIN.
  """

  part: str
  name: str
  step: int
  values: np.ndarray


class Points:
  """Gives the points of trials that train together, from their history."""

  def __init__(
    self,
    trials: Sequence[Planned],
    height: Callable[[int, int], float],
    window: int,
    at_best: Measure | None = None,
  ):
    """Remembers what the trials are.

    Args:
      trials: what each is, in the order of the history's columns.
      height: of the learning rate at a step, from 0, in the column of a trial.
      window: steps that one point of a training curve is the mean of.
      at_best: the measure that the study goes by, if it goes by each trial's best epoch: its best
        value so far is a curve then.
    """
    self._rates = np.asarray([trial.learning_rate for trial in trials])
    self._height, self._window, self._at_best = height, window, at_best
    # The columns of trials whose schedule is the same.
    self._alike: dict[tuple, list[int]] = {}
    for column, trial in enumerate(trials):
      own = tuple(axis for axis in trial.axes if axis[0].startswith('schedule.'))
      self._alike.setdefault(own, []).append(column)

  def of_steps(self, history: History, first: int, stop: int) -> Iterator[Point]:
    """Those of the training curves in rows `first` to `stop`, one for each window."""
    for name in STEP_CURVES:
      ends, means = window_means(history.steps[name][first:stop], self._window)
      for end, row in zip(first + ends, means, strict=True):
        yield Point(TRAIN, name, int(end), row)
    for step in range(first, stop, self._window):
      end = min(step + self._window, stop)
      yield Point(TRAIN, 'learning_rate', end, self._rates * self._heights(step))

  def of_epoch(self, history: History, epoch: int, done: int) -> Iterator[Point]:
    """Those of row `epoch` of the curves over epochs, at `done` steps; but what was not measured.

    The means of the training curves over the epoch are left out: `of_steps` has them finer.
    """
    for name, curve in history.epochs.items():
      if name.startswith(f'{TRAIN}_') or np.isnan(curve[epoch]).all():
        continue
      part = TRAIN if short(name) == name else VALIDATION
      yield Point(part, short(name), done, np.array(curve[epoch]))
    if measure := self._at_best:
      curves = history.epochs[measure.field][: epoch + 1]
      best = [max(curve, key=lambda x: (not np.isnan(x), measure.score(x))) for curve in curves.T]
      yield Point(VALIDATION, best_of(measure), done, np.asarray(best))

  def _heights(self, step: int) -> np.ndarray:
    """Of the learning rate of each trial at a step."""
    heights = np.empty(len(self._rates))
    for alike in self._alike.values():
      heights[alike] = self._height(step, alike[0])
    return heights


def short(field: str) -> str:
  """The name of a measure's curve among those of its part: 'accuracy'."""
  return field.removeprefix(f'{VALIDATION}_')


def best_of(measure: Measure) -> str:
  """The name of the curve of a trial's best value so far."""
  return f'best_{short(measure.field)}'
