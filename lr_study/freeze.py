"""Frozen variables, which no step changes: separates them from the others, and joins them again.

Variables are a network's collections, such as {'params': {'conv1': {'kernel': ...}}}. The keys of
a variable are its path there: ('params', 'conv1', 'kernel'). A trial's state keeps frozen variables
under `FROZEN` in `model_state`, where they have no gradient and no optimiser state.
"""

import contextlib
import contextvars
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

FROZEN = '_frozen'  # a name that no collection of a network has

Keys = tuple[str, ...]


def keys_of(variables: Mapping[str, Any]) -> frozenset[Keys]:
  """The keys of all variables."""
  return frozenset(flatten_dict(variables))


def split(variables: Mapping[str, Any], keys: Collection[Keys]) -> tuple[Any, dict[str, Any]]:
  """The variables not at `keys`, and those at `keys`; empty collections are dropped."""
  if not keys:
    return variables, {}
  flat = flatten_dict(variables)
  parts = ({k: x for k, x in flat.items() if (k in keys) == chosen} for chosen in (False, True))
  return tuple(map(unflatten_dict, parts))


def merge(variables: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
  """All variables of both; `others` wins where both have one."""
  if not others:
    return dict(variables)
  return unflatten_dict(flatten_dict(variables) | flatten_dict(others))


def apart(variables: Mapping[str, Any], keys: Collection[Keys]) -> tuple[Any, dict[str, Any]]:
  """Splits all variables into a trial's `params` and `model_state`."""
  free, frozen = split(variables, keys)
  rest = {name: of for name, of in free.items() if name != 'params'}
  return free['params'], join(rest, frozen) if frozen else rest


def whole(params: Any, model_state: Mapping[str, Any]) -> dict[str, Any]:
  """All variables of a trial's state, in the form in which the network is applied."""
  rest = {name: of for name, of in model_state.items() if name != FROZEN}
  return merge({'params': params, **rest}, model_state.get(FROZEN, {}))


def updated(model_state: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
  """The model state after a call that returned new collections; frozen variables are unchanged."""
  return {**model_state, **split(new, keys_of(model_state.get(FROZEN, {})))[0]}


def join(model_state: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
  """The model state with more frozen variables."""
  return {**model_state, FROZEN: merge(model_state.get(FROZEN, {}), frozen)}


def leave_out(model_state: Mapping[str, Any], keys: Collection[Keys]) -> dict[str, Any]:
  """The model state without the frozen variables at `keys`: the reverse of `join`."""
  rest, _ = split(model_state[FROZEN], keys)
  return {n: of for n, of in model_state.items() if n != FROZEN} | ({FROZEN: rest} if rest else {})


_HELD: contextvars.ContextVar[frozenset[Keys]] = contextvars.ContextVar('held', default=frozenset())


@contextlib.contextmanager
def held(model_state: Mapping[str, Any]) -> Iterator[None]:
  """While entered, BatchNorm layers with frozen statistics behave as in evaluation."""
  frozen = flatten_dict({n: of for n, of in model_state.get(FROZEN, {}).items() if n != 'params'})
  if not frozen:
    yield
    return
  token = _HELD.set(frozenset(keys[1:-1] for keys in frozen))
  try:
    with nn.intercept_methods(_hold):
      yield
  finally:
    _HELD.reset(token)


def is_held(path: Keys) -> bool:
  """True inside `held` for a module whose statistics are frozen."""
  return path in _HELD.get()


def _hold(next_call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
  layer = context.module
  if isinstance(layer, nn.BatchNorm) and context.method_name == '__call__' and is_held(layer.path):
    # Flax refuses the argument if the network has set the field, as it does in training.
    object.__setattr__(layer, 'use_running_average', None)
    arguments, keywords = arguments[:1], {**keywords, 'use_running_average': True}
  return next_call(*arguments, **keywords)
