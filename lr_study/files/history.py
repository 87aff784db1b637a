"""The curves of all trials, as NumPy files that are filled while the study trains."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_study.answer import status
from lr_study.answer.measure import curve_of
from lr_study.errors import StudyError
from lr_study.files import record

STEP_CURVES = ('loss', 'accuracy', 'gradient_norm')  # of a training batch, before its update
EPOCH_CURVES = (  # of every study; each other metric has one too, such as validation_top5
  'train_loss',
  'train_accuracy',
  'validation_loss',
  'validation_accuracy',
  'validation_balanced_accuracy',  # the mean of the classes' shares of correct images
  'update_ratio',  # of the last step: the norm of its update, divided by that of the weights
  'sharpness',  # if it is measured; see curvature.py
  'sharpness_edge',
  'critical_sharpness',
)
_LATER = ('critical_sharpness',)  # missing in studies from before it was added


class History:
  """Curves over steps and over epochs, one column per trial.

  `steps['loss']` is float32 (steps, trials), `epochs['train_loss']` float64 (epochs, trials).
  Row i belongs to step i + 1 or to the end of epoch i + 1. The arrays are memory maps of
  `folder/step_loss.npy`, `folder/epoch_train_loss.npy`, and so on. Rows not reached yet are NaN.
  """

  def __init__(
    self,
    folder: Path,
    steps: int,
    epochs: int,
    trials: int,
    metrics: Sequence[str] = (),
    read_only: bool = False,
  ):
    """Opens the curves in `folder`, or creates them.

    Args:
      folder: created if missing.
      steps: rows of the curves over steps.
      epochs: rows of the curves over epochs.
      trials: columns.
      metrics: names of other metrics; each has a curve over epochs, `validation_<name>`, with its
        short name.
      read_only: create and change nothing.

    Raises:
      StudyError: a file is damaged, or missing although this is read-only.
    """
    if not read_only:
      folder.mkdir(parents=True, exist_ok=True)

    def curve(name: str, rows: int, dtype: type) -> np.memmap:
      return _curve(folder / f'{name}.npy', (rows, trials), dtype, read_only)

    self.steps = {name: curve(f'step_{name}', steps, np.float32) for name in STEP_CURVES}
    self.epochs = {
      name: curve(f'epoch_{name}', epochs, np.float64)
      for name in dict.fromkeys((*EPOCH_CURVES, *map(curve_of, metrics)))
    }

  @property
  def metrics(self) -> tuple[str, ...]:
    """The names of the metrics whose curves are not in `EPOCH_CURVES`."""
    further = (name for name in self.epochs if name not in EPOCH_CURVES)
    return tuple(name.removeprefix(curve_of('')) for name in further)

  @property
  def steps_per_epoch(self) -> int:
    """How many steps an epoch has."""
    return len(self.steps['loss']) // len(self.epochs['train_loss'])

  def write_steps(
    self, first: int, curves: Mapping[str, np.ndarray], columns: np.ndarray | slice = slice(None)
  ) -> None:
    """Writes rows `first`, `first` + 1, ... of each curve over steps, (rows, columns)."""
    for name, rows in curves.items():
      self.steps[name][first : first + len(rows), columns] = rows

  def write_epoch(
    self, epoch: int, curves: Mapping[str, np.ndarray], columns: np.ndarray | slice = slice(None)
  ) -> None:
    """Writes row `epoch` (from 0) of each curve over epochs, (columns,)."""
    for name, row in curves.items():
      self.epochs[name][epoch, columns] = row

  def copy(self, other: 'History', theirs: int, ours: int) -> None:
    """Copies a column of another history, which may have fewer rows."""
    for name, curve in other.steps.items():
      self.steps[name][: len(curve), ours] = curve[:, theirs]
    for name, curve in other.epochs.items():
      self.epochs[name][: len(curve), ours] = curve[:, theirs]

  def epoch_means(self, first: int, stop: int, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Training loss and accuracy of an epoch, (columns,): the means over its steps."""
    return {
      f'train_{name}': self.steps[name][first:stop, columns].mean(0, np.float64)
      for name in ('loss', 'accuracy')
    }

  def first_bad_steps(self, first: int, stop: int, evaluated: bool = False) -> np.ndarray:
    """The first bad step of each trial, (trials,), by `status.first_bad_step`; 0 if there is none.

    Args:
      first: the row to begin at; steps are still counted from row 0.
      stop: the row to stop before.
      evaluated: the last of these steps ends an epoch, and the evaluation after it counts.
    """
    loss, gradient_norm = (self.steps[name][first:stop] for name in ('loss', 'gradient_norm'))
    row = stop // self.steps_per_epoch - 1
    last = self.epochs['validation_loss'][row] if evaluated else None
    found = status.first_bad_step(loss, gradient_norm, last)
    return np.where(found, first + found, 0)

  def unbroken(self, first: int, stop: int) -> np.ndarray:
    """True for each trial, (trials,), whose losses and gradients in these rows are all finite."""
    return self.first_bad_steps(first, stop) == 0

  def running(self, done: int) -> np.ndarray:
    """The columns of the trials that have not diverged in the first `done` steps."""
    return np.flatnonzero(self.unbroken(0, done))

  def flush(self) -> None:
    """Waits until everything written is on disk."""
    for curve in (*self.steps.values(), *self.epochs.values()):
      curve.flush()


def join(folder: Path, columns: Sequence[tuple[History, int]], steps: int, epochs: int) -> History:
  """Writes a history to `folder` that joins columns of the histories of waves, and opens it.

  Rows that a column does not have are NaN, for example after a trial has ended; extra rows are
  left out.

  Args:
    folder: created if missing.
    columns: a history and a column of it, for each column of the result.
    steps: rows of the curves over steps.
    epochs: rows of the curves over epochs.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for kind, rows in (('step', steps), ('epoch', epochs)):
    for name, like in getattr(columns[0][0], f'{kind}s').items():
      whole = np.full((rows, len(columns)), np.nan, like.dtype)
      for i, (history, column) in enumerate(columns):
        curve = getattr(history, f'{kind}s')[name][:, column]
        whole[: len(curve), i] = curve[:rows]
      _write(folder / f'{kind}_{name}.npy', whole)
  return History(folder, steps, epochs, len(columns), columns[0][0].metrics, read_only=True)


def open_joined(folder: Path) -> History:
  """Opens the history that `join` wrote to `folder`.

  Raises:
    StudyError: it is missing or damaged.
  """
  shapes = []
  for name in (f'step_{STEP_CURVES[0]}.npy', f'epoch_{EPOCH_CURVES[0]}.npy'):
    try:
      shapes.append(np.load(folder / name, mmap_mode='r').shape)
    except FileNotFoundError as error:
      raise StudyError(f'{folder / name} is lost; run the study again') from error
    except (ValueError, EOFError) as error:
      raise _damaged(folder / name, error) from error
  (steps, trials), (epochs, _) = shapes
  start = f'epoch_{curve_of("")}'
  metrics = sorted(file.stem.removeprefix(start) for file in folder.glob(f'{start}*.npy'))
  return History(folder, steps, epochs, trials, metrics, read_only=True)


def window_means(curve: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
  """Means over windows of steps; the last window may be shorter.

  Args:
    curve: (steps, ...).
    window: steps in a window.

  Returns:
    The number of steps done at the end of each window, (windows,), and the means, (windows, ...).
  """
  starts = np.arange(0, len(curve), window)
  ends = np.minimum(starts + window, len(curve))
  counts = (ends - starts).reshape(-1, *[1] * (curve.ndim - 1))
  # In float64, because a loss may come near the largest float32 before it diverges.
  return ends, np.add.reduceat(curve.astype(np.float64), starts, axis=0) / counts


def _curve(file: Path, shape: tuple[int, int], dtype: type, read_only: bool) -> np.ndarray:
  if not file.exists() and read_only and file.stem.removeprefix('epoch_') in _LATER:
    return np.broadcast_to(np.asarray(np.nan, dtype), shape)
  if not file.exists() and read_only:
    raise StudyError(f'{file} is lost; run the study again')
  if not file.exists():
    # Written, not mapped: then a full disk causes an exception rather than a bus error.
    _write(file, np.broadcast_to(np.asarray(np.nan, dtype), shape))
  try:
    # Opened for reading first: for writing, a truncated file would be filled with zeros.
    curve = np.lib.format.open_memmap(file, mode='r')
    if curve.shape != shape or curve.dtype != dtype:
      raise ValueError(f'it holds {curve.dtype} {curve.shape}')
  except ValueError as error:
    raise _damaged(file, error) from error
  return curve if read_only else np.lib.format.open_memmap(file, mode='r+')


def _write(file: Path, array: np.ndarray) -> None:
  # All or nothing: a file that a kill truncated would stop every later run.
  record.add(file)
  part = file.with_name(file.name + '.part')
  with part.open('wb') as stream:
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(stream, header | {'fortran_order': False})
    for first in range(0, len(array), 1000):  # write_array does not report a full disk
      stream.write(np.ascontiguousarray(array[first : first + 1000]).data)
    stream.flush()
    os.fsync(stream.fileno())
  part.replace(file)


def _damaged(file: Path, error: Exception) -> StudyError:
  return StudyError(f'{file} is damaged ({error}); {record.start_again(file)}')
