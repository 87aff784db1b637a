"""Sides in JAX: lr_study, the code that a user would write instead, and the machine's limits."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lr_study import models, plan, trials
from lr_study.benchmark.side import LOOKS, RATES, config_of, data_of
from lr_study.config import float_type
from lr_study.data import Dataset, Part
from lr_study.vectorize import keep_compiled_programs, tree_bytes


class _OnJax:
  """What all sides in JAX can say of their device."""

  @property
  def device(self) -> str:
    return jax.local_devices()[0].platform

  def on_device(self) -> int | None:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get('peak_bytes_in_use')


class LrStudy(_OnJax):
  """Trials as a study trains them, including settling."""

  def __init__(self, options: dict[str, Any]):
    if 'devices' in options:
      jax.config.update('jax_num_cpu_devices', options['devices'])
    keep_compiled_programs()
    config = config_of(options)
    self.trials = options['trials']
    self._sweep = trials.prepare(config, dataset(*data_of(options, config.image_size)))
    self._now = trials.running(self._sweep, np.arange(self.trials))
    self._memory = plan.measure(self._sweep, self._now)
    self._state_T = self._sweep.spread.init(self._now.hyper_T, self._now.seeds)
    self._done = 0

  def run(self, steps: int) -> None:
    while steps:
      # Steps of one epoch, as in a study; the curves are copied to the host.
      first = self._done % self._sweep.steps_per_epoch
      last = min(first + steps, self._sweep.steps_per_epoch)
      of_epoch = self._sweep, self._now, self._state_T, 0, first, last
      self._state_T, *_ = trials.train_steps(*of_epoch)
      self._done, steps = self._done + last - first, steps - (last - first)
    jax.block_until_ready(self._state_T)

  def reported(self) -> int:
    need = self._memory
    if not need.call:  # all trials are in one call, whose memory is in each trial's share
      return self.trials * need.trial
    # Without the memory for checkpoints. For one trial, this may be less than drawing its weights
    # needs, which uses that memory.
    return tree_bytes(self._state_T) + need.call


class JaxVmap(_OnJax):
  """jit(vmap(step)) as a user would write it: Flax layers, optax.sgd, donated state."""

  def __init__(self, options: dict[str, Any]):
    config = config_of(options)
    _exactly(config.dtype)
    images, labels, mean = (jnp.asarray(x) for x in data_of(options, config.image_size))
    model = models.build(config.model, 10, float_type(config))
    self.trials = options['trials']
    momentum = config.optimizer.momentum or None

    def loss_of(params, image, label, key):
      logits = model.apply({'params': params}, image - mean, train=True, rngs={'dropout': key})
      return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def step(params, velocity, rate, index, key):
      batch = images[index].astype(jnp.float32), labels[index]
      loss, gradient = jax.value_and_grad(loss_of)(params, *batch, key)
      updates, velocity = optax.sgd(rate, momentum).update(gradient, velocity)
      return optax.apply_updates(params, updates), velocity, loss

    def init(key):
      params = model.init(key, jnp.zeros((1, *images.shape[1:])), train=False)['params']
      return params, optax.sgd(1.0, momentum).init(params)

    rates = jnp.asarray(config.learning_rates, jnp.float32)
    key = jax.random.key(0)
    if options['kind'] == 'jax_one':
      self.trials, self._rates = 1, rates[0]
      self._state = jax.jit(init)(key)
    else:
      step = jax.vmap(step, in_axes=(0, 0, 0, None, None))
      self._rates = rates
      self._state = jax.jit(jax.vmap(init))(jnp.stack([key] * self.trials))
    self._step = jax.jit(step, donate_argnums=(0, 1))
    self._key, self._batch, self._images, self._done = key, config.batch_size, len(labels), 0

  def run(self, steps: int) -> None:
    for _ in range(steps):
      index = (self._done * self._batch + np.arange(self._batch)) % self._images
      params, velocity, _ = self._step(*self._state, self._rates, index, self._key)
      self._state, self._done = (params, velocity), self._done + 1
    jax.block_until_ready(self._state)

  def reported(self) -> int:
    index = np.arange(self._batch)
    program = self._step.lower(*self._state, self._rates, index, self._key).compile()
    analysis = program.memory_analysis()
    return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes


class Ladder(_OnJax):
  """The published grid of rates, with a study's functions. `run(n)`: n images in 3 epochs."""

  def __init__(self, options: dict[str, Any]):
    keep_compiled_programs()
    self._options, self.trials = options, len(RATES)

  def run(self, steps: int) -> dict[str, Any]:
    config = config_of(self._options | {'trials': len(RATES)}).copy_and_resolve_references()
    config.unlock()
    config.learning_rates, config.epochs = RATES, 3
    config.schedule.every_epochs = 1.0
    config.log_every_steps = max(1, steps // LOOKS)
    config.lock()
    images, labels, mean = data_of(
      self._options | {'images': max(1, steps // 3)}, config.image_size
    )
    sweep = trials.prepare(config, dataset(images, labels, mean))
    now = trials.running(sweep, np.arange(len(RATES)))
    plan.measure(sweep, now)  # compiles everything, as a study does before it starts
    state_T = sweep.spread.init(now.hyper_T, now.seeds)
    trials.train_steps(sweep, now, state_T, 0, 0, sweep.steps_per_epoch)  # warms up
    del state_T
    started = time.perf_counter()  # without compiling, which every study does only once
    state_T = sweep.spread.init(now.hyper_T, now.seeds)
    for epoch in range(3):
      for first in range(0, sweep.steps_per_epoch, config.log_every_steps):
        last = min(first + config.log_every_steps, sweep.steps_per_epoch)
        state_T, curves, _ = trials.train_steps(sweep, now, state_T, epoch, first, last)
        good = np.isfinite(curves['gradient_norm']).all(0)
        if not good.all():
          now, state_T = trials.keep(sweep, now, state_T, good)
    jax.block_until_ready(state_T)
    return {
      'seconds': time.perf_counter() - started,
      'left': len(RATES) - len(now.columns),
    }

  def reported(self) -> None:
    return None


def _exactly(dtype: str) -> None:
  """As a study multiplies: float32 is no TensorFloat-32 on a GPU either."""
  if jax.default_backend() != 'cpu' and dtype == 'float32':
    jax.config.update('jax_default_matmul_precision', 'float32')


def dataset(images: np.ndarray, labels: np.ndarray, mean: np.ndarray) -> Dataset:
  part = Part(images, labels)
  return Dataset('noise', tuple('ABCDEFGHIJ'), part, part, mean, 0, '', (), {})


class Floor(_OnJax):
  """The machine's limits: a large matrix product, and reading a large array."""

  trials = 1

  def __init__(self, options: dict[str, Any]):
    dtype = options.get('dtype', 'float32')
    _exactly(dtype)
    self._size, count = (2048, 2**26) if self.device == 'cpu' else (8192, 2**28)
    # Not ones: a card draws less power for those, and is faster.
    key = jax.random.key(0)
    self._matrix = jax.random.normal(key, (self._size, self._size)).astype(
      'bfloat16' if dtype == 'bfloat16' else 'float32'
    )
    self._array = jax.random.normal(key, (count,))
    self._do = {
      'flops': (jax.jit(lambda a: a @ a), self._matrix, 2 * self._size**3),
      'bytes': (jax.jit(jnp.sum), self._array, 4 * count),
      'copied': (jax.jit(lambda x: x + 1), self._array, 2 * 4 * count),
    }

  def run(self, steps: int) -> dict[str, float]:
    best = dict.fromkeys(self._do, 0.0)
    for _ in range(max(3, min(steps, 20))):
      for name, (function, x, amount) in self._do.items():
        started = time.perf_counter()
        function(x).block_until_ready()
        best[name] = max(best[name], amount / (time.perf_counter() - started))
    return best

  def reported(self) -> None:
    return None


KINDS = {
  'lr_study': LrStudy,
  'jax_vmap': JaxVmap,
  'jax_one': JaxVmap,
  'jax_ladder': Ladder,
  'floor': Floor,
}
