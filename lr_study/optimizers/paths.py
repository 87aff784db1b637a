"""Paths of parameters, such as 'conv1/bias', and regular expressions that select them."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax

from lr_study.errors import StudyError
from lr_study.plugs import Limit

_SHOWN = 8  # paths in a message


def are_expressions(texts: Collection[Any]) -> bool:
  """True if all are regular expressions, none of them empty."""
  try:
    return all(isinstance(text, str) and text and re.compile(text) for text in texts)
  except re.error:
    return False


EXPRESSIONS: Limit = (
  are_expressions,
  "regular expressions over the paths of parameters, such as ('bias|norm|scale',)",
)


def path_of(path: tuple[Any, ...]) -> str:
  """The path of a leaf of a tree as text."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def decay_mask(no_decay: Collection[str]) -> Callable[[Any], Any]:
  """A function of a tree: False for the leaves whose path matches one of the expressions."""

  def decays(path, leaf):
    del leaf
    return not any(re.search(expression, path_of(path)) for expression in no_decay)

  return lambda tree: jax.tree.map_with_path(decays, tree)


def scaled(tree: Any, scales: Collection[tuple[str, float]]) -> Any:
  """Each leaf multiplied by the numbers of all expressions that match its path."""

  def scale(path, leaf):
    for expression, factor in scales:
      leaf = factor * leaf if re.search(expression, path_of(path)) else leaf
    return leaf

  return jax.tree.map_with_path(scale, tree)


def check_matches(params: Any, expressions: Mapping[str, Collection[str]]) -> None:
  """Checks that each expression matches a parameter, to catch typing errors.

  `expressions`: by field, such as 'optimizer.no_decay'.

  Raises:
    StudyError: names the field, the expression and the nearest paths.
  """
  paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  if not paths:  # the placeholder for parameters in optax.tree.map_params
    return
  for field, patterns in expressions.items():
    for pattern in patterns:
      if not any(re.search(pattern, path) for path in paths):
        raise StudyError(
          f'{field}: {pattern!r} matches no parameter; there are '
          f'{", ".join(nearest(pattern, paths))}{", ..." if len(paths) > _SHOWN else ""}'
        )


def nearest(text: str, paths: Iterable[str]) -> list[str]:
  """Some paths, sorted by their likeness, or that of a part of them, to a text."""

  def likeness(path):
    parts = (path, *path.split('/'))
    return max(difflib.SequenceMatcher(None, text[:100], part).ratio() for part in parts)

  return sorted(paths, key=likeness, reverse=True)[:_SHOWN]


def difference(tree: Any, like: Any) -> str:
  """Where two trees of arrays differ in shape or dtype: 'conv1/bias is float32[3], not ...'.

  Returns:
    '' if they do not differ.
  """
  mine, theirs = (
    {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(of)}
    for of in (tree, like)
  )
  for path in (*mine, *theirs):
    if _words(mine.get(path)) != _words(theirs.get(path)):
      return f'{path or "it"} is {_words(mine.get(path))}, not {_words(theirs.get(path))}'
  if jax.tree.structure(tree) != jax.tree.structure(like):
    return 'the tree has another structure'
  return ''


def _words(leaf: Any) -> str:
  if leaf is None:
    return 'missing'
  return f'{jax.numpy.result_type(leaf)}[{",".join(map(str, jax.numpy.shape(leaf)))}]'
