"""One trial's functions, compiled for many: vmap on one device, pmap of vmap over several."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lr_study.trial import Batch, StepMetrics, Trial

HOW = ('vmap', 'pmap')
AXIS = 'devices'  # of what pmap takes and gives


class Arrays(NamedTuple):
  """Images uint8 (images, size, size, 3) and labels int32 (images,).

  On the devices; with pmap each has one more leading axis, a copy for each device.
  """

  images: jax.Array
  labels: jax.Array


class Programs(NamedTuple):
  """The compiled functions of one call's trials."""

  init: Callable[..., Any]
  order: Callable[..., Any]
  train_steps: Callable[..., Any]
  measured_step: Callable[..., Any]
  fold: Callable[..., Any]
  window: Callable[..., Any]
  eval_inputs: Callable[..., Any]
  eval_step: Callable[..., Any]
  sharpness: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def compiled_programs(
  trial: Trial, how: str, batch_size: int, most_steps: int, eval_batch: int, one_seed: bool
) -> Programs:
  """For any number of trials: those that stay when some leave find what was compiled.

  A call of `train_steps` takes up to `most_steps` in a loop: called one by one, short steps take a
  fifth to two fifths longer.
  """

  def by_seed(function, in_axes):
    """`function` of each trial's seed, or once where they share it; axes as in vmap."""
    return function if one_seed else jax.vmap(function, in_axes)

  def of_seed(seed_T):
    return seed_T[0] if one_seed else seed_T

  def init(vmap, seed_T):
    return vmap(lambda seed: trial.init(keys_of(seed)[0]))(seed_T)

  def order(seed_T, epoch, images):
    def permutation(seed):
      return jax.random.permutation(jax.random.fold_in(keys_of(seed)[1], epoch), images)

    return by_seed(permutation, 0)(of_seed(seed_T))

  def of_trials(vmap, function, state_T, rate_T, seed_T, arrays, order_S, mean, place, step):
    """What a trial's `train_step` or `measured_step` gives, of the order's step `place`."""

    def of_seed_alone(seed, order):
      index = jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))
      key = keys_of(seed)[2]
      return trial.prepare(arrays.images[index], mean, key, step), arrays.labels[index], key

    # Made once for all trials of a seed.
    shared = by_seed(of_seed_alone, 0)(of_seed(seed_T), order_S)
    axes = (0, 0, None if one_seed else 0)
    return vmap(lambda state, rate, of: function(state, rate, *of, step), axes)(
      state_T, rate_T, shared
    )

  def train_steps(vmap, state_T, rate_T, seed_T, arrays, order_S, mean, place, step, count):
    def take(k, state_T):
      of_step = arrays, order_S, mean, place + k, step + k
      return of_trials(vmap, trial.train_step, state_T, rate_T, seed_T, *of_step)

    if most_steps == 1:
      state_T, row_T = take(0, state_T)
      return state_T, jax.tree.map(lambda x: x[..., None], row_T)

    def take_and_note(k, carry):
      state_T, rows_T = carry
      state_T, row_T = take(k, state_T)
      return state_T, jax.tree.map(lambda rows, row: rows.at[..., k].set(row), rows_T, row_T)

    rows_T = StepMetrics(*[jnp.zeros((*rate_T.shape, most_steps))] * len(StepMetrics._fields))
    return jax.lax.fori_loop(0, count, take_and_note, (state_T, rows_T))

  def measured_step(vmap, state_T, rate_T, *of_step):
    state_T, row_T, ratio_T = of_trials(vmap, trial.measured_step, state_T, rate_T, *of_step)
    return state_T, jax.tree.map(lambda x: x[..., None], row_T), ratio_T

  def window(arrays, start):
    # The last one may hang over the end: those indices are clipped and weigh nothing.
    index = start + jnp.arange(eval_batch)
    batch = Batch(
      jnp.take(arrays.images, index, axis=0, mode='clip'),
      jnp.take(arrays.labels, index, mode='clip'),
    )
    return batch, (index < len(arrays.labels)).astype(jnp.float32)

  def fold(vmap, state_T):
    return vmap(trial.fold)(state_T)

  def eval_step(vmap, state_T, inputs, labels, weight):
    return vmap(lambda state: trial.eval_step(state, inputs, labels, weight))(state_T)

  def sharpness(vmap, state_T, batch, mean):
    return vmap(lambda state: trial.sharpness(state, batch, mean))(state_T)

  def compiled(function, in_axes, donates=False, options=None, static=()):
    donated = 0 if donates else ()
    if how == 'vmap':
      return jax.jit(
        function, donate_argnums=donated, static_argnums=static, compiler_options=options
      )
    return jax.pmap(
      function,
      axis_name=AXIS,
      in_axes=in_axes,
      devices=devices_of(how),
      donate_argnums=donated,
      static_broadcasted_argnums=static,
    )

  cpu = jax.default_backend() == 'cpu'
  quick = {'xla_backend_optimization_level': 1} if cpu else None
  # Else the loop copies, in each step, whatever is read and written in it: all kernels, all pairs
  # (https://github.com/openxla/xla/issues/20440).
  in_place = {'xla_cpu_copy_insertion_use_region_analysis': True} if cpu else None
  return Programs(
    # Run once, or once an epoch: their random numbers take 10 s to compile, optimised.
    init=compiled(_over_trials(init), (0,), options=quick),
    order=compiled(order, (0, None, None), options=quick, static=2),
    measured_step=compiled(
      _over_trials(measured_step, 2), (*(0,) * 6, None, None), donates=True, options=quick
    ),
    train_steps=compiled(
      _over_trials(train_steps, 2), (*(0,) * 6, None, None, None), donates=True, options=in_place
    ),
    fold=compiled(_over_trials(fold), (0,), donates=True),
    window=compiled(window, (0, None)),
    eval_inputs=compiled(trial.eval_inputs, (0, 0)),
    eval_step=compiled(_over_trials(eval_step), (0, 0, 0, 0)),
    sharpness=compiled(_over_trials(sharpness), (0, 0, 0)),
  )


def _over_trials(function: Callable[..., Any], trees: int = 1) -> Callable[..., Any]:
  """`function(vmap, ...)` without its first argument, which is `jax.vmap`.

  But where its next `trees` arguments hold a single trial, of which a call is on a CPU, they come
  without the trial axis, and `vmap` does nothing: that is traced in less time, and is as fast.
  """

  def of_any(*arguments):
    if len(jax.tree.leaves(arguments[0])[0]) > 1:
      return function(jax.vmap, *arguments)
    of_one = jax.tree.map(lambda x: x.squeeze(0), arguments[:trees])
    found = function(lambda of_trial, axes=0: of_trial, *of_one, *arguments[trees:])
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), found)

  of_any.__name__ = function.__name__  # in profiles
  return of_any


def devices_of(how: str) -> list[jax.Device]:
  """The local devices that trials train on."""
  return jax.local_devices() if how == 'pmap' else jax.local_devices()[:1]


def keys_of(seed: jax.Array) -> jax.Array:
  """Three keys of a seed: for the initial weights, the order of the images, the steps."""
  return jax.random.split(jax.random.key(seed), 3)
