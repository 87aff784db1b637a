"""The shapes that a user's function returns, found without computing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lr_study import plugs
from lr_study.errors import StudyError


def of(section: str, factory: Callable, function: Callable, *arguments: Any) -> Any:
  """What `function` returns, with a `jax.ShapeDtypeStruct` in place of each array.

  Args:
    section: of the config, such as 'loss'.
    factory: the function that the config names: `function` itself, or the one that made it.
    function: traced, not computed.
    *arguments: arrays or their shapes.

  Raises:
    StudyError: the user's function raised an error; the message gives its line.
  """
  results = []

  def run(*arguments):
    results.append(function(*arguments))

  try:
    jax.eval_shape(run, *arguments)
  except StudyError:
    raise
  except Exception as error:
    if plugs.is_own(factory):
      raise StudyError(plugs.blame(section, factory, error)) from error
    raise
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, 'dtype') else x, results[0]
  )


def array(shape: tuple[int, ...], dtype: Any = 'float32') -> jax.ShapeDtypeStruct:
  """An array of this shape, for use as an argument of `of`."""
  return jax.ShapeDtypeStruct(shape, dtype)


def is_array(x: Any, shape: tuple[int, ...], kind: Any = jnp.number) -> bool:
  """True if a result of `of` is one array of this shape and kind of number."""
  return (
    getattr(x, 'shape', None) == shape
    and jnp.issubdtype(x.dtype, kind)
    and not jnp.issubdtype(x.dtype, jnp.complexfloating)
  )


def words(x: Any) -> str:
  """A result of `of` as text for a message: `float32 (4, 10)`."""
  if isinstance(x, tuple | list):
    return f'({", ".join(map(words, x))})' if x else 'nothing'
  if hasattr(x, 'dtype'):
    return f'{x.dtype} {tuple(x.shape)}'
  return 'a function' if callable(x) else plugs.shown(x)
