"""From one trial to many: vmap on one device, pmap of vmap over several. Only here."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_study.trial import Batch, State, StepMetrics, Totals, Trial

HOW = ('vmap', 'pmap')
_DONATING = ('train_step', 'fold')  # these write the new state over the old one


class Arrays(NamedTuple):
  """Images uint8 (images, size, size, 3), labels int32 (images,), mean float32 (size, size, 3).

  On the devices; with pmap each has one more leading axis, a copy for each device.
  """

  images: jax.Array
  labels: jax.Array
  mean: jax.Array


class Trials(NamedTuple):
  """A trial's functions over the trial axis, compiled. Rates and seeds are their arguments.

  Device arrays that end in _T hold one entry a trial: (trials, ...) with vmap; with pmap
  (devices, trials a device, ...), filled up with copies of the last trial.

    to_devices(x_T) -> x_T: from a host array (trials, ...).
    to_host(tree_T) -> tree of numpy arrays (trials, ...), without the filling.
    init(seed_T) -> state_T
    order(seed_T, epoch, arrays) -> order_T: a permutation of the images for an epoch.
    train_step(state_T, rate_T, seed_T, arrays, order_T, start) -> state_T, metrics_T: a step
      on the images order[start : start + batch size]. The given state_T is donated.
    fold(state_T) -> state_T: due after every `fold_every` steps and before an evaluation.
      The given state_T is donated.
    eval_step(state_T, arrays, start) -> totals_T: images start to start + eval_batch.
  """

  to_devices: Callable[[Any], Any]
  to_host: Callable[[Any], Any]
  init: Callable[[jax.Array], State]
  order: Callable[[jax.Array, int, Arrays], jax.Array]
  train_step: Callable[..., tuple[State, StepMetrics]]
  fold: Callable[[State], State]
  eval_step: Callable[[State, Arrays, int], Totals]
  fold_every: int


def make_trials(
  trial: Trial, seeds: Sequence[int], how: str, batch_size: int, eval_batch: int
) -> Trials:
  """Vectorises one trial's functions over `len(seeds)` trials.

  Args:
    trial: the functions of one trial.
    seeds: the seed of each trial; where all are the same, so is the batch, and it is
      gathered and prepared once for all.
    how: 'vmap', on the first local device, or 'pmap', spread over all local devices.
    batch_size: images in a training step.
    eval_batch: images in an evaluation step.
  """
  one_seed = len(set(seeds)) == 1

  def init(seed_T):
    return jax.vmap(lambda seed: trial.init(_keys(seed)[0]))(seed_T)

  def order(seed_T, epoch, arrays):
    def permutation(seed):
      return jax.random.permutation(jax.random.fold_in(_keys(seed)[1], epoch), len(arrays.labels))

    return jax.vmap(permutation)(seed_T)

  def train_step(state_T, rate_T, seed_T, arrays, order_T, start):
    def step(state, rate, seed, order):
      index = jax.lax.dynamic_slice(order, (start,), (batch_size,))
      batch = Batch(arrays.images[index], arrays.labels[index])
      return trial.train_step(state, rate, batch, arrays.mean, _keys(seed)[2])

    if one_seed:
      return jax.vmap(step, in_axes=(0, 0, None, None))(state_T, rate_T, seed_T[0], order_T[0])
    return jax.vmap(step)(state_T, rate_T, seed_T, order_T)

  def fold(state_T):
    return jax.vmap(trial.fold)(state_T)

  def eval_step(state_T, arrays, start):
    # The last batch may hang over the end: those indices are clipped and weigh nothing.
    index = start + jnp.arange(eval_batch)
    batch = Batch(
      jnp.take(arrays.images, index, axis=0, mode='clip'),
      jnp.take(arrays.labels, index, mode='clip'),
    )
    weight = index < len(arrays.labels)
    return jax.vmap(lambda state: trial.eval_step(state, batch, arrays.mean, weight))(state_T)

  functions = {
    'init': (init, (0,)),
    'order': (order, (0, None, 0)),
    'train_step': (train_step, (0, 0, 0, 0, 0, None)),
    'fold': (fold, (0,)),
    'eval_step': (eval_step, (0, 0, None)),
  }
  build = _on_one_device if how == 'vmap' else _on_all_devices
  return build(functions, len(seeds), trial.fold_every)


def keep_compiled_programs() -> None:
  """Lets later runs find what this one compiles, in JAX_COMPILATION_CACHE_DIR or ~/.cache."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'lr_study'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def share(tree: Any, how: str) -> Any:
  """Puts a copy of a tree of host arrays on each device that `make_trials` of this `how` uses."""
  if how == 'vmap':
    return jax.device_put(tree, jax.local_devices()[0])
  devices = len(jax.local_devices())
  copies = jax.tree.map(lambda x: np.broadcast_to(x, (devices, *np.shape(x))), tree)
  return jax.device_put(copies, _one_each())


def _keys(seed: jax.Array) -> jax.Array:
  """Three keys of a seed: for the initial weights, the order of the images, the steps."""
  return jax.random.split(jax.random.key(seed), 3)


def _on_one_device(functions: dict[str, Any], count: int, fold_every: int) -> Trials:
  del count  # nothing is filled up
  device = jax.local_devices()[0]
  compiled = {
    name: jax.jit(function, donate_argnums=0 if name in _DONATING else ())
    for name, (function, _) in functions.items()
  }

  def put(tree):
    return jax.device_put(tree, device)

  return Trials(to_devices=put, to_host=jax.device_get, fold_every=fold_every, **compiled)


def _on_all_devices(functions: dict[str, Any], count: int, fold_every: int) -> Trials:
  devices = jax.local_devices()
  each = -(-count // len(devices))
  sharding = _one_each()
  compiled = {
    name: jax.pmap(
      function,
      in_axes=in_axes,
      devices=devices,
      donate_argnums=0 if name in _DONATING else (),
    )
    for name, (function, in_axes) in functions.items()
  }

  def to_devices(tree_T):
    return jax.tree.map(spread, tree_T)

  def spread(x_T):
    x_T = np.asarray(x_T)
    filling = np.repeat(x_T[-1:], each * len(devices) - count, axis=0)
    x_T = np.concatenate([x_T, filling]).reshape(len(devices), each, *x_T.shape[1:])
    return jax.device_put(x_T, sharding)

  def to_host(tree_T):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], jax.device_get(tree_T))

  return Trials(to_devices=to_devices, to_host=to_host, fold_every=fold_every, **compiled)


def _one_each() -> NamedSharding:
  """Entry i of the leading axis on local device i."""
  return NamedSharding(Mesh(np.asarray(jax.local_devices()), 'devices'), PartitionSpec('devices'))
