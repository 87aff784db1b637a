"""The loop of a study: steps, epochs, and what is kept and shown of them on the way."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import figures, parallel, plan, progress, provenance, report, verdict, workdir
from lr_study.checkpoint import Checkpoints
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.events import Events
from lr_study.history import History, read_waves
from lr_study.interrupt import Interrupt, Stopped
from lr_study.schedule import make_schedule
from lr_study.training import Running, Sweep, evaluate, keep, prepare, run_together, train_steps


def run(config: ConfigDict, folder: Path, overwrite: bool = False) -> verdict.Verdict:
  """Runs a study, goes on with a stopped one, or reads a finished one, and prints its answer.

  Args:
    config: every field of configs/alexnet_letters.py.
    folder: the work directory.
    overwrite: delete the study that the work directory holds first.

  Raises:
    StudyError: for what the user can mend; nothing was written then.
  """
  config = check(config)
  parallel.keep_compiled_programs()
  data = datasets.load(config.data, config.image_size)
  if config.batch_size > len(data.train.labels):
    raise StudyError(
      f'batch_size is {config.batch_size}, but there are {len(data.train.labels)} training images'
    )
  study = provenance.describe(config, data)
  with workdir.held(folder):
    workdir.claim(folder, study, overwrite)
    finished = report.read(folder)
    if finished is None:
      finished = _train(config, data, folder, study)
  results, answer = finished
  progress.print_answer(results, answer.sentence)
  progress.note(
    f'{folder}: summary.md, figures/, results.json; tensorboard --logdir {folder}/tensorboard'
  )
  return answer


def _train(
  config: ConfigDict, data: datasets.Dataset, folder: Path, study: dict[str, Any]
) -> tuple[list[verdict.Result], verdict.Verdict]:
  started = time.monotonic()
  sweep = prepare(config, data)
  per_epoch = sweep.steps_per_epoch
  steps = config.epochs * per_epoch
  schedule = make_schedule(config.schedule, per_epoch, config.epochs)
  with sweep.clock('start'):
    waves = read_waves(folder / 'history') or _plan(sweep)
  history = History(
    folder / 'history', steps, config.epochs, sweep.learning_rates, sweep.seeds, waves
  )
  events = Events(
    folder / 'tensorboard', sweep.learning_rates, sweep.seeds, schedule, config.log_every_steps
  )
  checkpoints = Checkpoints(folder / 'checkpoints')
  _train_all(sweep, history, events, checkpoints)
  checkpoints.close()
  guessing_loss = verdict.entropy(data.train.labels)
  diverged = [verdict.first_bad_step(history, trial) for trial in range(len(sweep.seeds))]
  run = [steps if bad is None else _chunk_end(bad, sweep) for bad in diverged]
  results = verdict.results(history, sweep.learning_rates, sweep.seeds, guessing_loss, run)
  answer = verdict.judge(results, data.validation.labels)
  events.close([bad is not None for bad in diverged])
  with sweep.clock('figures'):
    figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = study | {
    'seconds': round(time.monotonic() - started, 1),
    'seconds_of': {phase: round(seconds, 1) for phase, seconds in sweep.clock.seconds.items()},
    'trial_steps': {'planned': steps * len(results), 'run': sum(run)},
  }
  report.write(folder, study, results, answer)
  return results, answer


def _plan(sweep: Sweep) -> list[int]:
  count = len(sweep.seeds)
  progress.note(f'Compiling for {count} trials on {provenance.device()}')
  trials = run_together(sweep, np.arange(count)).trials
  return plan.waves(trials, sweep.train, count, sweep.config.memory_gb * 1e9)


def _train_all(sweep: Sweep, history: History, events: Events, checkpoints: Checkpoints) -> None:
  """Trains wave after wave from the newest checkpoint, or from the start, to the last epoch."""
  config = sweep.config
  total, waves = config.epochs * sweep.steps_per_epoch, max(history.waves) + 1
  # A checkpoint's number counts the steps of the waves before its own too.
  wave, done = divmod(checkpoints.newest(), total)
  if wave or done:
    progress.note(f'Going on from step {done}' + (f' of wave {wave + 1}' if waves > 1 else ''))
    for earlier in range(wave + 1):
      _replay(events, history, earlier, total if earlier < wave else done, sweep)
  with progress.TrainingView(
    sweep.learning_rates, sweep.seeds, total * waves, config.epochs
  ) as view:
    while wave < waves:
      columns = history.running(wave, _chunk_start(done, sweep))
      if len(columns):
        running, state_T = _start(sweep, columns, checkpoints, wave, done, waves)
        with Interrupt() as interrupt:
          _train_wave(
            sweep, history, events, checkpoints, view, interrupt, running, state_T, wave, done
          )
      wave, done = wave + 1, 0


def _start(
  sweep: Sweep, columns: np.ndarray, checkpoints: Checkpoints, wave: int, done: int, waves: int
) -> tuple[Running, Any]:
  """The trials of a wave as they were at step `done`."""
  total = sweep.config.epochs * sweep.steps_per_epoch
  running = run_together(sweep, columns)
  with sweep.clock('start'):
    progress.note(sweep.trial.computed)
    if done < total:
      epochs = (total * (waves - wave) - done) / sweep.steps_per_epoch
      plan.announce(sweep.config, *running[1:], sweep.train, sweep.images, epochs)
    state_T = running.trials.init(running.seed_T)
    if done:
      saved = checkpoints.restore(wave * total + done, like=running.trials.to_host(state_T))
      state_T = running.trials.to_devices(saved)
  return running, state_T


def _train_wave(
  sweep: Sweep,
  history: History,
  events: Events,
  checkpoints: Checkpoints,
  view: progress.TrainingView,
  interrupt: Interrupt,
  running: Running,
  state_T: Any,
  wave: int,
  done: int,
) -> None:
  """Trains the trials of a wave from step `done` to the last epoch, or until all diverged.

  Raises:
    Stopped: if a signal asked for it; the state is saved then.
  """
  config, per_epoch = sweep.config, sweep.steps_per_epoch
  total = config.epochs * per_epoch
  before_wave, clock = wave * total, sweep.clock

  def save(done, state_T):
    with clock('checkpoints'):
      history.flush()  # first: a checkpoint promises the curves up to it
      checkpoints.save(before_wave + done, running.trials.to_host(state_T))

  saved_at = time.monotonic()
  view.start(before_wave + done)
  for epoch in range(done // per_epoch, config.epochs):
    while done < (epoch + 1) * per_epoch:
      chunk = _chunk_start(done, sweep)
      stop = min(chunk + config.log_every_steps, (epoch + 1) * per_epoch)
      with clock('steps'):
        state_T, curves = train_steps(
          sweep, running, state_T, epoch, done % per_epoch, stop - epoch * per_epoch, interrupt
        )
      history.write_steps(done, curves, running.columns)
      done += len(curves['loss'])
      if interrupt.signum and done < stop:
        save(done, state_T)
        checkpoints.close()
        raise Stopped(interrupt.signum)
      with clock('curves'):
        events.write_steps(history, chunk, done, running.columns)
        view.steps(before_wave + done, done, epoch + 1, running.columns, curves)
      good = history.unbroken(chunk, done)[running.columns]
      if not good.any():
        return
      if not good.all():
        with clock('departures'):
          running, state_T = keep(sweep, running, state_T, good)
      due = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
      if done < (epoch + 1) * per_epoch and due:
        save(done, state_T)
        saved_at = time.monotonic()
    with clock('evaluation'):
      means = evaluate(sweep, running, state_T)
    with clock('curves'):
      history.write_epoch(epoch, means, running.columns)
      events.write_epoch(history, epoch, done, running.columns)
      events.flush()
      view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
    save(done, state_T)
    saved_at = time.monotonic()
    if interrupt.signum and done < total:
      checkpoints.close()
      raise Stopped(interrupt.signum)


def _chunk_start(done: int, sweep: Sweep) -> int:
  """Where the chunk of steps begins that the step after `done` is in."""
  epoch = done // sweep.steps_per_epoch * sweep.steps_per_epoch
  return epoch + (done - epoch) // sweep.config.log_every_steps * sweep.config.log_every_steps


def _chunk_end(step: int, sweep: Sweep) -> int:
  """The steps done, from 1, at the end of the chunk of steps that `step` is in."""
  epoch_end = ((step - 1) // sweep.steps_per_epoch + 1) * sweep.steps_per_epoch
  return min(_chunk_start(step - 1, sweep) + sweep.config.log_every_steps, epoch_end)


def _replay(events: Events, history: History, wave: int, done: int, sweep: Sweep) -> None:
  """Writes the events of a wave's first `done` steps again."""
  per_epoch, chunk = sweep.steps_per_epoch, sweep.config.log_every_steps
  for epoch in range(-(-done // per_epoch)):
    end = min((epoch + 1) * per_epoch, done)
    whole = end if end == (epoch + 1) * per_epoch else _chunk_start(end, sweep)
    for first in range(epoch * per_epoch, whole, chunk):
      columns = history.running(wave, first)
      events.write_steps(history, first, min(first + chunk, whole), columns)
    if end == (epoch + 1) * per_epoch:
      events.write_epoch(history, epoch, end, history.running(wave, end))
