"""What a sweep does to its trials: steps, evaluations, and letting the diverged ones go."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import parallel
from lr_study.clock import Clock
from lr_study.diagnosis import curvature
from lr_study.feed import Feed, make_feed
from lr_study.files.history import STEP_CURVES
from lr_study.interrupt import Interrupt
from lr_study.preprocess import subtracted
from lr_study.search.rounds import Planned, at_once
from lr_study.trial import Batch, Trial, make_trial


class Sweep(NamedTuple):
  """What stays as it is while the trials train. One entry a trial where there are several."""

  config: ConfigDict
  label: str  # of the setting, in names of folders; empty if there is one setting
  trials: tuple[Planned, ...]
  steps_per_epoch: int
  trial: Trial  # what all of them are
  train: Feed
  validation: Feed
  mean: jax.Array  # that is subtracted from the images; on the devices
  clock: Clock
  sharpness: Batch | None  # the images that it is measured on, on the devices; None: it is not

  @property
  def learning_rates(self) -> tuple[float, ...]:
    """Of each trial."""
    return tuple(t.learning_rate for t in self.trials)

  @property
  def seeds(self) -> tuple[int, ...]:
    """Of each trial."""
    return tuple(t.seed for t in self.trials)

  @property
  def epochs(self) -> int:
    """That the trials train."""
    return self.trials[0].epochs


class Running(NamedTuple):
  """The trials that still train: all at first, then those that have not diverged."""

  columns: np.ndarray  # theirs in the history
  trials: parallel.Trials
  rate_T: jax.Array
  seed_T: jax.Array


def prepare(config: ConfigDict, data: datasets.Dataset) -> Sweep:
  """Puts the data on the devices and builds the trial that all trials are: each rate and seed."""
  steps_per_epoch = len(data.train.labels) // config.batch_size
  mean = subtracted(config.input, data.mean)
  return Sweep(
    config,
    '',
    at_once(config),
    steps_per_epoch,
    make_trial(config, len(data.classes), steps_per_epoch),
    make_feed(data.train, config.parallel),
    make_feed(data.validation, config.parallel),
    parallel.share(mean, config.parallel),
    Clock(),
    _sharpness_batch(config, data.train),
  )


def in_setting(sweep: Sweep, config: ConfigDict, label: str, classes: int) -> Sweep:
  """The same images for trials of another config, which differs in batch size or schedule."""
  steps_per_epoch = len(sweep.train.labels) // config.batch_size
  return sweep._replace(
    config=config,
    label=label,
    steps_per_epoch=steps_per_epoch,
    trial=make_trial(config, classes, steps_per_epoch),
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
  kept = run_together(sweep, running.columns[good])
  return kept, parallel.keep(running.trials, kept.trials, state_T, good)


def train_steps(
  sweep: Sweep,
  running: Running,
  state_T: Any,
  epoch: int,
  first: int,
  last: int,
  interrupt: Interrupt | None = None,
) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Steps `first` to `last` of an epoch; after a signal none but those under way.

  Returns:
    The state, the curves over steps, (steps, trials), and, if the last step of the epoch is
    among them, what is measured at it alone, (trials,): its update by the weights.
  """
  trials = running.trials

  def until_signal():
    for chunk in chunks(sweep, running, epoch, first, last):
      yield chunk
      if interrupt and interrupt.signum:
        return

  done = epoch * sweep.steps_per_epoch + first
  state_T, metrics, ratio_T = trials.train_steps(
    state_T, running.rate_T, running.seed_T, until_signal(), sweep.mean, done
  )
  curves = {name: getattr(metrics, name) for name in STEP_CURVES}
  return state_T, curves, {} if ratio_T is None else {'update_ratio': trials.to_host(ratio_T)}


def chunks(
  sweep: Sweep, running: Running, epoch: int, first: int, last: int
) -> Iterator[parallel.Chunk]:
  """Steps `first` to `last` of an epoch, as a call takes them."""
  order_S = running.trials.order(
    running.seed_T, epoch if sweep.config.data.reshuffle else 0, len(sweep.train.labels)
  )
  return sweep.train.chunks(running.trials, order_S, first, last)


def evaluate(sweep: Sweep, running: Running, state_T: Any) -> dict[str, np.ndarray]:
  """Loss, accuracy and balanced accuracy over every validation image, (trials,)."""
  trials, labels = running.trials, sweep.validation.labels
  totals = trials.eval_steps(state_T, sweep.validation.windows(trials), sweep.mean)
  totals = [trials.to_host(total_T) for total_T in totals]
  # In float64: float32 sums over many images would round.
  loss, correct = (
    np.sum([getattr(t, n) for t in totals], 0, np.float64) for n in totals[0]._fields
  )
  counts = np.bincount(labels, minlength=correct.shape[1])
  return {
    'validation_loss': loss / len(labels),
    'validation_accuracy': correct.sum(1) / len(labels),
    'validation_balanced_accuracy': (correct[:, counts > 0] / counts[counts > 0]).mean(1),
  }


def measure_sharpness(
  sweep: Sweep, running: Running, state_T: Any, height: float
) -> dict[str, np.ndarray]:
  """Sharpness and where its edge lies at this height of the schedule, (trials,); or nothing."""
  if sweep.sharpness is None:
    return {}
  trials = running.trials
  with sweep.clock('sharpness'):
    found = trials.to_host(trials.sharpness(state_T, sweep.sharpness, sweep.mean))
  edges = curvature.edge(trials.to_host(running.rate_T) * height, sweep.config.optimizer.momentum)
  return {'sharpness': found, 'sharpness_edge': edges}


def _sharpness_batch(config: ConfigDict, part: datasets.Part) -> Batch | None:
  """The same images for all trials and at all times, drawn from all classes."""
  if not config.sharpness_images:
    return None
  images = np.random.default_rng(0).permutation(len(part.labels))[: config.sharpness_images]
  return parallel.share(Batch(part.images[images], part.labels[images]), config.parallel)
