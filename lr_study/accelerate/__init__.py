"""Accelerators, which make trials fast. The rest of the package knows only `Engine` and `Spread`.

Each accelerator says in one function when it applies: `factored.layers`, `products.applies`, and
`choose_spread` for threads. `--config.accelerate` uses all that are known to be faster on the
device ('auto'), none except threads ('off'), one ('factored', 'products'), or both ('all').
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from lr_study import memory, vectorize
from lr_study.accelerate import factored, products
from lr_study.accelerate.threads import Threads
from lr_study.config import RATE_FACTOR
from lr_study.engine import Engine, plain, sharing
from lr_study.trial import Task
from lr_study.vectorize import Batched, Spread, tree_bytes

__all__ = ['HOW', 'choose', 'choose_spread', 'room_for_images', 'shares_memory', 'spread']

HOW = ('auto', 'threads', *vectorize.HOW)

_CALL_IMAGES = 16  # in the steps of a call: more are not faster, and a signal waits for its end
_GPU_CALL_IMAGES = 64  # a GPU takes a step in less time than Python needs to start a call
_LONG_BYTES = 32 * 2**20  # of parameters: a step of such a network takes long ...
_LONG_CALL_IMAGES = 4  # ... and a signal would wait for seconds


def choose(task: Task, config: ConfigDict, largest: Mapping[str, float]) -> Engine:
  """Chooses how a trial is computed.

  Args:
    task: what is trained.
    config: `accelerate`, `parallel` and `batch_size` decide; `optimizer` sets bounds for factors.
    largest: the largest value of each hyperparameter in the study.
  """
  engine, about = plain(task), []
  # XLA's convolutions are slow in some cases, but only on a CPU.
  survey = jax.default_backend() == 'cpu' or config.accelerate in ('products', 'all')
  convolutions = products.survey(task, config.batch_size) if survey else products.NONE
  multiplies = _use_products(convolutions, task, config)
  bounds = _bounds(config, largest)
  paths: tuple[str, ...] = ()
  if config.accelerate in ('auto', 'factored', 'all'):
    paths = factored.layers(task, config.batch_size, bounds)
  if paths:
    engine = factored.engine(task, config.batch_size, bounds, paths, largest)
    about.append(
      f'dense kernels {", ".join(path.removesuffix("/kernel") for path in paths)} as factors, '
      f'folded every {engine.every} steps'
    )
  if multiplies:
    about.append('convolutions as matrix products')
    engine = engine._replace(
      step=_with_products(engine.step),
      evaluate=_with_products(engine.evaluate),
      around=_with_products,
    )
  if jax.default_backend() != 'cpu' and config.dtype == 'float32':
    # Else JAX lets a GPU round what it multiplies to TensorFloat-32, with 10 bits for 23.
    engine = _in_float32(engine)
  engine = engine._replace(
    # Traced once, both for the loop of steps and for the measured step.
    step=jax.jit(engine.step),
    steps_per_call=_steps_per_call(convolutions, multiplies, task, config),
    about='; '.join(about) or 'plain Flax and optax',
  )
  return sharing(engine)


def spread(engine: Engine, how: str, shared: Any = None) -> Spread:
  """Chooses how trials run side by side.

  Args:
    engine: how each trial is computed.
    how: one of `HOW`.
    shared: that of another spread with the same weights, so that they are on the devices once.
  """
  how = choose_spread(how)
  return Threads(engine, shared) if how == 'threads' else Batched(engine, how, shared)


def choose_spread(how: str) -> str:
  """Resolves 'auto': one call per trial on CPUs, one call for all trials elsewhere."""
  if how != 'auto':
    return how
  return 'threads' if jax.default_backend() == 'cpu' else 'vmap'


def room_for_images(how: str) -> int:
  """Bytes that images may take on each device: half of what is free, as trials need the rest.

  With CPU devices, main memory holds the images as read, and a copy per device. With GPUs, it holds
  the images as read.
  """
  if jax.default_backend() == 'cpu':
    devices = 1 if choose_spread(how) in ('threads', 'vmap') else len(jax.local_devices())
    return memory.free_memory() // (2 * (1 + devices))
  return min(memory.free_memory(), memory.free_of_machine()) // 2


def shares_memory() -> bool:
  """True for CPU devices, which share the memory of their machine."""
  return jax.default_backend() == 'cpu'


def _use_products(convolutions: products.Convolutions, task: Task, config: ConfigDict) -> bool:
  if config.accelerate in ('off', 'factored') or task.dtype != 'float32':
    return False
  if config.accelerate in ('products', 'all'):  # who asks for them gets them if they are possible
    return convolutions.fit > 0 and not convolutions.left
  return products.applies(convolutions, choose_spread(config.parallel))


def _steps_per_call(
  convolutions: products.Convolutions, multiplies: bool, task: Task, config: ConfigDict
) -> int:
  """Steps per call; 1 for XLA's convolutions on a CPU, which lose their fast kernels in a loop."""
  if jax.default_backend() != 'cpu':
    return max(1, _GPU_CALL_IMAGES // config.batch_size)
  if convolutions.fit + convolutions.left and not multiplies:
    return 1
  variables = jax.eval_shape(lambda: plain(task).draw(jax.random.key(0)))
  long = tree_bytes(variables) > _LONG_BYTES
  return max(1, (_LONG_CALL_IMAGES if long else _CALL_IMAGES) // config.batch_size)


def _bounds(config: ConfigDict, largest: Mapping[str, float]) -> factored.Bounds:
  optimizer, rate = config.optimizer, largest['learning_rate']

  def most(name):
    value = largest.get(f'optimizer.{name}', optimizer.get(name))
    return 0.0 if value is None else value  # None is the default of optax's dog

  factors = dict(optimizer.get('rate_factors', ()))
  factors |= {n: x for n, x in largest.items() if n.startswith(RATE_FACTOR)}
  rate *= math.prod(max(1.0, factor) for factor in factors.values())
  decay = most('weight_decay') * rate * (rate if optimizer.get('decay_per_rate') else 1.0)
  return factored.Bounds(most('momentum'), decay)


def _in_float32(engine: Engine) -> Engine:
  """The engine with products of full precision."""

  def whole(function):
    def under(*arguments):
      with jax.default_matmul_precision('float32'):
        return function(*arguments)

    return under

  return engine._replace(
    step=whole(engine.step),
    evaluate=whole(engine.evaluate),
    settle=engine.settle and whole(engine.settle),
    around=lambda function, inner=engine.around: whole(inner(function)),
  )


def _with_products(function: Callable[..., Any]) -> Callable[..., Any]:
  def under(*arguments):
    with nn.intercept_methods(products.intercept):
      return function(*arguments)

  return under
