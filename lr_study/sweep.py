"""The loop of a study: steps, epochs, and what is kept and shown of them on the way."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import figures, formats, parallel, progress, provenance, report, verdict, workdir
from lr_study.checkpoint import Checkpoints
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.events import Events
from lr_study.history import STEP_CURVES, History
from lr_study.schedule import make_schedule
from lr_study.trial import State, Trial, make_trial

_LONG_SECONDS = 3600  # a study that takes longer says so before it starts


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


class _Sweep(NamedTuple):
  """What stays as it is while the trials train. One entry a trial where there are several."""

  config: ConfigDict
  learning_rates: tuple[float, ...]
  seeds: tuple[int, ...]
  steps_per_epoch: int
  trial: Trial
  train: parallel.Arrays  # on the devices
  validation: parallel.Arrays
  images: tuple[int, int]  # training, validation


class _Running(NamedTuple):
  """The trials that still train: all at first, then those that have not diverged."""

  columns: np.ndarray  # theirs in the history
  trials: parallel.Trials
  rate_T: jax.Array
  seed_T: jax.Array


def _train(
  config: ConfigDict, data: datasets.Dataset, folder: Path, study: dict[str, Any]
) -> tuple[list[verdict.Result], verdict.Verdict]:
  started = time.monotonic()
  sweep = _prepare(config, data)
  per_epoch = sweep.steps_per_epoch
  steps = config.epochs * per_epoch
  schedule = make_schedule(config.schedule, per_epoch, config.epochs)
  history = History(folder / 'history', steps, config.epochs, sweep.learning_rates, sweep.seeds)
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
  figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = study | {
    'seconds': round(time.monotonic() - started, 1),
    'trial_steps': {'planned': steps * len(results), 'run': sum(run)},
  }
  report.write(folder, study, results, answer)
  return results, answer


def _prepare(config: ConfigDict, data: datasets.Dataset) -> _Sweep:
  steps_per_epoch = len(data.train.labels) // config.batch_size
  mean = {
    'image': data.mean,
    'pixel': data.mean.mean((0, 1)),
    'none': np.zeros(3, np.float32),
  }[config.input.subtract]
  return _Sweep(
    config,
    tuple(rate for rate in config.learning_rates for _ in config.seeds),
    tuple(config.seeds) * len(config.learning_rates),
    steps_per_epoch,
    make_trial(config, len(data.classes), steps_per_epoch),
    parallel.share(parallel.Arrays(*data.train, mean), config.parallel),
    parallel.share(parallel.Arrays(*data.validation, mean), config.parallel),
    (len(data.train.labels), len(data.validation.labels)),
  )


def _run_together(sweep: _Sweep, columns: np.ndarray) -> _Running:
  seeds, config = np.asarray(sweep.seeds, np.uint32)[columns], sweep.config
  trials = parallel.make_trials(
    sweep.trial, seeds.tolist(), config.parallel, config.batch_size, config.eval_batch_size
  )
  rates = np.asarray(sweep.learning_rates, np.float32)[columns]
  return _Running(columns, trials, trials.to_devices(rates), trials.to_devices(seeds))


def _keep(
  sweep: _Sweep, running: _Running, state_T: State, good: np.ndarray
) -> tuple[_Running, State]:
  """Lets the trials go on that are `good`, (trials,), in a program for so many."""
  state = jax.tree.map(lambda x: x[good], running.trials.to_host(state_T))
  running = _run_together(sweep, running.columns[good])
  return running, running.trials.to_devices(state)


def _train_all(sweep: _Sweep, history: History, events: Events, checkpoints: Checkpoints) -> None:
  """Trains from the newest checkpoint, or from the start, to the last epoch."""
  config, per_epoch = sweep.config, sweep.steps_per_epoch
  done = checkpoints.newest()
  running = _run_together(sweep, np.flatnonzero(history.unbroken(0, done)))
  _announce(sweep, running, done)
  state_T = running.trials.init(running.seed_T)
  if done:
    saved = checkpoints.restore(done, like=running.trials.to_host(state_T))
    state_T = running.trials.to_devices(saved)
    progress.note(f'Going on from step {done}')
    _replay(events, history, done, per_epoch)
  saved_at = time.monotonic()
  total = config.epochs * per_epoch
  with progress.TrainingView(sweep.learning_rates, sweep.seeds, total, config.epochs) as view:
    view.start(done)
    for epoch in range(done // per_epoch, config.epochs):
      for first in range(done % per_epoch, per_epoch, config.log_every_steps):
        last = min(first + config.log_every_steps, per_epoch)
        state_T, curves = _train_steps(sweep, running, state_T, epoch, first, last)
        history.write_steps(done, curves, running.columns)
        done, before = done + last - first, done
        events.write_steps(history, before, done)
        seen = {name: curve[before:done] for name, curve in history.steps.items()}
        view.steps(done, epoch + 1, seen['loss'], seen['accuracy'])
        good = history.unbroken(before, done)[running.columns]
        if not good.any():
          return
        if not good.all():
          running, state_T = _keep(sweep, running, state_T, good)
        if last < per_epoch and time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
          _save(checkpoints, history, done, running.trials.to_host(state_T))
          saved_at = time.monotonic()
      history.write_epoch(epoch, _evaluate(sweep, running, state_T), running.columns)
      events.write_epoch(history, epoch, done)
      events.flush()
      view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
      _save(checkpoints, history, done, running.trials.to_host(state_T))
      saved_at = time.monotonic()


def _train_steps(
  sweep: _Sweep, running: _Running, state_T: State, epoch: int, first: int, last: int
) -> tuple[State, dict[str, np.ndarray]]:
  """Steps `first` to `last` of an epoch; the curves are (steps, trials)."""
  config, trials, metrics = sweep.config, running.trials, []
  order_T = trials.order(running.seed_T, epoch if config.data.reshuffle else 0, sweep.train)
  for step in range(first, last):
    state_T, metrics_T = trials.train_step(
      state_T, running.rate_T, running.seed_T, sweep.train, order_T, step * config.batch_size
    )
    metrics.append(metrics_T)
    if (step + 1) % trials.fold_every == 0 or step + 1 == sweep.steps_per_epoch:
      state_T = trials.fold(state_T)
  rows = [trials.to_host(metrics_T) for metrics_T in metrics]
  return state_T, {name: np.stack([getattr(row, name) for row in rows]) for name in STEP_CURVES}


def _evaluate(sweep: _Sweep, running: _Running, state_T: State) -> dict[str, np.ndarray]:
  """Loss and accuracy over every image of both parts, (trials,)."""
  means = {}
  parts = zip(('train', 'validation'), (sweep.train, sweep.validation), sweep.images, strict=True)
  for name, arrays, images in parts:
    totals = [
      running.trials.eval_step(state_T, arrays, start)
      for start in range(0, images, sweep.config.eval_batch_size)
    ]
    totals = [running.trials.to_host(total) for total in totals]
    # In float64: float32 sums over many images would round.
    means[f'{name}_loss'] = np.sum([t.loss for t in totals], 0, np.float64) / images
    means[f'{name}_accuracy'] = np.sum([t.correct for t in totals], 0, np.float64) / images
  return means


def _chunk_end(step: int, sweep: _Sweep) -> int:
  """The steps done, from 1, at the end of the chunk of steps that `step` is in."""
  epochs, position = divmod(step - 1, sweep.steps_per_epoch)
  chunk = sweep.config.log_every_steps
  end = min((position // chunk + 1) * chunk, sweep.steps_per_epoch)
  return epochs * sweep.steps_per_epoch + end


def _save(checkpoints: Checkpoints, history: History, done: int, state: State) -> None:
  history.flush()  # first: a checkpoint promises the curves up to it
  checkpoints.save(done, state)


def _replay(events: Events, history: History, done: int, per_epoch: int) -> None:
  """Writes the events of a stopped study again, up to where it goes on."""
  for epoch in range(-(-done // per_epoch)):
    first, stop = epoch * per_epoch, min((epoch + 1) * per_epoch, done)
    events.write_steps(history, first, stop)
    if stop == (epoch + 1) * per_epoch:
      events.write_epoch(history, epoch, stop)


def _announce(sweep: _Sweep, running: _Running, done: int) -> None:
  """Compiles, times a few steps on weights that are thrown away, and says how long it will take."""
  config, (_, trials, rate_T, seed_T) = sweep.config, running
  if done == config.epochs * sweep.steps_per_epoch:
    return
  progress.note(f'Compiling for {len(running.columns)} trials on {provenance.device()}')
  state_T = trials.init(seed_T)
  order_T = trials.order(seed_T, 0, sweep.train)
  step_seconds = np.inf
  for _ in range(3):  # the first round compiles, the second warms up
    count = int(np.clip(2 / step_seconds, 1, trials.fold_every))  # about two seconds
    clock = [time.monotonic()]
    for _ in range(count):
      state_T, _ = trials.train_step(state_T, rate_T, seed_T, sweep.train, order_T, 0)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    state_T = trials.fold(state_T)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    jax.block_until_ready(trials.eval_step(state_T, sweep.train, 0))
    clock.append(time.monotonic())
    step_seconds, fold_seconds, eval_seconds = np.diff(clock) / (count, 1, 1)
  step_seconds += fold_seconds / trials.fold_every
  batches = sum(-(-images // config.eval_batch_size) for images in sweep.images)
  epoch_seconds = sweep.steps_per_epoch * step_seconds + batches * eval_seconds
  seconds = (config.epochs - done / sweep.steps_per_epoch) * epoch_seconds
  progress.note(
    f'{config.epochs} epochs of {sweep.steps_per_epoch} steps, '
    f'{1000 * step_seconds:.3g} ms a step: about {formats.duration(seconds)}'
  )
  if seconds > _LONG_SECONDS:
    progress.note(
      f'This takes {formats.duration(seconds)} on this device. --config '
      'configs/alexnet_letters.py:quick is the same study made small: minutes. A stopped study '
      'goes on with the same command.'
    )
