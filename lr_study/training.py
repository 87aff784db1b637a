"""What a sweep does to its trials: steps, evaluations, and letting the diverged ones go."""

from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import curvature, parallel
from lr_study import data as datasets
from lr_study.clock import Clock
from lr_study.history import STEP_CURVES
from lr_study.interrupt import Interrupt
from lr_study.trial import Trial, make_trial


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
  clock: Clock
  sharpness: parallel.Arrays | None  # the images that it is measured on; None: it is not


class Running(NamedTuple):
  """The trials that still train: all at first, then those that have not diverged."""

  columns: np.ndarray  # theirs in the history
  trials: parallel.Trials
  rate_T: jax.Array
  seed_T: jax.Array


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
    Clock(),
    _sharpness_images(config, data, mean),
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


def train_steps(
  sweep: Sweep,
  running: Running,
  state_T: Any,
  epoch: int,
  first: int,
  last: int,
  interrupt: Interrupt | None = None,
) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Steps `first` to `last` of an epoch, fewer after a signal.

  Returns:
    The state, the curves over steps, (steps, trials), and, if the last step of the epoch was
    among them, what is known of it alone, (trials,): its update by the weights.
  """
  config, trials, metrics, ends = sweep.config, running.trials, [], {}
  order_T = trials.order(running.seed_T, epoch if config.data.reshuffle else 0, sweep.train)
  for step in range(first, last):
    batch = (running.rate_T, running.seed_T, sweep.train, order_T, step * config.batch_size)
    if step + 1 == sweep.steps_per_epoch:
      ends['update_ratio'] = trials.to_host(trials.update_ratio(state_T, *batch))
    state_T, metrics_T = trials.train_step(state_T, *batch)
    metrics.append(metrics_T)
    if (step + 1) % trials.fold_every == 0 or step + 1 == sweep.steps_per_epoch:
      state_T = trials.fold(state_T)
    if interrupt and interrupt.signum:
      break
  rows = [trials.to_host(metrics_T) for metrics_T in metrics]
  curves = {name: np.stack([getattr(row, name) for row in rows]) for name in STEP_CURVES}
  return state_T, curves, ends


def evaluate(sweep: Sweep, running: Running, state_T: Any) -> dict[str, np.ndarray]:
  """Loss and accuracy over every validation image, (trials,)."""
  images = sweep.images[1]
  totals = [
    running.trials.eval_step(state_T, sweep.validation, start)
    for start in range(0, images, sweep.config.eval_batch_size)
  ]
  totals = [running.trials.to_host(total) for total in totals]
  return {
    # In float64: float32 sums over many images would round.
    'validation_loss': np.sum([t.loss for t in totals], 0, np.float64) / images,
    'validation_accuracy': np.sum([t.correct for t in totals], 0, np.float64) / images,
  }


def measure_sharpness(
  sweep: Sweep, running: Running, state_T: Any, height: float
) -> dict[str, np.ndarray]:
  """Sharpness and where its edge lies at this height of the schedule, (trials,); or nothing."""
  if sweep.sharpness is None:
    return {}
  trials = running.trials
  with sweep.clock('sharpness'):
    found = trials.to_host(trials.sharpness(state_T, sweep.sharpness))
  edges = curvature.edge(trials.to_host(running.rate_T) * height, sweep.config.optimizer.momentum)
  return {'sharpness': found, 'sharpness_edge': edges}


def _sharpness_images(
  config: ConfigDict, data: datasets.Dataset, mean: np.ndarray
) -> parallel.Arrays | None:
  """The same ones for all trials and at all times, drawn from all classes."""
  if not config.sharpness_images:
    return None
  images = np.random.default_rng(0).permutation(len(data.train.labels))[: config.sharpness_images]
  chosen = parallel.Arrays(data.train.images[images], data.train.labels[images], mean)
  return parallel.share(chosen, config.parallel)
