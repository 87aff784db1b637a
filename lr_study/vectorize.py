"""From one trial to many: `Batched` trains all of them in one call.

Only this module knows the trial axis. Names that end in _T have it as their leading axis.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_study import freeze
from lr_study.engine import Engine
from lr_study.memory import Memory
from lr_study.trial import Batch

HOW = ('vmap', 'pmap', 'shard_map')
_AXIS = 'trials'


class Chunk(NamedTuple):
  """Consecutive steps that one call of the compiled program takes.

  data: the arrays that steps select from, put on the devices by `share`.
  index_of: seed -> int32 (steps, batch), the images of each step.
  done: how many steps were taken before the first one.
  settles: the state is settled after the last step.
  measured: this is a single step whose update is measured too.
  """

  data: Batch
  index_of: Mapping[int, np.ndarray]
  done: int
  settles: bool
  measured: bool


class Pace(NamedTuple):
  """What decides where calls of the compiled program end."""

  steps_per_epoch: int
  batch_size: int
  steps_per_call: int
  settle_every: int  # steps; 0: never

  def parts(self, first: int, last: int) -> Iterator[tuple[int, int, bool, bool]]:
    """Steps `first` to `last` of an epoch, call by call: (start, stop, settles, measured).

    The last step of an epoch is a separate call, and is measured.
    """
    end, every = self.steps_per_epoch - 1, self.settle_every
    while first < last:
      stop = min(first + self.steps_per_call, last)
      if every:
        stop = min(stop, (first // every + 1) * every)
      if first < end < stop:
        stop = end
      settles = bool(every) and (stop % every == 0 or stop == self.steps_per_epoch)
      yield first, stop, settles, first == end
      first = stop


class Window(NamedTuple):
  """Images of an evaluation: data (on the devices), index and weight (images,); see `Chunk`."""

  data: Batch
  index: np.ndarray
  weight: np.ndarray


class Spread(Protocol):
  """How trials run side by side. Each spread has its own `state_T`; `put` and `get` convert it."""

  engine: Engine
  devices: int
  shared: Any  # `engine.origin.shared` on the devices, once for all trials

  def share(self, tree: Any) -> Any:
    """Puts host arrays on every device that trials use."""

  def put(self, tree_T: Any) -> Any:
    """From host arrays (trials, ...) to state_T."""

  def get(self, state_T: Any, count: int) -> Any:
    """From the state_T of `count` trials to host arrays (trials, ...)."""

  def keep(self, state_T: Any, good: np.ndarray) -> Any:
    """The state_T of the trials that are `good`, bool (trials,)."""

  def init(self, hyper_T: Any, seeds: Sequence[int]) -> Any:
    """The state_T before the first step. hyper_T: host arrays (trials,)."""

  def train(
    self, state_T: Any, hyper_T: Any, seeds: Sequence[int], chunks: Iterable[Chunk]
  ) -> tuple[Any, dict[str, np.ndarray], np.ndarray | None]:
    """Takes the steps of the chunks. The given state_T must not be used again.

    Returns:
      state_T, the metrics (steps, trials), and the update ratio (trials,) of the measured step, or
      None if there was none.
    """

  def ahead(self, steps: int) -> int:
    """Of so many steps that `train` is asked for, how many are under way at once, at most."""

  def settle(self, state_T: Any) -> Any:
    """Settles the state; see `Engine.settle`. The given state_T must not be used again."""

  def evaluate(self, state_T: Any, windows: Iterable[Window], count: int) -> list[Any]:
    """The sums of each window, trees of host arrays (trials, ...); after `settle`."""

  def apply(self, function: Any, state_T: Any, hyper_T: Any, batch: Batch) -> Any:
    """`function(trial.State, hyper, batch)` of each trial, host arrays; after `settle`."""

  def memory(self, count: int, hyper_T: Any, seeds: Sequence[int], chunk: Chunk, window: Window):
    """The memory that `count` trials need, as `Memory`. Compiles their programs."""


def keys_of(seed: jax.Array) -> jax.Array:
  """Three keys from a seed: for the initial weights, the order of the images, and the steps."""
  return jax.random.split(jax.random.key(seed), 3)


@functools.partial(
  jax.jit, static_argnums=2, compiler_options={'xla_backend_optimization_level': 1}
)
def order(seed: jax.Array, epoch: jax.Array, images: int) -> jax.Array:
  """A permutation of `images` images for an epoch (from 0), int32 (images,)."""
  return jax.random.permutation(jax.random.fold_in(keys_of(seed)[1], epoch), images)


def take_steps(engine, state, hyper, seed, data, index, done, count):
  """Steps `done`, `done` + 1, ... of one trial.

  Args:
    engine: how the trial is computed.
    state: its state.
    hyper: its hyperparameters.
    seed: its seed.
    data: arrays that `index` selects from.
    index: int32 (engine.steps_per_call, batch), one row per step.
    done: steps taken before.
    count: steps to take. Traced, so that chunks of any length share one program.

  Returns:
    The state, and the metrics (engine.steps_per_call,), of which `count` rows are filled.
  """
  key = keys_of(seed)[2]

  def take(k, state):
    state, row = engine.step(state, hyper, _select(data, index[k]), key, done + k)
    row.pop('update_ratio')  # then the compiler leaves it out
    return state, row

  if len(index) == 1:
    state, row = take(0, state)
    return state, jax.tree.map(lambda x: x[None], row)

  def body(k, carry):
    state, row = take(k, carry[0])
    return state, jax.tree.map(lambda rows, x: rows.at[k].set(x), carry[1], row)

  rows = jax.eval_shape(lambda: take(0, state)[1])
  rows = jax.tree.map(lambda x: jnp.zeros((len(index), *x.shape), x.dtype), rows)
  return jax.lax.fori_loop(0, count, body, (state, rows))


def measured_step(engine, state, hyper, seed, data, index, done):
  """Step `done` of one trial, on the images at index[0]: state, metrics (1,), update ratio."""
  batch = _select(data, index[0])
  state, row = engine.step(state, hyper, batch, keys_of(seed)[2], done)
  ratio = row.pop('update_ratio')
  return state, jax.tree.map(lambda x: x[None], row), ratio


def evaluate(engine, state, data, index, weight):
  """The sums of the images at `index`."""
  return engine.evaluate(state, _select(data, index), weight)


def _select(data: Batch, index: jax.Array) -> Batch:
  return Batch(data.images[index], data.labels[index], data.mean)


def padded(index: np.ndarray, steps: int) -> np.ndarray:
  """An index padded to `steps` rows; the added rows are not used."""
  return np.pad(index.astype(np.int32), ((0, steps - len(index)), (0, 0)))


class Batched:
  """All trials in one call of the program: vmap, and over several devices pmap or shard_map."""

  def __init__(self, engine: Engine, how: str, shared: Any = None):
    """`how` is one of `HOW`. shared: that of another spread with the same weights, to reuse."""
    self.engine, self._how = engine, how
    local = jax.local_devices()
    self._mesh = Mesh(np.asarray(local[:1] if how == 'vmap' else local), _AXIS)
    self.devices = self._mesh.size
    self.programs = _compiled(engine, how, self._mesh)
    self.shared = self.share(engine.origin.shared) if shared is None else shared

  def share(self, tree: Any) -> Any:
    if self._how == 'pmap':  # a leading axis: a copy for each device
      copies = jax.tree.map(lambda x: np.broadcast_to(x, (self.devices, *np.shape(x))), tree)
      return jax.tree.map(self._sharded, copies)
    return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

  def put(self, tree_T: Any) -> Any:
    return jax.tree.map(self._put, tree_T)

  def _put(self, x: np.ndarray) -> jax.Array:
    # Padded with copies of the last trial, so that every device has the same number.
    x = np.asarray(x)
    x = np.concatenate([x, np.repeat(x[-1:], -len(x) % self.devices, 0)])
    return self._sharded(x.reshape(self.devices, -1, *x.shape[1:]) if self._how == 'pmap' else x)

  def _sharded(self, x: np.ndarray) -> jax.Array:
    return jax.device_put(x, NamedSharding(self._mesh, PartitionSpec(_AXIS)))

  def get(self, state_T: Any, count: int) -> Any:
    def join(x):
      return (x.reshape(-1, *x.shape[2:]) if self._how == 'pmap' else x)[:count]

    return jax.tree.map(join, jax.device_get(state_T))

  def keep(self, state_T: Any, good: np.ndarray) -> Any:
    return self.put(jax.tree.map(lambda x: x[good], self.get(state_T, len(good))))

  def init(self, hyper_T: Any, seeds: Sequence[int]) -> Any:
    of_trials = self.put(hyper_T), self.put(np.asarray(seeds, np.uint32))
    return self.programs['init'](*of_trials, self.share(to_draw(self.engine)))

  def train(self, state_T, hyper_T, seeds, chunks):
    hyper_T, count, rows, ratio_T = self.put(hyper_T), len(seeds), [], None
    for chunk in chunks:
      of_seeds, done = self._of_seeds(seeds, chunk), np.int32(chunk.done)
      arguments = (state_T, hyper_T, *of_seeds, chunk.data, self.shared, done)
      steps = len(next(iter(chunk.index_of.values())))
      # Trials of one seed share their images, which are then selected and augmented once.
      same = '_one_seed' if len(set(seeds)) == 1 else ''
      if chunk.measured:
        state_T, found, ratio_T = self.programs[f'measured{same}'](*arguments)
      else:
        state_T, found = self.programs[f'train{same}'](*arguments, np.int32(steps))
      rows.append((found, steps))
      if chunk.settles:
        state_T = self.settle(state_T)
    host = [jax.tree.map(lambda x, n=n: x.T[:n], self.get(found, count)) for found, n in rows]
    metrics = jax.tree.map(lambda *parts: np.concatenate(parts), *host)
    return state_T, metrics, None if ratio_T is None else self.get(ratio_T, count)

  def _of_seeds(self, seeds: Sequence[int], chunk: Chunk) -> tuple[Any, Any]:
    index_of = {s: padded(i, self.engine.steps_per_call) for s, i in chunk.index_of.items()}
    if len(set(seeds)) == 1:
      return np.uint32(seeds[0]), index_of[seeds[0]]
    return self.put(np.asarray(seeds, np.uint32)), self.put(np.stack([index_of[s] for s in seeds]))

  def ahead(self, steps: int) -> int:
    return steps  # a device is handed all calls at once

  def settle(self, state_T: Any) -> Any:
    return self.programs['settle'](state_T) if self.engine.settle else state_T

  def evaluate(self, state_T, windows, count):
    found = (self.programs['evaluate'](state_T, self.shared, *window) for window in windows)
    return [self.get(sums, count) for sums in found]

  def apply(self, function, state_T, hyper_T, batch):
    program, count = _applied(self.engine, self._how, self._mesh, function), _length(hyper_T)
    return self.get(program(state_T, self.put(hyper_T), batch, self.shared), count)

  def memory(self, count, hyper_T, seeds, chunk, window):
    programs, of_trials = self.programs, NamedSharding(self._mesh, PartitionSpec(_AXIS))
    hyper_T, (seed, index) = self.put(hyper_T), self._of_seeds(seeds, chunk)
    of_init = hyper_T, self.put(np.asarray(seeds, np.uint32)), self.share(to_draw(self.engine))
    # With the sharding of a study's state, so that later calls reuse what is compiled here.
    state_T = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of_trials),
      jax.eval_shape(programs['init'], *of_init),
    )
    same = '_one_seed' if len(set(seeds)) == 1 else ''
    steps = (state_T, hyper_T, seed, index, chunk.data, self.shared, np.int32(0))
    needed = [
      programs['init'].lower(*of_init),
      programs[f'train{same}'].lower(*steps, np.int32(1)),
      programs[f'measured{same}'].lower(*steps),
      programs['evaluate'].lower(state_T, self.shared, *window),
    ]
    if self.engine.settle:
      needed.append(programs['settle'].lower(state_T))
    temporary = max(p.compile().memory_analysis().temp_size_in_bytes for p in needed)
    each = -(-count // self.devices)  # trials of a device
    of_trial = tree_bytes(state_T) // (each * self.devices) + temporary // each
    return Memory(of_trial, 0, self.devices, tree_bytes(self.engine.origin.shared))


def to_draw(engine: Engine) -> Any:
  """The weights that `engine.draw` takes: those that trials do not share."""
  return freeze.split(engine.origin.weights, freeze.keys_of(engine.origin.shared))[0]


def _length(tree_T: Any) -> int:
  return len(jax.tree.leaves(tree_T)[0])


def tree_bytes(tree: Any) -> int:
  """Bytes of all arrays of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.lru_cache(maxsize=16)
def _compiled(engine: Engine, how: str, mesh: Mesh) -> dict[str, Any]:
  """The programs of an engine, compiled once for each number of trials."""

  def init(hyper, seed, weights):
    return engine.start(engine.draw(keys_of(seed)[0], weights), hyper)

  def train(state, hyper, seed, index, data, shared, done, count):
    return take_steps(engine.over(shared), state, hyper, seed, data, index, done, count)

  def measured(state, hyper, seed, index, data, shared, done):
    return measured_step(engine.over(shared), state, hyper, seed, data, index, done)

  def of_evaluation(state, shared, data, index, weight):
    return evaluate(engine.over(shared), state, data, index, weight)

  many = functools.partial(_many, how, mesh)
  return {
    'init': many(init, 'TTD'),
    'train': many(train, 'TTTTDD11', donate=True),
    'train_one_seed': many(train, 'TT11DD11', donate=True),
    'measured': many(measured, 'TTTTDD1', donate=True),
    'measured_one_seed': many(measured, 'TT11DD1', donate=True),
    'settle': many(engine.settle, 'T', donate=True) if engine.settle else None,
    'evaluate': many(of_evaluation, 'TDD11'),
  }


@functools.lru_cache(maxsize=16)
def _applied(engine: Engine, how: str, mesh: Mesh, function: Any) -> Any:
  function = engine.around(function)

  def of_plain(state, hyper, batch, shared):
    return function(engine.over(shared).plain(state), hyper, batch)

  return _many(how, mesh, of_plain, 'TTDD')


def _many(how: str, mesh: Mesh, function: Any, kinds: str, donate: bool = False) -> Any:
  """Maps a function of one trial over the trial axis.

  `kinds` has a letter for each argument: T, has the trial axis; D, arrays that `share` put on every
  device; 1, the same for all trials.
  """
  donated = 0 if donate else ()
  mapped = jax.vmap(function, tuple(0 if kind == 'T' else None for kind in kinds))
  if how == 'pmap':
    axes = tuple(None if kind == '1' else 0 for kind in kinds)
    devices = list(mesh.devices)
    return jax.pmap(mapped, _AXIS, in_axes=axes, devices=devices, donate_argnums=donated)
  if how == 'shard_map':
    specs = tuple(PartitionSpec(_AXIS) if kind == 'T' else PartitionSpec() for kind in kinds)
    out = PartitionSpec(_AXIS)
    # check_vma=False: custom gradients and batching rules do not support the check.
    mapped = jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
  return jax.jit(mapped, donate_argnums=donated)


def keep_compiled_programs() -> None:
  """Caches compiled programs for later runs, in JAX_COMPILATION_CACHE_DIR or ~/.cache."""
  if jax.config.jax_compilation_cache_dir is None:
    try:
      cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'lr_study')
      cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no writable home: JAX would warn about each program
      return
    if os.access(cache, os.W_OK):
      jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
