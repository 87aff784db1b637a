"""How pictures are drawn, and what happens where one cannot be."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import matplotlib

from lr_study.errors import is_full
from lr_study.files import workdir
from lr_study.progress import note

STYLE = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'figure.dpi': 150,
}
_Found = TypeVar('_Found')
_failed: list[dict[str, str]] = []  # what was not drawn and why, inside of `one_note`


@contextlib.contextmanager
def style(values: Mapping[str, Any] = STYLE) -> Iterator[None]:
  """Draws with these settings of Matplotlib, and none of a file or a program of the user's."""
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(values)
    yield


def attempt(what: str, draw: Callable[..., _Found], *arguments: Any) -> _Found | None:
  """What `draw` returns; None, and a line on the terminal that names `what`, where it fails.

  A picture that cannot be drawn costs a study that picture; a full disk is still an error.
  """
  try:
    return draw(*arguments)
  except Exception as error:  # Matplotlib, and what it calls, raise any kind
    if is_full(error):
      raise
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if _failed:
      _failed[-1].setdefault(what, why)
    else:
      note(f'Not drawn: {what} ({why})')
    return None


@contextlib.contextmanager
def one_note() -> Iterator[None]:
  """Tells of all that fails meanwhile in one line at the end."""
  _failed.append({})
  try:
    yield
  finally:
    found = [f'{what} ({why})' for what, why in _failed.pop().items()]
    if found:
      note(f'Not drawn: {workdir.shortened(found)}')
