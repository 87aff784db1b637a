"""Trains a study round by round, as its search asks for trials, and each round wave by wave."""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_study import errors, loop
from lr_study.answer import verdict
from lr_study.answer.measure import Measure, curve_of
from lr_study.errors import StudyError
from lr_study.files import record, workdir
from lr_study.files.events import write_experiment
from lr_study.files.history import History
from lr_study.processes import Process
from lr_study.search import rounds
from lr_study.search.asking import next_round
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.time_limit import TimeIsUp, TimeLimit
from lr_study.tracking import Tracker
from lr_study.training_view import Board
from lr_study.trials import Sweep


def train(  # type: ignore[return]  # the loop has no other end
  sweeps: dict[Setting, Sweep],
  folder: Path,
  process: Process,
  judged: Callable[[Plan], dict[Planned, verdict.Result]],
  labels: np.ndarray,
  measure: Measure,
  after_epoch: Callable[[Plan], None],
  tracker: Tracker | None,
) -> Plan:
  """Trains round after round until the search ends; returns the plan with all trials."""
  board = Board(measure)
  limit = next(iter(sweeps.values())).clock.limit
  for number in itertools.count():
    planned = rounds.read(folder / 'history')
    if not (planned.of_round(number) or planned.ended):
      if process.index:
        planned = _wait_for_round(folder, number, limit)
      else:
        planned = next_round(sweeps, planned, judged(planned), labels, measure, process.count)
        rounds.write(folder / 'history', planned)
    if not number and not process.index:
      sweep = next(iter(sweeps.values()))
      further = [curve_of(name) for name in sweep.config.metrics]
      about = (list(sweeps), further, sweep.measure)
      at_best = sweep.config.verdict.epoch == 'best'
      write_experiment(folder / 'tensorboard', len(planned.trials), *about, at_best)
      workdir.tell_planned(folder)
    waves = sorted({trial.wave for trial in planned.of_round(number)})
    if not waves:
      return planned
    mine = waves[process.index :: process.count]
    for place in mine:
      board.add(planned.of_wave(place), _names(sweeps, planned, place))
    for place in mine:
      names = set(_names(sweeps, planned, place))
      title = _title(planned, place, names.pop() if len(names) == 1 else '')
      sweep, shown = of_wave(sweeps, planned, place), (title, len(mine), board)
      try:
        loop.train(sweep, folder, planned, place, *shown, after_epoch, tracker)
      except Exception as error:  # XLA has no class for it
        if not errors.is_out_of_memory(error) or process.count > 1:
          raise
        _halve(folder, planned, place, error)
    if not process.index:
      _wait_for_waves(folder, waves, process.count, limit)


def _halve(folder: Path, planned: Plan, number: int, error: Exception) -> None:
  """After there was no memory for a wave: makes it two, if nothing of it is saved, and says so.

  Raises:
    MoreWaves: the plan has them.
    Exception: `error`, as it is one trial, or has trained before.
  """
  of_wave = [trial for trial in planned.trials if trial.wave == number]
  saved = loop.place(folder / 'checkpoints', number)
  begun = saved.is_dir() and any(path.name.isdecimal() for path in saved.iterdir())
  if len(of_wave) < 2 or begun or not record.is_there(folder):
    raise error
  late, new = set(of_wave[1::2]), planned.waves
  trials = (t._replace(wave=new) if t in late else t for t in planned.trials)
  curves = str(loop.place(Path('history'), number)) + os.sep
  record.delete(folder, keep=lambda name: not name.startswith(curves))
  rounds.write(folder / 'history', dataclasses.replace(planned, trials=tuple(trials)))
  raise errors.MoreWaves(
    f'out of memory: {str(error).splitlines()[0][:200]}; nothing is lost: the same command '
    f'trains these {len(of_wave)} trials in two waves. If it happens again, lower memory_gb, '
    'batch_size or eval_batch_size'
  ) from error


def _names(sweeps: dict[Setting, Sweep], planned: Plan, number: int) -> list[str]:
  """Of the setting of each trial of a wave, for people; empty where there is but one."""
  return [rounds.title(trial.setting, sweeps) for trial in planned.of_wave(number)]


def _title(planned: Plan, number: int, name: str) -> str:
  """What people are told a wave is; '' if there is only one."""
  this = max(trial.round for trial in planned.of_wave(number))
  waves = sorted({trial.wave for trial in planned.of_round(this)})
  parts = [name] if name else []
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


def _wait_for_round(folder: Path, number: int, limit: TimeLimit | None) -> Plan:
  """Waits until process 0 has asked for round `number`, or has ended the search.

  Raises:
    TimeIsUp: it is, or is for process 0.
    StudyError: if that has ended before.
  """
  while True:
    held = workdir.is_held(folder, 0)
    planned = rounds.read(folder / 'history')
    if planned.of_round(number) or planned.ended:
      return planned
    if limit and (limit.is_up or not held):
      raise TimeIsUp
    if not held:
      raise StudyError(
        'process 0 stopped before the search ended; run the same command again to resume'
      )
    time.sleep(0.1)


def _wait_for_waves(
  folder: Path, waves: Sequence[int], count: int, limit: TimeLimit | None
) -> None:
  """Waits for the waves of the other processes, of `count` in all.

  Raises:
    TimeIsUp: it is up here or in another process.
    StudyError: a process stopped before its trials ended.
  """
  for place, number in enumerate(waves):
    while not loop.is_finished(folder, number):
      ended = not workdir.is_held(folder, place % count) and not loop.is_finished(folder, number)
      if limit and (limit.is_up or ended):
        raise TimeIsUp
      if ended:
        raise StudyError(
          f'process {place % count} stopped before its trials ended; they are saved: run the same '
          'command again to resume'
        )
      time.sleep(0.2)
