"""Finds a diverged trial in the files of its study, and the newest state before it broke."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import formats, loop, paths, weights
from lr_study.config import from_json
from lr_study.errors import StudyError
from lr_study.files.checkpoint import Checkpoints
from lr_study.paths import Moved
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.trials import Sweep, state_like
from lr_study.use import again


def read(folder: Path, moved: Moved = ()) -> tuple[ConfigDict, datasets.Dataset]:
  """The config and the images of a study, finished or not.

  Raises:
    StudyError: there is no study, or the images have changed.
  """
  file = folder / 'config.json'
  if not os.path.isfile(file):
    raise StudyError(f'--workdir {folder} holds no study: it has no config.json')
  try:
    study = json.loads(file.read_text())
    config, record = from_json(paths.moved(study['config'], moved)), study['data']
  except StudyError as error:  # for example, a file of the user is gone
    raise StudyError(f'the study in {folder} cannot be read: {error}; {again.MOVED}') from error
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error!r})') from error
  return weights.kept(config, folder), again.load(config, record, folder)


def find(
  folder: Path,
  planned: Plan,
  sweeps: dict[Setting, Sweep],
  learning_rate: float,
  seed: int,
  wanted: Mapping[str, Any],
) -> tuple[Planned, int]:
  """A diverged trial and its first bad step; if several settings fit, the one that broke first.

  Args:
    folder: the study's.
    planned: its trials.
    sweeps: of each of its settings.
    learning_rate: of the trial.
    seed: of the trial.
    wanted: values on axes, see `rounds.matching`.

  Raises:
    StudyError: there is no such trial, or it did not diverge.
  """
  trials = rounds.last(planned, sweeps)
  if not trials:
    raise StudyError(f'{folder} has no curves yet; run the study first')
  fits = rounds.matching(sweeps, wanted)
  trials = [trial for trial in trials if trial.setting in fits]
  found = [
    t for t in trials if np.isclose(t.learning_rate, learning_rate, rtol=1e-5) and t.seed == seed
  ]
  if not found:
    names = dict.fromkeys(f'{formats.rate(t.learning_rate)} with seed {t.seed}' for t in trials)
    raise StudyError(
      f'--learning_rate {formats.rate(learning_rate)} with --seed {seed} is not in the study, '
      f'which has {", ".join(names)}'
    )
  steps = {t: _first_bad_step(folder, planned, t, sweeps[t.setting]) for t in found}
  diverged = [t for t in found if steps[t] is not None]
  if not diverged:
    raise StudyError(
      f'{formats.rate(learning_rate)} with seed {seed} has not diverged; choose a --learning_rate '
      'that did'
    )
  first = min(diverged, key=lambda trial: steps[trial])
  return first, steps[first]


def _first_bad_step(folder: Path, planned: Plan, trial: Planned, sweep: Sweep) -> int | None:
  """The first bad step, as in the verdict; in a wave that still trains, among the steps so far."""
  history = loop.curves(folder, planned, trial.wave, sweep)
  column, losses = planned.column(trial), history.steps['loss']
  if loop.is_finished(folder, trial.wave):
    return int(history.first_bad_steps(0, len(losses), evaluated=True)[column]) or None
  # Steps not reached are NaN too. The other trials of the wave show how far it has come.
  reached = np.max(np.flatnonzero(np.isfinite(losses).any(1)), initial=-1) + 1
  return int(history.first_bad_steps(0, reached)[column]) or None


def restore(
  folder: Path, planned: Plan, trial: Planned | None, sweep: Sweep, bad: int
) -> tuple[int, Any]:
  """Steps done, and the trial's state (1, ...), in the newest checkpoint before step `bad`.

  The checkpoint may be from an earlier round. 0 and None if there is none.
  """
  while trial is not None:
    done, columns, state = _newest(folder, planned, trial.wave, sweep, bad)
    if done:
      place = columns.tolist().index(planned.column(trial))
      return done, jax.tree.map(lambda x, at=place: x[at : at + 1], state)
    trial = rounds.before(planned, trial)
  return 0, None


def _newest(
  folder: Path, planned: Plan, number: int, sweep: Sweep, bad: int
) -> tuple[int, np.ndarray, Any]:
  """Steps done, columns and state in the newest checkpoint of a wave before step `bad`."""
  history = loop.curves(folder, planned, number, sweep)

  def columns(done):
    return loop.saved_columns(history, done, sweep)

  def like(done):
    return state_like(sweep, len(columns(done)))

  saved = loop.place(folder / 'checkpoints', number)
  with contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints:
    done, state = checkpoints.newest(like, before=bad)
  return done, columns(done), state
