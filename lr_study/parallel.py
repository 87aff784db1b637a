"""From one trial to many: vmap on one device, pmap of vmap over several. Only here."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_study.trial import Batch, Trial

HOW = ('vmap', 'pmap')
# A CPU trains so many trials in one call as have parameters of this many bytes together: with
# more, what one operation leaves is out of the cache when the next one reads it.
_CALL_BYTES = 64 * 2**20


class Arrays(NamedTuple):
  """Images uint8 (images, size, size, 3), labels int32 (images,), mean float32 (size, size, 3).

  On the devices; with pmap each has one more leading axis, a copy for each device.
  """

  images: jax.Array
  labels: jax.Array
  mean: jax.Array


class Memory(NamedTuple):
  """Bytes on a device: of each trial's state, and of one call of the largest program."""

  trial: int
  call: int
  devices: int


class Trials(NamedTuple):
  """A trial's functions over the trial axis, compiled. Rates and seeds are their arguments.

  What ends in _T holds all trials: a list, one tree of arrays for each call of the compiled
  program, with leading axes (trials a call,) with vmap and (devices, trials a device) with
  pmap; filled up with copies of the last trial, so that all calls run one program.

    to_devices(tree_T) -> tree_T: from host arrays (trials, ...).
    to_host(tree_T) -> tree of numpy arrays (trials, ...), without the filling.
    init(seed_T) -> state_T
    order(seed_T, epoch, arrays) -> order_T: a permutation of the images for an epoch.
    train_step(state_T, rate_T, seed_T, arrays, order_T, start) -> state_T, metrics_T: a step
      on the images order[start : start + batch size]. The given state_T is donated.
    fold(state_T) -> state_T: due after every `fold_every` steps and before an evaluation.
      The given state_T is donated.
    eval_step(state_T, arrays, start) -> totals_T: images start to start + eval_batch.
    update_ratio(state_T, rate_T, seed_T, arrays, order_T, start) -> ratio_T: the norm of what
      `train_step` with the same arguments would add to the weights, by theirs.
    sharpness(state_T, arrays) -> sharpness_T: of the loss of all these images, right after a fold.
    examine(state_T, seed_T, arrays, order_T, start) -> outputs_T, gradients_T: of each layer in
      the step that `train_step` would take; right after a fold.
    memory(arrays) -> Memory: what these need but for the last three; compiles them.
  """

  to_devices: Callable[[Any], Any]
  to_host: Callable[[Any], Any]
  init: Callable[[Any], Any]
  order: Callable[[Any, int, Arrays], Any]
  train_step: Callable[..., tuple[Any, Any]]
  fold: Callable[[Any], Any]
  eval_step: Callable[[Any, Arrays, int], Any]
  update_ratio: Callable[..., Any]
  sharpness: Callable[[Any, Arrays], Any]
  examine: Callable[..., Any]
  memory: Callable[[Arrays], Memory]
  fold_every: int


def make_trials(
  trial: Trial,
  seeds: Sequence[int],
  how: str,
  batch_size: int,
  eval_batch: int,
  trials_per_call: int = 0,
) -> Trials:
  """Vectorises one trial's functions over `len(seeds)` trials.

  Args:
    trial: the functions of one trial.
    seeds: the seed of each trial; where those that a device trains in a call share one, they
      share the batch too, which is then gathered and prepared once for all.
    how: 'vmap', on the first local device, or 'pmap', spread over all local devices.
    batch_size: images in a training step.
    eval_batch: images in an evaluation step.
    trials_per_call: that a device trains in one call of the compiled program, at most; 0 for
      as many as are fastest.
  """
  devices = _devices(how)
  each = -(-len(seeds) // len(devices))
  calls = -(-each // (trials_per_call or _fastest(trial, each)))
  each = -(-each // calls)
  shape = (each,) if how == 'vmap' else (len(devices), each)
  width = len(devices) * each
  # The last trial fills the last call up.
  rows = np.minimum(np.arange(calls * width), len(seeds) - 1).reshape(calls, *shape)
  seed_of = np.asarray(seeds)[rows]
  one_seed = bool((seed_of == seed_of[..., :1]).all())
  init, order, gradient, update, fold, eval_step, ratio, sharpness, examine = _programs(
    trial, how, batch_size, eval_batch, one_seed
  )

  def by_call(function):
    # One after the other: a CPU would begin several, each with temporaries as large as a state.
    return lambda tree_T, *shared: [
      jax.block_until_ready(function(tree, *shared)) for tree in tree_T
    ]

  def train_step(state_T, rate_T, seed_T, arrays, order_T, start):
    new_T, metrics_T = [], []
    for state, rate, seed, order in zip(state_T, rate_T, seed_T, order_T, strict=True):
      of_params, metrics = gradient(state, seed, arrays, order, start)
      new_T.append(update(state, of_params, rate))
      metrics_T.append(metrics)
    return new_T, metrics_T

  def update_ratio(state_T, rate_T, seed_T, arrays, order_T, start):
    return [
      ratio(state, gradient(state, seed, arrays, order, start)[0], rate)
      for state, rate, seed, order in zip(state_T, rate_T, seed_T, order_T, strict=True)
    ]

  def look(state_T, seed_T, arrays, order_T, start):
    return [
      examine(state, seed, arrays, order, start)
      for state, seed, order in zip(state_T, seed_T, order_T, strict=True)
    ]

  def memory(arrays):
    place = jax.sharding.SingleDeviceSharding(devices[0]) if how == 'vmap' else None

    def form(function, *arguments):
      # With the device, as the arguments of a call are: then a call finds what is compiled here.
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(function, *arguments),
      )

    seed, rate = form(lambda: (jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.float32)))
    state, orders = form(init, seed), form(order, seed, 0, arrays)
    of_params, _ = form(gradient, state, seed, arrays, orders, 0)
    programs = (
      init.lower(seed),
      gradient.lower(state, seed, arrays, orders, 0),
      update.lower(state, of_params, rate),
      fold.lower(state),
      eval_step.lower(state, arrays, 0),
    )
    temporary = max(p.compile().memory_analysis().temp_size_in_bytes for p in programs)
    # On a CPU a checkpoint is copied, and written in the background, beside the state.
    copies = 2 if jax.default_backend() == 'cpu' else 1
    return Memory(
      copies * _bytes(state) // width, temporary + _bytes(of_params) // len(devices), len(devices)
    )

  def to_devices(tree_T):
    place = devices[0] if how == 'vmap' else _one_each()

    def of_call(trials):
      return jax.device_put(jax.tree.map(lambda x: x[trials], tree_T), place)

    return [of_call(trials) for trials in rows]

  def to_host(tree_T):
    def join(*parts):
      return np.concatenate([x.reshape(width, *x.shape[len(shape) :]) for x in parts])[: len(seeds)]

    return jax.tree.map(join, *jax.device_get(tree_T))

  return Trials(
    to_devices=to_devices,
    to_host=to_host,
    init=by_call(init),
    order=by_call(order),
    train_step=train_step,
    fold=by_call(fold),
    eval_step=by_call(eval_step),
    update_ratio=update_ratio,
    sharpness=by_call(sharpness),
    examine=look,
    memory=memory,
    fold_every=trial.fold_every,
  )


@functools.lru_cache(maxsize=8)
def _programs(
  trial: Trial, how: str, batch_size: int, eval_batch: int, one_seed: bool
) -> tuple[Callable[..., Any], ...]:
  """The compiled functions, for any number of trials: those that stay when some leave find them.

  Returns:
    init, order, gradient, update, fold, eval_step, update_ratio, sharpness, examine, on one
    call's trials.
  """

  def init(seed_T):
    return jax.vmap(lambda seed: trial.init(_keys(seed)[0]))(seed_T)

  def order(seed_T, epoch, arrays):
    def permutation(seed):
      return jax.random.permutation(jax.random.fold_in(_keys(seed)[1], epoch), len(arrays.labels))

    return jax.vmap(permutation)(seed_T)

  def on_batch(function):
    def of_trials(state_T, seed_T, arrays, order_T, start):
      def of_trial(state, seed, order):
        index = jax.lax.dynamic_slice(order, (start,), (batch_size,))
        batch = Batch(arrays.images[index], arrays.labels[index])
        return function(state, batch, arrays.mean, _keys(seed)[2])

      if one_seed:
        return jax.vmap(of_trial, in_axes=(0, None, None))(state_T, seed_T[0], order_T[0])
      return jax.vmap(of_trial)(state_T, seed_T, order_T)

    return of_trials

  def eval_step(state_T, arrays, start):
    # The last batch may hang over the end: those indices are clipped and weigh nothing.
    index = start + jnp.arange(eval_batch)
    batch = Batch(
      jnp.take(arrays.images, index, axis=0, mode='clip'),
      jnp.take(arrays.labels, index, mode='clip'),
    )
    weight = index < len(arrays.labels)
    return jax.vmap(lambda state: trial.eval_step(state, batch, arrays.mean, weight))(state_T)

  def sharpness(state_T, arrays):
    batch = Batch(arrays.images, arrays.labels)
    return jax.vmap(lambda state: trial.sharpness(state, batch, arrays.mean))(state_T)

  def compiled(function, in_axes, donates=False, options=None):
    donated = 0 if donates else ()
    if how == 'vmap':
      return jax.jit(function, donate_argnums=donated, compiler_options=options)
    return jax.pmap(function, in_axes=in_axes, devices=_devices(how), donate_argnums=donated)

  quick = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None
  return (
    # Run once, or once an epoch: their random numbers take 10 s to compile, optimised.
    compiled(init, (0,), options=quick),
    compiled(order, (0, None, 0), options=quick),
    compiled(on_batch(trial.gradient), (0, 0, 0, 0, None)),
    compiled(jax.vmap(trial.update), (0, 0, 0), donates=True),
    compiled(jax.vmap(trial.fold), (0,), donates=True),
    compiled(eval_step, (0, 0, None)),
    compiled(jax.vmap(trial.update_ratio), (0, 0, 0)),
    compiled(sharpness, (0, 0)),
    compiled(on_batch(trial.examine), (0, 0, 0, 0, None)),
  )


def free_memory() -> int:
  """Bytes that are free on a device; for CPUs, of the machine or of this process's cgroup."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats()
    return stats['bytes_limit'] - stats['bytes_in_use']
  free = psutil.virtual_memory().available
  limit, used = (Path('/sys/fs/cgroup', f'memory.{name}') for name in ('max', 'current'))
  if limit.exists() and limit.read_text().strip() != 'max':
    free = min(free, int(limit.read_text()) - int(used.read_text()))
  return free


def keep_compiled_programs() -> None:
  """Lets later runs find what this one compiles, in JAX_COMPILATION_CACHE_DIR or ~/.cache."""
  if jax.config.jax_compilation_cache_dir is None:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'lr_study'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def state_of(trial: Trial, trials: int) -> Any:
  """What `to_host` gives of the state of so many trials, for its form: arrays without memory."""
  form = jax.eval_shape(trial.init, jax.random.key(0))
  return jax.tree.map(lambda x: np.broadcast_to(np.zeros([], x.dtype), (trials, *x.shape)), form)


def share(tree: Any, how: str) -> Any:
  """Puts a copy of a tree of host arrays on each device that `make_trials` of this `how` uses."""
  if how == 'vmap':
    return jax.device_put(tree, jax.local_devices()[0])
  devices = len(jax.local_devices())
  copies = jax.tree.map(lambda x: np.broadcast_to(x, (devices, *np.shape(x))), tree)
  return jax.device_put(copies, _one_each())


def _devices(how: str) -> list[jax.Device]:
  return jax.local_devices() if how == 'pmap' else jax.local_devices()[:1]


def _keys(seed: jax.Array) -> jax.Array:
  """Three keys of a seed: for the initial weights, the order of the images, the steps."""
  return jax.random.split(jax.random.key(seed), 3)


def _fastest(trial: Trial, count: int) -> int:
  """How many of `count` trials one call on one device trains the fastest."""
  if jax.default_backend() != 'cpu':
    return count
  state = jax.eval_shape(trial.init, jax.random.key(0))
  return max(1, _CALL_BYTES // _bytes((state.params, state.factors)))


def _bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _one_each() -> NamedSharding:
  """Entry i of the leading axis on local device i."""
  return NamedSharding(Mesh(np.asarray(jax.local_devices()), 'devices'), PartitionSpec('devices'))
