"""Runs trials side by side on CPUs: one call per trial, without vmap, on all cores.

Each trial has the cache of a core to itself. While one trial waits for memory in a dense layer,
another computes.
"""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lr_study import vectorize
from lr_study.engine import Engine
from lr_study.memory import Memory, give_back, keep_freed
from lr_study.trial import Batch
from lr_study.vectorize import Chunk, Window, padded, tree_bytes

# While a checkpoint is written, the state is copied, copied again by Orbax, and compressed: 3.7
# times its size in all, as measured.
_COPIES = 4
# For programs that run once, or once an epoch: random numbers and update norms compile slowly.
_QUICK = {'xla_backend_optimization_level': 1}
# Otherwise each step of the loop copies everything that it reads and writes: all kernels and pairs
# (https://github.com/openxla/xla/issues/20440).
_IN_PLACE = {'xla_cpu_copy_insertion_use_region_analysis': True}


class Threads:
  """A `vectorize.Spread` whose state_T is a list of the trials' states."""

  devices = 1

  def __init__(self, engine: Engine, shared: Any = None):
    """shared: that of another spread with the same weights, to reuse."""
    self.engine = engine
    self.shared = self.share(engine.origin.shared) if shared is None else shared
    self.programs = _compiled(engine)
    self._pool = _pool(cores())
    keep_freed()

  def share(self, tree: Any) -> Any:
    return jax.device_put(tree, _device())

  def put(self, tree_T: Any) -> list[Any]:
    count = len(jax.tree.leaves(tree_T)[0])
    return [self.share(jax.tree.map(lambda x, i=i: x[i], tree_T)) for i in range(count)]

  def get(self, state_T: list[Any], count: int) -> Any:
    return jax.tree.map(lambda *x: np.stack(x), *jax.device_get(state_T[:count]))

  def keep(self, state_T: list[Any], good: np.ndarray) -> list[Any]:
    return [state for state, stays in zip(state_T, good, strict=True) if stays]

  def init(self, hyper_T: Any, seeds: Sequence[int]) -> list[Any]:
    # Drawing needs several times the memory of a state. So weights are drawn once per seed, before
    # there are other states, and after memory freed by an earlier wave is returned.
    give_back()
    draw, weights = self.programs['draw'], self.share(vectorize.to_draw(self.engine))
    drawn = {s: _ready(draw, self.share(np.uint32(s)), weights) for s in dict.fromkeys(seeds)}

    left, state_T = collections.Counter(seeds), []
    for seed, hyper in zip(seeds, self.put(hyper_T), strict=True):
      # A step overwrites the state that it is given. The last trial of a seed needs no copy.
      left[seed] -= 1
      variables = copy(drawn[seed]) if left[seed] else drawn.pop(seed)
      state_T.append(_ready(self.programs['start'], variables, hyper))
    return state_T

  def train(self, state_T, hyper_T, seeds, chunks):
    submitted, counts = [[_done((state,)) for state in state_T]], []
    hypers = self.put(hyper_T)
    for chunk in chunks:
      # A trial's call waits for its previous one; trials do not wait for each other.
      index_of = {s: padded(i, self.engine.steps_per_call) for s, i in chunk.index_of.items()}
      counts.append(len(next(iter(chunk.index_of.values()))))
      submitted.append([
        self._pool.submit(self._take, before, hyper, seed, chunk, index_of[seed], counts[-1])
        for before, hyper, seed in zip(submitted[-1], hypers, seeds, strict=True)
      ])  # fmt: skip
      _wait_for_all_but_last(submitted)
    found = [[future.result() for future in of_chunk] for of_chunk in submitted[1:]]
    rows = [self.get([metrics for _, metrics, _ in of_chunk], len(seeds)) for of_chunk in found]
    cut = [jax.tree.map(lambda x, n=n: x.T[:n], row) for row, n in zip(rows, counts, strict=True)]
    metrics = jax.tree.map(lambda *parts: np.concatenate(parts), *cut)
    state_T, _, ratios = zip(*found[-1], strict=True)
    ratio = None if ratios[0] is None else np.stack(jax.device_get(ratios))
    return list(state_T), metrics, ratio

  def _take(self, before, hyper, seed, chunk: Chunk, index: np.ndarray, count: int) -> tuple:
    state, ratio = before.result()[0], None
    arguments = (self.shared, state, hyper, np.uint32(seed), chunk.data, index)
    done = np.int32(chunk.done)
    if chunk.measured:
      state, metrics, ratio = self.programs['measured'](*arguments, done)
    else:
      state, metrics = self.programs['train'](*arguments, done, np.int32(count))
    if chunk.settles and self.engine.settle:
      state = self.programs['settle'](state)
    # Otherwise several calls would start their next chunk, each with its own temporaries.
    return jax.block_until_ready((state, metrics, ratio))

  def ahead(self, steps: int) -> int:
    return min(steps, 2 * self.engine.steps_per_call)

  def settle(self, state_T: list[Any]) -> list[Any]:
    return self._each(self.programs['settle'], state_T) if self.engine.settle else state_T

  def evaluate(self, state_T, windows, count):
    del count
    submitted = []
    for window in windows:
      submitted.append([
        self._pool.submit(_ready, self.programs['evaluate'], self.shared, state, *window)
        for state in state_T
      ])  # fmt: skip
      _wait_for_all_but_last(submitted)
    return [self.get([f.result() for f in futures], len(futures)) for futures in submitted]

  def apply(self, function, state_T, hyper_T, batch: Batch):
    program = functools.partial(_ready, _applied(self.engine, function))
    found = self._pool.map(lambda *of: program(self.shared, *of, batch), state_T, self.put(hyper_T))
    return self.get(list(found), len(state_T))

  def memory(self, count, hyper_T, seeds, chunk, window: Window):
    programs, form = self.programs, functools.partial(jax.tree.map, _form)
    hyper = form(self.put(hyper_T)[0])
    weights, shared = form(vectorize.to_draw(self.engine)), form(self.shared)
    variables = form(jax.eval_shape(programs['draw'], np.uint32(0), weights))
    state = form(jax.eval_shape(programs['start'], variables, hyper))
    index = padded(chunk.index_of[seeds[0]], self.engine.steps_per_call)
    steps = (shared, state, hyper, np.uint32(0), chunk.data, index, np.int32(0))
    needed = [
      (programs['draw'], form(np.uint32(0)), weights),
      (programs['start'], variables, hyper),
      (programs['train'], *steps, np.int32(1)),
      (programs['measured'], *steps),
      (programs['evaluate'], shared, state, *window),
      *([(programs['settle'], state)] if self.engine.settle else []),
    ]
    compiling = []
    try:
      for program, *arguments in needed:  # compiles one while Python traces the next
        compiling.append(_pool(1).submit(program.lower(*arguments).compile))
      drawing, *others = (f.result().memory_analysis().temp_size_in_bytes for f in compiling)
    finally:
      for future in compiling:
        future.cancel()  # otherwise the process would wait for all of them after Ctrl-C
    give_back()
    of_trial = tree_bytes(state)
    # Weights are drawn before there is anything to save.
    temporary = max(
      drawing
      + len(set(seeds)) * tree_bytes(variables)
      + tree_bytes(weights)
      - (_COPIES - 1) * of_trial,
      min(cores(), count) * max(others),
    )
    return Memory(_COPIES * of_trial, temporary, 1, tree_bytes(shared))

  def _each(self, function: Callable[..., Any], state_T: list[Any]) -> list[Any]:
    return list(self._pool.map(functools.partial(_ready, function), state_T))


def copy(tree: Any) -> Any:
  """Copies arrays on the same devices; jnp.copy would compile a program for each shape."""
  copies = jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), tree)
  return jax.block_until_ready(copies)


def cores() -> int:
  """How many cores this process may use: no more than NPROC says, as for XLA."""
  own = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  asked = os.environ.get('NPROC', '')
  return min(own, int(asked)) if asked.isdigit() and int(asked) else own


@functools.lru_cache(maxsize=16)
def _compiled(engine: Engine) -> dict[str, Any]:
  def draw(seed, weights):
    return engine.draw(vectorize.keys_of(seed)[0], weights)

  def train(shared, *arguments):
    return vectorize.take_steps(engine.over(shared), *arguments)

  def measured(shared, *arguments):
    return vectorize.measured_step(engine.over(shared), *arguments)

  def evaluate(shared, *arguments):
    return vectorize.evaluate(engine.over(shared), *arguments)

  return {
    'draw': jax.jit(draw, compiler_options=_QUICK),
    'start': jax.jit(engine.start, donate_argnums=0, compiler_options=_QUICK),
    'train': jax.jit(train, donate_argnums=1, compiler_options=_IN_PLACE),
    'measured': jax.jit(measured, donate_argnums=1, compiler_options=_QUICK),
    'settle': jax.jit(engine.settle, donate_argnums=0) if engine.settle else None,
    'evaluate': jax.jit(evaluate),
  }


@functools.lru_cache(maxsize=16)
def _applied(engine: Engine, function: Callable[..., Any]) -> Callable[..., Any]:
  function = engine.around(function)
  return jax.jit(lambda shared, state, *of: function(engine.over(shared).plain(state), *of))


@functools.cache
def _pool(workers: int) -> concurrent.futures.Executor:
  return concurrent.futures.ThreadPoolExecutor(workers)


def _ready(function: Callable[..., Any], *arguments: Any) -> Any:
  return jax.block_until_ready(function(*arguments))


def _device() -> jax.sharding.SingleDeviceSharding:
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _form(x: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_device())


def _wait_for_all_but_last(steps: list[list[concurrent.futures.Future]]) -> None:
  """Limits memory to the images of two chunks or windows, instead of all."""
  for future in steps[-2] if len(steps) > 1 else ():
    future.result()


def _done(result: Any) -> concurrent.futures.Future:
  """A future that already has its result."""
  future = concurrent.futures.Future()
  future.set_result(result)
  return future
