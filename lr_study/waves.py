"""Trains a study round by round, as its search asks for trials, and each round wave by wave."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from lr_study import errors, loop, plan
from lr_study.answer import verdict
from lr_study.answer.measure import Measure, curve_of
from lr_study.cluster import lease
from lr_study.errors import StudyError
from lr_study.files import provenance, record
from lr_study.files.events import write_experiment
from lr_study.files.history import History
from lr_study.search import rounds
from lr_study.search.asking import next_round
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.tracking import Tracker
from lr_study.training_view import Board
from lr_study.trials import Sweep


class Trainer(Protocol):
  """Where the waves of a study train: here, or on the workers of a cluster."""

  def device(self, config: ConfigDict, folder: Path, fingerprint: str) -> str:
    """What a study with data of this fingerprint trains on; see `provenance.device`."""

  def opened(self, folder: Path) -> contextlib.AbstractContextManager[Any]:
    """Within this, the study in `folder`, which is claimed, can be planned and trained."""

  def waves_of(self, sweep: Sweep) -> list[int]:
    """The wave of each trial of the sweep, from 0; see `plan.waves`."""

  def train(
    self,
    sweeps: Mapping[Setting, Sweep],
    folder: Path,
    planned: Plan,
    numbers: Sequence[int],
    board: Board,
    after_epoch: Callable[[Plan], None],
    tracker: Tracker | None,
  ) -> None:
    """Trains these waves to their ends, from their newest checkpoints; see `loop.train`."""


class Here:
  """Trains one wave after the other, in this process."""

  def device(self, config: ConfigDict, folder: Path, fingerprint: str) -> str:
    """See `Trainer`."""
    del config, folder, fingerprint
    return provenance.device()

  @contextlib.contextmanager
  def opened(self, folder: Path) -> Iterator[None]:
    """See `Trainer`."""
    yield
    lease.forget(folder)

  def waves_of(self, sweep: Sweep) -> list[int]:
    """See `plan.waves`."""
    return plan.waves(sweep)

  def train(
    self,
    sweeps: Mapping[Setting, Sweep],
    folder: Path,
    planned: Plan,
    numbers: Sequence[int],
    board: Board,
    after_epoch: Callable[[Plan], None],
    tracker: Tracker | None,
  ) -> None:
    """See `loop.train`."""
    for number in numbers:
      sweep = of_wave(sweeps, planned, number)
      shown = (title(sweeps, planned, number), len(numbers), board)
      try:
        with lease.of_wave(folder, number) as may_write:
          loop.train(sweep, folder, planned, number, *shown, after_epoch, tracker, may_write)
      except lease.Lost as error:
        raise StudyError(f'a cluster trains the study in {folder}, so this command ends') from error
      except Exception as error:  # XLA has no class for it
        if not errors.is_out_of_memory(error):
          raise
        halve(folder, planned, number, error)


def train(  # type: ignore[return]  # the loop has no other end
  sweeps: dict[Setting, Sweep],
  folder: Path,
  trainer: Trainer,
  judged: Callable[[Plan], dict[Planned, verdict.Result]],
  labels: np.ndarray,
  measure: Measure,
  after_epoch: Callable[[Plan], None],
  tracker: Tracker | None,
) -> Plan:
  """Trains round after round until the search ends; returns the plan with all trials."""
  board = Board(measure)
  for number in itertools.count():
    planned = rounds.read(folder / 'history')
    if not (planned.of_round(number) or planned.ended):
      planned = next_round(sweeps, planned, judged(planned), labels, measure, trainer.waves_of)
      rounds.write(folder / 'history', planned)
    if not number:
      sweep = next(iter(sweeps.values()))
      further = [curve_of(name) for name in sweep.config.metrics]
      about = (list(sweeps), further, sweep.measure)
      at_best = sweep.config.verdict.epoch == 'best'
      write_experiment(folder / 'tensorboard', len(planned.trials), *about, at_best)
    numbers = sorted({trial.wave for trial in planned.of_round(number)})
    if not numbers:
      return planned
    for place in numbers:
      board.add(planned.of_wave(place), names(sweeps, planned, place))
    trainer.train(sweeps, folder, planned, numbers, board, after_epoch, tracker)


def halve(folder: Path, planned: Plan, number: int, error: Exception) -> None:
  """After there was no memory for a wave: makes it two, if nothing of it is saved, and says so.

  Raises:
    MoreWaves: the plan has them.
    Exception: `error`, as it is one trial, or has trained before.
  """
  of_wave = [trial for trial in planned.trials if trial.wave == number]
  if len(of_wave) < 2 or loop.saved_steps(folder, number) or not record.is_there(folder):
    raise error
  late, new = set(of_wave[1::2]), planned.waves
  trials = (t._replace(wave=new) if t in late else t for t in planned.trials)
  curves = str(loop.place(Path('history'), number)) + os.sep
  record.delete(folder, keep=lambda name: not name.startswith(curves))
  rounds.write(folder / 'history', dataclasses.replace(planned, trials=tuple(trials)))
  raise errors.MoreWaves(
    f'out of memory: {errors.first_line(error)[:200]}; nothing is lost: the same command '
    f'trains these {len(of_wave)} trials in two waves. If it happens again, lower memory_gb, '
    'batch_size or eval_batch_size'
  ) from error


def names(sweeps: Mapping[Setting, Sweep], planned: Plan, number: int) -> list[str]:
  """Of the setting of each trial of a wave, for people; empty where there is but one."""
  return [rounds.title(trial.setting, sweeps) for trial in planned.of_wave(number)]


def title(sweeps: Mapping[Setting, Sweep], planned: Plan, number: int) -> str:
  """What people are told a wave is; '' if there is only one."""
  of_trials = set(names(sweeps, planned, number))
  this = max(trial.round for trial in planned.of_wave(number))
  waves = sorted({trial.wave for trial in planned.of_round(this)})
  parts = [*of_trials] if len(of_trials) == 1 and of_trials != {''} else []
  if this:
    parts.append(f'round {this + 1}')
  if len(waves) > 1:
    parts.append(f'wave {waves.index(number) + 1} of {len(waves)}')
  return ', '.join(parts)


def of_wave(sweeps: Mapping[Setting, Sweep], planned: Plan, number: int) -> Sweep:
  """The sweep of the setting of a wave, with the trials of the wave."""
  of_wave = planned.of_wave(number)
  return sweeps[of_wave[0].setting]._replace(trials=of_wave)


def results(sweep: Sweep, history: History, labels: np.ndarray) -> list[verdict.Result]:
  """The results of trials at the end of a history.

  Args:
    sweep: of these trials.
    history: theirs, one column per trial.
    labels: of the validation images, (images,).
  """
  total = len(history.steps['loss'])
  bad = history.first_bad_steps(0, total, evaluated=True)
  steps = [loop.chunk_end(int(step), sweep) if step else total for step in bad]
  at_best = sweep.config.verdict.epoch == 'best'
  return verdict.results(history, sweep.trials, labels, steps, sweep.measure, at_best)
