"""Variables that no step changes: which they are, and apart from those that a step does.

Variables are a network's collections, as {'params': {'conv1': {'kernel': ...}}}. The keys of one
are its place there: ('params', 'conv1', 'kernel'). In a trial's state what is frozen is under
`FROZEN` in `model_state`: there it has no gradient and no state of the optimiser.
"""

import contextlib
import contextvars
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

FROZEN = '_frozen'  # no collection of a network is called so

Keys = tuple[str, ...]


def keys_of(variables: Mapping[str, Any]) -> frozenset[Keys]:
  """The keys of all of them."""
  return frozenset(flatten_dict(variables))


def split(variables: Mapping[str, Any], keys: Collection[Keys]) -> tuple[Any, dict[str, Any]]:
  """The variables without those at `keys`, and the others; without what holds no variable."""
  if not keys:
    return variables, {}
  flat = flatten_dict(variables)
  parts = ({k: x for k, x in flat.items() if (k in keys) == chosen} for chosen in (False, True))
  return tuple(map(unflatten_dict, parts))


def merge(variables: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
  """All of both; where both have a variable it is that of `others`."""
  if not others:
    return dict(variables)
  return unflatten_dict(flatten_dict(variables) | flatten_dict(others))


def apart(variables: Mapping[str, Any], keys: Collection[Keys]) -> tuple[Any, dict[str, Any]]:
  """What a trial's state holds of all variables: `params` and `model_state`."""
  free, frozen = split(variables, keys)
  rest = {name: of for name, of in free.items() if name != 'params'}
  return free['params'], join(rest, frozen) if frozen else rest


def whole(params: Any, model_state: Mapping[str, Any]) -> dict[str, Any]:
  """All variables of a trial's state, as the network is applied with them."""
  rest = {name: of for name, of in model_state.items() if name != FROZEN}
  return merge({'params': params, **rest}, model_state.get(FROZEN, {}))


def updated(model_state: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
  """The state after a call that gave these new collections: what is frozen is as it was."""
  return {**model_state, **split(new, keys_of(model_state.get(FROZEN, {})))[0]}


def join(model_state: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
  """The state with more variables that are frozen."""
  return {**model_state, FROZEN: merge(model_state.get(FROZEN, {}), frozen)}


def leave_out(model_state: Mapping[str, Any], keys: Collection[Keys]) -> dict[str, Any]:
  """The state without the variables at `keys`, which are frozen: the reverse of `join`."""
  rest, _ = split(model_state[FROZEN], keys)
  return {n: of for n, of in model_state.items() if n != FROZEN} | ({FROZEN: rest} if rest else {})


_HELD: contextvars.ContextVar[frozenset[Keys]] = contextvars.ContextVar('held', default=frozenset())


@contextlib.contextmanager
def held(model_state: Mapping[str, Any]) -> Iterator[None]:
  """Lets a network be called with BatchNorm as in evaluation wherever its statistics are frozen."""
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
    # Flax refuses it as an argument where the network has set the field, to False in training.
    object.__setattr__(layer, 'use_running_average', None)
    arguments, keywords = arguments[:1], {**keywords, 'use_running_average': True}
  return next_call(*arguments, **keywords)
