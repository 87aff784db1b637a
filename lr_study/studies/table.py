"""The trials of a part of a study as columns, small enough to be committed."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lr_study.answer.status import DIVERGED
from lr_study.files.history import STEP_CURVES, window_means
from lr_study.finished import Study

_FIGURES = (
  'learning_rate', 'seed', 'batch_size', 'schedule', 'status', 'first_bad_step', 'steps', 'epochs',
  'train_loss', 'train_loss_at_end', 'train_accuracy', 'validation_loss', 'validation_accuracy',
  'sharpness',
)  # fmt: skip
_DIGITS = 7  # of a stored number; float32 has as many
_POINTS = 60  # of a stored curve of steps


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Trials as columns.

  Attributes:
    columns: arrays (trials,) by name: a field of `Result`, an axis such as 'optimizer.momentum', a
      metric such as 'validation_top5', or what a study computes itself. A number that a trial does
      not have, or that is not finite, is NaN.
    curves: float arrays (points, trials) by name. Of steps, and of more than 120 epochs, means over
      `window` of them.
    window: steps, or epochs, per point of such a curve.
    about: what all trials share: 'guessing_loss', 'classes', 'validation' (images) and others.
      'trials' is how many there are if a row is not one trial.
  """

  columns: Mapping[str, np.ndarray]
  curves: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  window: int = 1
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(next(iter(self.columns.values())))

  def __getitem__(self, name: str) -> np.ndarray:
    return self.columns[name]

  def where(self, selected: np.ndarray | None = None, **values: Any) -> 'Table':
    """The trials that a mask selects and that have these values.

    In a keyword, `__` stands for the dot in the name of an axis: where(optimizer__momentum=0.9).
    """
    kept = np.ones(len(self), bool) if selected is None else np.asarray(selected, bool)
    for name, value in values.items():
      kept = kept & (self.columns[name.replace('__', '.')] == value)
    return dataclasses.replace(
      self,
      columns={name: column[kept] for name, column in self.columns.items()},
      curves={name: curve[:, kept] for name, curve in self.curves.items()},
    )

  def by(self, name: str) -> 'Iterator[tuple[Any, Table]]':
    """The values of a column in order, each with its trials."""
    for value in sorted(set(self.columns[name].tolist())):
      yield value, self.where(self.columns[name] == value)

  def grid(self, figure: str, rows: str, columns: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A figure of every trial by two columns, such as ('validation_loss', 'learning_rate', 'seed').

    Returns:
      The values of the rows, (rows,), and of the columns, (columns,), both in order, and the
      figures, (rows, columns), NaN where there is no trial.
    """
    of_rows, row = np.unique(self[rows], return_inverse=True)
    of_columns, column = np.unique(self[columns], return_inverse=True)
    found = np.full((len(of_rows), len(of_columns)), np.nan)
    found[row, column] = self[figure]
    return of_rows, of_columns, found

  @property
  def diverged(self) -> np.ndarray:
    """True for trials that diverged, (trials,)."""
    return self.columns['status'] == DIVERGED

  def as_json(self) -> dict[str, Any]:
    """What `from_json` reads; a column with the same value in all trials is that value."""
    curves = {
      name: [_stored(curve[:, i]) for i in range(curve.shape[1])]
      for name, curve in self.curves.items()
    }
    columns = {name: _stored(column) for name, column in self.columns.items()}
    columns = {
      name: of[0] if len(of) > 1 and all(x == of[0] for x in of) else of
      for name, of in columns.items()
    }
    return {
      'trials': len(self), 'about': dict(self.about), 'columns': columns, 'window': self.window,
      'curves': curves,
    }  # fmt: skip


def from_json(stored: Mapping[str, Any]) -> Table:
  """A table from what `as_json` returned."""
  trials = stored['trials']

  def column(of: Any) -> np.ndarray:
    return _column(of if isinstance(of, list) else [of] * trials)

  return Table(
    {name: column(of) for name, of in stored['columns'].items()},
    {name: np.stack([_column(of) for of in curve], 1) for name, curve in stored['curves'].items()},
    stored['window'],
    stored['about'],
  )


def of_study(
  study: Study, curves: Iterable[str] = (), further: Mapping[str, Any] | None = None
) -> Table:
  """The table of a finished study.

  Args:
    study: the study.
    curves: names of the curves to keep.
    further: columns to add, each (trials,).
  """
  results = study.trials
  columns: dict[str, Any] = {name: [getattr(r, name) for r in results] for name in _FIGURES}
  for name in dict.fromkeys(name for result in results for name in result.axes):
    columns[name] = [result.axes.get(name) for result in results]
  for name in dict.fromkeys(name for result in results for name in result.metrics):
    columns[name] = [result.metrics.get(name) for result in results]
  columns = {name: _column(_rounded(of)) for name, of in (columns | dict(further or {})).items()}
  kept, window = {}, 1
  for name in curves:
    curve = np.asarray(study.curves[name], np.float64)
    if name in STEP_CURVES or len(curve) > 2 * _POINTS:  # so many epochs have few steps each
      window = math.ceil(len(curve) / _POINTS)
      curve = window_means(curve, window)[1]
    kept[name] = np.stack([_column(_rounded(column)) for column in curve.T], 1)
  data = study.record['data']
  about = {
    'guessing_loss': study.record['guessing_loss'],
    'classes': len(data['classes']), 'train': data['train'], 'validation': data['validation'],
  }  # fmt: skip
  return Table(columns, kept, window, about)


def _column(values: Iterable[Any]) -> np.ndarray:
  """Numbers as an array with NaN for None; anything else as an array of objects."""
  values = list(values)
  if all(value is None or isinstance(value, int | float) for value in values):
    found = np.asarray([math.nan if value is None else value for value in values], np.float64)
    return found
  return np.asarray([str(value) for value in values], object)


def _rounded(values: Iterable[Any]) -> list[Any]:
  """Values as they are stored, so that a new table equals the one read from a file."""
  return [_short(value) for value in values]


def _stored(values: np.ndarray) -> list[Any]:
  return [_short(value) for value in values.tolist()]


def _short(value: Any) -> Any:
  """A number with the digits that are stored; None if it is not finite."""
  if isinstance(value, np.generic):
    value = value.item()
  if not isinstance(value, float):
    return value
  if not math.isfinite(value):
    return None
  value = float(f'{value:.{_DIGITS}g}')
  return int(value) if value.is_integer() and abs(value) < 1e15 else value
