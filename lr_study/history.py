"""Every point of every curve of every trial, as NumPy files that grow with the study."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_study.workdir import write_text

STEP_CURVES = ('loss', 'accuracy', 'gradient_norm')  # of a training batch, before its update
EPOCH_CURVES = ('train_loss', 'train_accuracy', 'validation_loss', 'validation_accuracy')


class History:
  """Curves over steps and over epochs, one column a trial.

  `steps['loss']` is float32 (steps, trials), `epochs['train_loss']` float64 (epochs, trials);
  row i belongs to step i + 1 or to the end of epoch i + 1. They are memory maps of
  `folder/step_loss.npy`, `folder/epoch_train_loss.npy`, ...; what is not reached yet is NaN.
  `trials.json` names the columns. Trials of a wave train together, waves one after the other.
  """

  def __init__(
    self,
    folder: Path,
    steps: int,
    epochs: int,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    waves: Sequence[int] = (),
  ):
    """Opens the curves in `folder`, or makes them. One rate, seed and wave (else 0) a trial."""
    folder.mkdir(parents=True, exist_ok=True)
    self.waves = tuple(waves) or (0,) * len(learning_rates)
    trials = [
      {'learning_rate': rate, 'seed': seed, 'wave': wave}
      for rate, seed, wave in zip(learning_rates, seeds, self.waves, strict=True)
    ]
    write_text(folder / 'trials.json', json.dumps(trials, indent=1) + '\n')
    self.steps = {
      name: _curve(folder / f'step_{name}.npy', (steps, len(trials)), np.float32)
      for name in STEP_CURVES
    }
    self.epochs = {
      name: _curve(folder / f'epoch_{name}.npy', (epochs, len(trials)), np.float64)
      for name in EPOCH_CURVES
    }

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

  def unbroken(self, first: int, stop: int) -> np.ndarray:
    """True for each trial, (trials,), whose losses and gradients in these rows are all finite."""
    rows = (self.steps[name][first:stop] for name in ('loss', 'gradient_norm'))
    return np.logical_and(*(np.isfinite(curve).all(0) for curve in rows))

  def running(self, wave: int, done: int) -> np.ndarray:
    """The columns of a wave's trials that have not diverged in its first `done` steps."""
    return np.flatnonzero((np.asarray(self.waves) == wave) & self.unbroken(0, done))

  def flush(self) -> None:
    """Waits until all that was written is on disk."""
    for curve in (*self.steps.values(), *self.epochs.values()):
      curve.flush()


def read_waves(folder: Path) -> list[int] | None:
  """The wave of each trial of the history in `folder`; None if there is none yet."""
  file = folder / 'trials.json'
  return [trial['wave'] for trial in json.loads(file.read_text())] if file.exists() else None


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
  # A float32 loss may come near its largest number before it diverges; float64 has the room.
  return ends, np.add.reduceat(curve.astype(np.float64), starts, axis=0) / counts


def _curve(file: Path, shape: tuple[int, int], dtype: type) -> np.memmap:
  if file.exists():
    return np.lib.format.open_memmap(file, mode='r+')
  # Whole or not at all: a file that a kill cut off would stop every run after it.
  part = file.with_name(file.name + '.part')
  curve = np.lib.format.open_memmap(part, mode='w+', dtype=dtype, shape=shape)
  curve[:] = np.nan
  curve.flush()
  part.replace(file)
  return curve
