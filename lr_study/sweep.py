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
from lr_study.history import STEP_CURVES, History, read_waves
from lr_study.schedule import make_schedule
from lr_study.trial import Trial, make_trial

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


class Sweep(NamedTuple):
  """What stays as it is while the trials train. One entry a trial where there are several."""

  config: ConfigDict
  learning_rates: tuple[float, ...]
  seeds: tuple[int, ...]
  steps_per_epoch: int
  trial: Trial
  train: parallel.Arrays  # on the devices
  validation: parallel.Arrays
  images: tuple[int, int]  # training, validation


class Running(NamedTuple):
  """The trials that still train: all at first, then those that have not diverged."""

  columns: np.ndarray  # theirs in the history
  trials: parallel.Trials
  rate_T: jax.Array
  seed_T: jax.Array


def _train(
  config: ConfigDict, data: datasets.Dataset, folder: Path, study: dict[str, Any]
) -> tuple[list[verdict.Result], verdict.Verdict]:
  started = time.monotonic()
  sweep = prepare(config, data)
  per_epoch = sweep.steps_per_epoch
  steps = config.epochs * per_epoch
  schedule = make_schedule(config.schedule, per_epoch, config.epochs)
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
  figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = study | {
    'seconds': round(time.monotonic() - started, 1),
    'trial_steps': {'planned': steps * len(results), 'run': sum(run)},
  }
  report.write(folder, study, results, answer)
  return results, answer


def prepare(config: ConfigDict, data: datasets.Dataset) -> Sweep:
  """Puts the data on the devices and builds the trial that all trials are."""
  steps_per_epoch = len(data.train.labels) // config.batch_size
  mean = {
    'image': data.mean,
    'pixel': data.mean.mean((0, 1)),
    'none': np.zeros(3, np.float32),
  }[config.input.subtract]
  return Sweep(
    config,
    tuple(rate for rate in config.learning_rates for _ in config.seeds),
    tuple(config.seeds) * len(config.learning_rates),
    steps_per_epoch,
    make_trial(config, len(data.classes), steps_per_epoch),
    parallel.share(parallel.Arrays(*data.train, mean), config.parallel),
    parallel.share(parallel.Arrays(*data.validation, mean), config.parallel),
    (len(data.train.labels), len(data.validation.labels)),
  )


def run_together(sweep: Sweep, columns: np.ndarray) -> Running:
  """The trials of these columns, compiled when they are first used."""
  seeds, config = np.asarray(sweep.seeds, np.uint32)[columns], sweep.config
  trials = parallel.make_trials(
    sweep.trial,
    seeds.tolist(),
    config.parallel,
    config.batch_size,
    config.eval_batch_size,
    config.trials_per_call,
  )
  rates = np.asarray(sweep.learning_rates, np.float32)[columns]
  return Running(columns, trials, trials.to_devices(rates), trials.to_devices(seeds))


def keep(sweep: Sweep, running: Running, state_T: Any, good: np.ndarray) -> tuple[Running, Any]:
  """Lets the trials go on that are `good`, (trials,), in a program for so many."""
  state = jax.tree.map(lambda x: x[good], running.trials.to_host(state_T))
  running = run_together(sweep, running.columns[good])
  return running, running.trials.to_devices(state)


def _plan(sweep: Sweep) -> list[int]:
  """The wave of each trial, from 0: as many trials in a wave as fit in memory."""
  count = len(sweep.seeds)
  progress.note(f'Compiling for {count} trials on {provenance.device()}')
  need = run_together(sweep, np.arange(count)).trials.memory(sweep.train)
  free = sweep.config.memory_gb * 1e9 or parallel.free_memory()
  fit = int((free - need.call) // need.trial) * need.devices
  progress.note(
    f'A trial needs {need.trial / 1e9:.2g} GB and the program {need.call / 1e9:.2g} GB; '
    f'{free / 1e9:.3g} GB are free{" on each device" if need.devices > 1 else ""}: '
    f'{max(fit, 0)} trials fit'
  )
  if fit < 1:
    raise StudyError(
      f'one trial needs {(need.trial + need.call) / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; '
      'lower model.width, image_size, batch_size or eval_batch_size'
    )
  waves = -(-count // fit)
  if waves > 1:
    progress.note(f'{count} trials in {waves} waves, one after the other')
  return [trial * waves // count for trial in range(count)]


def _train_all(sweep: Sweep, history: History, events: Events, checkpoints: Checkpoints) -> None:
  """Trains wave after wave from the newest checkpoint, or from the start, to the last epoch."""
  config, per_epoch = sweep.config, sweep.steps_per_epoch
  total, waves = config.epochs * per_epoch, max(history.waves) + 1
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
      _train_wave(sweep, history, events, checkpoints, view, wave, done)
      wave, done = wave + 1, 0


def _train_wave(
  sweep: Sweep,
  history: History,
  events: Events,
  checkpoints: Checkpoints,
  view: progress.TrainingView,
  wave: int,
  done: int,
) -> None:
  """Trains the trials of a wave from step `done` to the last epoch, or until all diverged."""
  config, per_epoch = sweep.config, sweep.steps_per_epoch
  total = config.epochs * per_epoch
  before_wave = wave * total
  columns = history.running(wave, done)
  if not len(columns):
    return
  running = run_together(sweep, columns)
  _announce(sweep, running, done, max(history.waves) - wave)
  state_T = running.trials.init(running.seed_T)
  if done:
    saved = checkpoints.restore(before_wave + done, like=running.trials.to_host(state_T))
    state_T = running.trials.to_devices(saved)
  saved_at = time.monotonic()
  view.start(before_wave + done)
  for epoch in range(done // per_epoch, config.epochs):
    for first in range(done % per_epoch, per_epoch, config.log_every_steps):
      last = min(first + config.log_every_steps, per_epoch)
      state_T, curves = train_steps(sweep, running, state_T, epoch, first, last)
      history.write_steps(done, curves, running.columns)
      done, before = done + last - first, done
      events.write_steps(history, before, done, running.columns)
      view.steps(before_wave + done, done, epoch + 1, running.columns, curves)
      good = history.unbroken(before, done)[running.columns]
      if not good.any():
        return
      if not good.all():
        running, state_T = keep(sweep, running, state_T, good)
      if last < per_epoch and time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
        _save(checkpoints, history, before_wave + done, running.trials.to_host(state_T))
        saved_at = time.monotonic()
    history.write_epoch(epoch, _evaluate(sweep, running, state_T), running.columns)
    events.write_epoch(history, epoch, done, running.columns)
    events.flush()
    view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
    _save(checkpoints, history, before_wave + done, running.trials.to_host(state_T))
    saved_at = time.monotonic()


def train_steps(
  sweep: Sweep, running: Running, state_T: Any, epoch: int, first: int, last: int
) -> tuple[Any, dict[str, np.ndarray]]:
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


def _evaluate(sweep: Sweep, running: Running, state_T: Any) -> dict[str, np.ndarray]:
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


def _chunk_end(step: int, sweep: Sweep) -> int:
  """The steps done, from 1, at the end of the chunk of steps that `step` is in."""
  epochs, position = divmod(step - 1, sweep.steps_per_epoch)
  chunk = sweep.config.log_every_steps
  end = min((position // chunk + 1) * chunk, sweep.steps_per_epoch)
  return epochs * sweep.steps_per_epoch + end


def _save(checkpoints: Checkpoints, history: History, number: int, state: Any) -> None:
  history.flush()  # first: a checkpoint promises the curves up to it
  checkpoints.save(number, state)


def _replay(events: Events, history: History, wave: int, done: int, sweep: Sweep) -> None:
  """Writes the events of a wave's first `done` steps again."""
  per_epoch, chunk = sweep.steps_per_epoch, sweep.config.log_every_steps
  for epoch in range(-(-done // per_epoch)):
    end = min((epoch + 1) * per_epoch, done)
    for first in range(epoch * per_epoch, end, chunk):
      columns = history.running(wave, first)
      events.write_steps(history, first, min(first + chunk, end), columns)
    if end == (epoch + 1) * per_epoch:
      events.write_epoch(history, epoch, end, history.running(wave, end))


def _announce(sweep: Sweep, running: Running, done: int, waves_after: int) -> None:
  """Compiles, times a few steps on weights that are thrown away, and says how long it will take."""
  config, (_, trials, rate_T, seed_T) = sweep.config, running
  if done == config.epochs * sweep.steps_per_epoch:
    return
  progress.note(sweep.trial.computed)
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
  epochs = config.epochs * (1 + waves_after) - done / sweep.steps_per_epoch
  seconds = epochs * epoch_seconds
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
