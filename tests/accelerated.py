"""A task without a study, and its training step by step, for tests of lr_study/accelerate/."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lr_study import accelerate, losses, optimizers
from lr_study.trial import Batch, Task

CLASSES = 3
_QUICK = {'xla_backend_optimization_level': 0}  # compiling is what takes the time


def task_of(model, shape, schedule=lambda step: 1.0, sweep=(), **fields):
  """A task that trains a network on unprocessed inputs; `fields` are those of the optimiser."""
  return Task(
    model=model,
    optimizer=optimizers.build({'name': 'sgd', **fields}, sweep),
    schedule=schedule,
    loss=losses.build({'name': 'cross_entropy'}, np.ones(CLASSES)),
    inputs=lambda batch, key: (batch.images, batch.labels),
    metrics={},
    shape=shape,
  )


def engine_of(task, how, batch_size=1, largest=None, **fields):
  """The engine of a study with `--config.accelerate=how`; for `fields` see `task_of`."""
  config = ConfigDict({
    'accelerate': how, 'parallel': 'auto', 'batch_size': batch_size, 'optimizer': fields,
    'dtype': task.dtype,
  })  # fmt: skip
  return accelerate.choose(task, config, largest or {'learning_rate': 1e-2})


class Trained(NamedTuple):
  """losses, gradient_norms: (steps,). state: the final one, settled; plain: as trial.State."""

  losses: np.ndarray
  gradient_norms: np.ndarray
  state: object
  plain: object


def train(engine, task, hyper, steps, batch_size=1, exact=False):
  """Takes `steps` steps on separable examples; in float64 if `exact`.

  `hyper`: the trial's hyperparameters, or only its learning rate.
  """
  hyper = hyper if isinstance(hyper, dict) else {'learning_rate': hyper}
  hyper = {name: jnp.float32(value) for name, value in hyper.items()}
  with jax.enable_x64(exact):
    of_all = _weights(engine), hyper, batches(task.shape, batch_size)
    return _train(engine, *(jax.tree.map(_double, of_all) if exact else of_all), steps)


def _train(engine, weights, hyper, examples, steps):
  state = engine.start(weights, hyper)
  step_of = jax.jit(engine.step, compiler_options=_QUICK)
  settle = jax.jit(engine.settle or (lambda state: state), compiler_options=_QUICK)
  rows, key = [], jax.random.key(1)
  for step in range(steps):
    place = step % len(examples.labels)
    batch = jax.tree.map(lambda x, k=place: x[k], examples)
    state, row = step_of(state, hyper, batch, key, np.int32(step))
    rows.append((row['loss'], row['gradient_norm']))
    if engine.settle and (step + 1) % engine.every == 0:
      state = settle(state)
  state, rows = settle(state), np.asarray(jax.device_get(rows))
  return Trained(rows[:, 0], rows[:, 1], *jax.device_get((state, engine.plain(state))))


def _weights(engine):
  """Weights that keep signals at their size; NumPy compiles nothing to draw them."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    if len(leaf.shape) < 2:
      return np.full(leaf.shape, float(path[-1].key in ('scale', 'var')), leaf.dtype)
    return np.sqrt(2 / np.prod(leaf.shape[:-1])) * rng.normal(size=leaf.shape).astype(leaf.dtype)

  shapes = jax.eval_shape(engine.draw, jax.random.key(0))
  return jax.tree.map(jnp.asarray, jax.tree.map_with_path(draw, shapes))


def batches(shape, batch_size, count=30):
  """Noise around a mean per class: images (count, batch, *shape), labels (count, batch)."""
  rng = np.random.default_rng(0)
  means = rng.normal(size=(CLASSES, *shape))
  labels = rng.integers(0, CLASSES, (count, batch_size)).astype(np.int32)
  images = means[labels] + rng.normal(size=(count, batch_size, *shape))
  return Batch(images.astype(np.float32), labels, np.zeros((count, 1), np.float32))


def double(task):
  """The same task, computed in float64."""
  more = {'dtype': 'float64'} if hasattr(task.model, 'dtype') else {}
  return dataclasses.replace(task, model=task.model.clone(**more), dtype='float64')


def _double(x):
  return jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x
