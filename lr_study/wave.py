"""The loop: trials that train together, their steps and epochs, and what is kept on the way."""

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import parallel, plan, progress, verdict, workdir
from lr_study.checkpoint import Checkpoints
from lr_study.events import Events
from lr_study.history import History
from lr_study.interrupt import Interrupt, Stopped
from lr_study.schedule import Schedule, make_schedule
from lr_study.training import (
  Running,
  Sweep,
  evaluate,
  keep,
  measure_sharpness,
  run_together,
  train_steps,
)

FINISHED = 'finished'  # a file beside the curves of trials that have ended


class Files(NamedTuple):
  """What the trials that train together write while they train."""

  history: History
  events: Events
  checkpoints: Checkpoints


def curves(sweep: Sweep, folder: Path, wave: int, waves: np.ndarray) -> History:
  """The history of a wave; where it is the only one, that of the study."""
  steps, trials = sweep.config.epochs * sweep.steps_per_epoch, int((waves == wave).sum())
  return History(workdir.place(folder / 'history', wave, waves), steps, sweep.config.epochs, trials)


def train(sweep: Sweep, folder: Path, wave: int, waves: np.ndarray, count: int) -> None:
  """Trains the trials of a wave from the newest checkpoint, or from the start, to the last epoch.

  Args:
    sweep: of these trials.
    folder: the study's.
    wave: which.
    waves: of all trials of the study.
    count: how many waves this process trains.
  """
  config, total = sweep.config, sweep.config.epochs * sweep.steps_per_epoch
  schedule = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)
  history = curves(sweep, folder, wave, waves)
  events = Events(
    folder / 'tensorboard', sweep.learning_rates, sweep.seeds, schedule, config.log_every_steps
  )
  title = f'wave {wave + 1} of {max(waves) + 1}' if waves.any() else 'training'

  def like(done: int) -> Any:
    return parallel.state_of(sweep.trial, len(saved_columns(history, done, sweep)))

  with contextlib.closing(
    Checkpoints(workdir.place(folder / 'checkpoints', wave, waves))
  ) as checkpoints:
    done, state = checkpoints.newest(like)
    if done:
      progress.note(f'Going on from step {done}' + (f' of {title}' if waves.any() else ''))
    _replay(events, history, done, sweep)
    columns = saved_columns(history, done, sweep)
    if done < total and len(columns):
      running, state_T = _start(sweep, columns, done, state, count)
      files = Files(history, events, checkpoints)
      view = progress.TrainingView(sweep.learning_rates, sweep.seeds, total, config.epochs, title)
      with Interrupt() as interrupt, view:
        _train_steps(sweep, files, schedule, view, interrupt, running, state_T, done)
  trials = range(len(sweep.seeds))
  events.close([verdict.first_bad_step(history, trial) is not None for trial in trials])
  workdir.write_text(workdir.place(folder / 'history', wave, waves) / FINISHED, '')


def _start(
  sweep: Sweep, columns: np.ndarray, done: int, state: Any, waves: int
) -> tuple[Running, Any]:
  """The trials of a wave as they were at step `done`, and at the start if that is 0."""
  total = sweep.config.epochs * sweep.steps_per_epoch
  running = run_together(sweep, columns)
  with sweep.clock('start'):
    progress.note(sweep.trial.computed)
    epochs = (total * waves - done) / sweep.steps_per_epoch
    plan.announce(sweep.config, *running[1:], sweep.train, sweep.images, epochs)
    if done:
      return running, running.trials.to_devices(state)
    return running, running.trials.init(running.seed_T)


def _train_steps(
  sweep: Sweep,
  files: Files,
  schedule: Schedule,
  view: progress.TrainingView,
  interrupt: Interrupt,
  running: Running,
  state_T: Any,
  done: int,
) -> None:
  """Trains trials from step `done` to the last epoch, or until all diverged.

  Raises:
    Stopped: if a signal asked for it; the state is saved then.
  """
  config, per_epoch, clock = sweep.config, sweep.steps_per_epoch, sweep.clock
  history, events, checkpoints = files
  total, saved, saved_at = config.epochs * per_epoch, done, time.monotonic()
  view.start(done)
  while done < total:
    epoch, stop = done // per_epoch, chunk_end(done + 1, sweep)
    chunk, start = _chunk_start(done, sweep), epoch * per_epoch
    with clock('steps'):
      state_T, curves, ends = train_steps(
        sweep, running, state_T, epoch, done - start, stop - start, interrupt
      )
    history.write_steps(done, curves, running.columns)
    history.write_epoch(epoch, ends, running.columns)
    done += len(curves['loss'])
    if done == stop:
      with clock('curves'):
        events.write_steps(history, chunk, done, running.columns)
        view.steps(done, epoch + 1, running.columns, curves)
      good = history.unbroken(chunk, done)[running.columns]
      if not good.any():
        return
      if not good.all():
        with clock('departures'):
          running, state_T = keep(sweep, running, state_T, good)
    if done == start + per_epoch:
      with clock('evaluation'):
        means = evaluate(sweep, running, state_T)
      means |= measure_sharpness(sweep, running, state_T, float(schedule(done - 1)))
      with clock('curves'):
        means |= history.epoch_means(start, done, running.columns)
        history.write_epoch(epoch, means, running.columns)
        events.write_epoch(history, epoch, done, running.columns)
        view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
    stops = interrupt.signum and done < total
    late = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
    due = late or done - saved >= (config.checkpoint_steps or total)
    if stops or due or done == start + per_epoch:
      with clock('checkpoints'):
        history.flush()  # first: a checkpoint promises the curves up to it
        checkpoints.save(done, running.trials.to_host(state_T))
      saved, saved_at = done, time.monotonic()
    if stops:
      raise Stopped(interrupt.signum)


def saved_columns(history: History, done: int, sweep: Sweep) -> np.ndarray:
  """The trials that a checkpoint at `done` steps holds: diverged ones leave after their chunk."""
  return history.running(_chunk_start(done, sweep))


def _chunk_start(done: int, sweep: Sweep) -> int:
  """Where the chunk of steps begins that the step after `done` is in."""
  epoch = done // sweep.steps_per_epoch * sweep.steps_per_epoch
  return epoch + (done - epoch) // sweep.config.log_every_steps * sweep.config.log_every_steps


def chunk_end(step: int, sweep: Sweep) -> int:
  """The steps done, from 1, at the end of the chunk of steps that `step` is in."""
  epoch_end = ((step - 1) // sweep.steps_per_epoch + 1) * sweep.steps_per_epoch
  return min(_chunk_start(step - 1, sweep) + sweep.config.log_every_steps, epoch_end)


def _replay(events: Events, history: History, done: int, sweep: Sweep) -> None:
  """Writes the events of the first `done` steps again."""
  columns, first = np.arange(len(sweep.seeds)), 0
  while first < done and (stop := chunk_end(first + 1, sweep)) <= done:
    events.write_steps(history, first, stop, columns)
    columns = columns[history.unbroken(first, stop)[columns]]
    if stop % sweep.steps_per_epoch == 0:
      events.write_epoch(history, stop // sweep.steps_per_epoch - 1, stop, columns)
    first = stop
