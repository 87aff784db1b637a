"""What the trials of one program share, and which of them are still training."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from lr_study import accelerate, trial
from lr_study.answer.measure import ACCURACY, BALANCED, Measure, curve_of
from lr_study.clock import Clock
from lr_study.data import Dataset
from lr_study.data.checks import leading_measure
from lr_study.diagnosis import curvature
from lr_study.engine import Engine
from lr_study.feed import Feed
from lr_study.inputs import subtracted
from lr_study.interrupt import Interrupt
from lr_study.search.rounds import (
  Planned,
  Setting,
  at_once,
  axes_of,
  label,
  numbers_of,
  settings,
)
from lr_study.task import make_task
from lr_study.trial import Batch, Task
from lr_study.vectorize import Chunk, Pace, Spread


class Sweep(NamedTuple):
  """Everything that stays the same while the trials train.

  labels: the label of each setting in folder names; '' if there is only one setting.
  trials: one entry per trial.
  sharpness, critical_sharpness: the images on which each is measured, on the devices; None if it is
  not measured.
  """

  config: ConfigDict
  labels: Mapping[Setting, str]
  trials: tuple[Planned, ...]
  steps_per_epoch: int
  task: Task
  spread: Spread
  train: Feed
  validation: Feed
  classes: int
  measure: Measure
  clock: Clock
  sharpness: Batch | None
  critical_sharpness: Batch | None

  @property
  def engine(self) -> Engine:
    """How a trial is computed."""
    return self.spread.engine

  @property
  def epochs(self) -> int:
    """How many epochs the trials train."""
    return self.trials[0].epochs

  def height(self, step: int, number: int = 0) -> float:
    """The schedule's height at a step (from 0) for the trial in column `number`."""
    own = trial.own(numbers_of(self.config, self.trials[number]), 'schedule')
    return float(self.task.schedule(step, **own))

  @property
  def pace(self) -> Pace:
    """Where calls of the compiled program end."""
    size, engine = self.config.batch_size, self.engine
    return Pace(self.steps_per_epoch, size, engine.steps_per_call, engine.every)


class Running(NamedTuple):
  """The trials that are still training: all at first, then those that have not diverged.

  columns: their columns in the history. hyper_T: their hyperparameters, host arrays (trials,).
  seeds: their seeds.
  """

  columns: np.ndarray
  hyper_T: Mapping[str, np.ndarray]
  seeds: tuple[int, ...]


def prepare(config: ConfigDict, data: Dataset) -> Sweep:
  """Puts the data on the devices and builds the task of all trials: each rate and seed."""
  found = settings(config)
  config = next(iter(found.values()))
  counts = np.bincount(data.train.labels, minlength=len(data.classes))
  stored = jax.ShapeDtypeStruct(data.train.images.shape[1:], data.train.images.dtype)
  steps_per_epoch = len(data.train.labels) // config.batch_size
  task = make_task(config, len(data.classes), counts, stored, steps_per_epoch)
  spread = accelerate.spread(make_engine(task, config), config.parallel)
  mean = subtracted(config.input, data.mean)
  train, validation = (Feed(part, mean, spread) for part in (data.train, data.validation))
  # The same images for all trials and epochs, a random sample of the training images.
  order = np.random.default_rng(0).permutation(len(data.train.labels))
  sharpness, critical_sharpness = (
    train.some(order[:images]) if images else None
    for images in (config.sharpness_images, config.critical_sharpness_images)
  )
  return Sweep(
    config=config,
    labels={setting: label(setting, found) for setting in found},
    trials=at_once(config),
    steps_per_epoch=steps_per_epoch,
    task=task,
    spread=spread,
    train=train,
    validation=validation,
    classes=len(data.classes),
    measure=measure_of(config, task, data),
    clock=Clock(),
    sharpness=sharpness,
    critical_sharpness=critical_sharpness,
  )


def in_setting(sweep: Sweep, config: ConfigDict) -> Sweep:
  """A sweep over the same images for the trials of another setting's config."""
  if config == sweep.config:
    return sweep
  counts = np.bincount(sweep.train.labels, minlength=sweep.classes)
  steps_per_epoch = len(sweep.train.labels) // config.batch_size
  # Settings with the same network share its weights in memory.
  same = config.model == sweep.config.model
  origin, shared = (sweep.task.origin, sweep.spread.shared) if same else (None, None)
  task = make_task(config, sweep.classes, counts, sweep.train.stored, steps_per_epoch, origin)
  spread = accelerate.spread(make_engine(task, config), config.parallel, shared)
  return sweep._replace(config=config, steps_per_epoch=steps_per_epoch, task=task, spread=spread)


def measure_of(config: ConfigDict, task: Task, data: Dataset) -> Measure:
  """The measure that says which trial is best."""
  if not config.verdict.measure:
    return BALANCED if leading_measure(data.validation.labels) == BALANCED.field else ACCURACY
  metric = task.metrics[config.verdict.measure.rpartition(':')[2]]
  return Measure(curve_of(config.verdict.measure), metric.is_share, metric.larger_is_better)


def same_program(sweep: Sweep, config: ConfigDict) -> bool:
  """True if trials of this config are computed in the same way as those of the sweep.

  How a trial is computed may depend on the largest values of the study's hyperparameters.
  """
  engine = make_engine(sweep.task, config)
  hyper = dict.fromkeys(hyper_of(sweep.config, sweep.trials[:1]), np.float32(0))
  forms = [
    jax.eval_shape(functools.partial(_first_state, of), jax.random.key(0), hyper)
    for of in (engine, sweep.engine)
  ]
  told = [(of.about, of.every) for of in (engine, sweep.engine)]
  return told[0] == told[1] and jax.tree.all(
    jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), *forms)
  )


def make_engine(task: Task, config: ConfigDict) -> Engine:
  """How trials of a study are computed."""
  largest = {name: float(max(values)) for name, values in axes_of(config).items()}
  return accelerate.choose(task, config, {'learning_rate': max(config.learning_rates)} | largest)


def running(sweep: Sweep, columns: np.ndarray) -> Running:
  """The trials in these columns."""
  chosen = [sweep.trials[column] for column in columns]
  return Running(columns, hyper_of(sweep.config, chosen), tuple(t.seed for t in chosen))


def hyper_of(config: ConfigDict, trials: Sequence[Planned]) -> dict[str, np.ndarray]:
  """The hyperparameters in which trials of a program differ, float32 (trials,), by name."""
  rows = [{'learning_rate': t.learning_rate} | numbers_of(config, t) for t in trials]
  return {name: np.asarray([row[name] for row in rows], np.float32) for name in rows[0]}


def keep(sweep: Sweep, now: Running, state_T: Any, good: np.ndarray) -> tuple[Running, Any]:
  """Continues with the trials that are `good`, bool (trials,)."""
  return running(sweep, now.columns[good]), sweep.spread.keep(state_T, good)


def chunks(
  sweep: Sweep, seeds: Sequence[int], epoch: int, first: int, last: int
) -> Iterator[Chunk]:
  """Steps `first` to `last` of an epoch, grouped into calls of the compiled program."""
  shuffle = epoch if sweep.config.data.reshuffle else 0
  return sweep.train.chunks(sweep.pace, seeds, epoch, shuffle, first, last)


def train_steps(
  sweep: Sweep,
  now: Running,
  state_T: Any,
  epoch: int,
  first: int,
  last: int,
  interrupt: Interrupt | None = None,
) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Takes steps `first` to `last` of an epoch; if the study must stop, only those under way.

  Returns:
    The state; the curves over steps, (steps, trials); and, if the last step of the epoch is
    included, the norm of its update divided by that of the weights, (trials,), which is measured
    at that step only.
  """

  def until_asked() -> Iterable[Chunk]:
    for chunk in chunks(sweep, now.seeds, epoch, first, last):
      yield chunk
      if interrupt and interrupt.asked:
        return

  state_T, curves, ratio = sweep.spread.train(state_T, now.hyper_T, now.seeds, until_asked())
  return state_T, curves, {} if ratio is None else {'update_ratio': ratio}


def evaluate(sweep: Sweep, now: Running, state_T: Any) -> dict[str, np.ndarray]:
  """Every metric over all validation images, `validation_loss` and so on, (trials,)."""
  windows = sweep.validation.windows(sweep.config.eval_batch_size)
  sums = sweep.spread.evaluate(state_T, windows, len(now.columns))
  return values(sweep.task, sums, len(sweep.validation.labels))


def values(task: Task, sums: Sequence[Any], images: int) -> dict[str, np.ndarray]:
  """The metrics computed from the sums of several windows, by the names of their curves."""
  # In float64: float32 sums over many images would round.
  total = jax.tree.map(lambda *parts: np.sum(parts, 0, np.float64), *sums)
  return {curve_of(name): m.value(total[name], images) for name, m in task.metrics.items()}


def measure_sharpness(sweep: Sweep, now: Running, state_T: Any, step: int) -> dict[str, np.ndarray]:
  """What the study measures of curvature after this step (from 0), (trials,) by the curve's name.

  Sharpness and the edge of stability, critical sharpness, both or neither.
  """
  heights = np.asarray([sweep.height(step, column) for column in now.columns], np.float32)
  rates = now.hyper_T['learning_rate'] * heights
  found = {}
  with sweep.clock('sharpness'):
    if sweep.sharpness is not None:
      measure, edges = sharpness_of(sweep.task, _is_adam(sweep)), _edges(sweep, now, rates)
      values = sweep.spread.apply(measure, state_T, _all_numbers(sweep, now), sweep.sharpness)
      found = {'sharpness': values, 'sharpness_edge': edges}
    if sweep.critical_sharpness is not None:
      measure, hyper_T = critical_sharpness_of(sweep.task), {**now.hyper_T, 'rate': rates}
      values = sweep.spread.apply(measure, state_T, hyper_T, sweep.critical_sharpness)
      found['critical_sharpness'] = values
  return found


def _is_adam(sweep: Sweep) -> bool:
  return sweep.config.optimizer.name == 'adam'


def _all_numbers(sweep: Sweep, now: Running) -> dict[str, np.ndarray]:
  """The hyperparameters of the trials, with those numbers of Adam that they share."""
  shared = {}
  if _is_adam(sweep):
    shared = {f'optimizer.{name}': sweep.config.optimizer[name] for name in ('b1', 'b2', 'eps')}
  each = {name: np.full(len(now.columns), x, np.float32) for name, x in shared.items()}
  return each | dict(now.hyper_T)


def _edges(sweep: Sweep, now: Running, rates: np.ndarray) -> np.ndarray:
  """The edge of stability of each trial, (trials,); NaN where it is not known."""
  own = sweep.config.optimizer
  if _is_adam(sweep):
    return curvature.adam_edge(rates, _all_numbers(sweep, now)['optimizer.b1'])
  if own.name not in ('sgd', 'caffe_sgd'):
    return np.full_like(rates, np.nan)
  momentum = now.hyper_T.get('optimizer.momentum', own.get('momentum', 0.0))
  return curvature.edge(rates, momentum, bool(own.get('nesterov', False)))


@functools.lru_cache(maxsize=8)
def sharpness_of(task: Task, is_adam: bool = False) -> Callable[..., jax.Array]:
  """A function of a trial's state, hyperparameters and images that returns its sharpness.

  It uses the loss without dropout and augmentation. There is one function per task, so that it is
  compiled once. `is_adam`: after Adam's preconditioner, for which the function needs b1, b2 and eps
  among the hyperparameters.
  """

  def measure(state, hyper, batch):
    preconditioner = None
    if is_adam:
      numbers = {name: hyper[f'optimizer.{name}'] for name in ('b1', 'b2', 'eps')}
      preconditioner = curvature.adam_preconditioner(state.opt_state, **numbers)
    loss = _evaluated_loss(task, state, hyper, batch)
    return curvature.sharpness(loss, state.params, preconditioner=preconditioner)

  return measure


@functools.lru_cache(maxsize=8)
def critical_sharpness_of(task: Task) -> Callable[..., jax.Array]:
  """A function like that of `sharpness_of` that returns critical sharpness.

  The hyperparameters contain 'rate', the learning rate of the latest step. The update is the one
  that the optimiser would make next, if these images were its batch.
  """

  def measure(state, hyper, batch):
    loss = _evaluated_loss(task, state, hyper, batch)
    value, gradients = jax.value_and_grad(loss)(state.params)
    at_rate = {'learning_rate': hyper['rate'], 'base_rate': hyper['learning_rate']}
    make = task.optimizer.make(**at_rate, **trial.own(hyper, 'optimizer'))
    transform = optax.with_extra_args_support(make)
    updates, _ = transform.update(gradients, state.opt_state, state.params, value=value)
    return curvature.critical_sharpness(loss, state.params, updates, hyper['rate'])

  return measure


def _evaluated_loss(task: Task, state: trial.State, hyper: Any, batch: Batch) -> Callable:
  """The mean loss on these images as a function of the weights, without dropout and so on."""
  inputs, labels = task.inputs(batch, None)

  def loss(params):
    logits, _ = trial.apply(task, params, state.model_state, inputs)
    return task.loss(logits, labels, **trial.own(hyper, 'loss')).mean()

  return loss


def state_like(sweep: Sweep, count: int) -> Any:
  """Arrays shaped like those that `spread.get` returns for `count` trials; they take no memory."""
  hyper = dict.fromkeys(hyper_of(sweep.config, sweep.trials[:1]), np.float32(0))
  form = jax.eval_shape(functools.partial(_first_state, sweep.engine), jax.random.key(0), hyper)
  return jax.tree.map(lambda x: np.broadcast_to(np.zeros([], x.dtype), (count, *x.shape)), form)


def _first_state(engine: Engine, key: jax.Array, hyper: Mapping[str, jax.Array]) -> Any:
  return engine.start(engine.draw(key), hyper)
