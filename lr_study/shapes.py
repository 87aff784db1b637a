"""What a function of the user's own gives, found without computing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lr_study import plugs
from lr_study.errors import StudyError


def of(section: str, factory: Callable, function: Callable, *arguments: Any) -> Any:
  """What `function` returns: `jax.ShapeDtypeStruct` for each array, all else as it is.

  Args:
    section: of the config, such as 'loss'.
    factory: what the config names: `function` itself, or what made it.
    function: is traced.
    *arguments: arrays or their shapes.

  Raises:
    StudyError: a function of the user's own raised an error, which is given with its line.
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
  """An array of this shape, as an argument for `of`."""
  return jax.ShapeDtypeStruct(shape, dtype)


def is_array(x: Any, shape: tuple[int, ...], kind: Any = jnp.number) -> bool:
  """True if `of` says that this is one array of this shape, of numbers of this kind."""
  return (
    getattr(x, 'shape', None) == shape
    and jnp.issubdtype(x.dtype, kind)
    and not jnp.issubdtype(x.dtype, jnp.complexfloating)
  )


def words(x: Any) -> str:
  """What `of` returned, for a message: `float32 (4, 10)`."""
  if isinstance(x, tuple | list):
    return f'({", ".join(map(words, x))})' if x else 'nothing'
  if hasattr(x, 'dtype'):
    return f'{x.dtype} {tuple(x.shape)}'
  return 'a function' if callable(x) else plugs.shown(x)
