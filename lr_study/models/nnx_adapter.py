"""Wraps Flax NNX modules as Linen modules: variables become collections, and calls are pure."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from lr_study import freeze, plugs

# A variable's collection is that of the first of these classes that it is an instance of.
_COLLECTIONS = (
  (nnx.Param, 'params'),
  (nnx.BatchStat, 'batch_stats'),
  (nnx.Intermediate, 'intermediates'),
)


def is_nnx(factory: Callable) -> bool:
  """True for a class of NNX modules, and for a function that takes `rngs`."""
  if isinstance(factory, type):
    return issubclass(factory, nnx.Module)
  return 'rngs' in plugs.signature(factory).parameters


class FromNNX(nn.Module):
  """A Linen module that computes what an NNX module does.

  Flax's `nnx.bridge.ToLinen` is not used: it cannot draw the initial weights of a module with
  dropout from a single key, has no training mode, and leaves numbers in paths as numbers.

  The module is built for each call (under `jit`, for each trace), and its variables are then set.
  Collections: 'params' for nnx.Param, 'batch_stats' for nnx.BatchStat, the name of its class for
  any other variable, and 'constants' for arrays that are plain attributes. The state of random
  number generators is not kept: a call in training draws from the 'dropout' rng.

  Attributes:
    factory: returns an nnx.Module; it is passed `rngs`, and `classes` and `dtype` if it takes them.
    classes: number of logits.
    dtype: of activations and products. If the factory does not take it, parameters are converted.
    values: other arguments of the factory.
  """

  factory: Callable[..., nnx.Module]
  classes: int
  dtype: Any = None
  values: Mapping[str, Any] = FrozenDict()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps inputs (batch, ...) to logits (batch, classes)."""
    if self.is_initializing():
      module = self._build(self.make_rng('params'))
      self._put(module)
    else:
      # The weights drawn here are replaced immediately; under jit they are never computed.
      module = self._build(self.make_rng('dropout') if train else jax.random.key(0))
      self._set(module)
    if train:
      module.train()
      for path, layer in nnx.iter_modules(module):
        if freeze.is_held(tuple(map(str, path))):
          layer.eval()
    else:
      module.eval()
    takes_train = 'train' in inspect.signature(type(module).__call__).parameters
    with self._recorded(module):
      logits = module(x, **({'train': train} if takes_train else {}))
    if not self.is_initializing():
      self._put(module)
    return logits

  def _build(self, key: jax.Array) -> nnx.Module:
    supplied = {'classes': self.classes, 'dtype': self.dtype, 'rngs': nnx.Rngs(key)}
    module = plugs.call('model', self.factory, supplied, unfreeze(self.values))
    if not isinstance(module, nnx.Module):
      raise TypeError(f'it returned {type(module).__name__}, not an nnx.Module')
    return module

  def _set(self, module: nnx.Module) -> None:
    """Sets the module's variables to those of this call."""
    cast = self.dtype is not None and 'dtype' not in plugs.signature(self.factory).parameters
    flat = {name: flatten_dict(unfreeze(of)) for name, of in self.variables.items()}
    for path, leaf in _leaves(module):
      value = flat.get(_collection(leaf), {}).get(path)
      if value is None:
        continue
      if cast and _collection(leaf) == 'params' and jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(self.dtype)
      leaf.set_raw_value(value)
    for path, owner, name, _ in _constants(module):
      setattr(owner, name, flat['constants'][path])

  def _put(self, module: nnx.Module) -> None:
    """Stores the module's variables in the collections that can change."""
    flat = {}
    for path, leaf in _leaves(module):
      flat.setdefault(_collection(leaf), {})[path] = leaf.get_raw_value()
    for path, _, _, value in _constants(module):
      flat.setdefault('constants', {})[path] = value
    for collection, of in flat.items():
      if self.is_mutable_collection(collection):
        for name, value in unflatten_dict(of).items():
          self.put_variable(collection, name, value)

  @contextlib.contextmanager
  def _recorded(self, module: nnx.Module) -> Iterator[None]:
    """Stores what layers return in 'intermediates' if requested, like Linen modules."""
    if self.is_initializing() or not self.is_mutable_collection('intermediates'):
      yield
      return
    layers = {
      id(layer): tuple(map(str, path))
      for path, layer in nnx.iter_modules(module)
      if any(isinstance(value, nnx.Param) for value in vars(layer).values())
    }
    found = {}

    def recording(call):
      @functools.wraps(call)
      def wrapped(layer, *arguments, **keywords):
        y = call(layer, *arguments, **keywords)
        if id(layer) in layers:
          found.setdefault(layers[id(layer)], []).append(y)
        return y

      return wrapped

    kinds = {type(layer) for _, layer in nnx.iter_modules(module) if id(layer) in layers}
    before = {kind: vars(kind).get('__call__') for kind in kinds}
    calls = {kind: recording(kind.__call__) for kind in kinds}
    try:
      for kind, call in calls.items():
        kind.__call__ = call
      yield
    finally:
      for kind, call in before.items():
        if call is None:
          del kind.__call__
        else:
          kind.__call__ = call
    tree = unflatten_dict({(*path, '__call__'): tuple(of) for path, of in found.items() if path})
    for name, value in tree.items():
      self.put_variable('intermediates', name, value)


def _leaves(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Variable]]:
  """Paths and variables, without the state of random number generators."""
  return [
    (tuple(map(str, path)), leaf)
    for path, leaf in nnx.iter_graph(module)
    if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.RngState)
  ]


def _constants(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Module, str, jax.Array]]:
  """Arrays that are plain attributes: path, owner, attribute, value."""
  return [
    ((*map(str, path), name), owner, name, value)
    for path, owner in nnx.iter_modules(module)
    for name, value in vars(owner).items()
    if isinstance(value, jax.Array)
  ]


def _collection(leaf: nnx.Variable) -> str:
  return next((name for kind, name in _COLLECTIONS if isinstance(leaf, kind)), type(leaf).__name__)
