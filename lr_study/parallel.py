"""From one trial to many: which of them a call trains, and on which device."""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_study.memory import Memory, give_back, keep_freed
from lr_study.programs import AXIS, HOW, Arrays, compiled_programs, devices_of
from lr_study.trial import Batch, Trial

__all__ = [
  'HOW',
  'Arrays',
  'Chunk',
  'Trials',
  'calls_at_once',
  'copy',
  'keep',
  'keep_compiled_programs',
  'make_trials',
  'share',
  'state_of',
]

_CALL_IMAGES = 16  # in the steps of a call: more are no faster, and a signal waits for its end
_LONG_BYTES = 32 * 2**20  # of parameters: a step of such a network takes long, ...
_LONG_CALL_IMAGES = 4  # ... and a signal would wait for seconds


class Chunk(NamedTuple):
  """Images of steps that follow each other, as a call takes them.

  arrays_S: the images, of each group (see `Trials`).
  order_S: what of them each step takes: step k of the order the k-th `batch_size` of its indices.
  place: the first step's place in the order.
  steps: how many.
  """

  arrays_S: list[Arrays]
  order_S: Any
  place: int
  steps: int


class Trials(NamedTuple):
  """A trial's functions over the trial axis, compiled. Rates and seeds are their arguments.

  What ends in _T holds all trials: a list, one tree of arrays for each call of the compiled
  program, with leading axes (trials a call,) with vmap and (devices, trials a device) with
  pmap; filled up with copies of the last trial, so that all calls run one program.

  What ends in _S hangs on the seed alone: a list, one tree for each group of calls whose trials
  have the same seeds. Its leading axes are those above, without that of the trials where those
  that a device trains in a call share a seed: then it is made, and held, once for all of them.

    to_devices(tree_T) -> tree_T: from host arrays (trials, ...).
    to_host(tree_T) -> tree of numpy arrays (trials, ...), without the filling.
    init(seed_T) -> state_T
    order(seed_T, epoch, images) -> order_S: a permutation of so many images for an epoch.
    chunks(first, last) -> (first, last) of each chunk that these steps of an epoch are taken in.
    groups_to_devices(tree_S) -> tree_S: from a tree of host arrays (groups, ...).
    train_steps(state_T, rate_T, seed_T, chunks, mean, done) -> state_T, metrics, ratio_T: the
      steps of an epoch that follow the first `done` steps of the study, those of each Chunk in
      turn, and the folds that are due; metrics on the host, (steps, trials). If the epoch's last
      is among them, the norm of what it adds to the weights by theirs, else None. The given
      state_T is donated.
    fold(state_T) -> state_T: before an evaluation amid an epoch. The given state_T is donated.
    window(arrays, start) -> batch, weight: images start to start + eval_batch; weight is 0
      where that is beyond the last one.
    eval_steps(state_T, windows, mean) -> totals_T of each window, a list
    sharpness(state_T, batch, mean) -> sharpness_T: of the loss of these images; after a fold.
    memory(mean, chunk) -> Memory: what these need but for sharpness; compiles them for chunks
      like this one.

  `mean` and the batch of an evaluation or of sharpness are on every device, as `share` puts them
  there.
  """

  to_devices: Callable[[Any], Any]
  to_host: Callable[[Any], Any]
  init: Callable[[Any], Any]
  order: Callable[[Any, int, int], Any]
  chunks: Callable[[int, int], Iterator[tuple[int, int]]]
  groups_to_devices: Callable[[Any], Any]
  train_steps: Callable[..., tuple[Any, Any, Any]]
  fold: Callable[[Any], Any]
  window: Callable[[Arrays, int], tuple[Batch, jax.Array]]
  eval_steps: Callable[..., list[Any]]
  sharpness: Callable[[Any, Batch, jax.Array], Any]
  memory: Callable[[jax.Array, Chunk], Memory]
  batch_size: int
  eval_batch: int
  most_steps: int  # of a chunk
  width: int  # trials a call, on all devices together


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
    seeds: the seed of each trial.
    how: 'vmap', on the first local device, or 'pmap', spread over all local devices.
    batch_size: images in a training step.
    eval_batch: images in an evaluation step.
    trials_per_call: that a device trains in one call of the compiled program, at most; 0 for
      what is fastest: one on a CPU, all elsewhere.
  """
  keep_freed()
  devices = devices_of(how)
  each = -(-len(seeds) // len(devices))
  workers = calls_at_once(how)
  # One on a CPU: it has the cache to itself, and any core that is free takes the next call.
  calls = -(-each // (trials_per_call or (1 if jax.default_backend() == 'cpu' else each)))
  each = -(-each // calls)
  shape = (each,) if how == 'vmap' else (len(devices), each)
  width = len(devices) * each
  # The last trial fills the last call up.
  rows = np.minimum(np.arange(calls * width), len(seeds) - 1).reshape(calls, *shape)
  seed_of = np.asarray(seeds)[rows]
  one_seed = bool((seed_of == seed_of[..., :1]).all())
  most_steps = _most_steps(trial, batch_size)
  programs = compiled_programs(trial, how, batch_size, most_steps, eval_batch, one_seed)
  where = jax.sharding.SingleDeviceSharding(devices[0]) if how == 'vmap' else _one_each()
  # Calls whose trials have the same seeds: the first one of each group, and the group of each.
  _, leaders, group_of = np.unique(
    seed_of.reshape(calls, -1), axis=0, return_index=True, return_inverse=True
  )

  def of_groups(seed_T):
    return [seed_T[call] for call in leaders]

  pool = _pool(min(workers, calls))

  def by_call(function):
    def of_calls(tree_T, *shared):
      return list(pool.map(lambda tree: jax.block_until_ready(function(tree, *shared)), tree_T))

    return of_calls

  def init(seed_T):
    # Once a group, before there are other states: drawing needs several times a state's memory.
    drawn = [jax.block_until_ready(programs.init(seed)) for seed in of_groups(seed_T)]

    def state_of_call(call):
      state = drawn[group_of[call]]
      return state if call in leaders else jax.block_until_ready(copy(state))

    return list(pool.map(state_of_call, range(calls)))

  def chunks(first, last):
    """Up to the next fold, and the last step of an epoch alone, which is measured."""
    every, end = trial.fold_every, trial.steps_per_epoch - 1
    while first < last:
      stop = min(first + most_steps, (first // every + 1) * every, last)
      stop = end if first < end < stop else stop
      yield first, stop
      first = stop

  on_cpu = jax.default_backend() == 'cpu'

  def steps_of_call(before, rate, seed, arrays, order, mean, place, done, count):
    state, ratio = before.result()[0], None
    of_steps = state, rate, seed, arrays, order, mean, place, done
    if (done + 1) % trial.steps_per_epoch:
      state, metrics = programs.train_steps(*of_steps, count)
    else:
      state, metrics, ratio = programs.measured_step(*of_steps)
    if (done + count) % trial.steps_per_epoch % trial.fold_every == 0:
      state = programs.fold(state)
    # A CPU would begin the next chunk of several calls, each with temporaries of its own.
    return jax.block_until_ready((state, metrics, ratio)) if on_cpu else (state, metrics, ratio)

  def train_steps(state_T, rate_T, seed_T, chunks, mean, done):
    submitted, counts, before_T = [], [], [_done((state,)) for state in state_T]
    for arrays_S, order_S, place, count in chunks:
      # A call's steps follow its last ones; calls do not wait for each other.
      before_T = [
        pool.submit(
          steps_of_call, *of_call, arrays_S[group], order_S[group], mean, place, done, count
        )
        for *of_call, group in zip(before_T, rate_T, seed_T, group_of, strict=True)
      ]
      submitted.append(before_T)
      counts.append(count)
      done += count
      _wait_for_all_but_last(submitted)
    of_chunks = _results(submitted)
    state_T, _, ratio_T = zip(*of_chunks[-1], strict=True)
    noted = [to_host([metrics for _, metrics, _ in of_chunk]) for of_chunk in of_chunks]

    def join(*parts):
      return np.concatenate([part.T[:n] for part, n in zip(parts, counts, strict=True)])

    return list(state_T), jax.tree.map(join, *noted), None if ratio_T[0] is None else list(ratio_T)

  def eval_of_call(state, *arguments):
    return jax.block_until_ready(programs.eval_step(state, *arguments))

  def eval_steps(state_T, windows, mean):
    steps = []
    for batch, weight in windows:
      # Once for all trials. They evaluate the window before it while this waits.
      inputs = jax.block_until_ready(programs.eval_inputs(batch.images, mean))
      of_window = inputs, batch.labels, weight
      steps.append([pool.submit(eval_of_call, state, *of_window) for state in state_T])
      _wait_for_all_but_last(steps)
    return _results(steps)

  def memory(mean, chunk):
    def form(function, *arguments):
      # Where the arguments of a call are: then a call finds what is compiled here.
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        jax.eval_shape(function, *arguments),
      )

    seed, rate = form(lambda: (jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.float32)))
    state = form(programs.init, seed)
    of_steps = (state, rate, seed, chunk.arrays_S[0], chunk.order_S[0], mean, 0, 0)
    batch, weight = form(programs.window, chunk.arrays_S[0], 0)
    inputs = form(programs.eval_inputs, batch.images, mean)
    needed = (
      (programs.init, seed),
      (programs.train_steps, *of_steps, 1),
      (programs.measured_step, *of_steps),
      (programs.fold, state),
      (programs.eval_inputs, batch.images, mean),
      (programs.eval_step, state, inputs, batch.labels, weight),
    )
    compiling = []
    try:
      for program, *arguments in needed:  # one compiles while Python traces the next one
        compiling.append(_pool(1).submit(program.lower(*arguments).compile))
      temporaries = [p.result().memory_analysis().temp_size_in_bytes for p in compiling]
    finally:
      for future in compiling:
        future.cancel()  # after Ctrl-C the process would wait for all of them
    give_back()
    # Images that are read from their files come to each group for its seeds.
    in_chunk = (1 if one_seed else each) * most_steps * batch_size * 3 * trial.image_size**2
    at_once, in_window = min(workers, calls), _bytes((batch, inputs)) // len(devices)
    drawing, steps, measured, folding, laying_out, evaluating = temporaries
    in_training = at_once * max(steps, measured, folding) + 2 * len(leaders) * in_chunk
    # A window is laid out while the trials evaluate the one before it.
    in_evaluation = at_once * evaluating + laying_out + 2 * in_window
    # On a CPU a checkpoint is copied, by Orbax once more, and compressed, beside the state: 3.7 of
    # it in all, as measured.
    copies, of_trial = 4 if jax.default_backend() == 'cpu' else 1, _bytes(state) // width
    # Weights are drawn call by call, and before there is anything to save.
    temporary = max(drawing - (copies - 1) * of_trial, in_training, in_evaluation)
    return Memory(copies * of_trial, temporary, len(devices))

  def put(tree, index):
    return jax.device_put(jax.tree.map(lambda x: x[index], tree), where)

  def to_host(tree_T):
    def join(*parts):
      return np.concatenate([x.reshape(width, *x.shape[len(shape) :]) for x in parts])[: len(seeds)]

    return jax.tree.map(join, *jax.device_get(tree_T))

  return Trials(
    to_devices=lambda tree_T: [put(tree_T, trials) for trials in rows],
    to_host=to_host,
    init=init,
    order=lambda seed_T, *of: [programs.order(seed, *of) for seed in of_groups(seed_T)],
    chunks=chunks,
    groups_to_devices=lambda tree_S: [put(tree_S, k) for k in range(len(leaders))],
    train_steps=train_steps,
    fold=by_call(programs.fold),
    window=programs.window,
    eval_steps=eval_steps,
    sharpness=by_call(programs.sharpness),
    memory=memory,
    batch_size=batch_size,
    eval_batch=eval_batch,
    most_steps=most_steps,
    width=width,
  )


def keep(old: Trials, new: Trials, state_T: Any, good: np.ndarray) -> Any:
  """The state_T for `new` of those trials of `old` that are `good`, (trials,).

  With one trial a call, as on a CPU, theirs are there already and nothing is copied.
  """
  if old.width == new.width == 1:
    return [state for state, stays in zip(state_T, good, strict=True) if stays]
  return new.to_devices(jax.tree.map(lambda x: x[good], old.to_host(state_T)))


def copy(tree: Any) -> Any:
  """Copies on the same devices; jnp.copy would compile a program for each shape."""
  return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), tree)


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


def calls_at_once(how: str) -> int:
  """How many calls of a compiled program run at once; `how` as in `make_trials`.

  On a CPU one a core: what in a step waits for memory runs beside what computes, and no core
  waits for the end of an operation that they share. Several devices run at once by themselves.
  """
  if how == 'pmap' or jax.default_backend() != 'cpu':
    return 1
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def _most_steps(trial: Trial, batch_size: int) -> int:
  """How many steps a call takes at most.

  One of XLA's own convolutions on a CPU, which lose their fast kernels inside a loop.
  """
  if jax.default_backend() == 'cpu' and not trial.matmul:
    return 1
  state = jax.eval_shape(trial.init, jax.random.key(0))
  long = _bytes((state.params, state.factors)) > _LONG_BYTES
  return max(1, (_LONG_CALL_IMAGES if long else _CALL_IMAGES) // batch_size)


@functools.cache
def _pool(workers: int) -> concurrent.futures.Executor:
  return concurrent.futures.ThreadPoolExecutor(workers)


def _wait_for_all_but_last(steps: list[list[concurrent.futures.Future]]) -> None:
  """So that the images of two chunks, or of two windows, are in memory, and not of all."""
  for future in steps[-2] if len(steps) > 1 else ():
    future.result()


def _results(steps: list[list[concurrent.futures.Future]]) -> list[list[Any]]:
  return [[future.result() for future in of_step] for of_step in steps]


def _done(result: Any) -> concurrent.futures.Future:
  """A future that has its result."""
  future = concurrent.futures.Future()
  future.set_result(result)
  return future


def _bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _one_each() -> NamedSharding:
  """Entry i of the leading axis on local device i."""
  return NamedSharding(Mesh(np.asarray(jax.local_devices()), AXIS), PartitionSpec(AXIS))
