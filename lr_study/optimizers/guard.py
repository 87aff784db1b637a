"""Turns errors in an optimiser, and results that do not fit, into one line that names it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import optax

from lr_study import plugs
from lr_study.errors import StudyError, is_full, is_out_of_memory
from lr_study.optimizers import paths

_ON = 'fails on gradients, weights and the loss, which is all that the study passes to it'


def is_transform(made: Any) -> bool:
  """True if `made` has the two functions of an optax transform."""
  return callable(getattr(made, 'init', None)) and callable(getattr(made, 'update', None))


@contextlib.contextmanager
def told_by_name(factory: Callable, what: str = _ON) -> Iterator[None]:
  """Turns an error in an optimiser into one line: the user's with its line number, or optax's."""
  try:
    yield
  except StudyError:
    raise
  except Exception as error:
    if plugs.is_own(factory):
      raise StudyError(plugs.blame('optimizer', factory, error)) from error
    if is_full(error) or is_out_of_memory(error):
      raise
    title, words = plugs.title('optimizer', factory), next(iter(str(error).splitlines()), '')
    raise StudyError(
      f'optimizer.name is {title!r}; it {what}: {type(error).__name__}: {words}'
    ) from error


def guarded(
  factory: Callable, transform: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
  """The transform, with a one-line error for failures and for results of another shape."""
  inner = optax.with_extra_args_support(transform)

  def init(params):
    with told_by_name(factory):
      return inner.init(params)

  def update(updates, state, params=None, **extra):
    with told_by_name(factory):
      new_updates, new_state = inner.update(updates, state, params, **extra)
    _check_like(factory, 'an update', new_updates, 'the weights', updates)
    _check_like(factory, 'a state', new_state, 'the one before', state)
    return new_updates, new_state

  return optax.GradientTransformationExtraArgs(init, update)


def guarded_eval_params(factory: Callable, eval_params: Callable) -> Callable[[Any, Any], Any]:
  """The user's (state, weights) -> weights, with a one-line error for failures and wrong shapes."""

  def guarded(opt_state, params):
    with told_by_name(factory):
      weights = eval_params(opt_state, params)
    _check_like(factory, 'weights to evaluate', weights, 'the weights', params)
    return weights

  return guarded


def _check_like(factory: Callable, what: str, tree: Any, that: str, like: Any) -> None:
  differs = paths.difference(tree, like)
  if differs:
    raise StudyError(
      f'the optimizer {plugs.title("optimizer", factory)} gave {what} not shaped like {that}: '
      f'{differs}'
    )
