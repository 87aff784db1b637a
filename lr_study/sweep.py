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
from lr_study.trial import State, make_trial

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
  """What stays as it is while the trials train. Arrays are on the devices."""

  config: ConfigDict
  learning_rates: tuple[float, ...]  # one a trial
  seeds: tuple[int, ...]
  steps_per_epoch: int
  trials: parallel.Trials
  rate_T: jax.Array
  seed_T: jax.Array
  train: parallel.Arrays
  validation: parallel.Arrays
  images: tuple[int, int]  # training, validation


def _train(
  config: ConfigDict, data: datasets.Dataset, folder: Path, study: dict[str, Any]
) -> tuple[list[verdict.Result], verdict.Verdict]:
  started = time.monotonic()
  sweep = _prepare(config, data)
  _announce(sweep)
  steps = config.epochs * sweep.steps_per_epoch
  schedule = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)
  history = History(folder / 'history', steps, config.epochs, sweep.learning_rates, sweep.seeds)
  events = Events(
    folder / 'tensorboard', sweep.learning_rates, sweep.seeds, schedule, config.log_every_steps
  )
  checkpoints = Checkpoints(folder / 'checkpoints')
  _train_all(sweep, history, events, checkpoints)
  checkpoints.close()
  guessing_loss = verdict.entropy(data.train.labels)
  results = verdict.results(history, sweep.learning_rates, sweep.seeds, guessing_loss)
  answer = verdict.judge(results, data.validation.labels)
  events.close([result.status == verdict.DIVERGED for result in results])
  figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = {**study, 'seconds': round(time.monotonic() - started, 1)}
  report.write(folder, study, results, answer)
  return results, answer


def _prepare(config: ConfigDict, data: datasets.Dataset) -> _Sweep:
  steps_per_epoch = len(data.train.labels) // config.batch_size
  rates = tuple(rate for rate in config.learning_rates for _ in config.seeds)
  seeds = tuple(config.seeds) * len(config.learning_rates)
  trial = make_trial(config, len(data.classes), steps_per_epoch)
  trials = parallel.make_trials(
    trial, seeds, config.parallel, config.batch_size, config.eval_batch_size
  )
  mean = {
    'image': data.mean,
    'pixel': data.mean.mean((0, 1)),
    'none': np.zeros(3, np.float32),
  }[config.input.subtract]
  return _Sweep(
    config,
    rates,
    seeds,
    steps_per_epoch,
    trials,
    trials.to_devices(np.asarray(rates, np.float32)),
    trials.to_devices(np.asarray(seeds, np.uint32)),
    trials.share(parallel.Arrays(*data.train, mean)),
    trials.share(parallel.Arrays(*data.validation, mean)),
    (len(data.train.labels), len(data.validation.labels)),
  )


def _train_all(sweep: _Sweep, history: History, events: Events, checkpoints: Checkpoints) -> None:
  """Trains from the newest checkpoint, or from the start, to the last epoch."""
  config, trials, per_epoch = sweep.config, sweep.trials, sweep.steps_per_epoch
  state_T, done = trials.init(sweep.seed_T), 0
  restored = checkpoints.restore(like=trials.to_host(state_T))
  if restored is not None:
    done, state = restored
    state_T = trials.to_devices(state)
    progress.note(f'Going on from step {done}')
    _replay(events, history, done, per_epoch)
  saved_at = time.monotonic()
  total = config.epochs * per_epoch
  with progress.TrainingView(sweep.learning_rates, sweep.seeds, total, config.epochs) as view:
    view.start(done)
    for epoch in range(done // per_epoch, config.epochs):
      order_T = trials.order(sweep.seed_T, epoch if config.data.reshuffle else 0, sweep.train)
      for first in range(done % per_epoch, per_epoch, config.log_every_steps):
        last = min(first + config.log_every_steps, per_epoch)
        state_T, curves = _train_steps(sweep, state_T, order_T, first, last)
        history.write_steps(done, curves)
        events.write_steps(history, done, done + last - first)
        done += last - first
        view.steps(done, epoch + 1, curves['loss'], curves['accuracy'])
        if last < per_epoch and time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
          _save(checkpoints, history, done, trials.to_host(state_T))
          saved_at = time.monotonic()
      history.write_epoch(epoch, _evaluate(sweep, state_T))
      events.write_epoch(history, epoch, done)
      events.flush()
      view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
      _save(checkpoints, history, done, trials.to_host(state_T))
      saved_at = time.monotonic()


def _train_steps(
  sweep: _Sweep, state_T: State, order_T: jax.Array, first: int, last: int
) -> tuple[State, dict[str, np.ndarray]]:
  """Steps `first` to `last` of an epoch; the curves are (steps, trials)."""
  metrics = []
  for step in range(first, last):
    start = step * sweep.config.batch_size
    state_T, metrics_T = sweep.trials.train_step(
      state_T, sweep.rate_T, sweep.seed_T, sweep.train, order_T, start
    )
    metrics.append(metrics_T)
    if (step + 1) % sweep.trials.fold_every == 0 or step + 1 == sweep.steps_per_epoch:
      state_T = sweep.trials.fold(state_T)
  rows = [sweep.trials.to_host(metrics_T) for metrics_T in metrics]
  return state_T, {name: np.stack([getattr(row, name) for row in rows]) for name in STEP_CURVES}


def _evaluate(sweep: _Sweep, state_T: State) -> dict[str, np.ndarray]:
  """Loss and accuracy over every image of both parts, (trials,)."""
  means = {}
  parts = zip(('train', 'validation'), (sweep.train, sweep.validation), sweep.images, strict=True)
  for name, arrays, images in parts:
    totals = [
      sweep.trials.eval_step(state_T, arrays, start)
      for start in range(0, images, sweep.config.eval_batch_size)
    ]
    totals = [sweep.trials.to_host(total) for total in totals]
    # In float64: float32 sums over many images would round.
    means[f'{name}_loss'] = np.sum([t.loss for t in totals], 0, np.float64) / images
    means[f'{name}_accuracy'] = np.sum([t.correct for t in totals], 0, np.float64) / images
  return means


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


def _announce(sweep: _Sweep) -> None:
  """Compiles, times a few steps on weights that are thrown away, and says how long it will take."""
  config, trials = sweep.config, sweep.trials
  progress.note(f'Compiling for {len(sweep.seeds)} trials on {provenance.device()}')
  state_T = trials.init(sweep.seed_T)
  order_T = trials.order(sweep.seed_T, 0, sweep.train)
  step_seconds = np.inf
  for _ in range(3):  # the first round compiles, the second warms up
    count = int(np.clip(2 / step_seconds, 1, trials.fold_every))  # about two seconds
    clock = [time.monotonic()]
    for _ in range(count):
      state_T, _ = trials.train_step(state_T, sweep.rate_T, sweep.seed_T, sweep.train, order_T, 0)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    state_T = trials.fold(state_T)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    jax.block_until_ready(trials.eval_step(state_T, sweep.train, 0))
    clock.append(time.monotonic())
    step_seconds, fold_seconds, eval_seconds = np.diff(clock) / (count, 1, 1)
  step_seconds += fold_seconds / trials.fold_every
  batches = sum(-(-images // config.eval_batch_size) for images in sweep.images)
  epoch_seconds = sweep.steps_per_epoch * step_seconds + batches * eval_seconds
  seconds = config.epochs * epoch_seconds
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
