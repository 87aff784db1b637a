"""Paths as people type them, and as a study stores them: absolute, so that they work anywhere.

A study may be moved, and so may its images and the user's files: only their content counts.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_OWN, _NPZ = '.py:', 'npz:'  # 'my_models.py:MyNet', 'npz:digits.npz'

# Pairs of an old location and the one that holds its content now.
Moved = Iterable[tuple[str, str]]


def _can_be_path(text: str) -> bool:
  """False for ~ of an unknown user, a name that is too long, a null byte or half a character."""
  try:
    os.stat(Path(text).expanduser().absolute())
  except OSError as error:
    return error.errno != errno.ENAMETOOLONG  # code that reads it reports a missing file
  except (RuntimeError, ValueError):
    return False
  return True


# The limit of an argument that is a path; `plugs.convert` makes it absolute.
PATH = (_can_be_path, 'a path that this system can have')


def absolute(path: str | Path) -> str:
  """The absolute path, with `~` expanded. Links are kept, so that they can be redirected.

  Raises:
    RuntimeError: `~` of an unknown user.
  """
  found = Path(path).expanduser().absolute()
  return os.path.realpath(found) if '..' in found.parts else str(found)


def absolute_name(name: str) -> str:
  """The name of a plug with any path in it made absolute: 'my.py:Net', 'npz:PATH'.

  A path that this system cannot have stays as it is; the plug reports it.
  """
  before, path, after = split(name)
  return before + absolute(path) + after if path and _can_be_path(path) else name


def split(name: str) -> tuple[str, str, str]:
  """A plug's name split into the text before its path, the path ('' if none), and the rest."""
  if name.startswith(_NPZ):
    return _NPZ, name.removeprefix(_NPZ), ''
  if _OWN in name:
    path, _, inner = name.rpartition(':')
    return '', path, f':{inner}'
  return name, '', ''


def short(name: str) -> str:
  """A plug's name without folders: 'my.py:Net' for '/home/me/my.py:Net'."""
  before, path, after = split(name)
  return before + os.path.basename(path) + after


def is_same(name: str, other: str) -> bool:
  """True if two names mean the same plug: in one file, or in one that was moved or copied."""
  if name == other or short(name) != short(other) or not split(name)[1]:
    return name == other
  files = [Path(split(of)[1]).expanduser() for of in (name, other)]
  try:
    return files[0].read_bytes() == files[1].read_bytes()
  except OSError:  # one of them is gone: it was moved
    return True


def shown(path: Path) -> str:
  """A path for people: relative to the current folder if it is inside."""
  here = Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


def moved(value: Any, places: Moved) -> Any:
  """A JSON value in which old locations, and paths below them, are replaced by the new ones."""
  if isinstance(value, dict):
    return {name: moved(inner, places) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(moved(inner, places) for inner in value)
  if not isinstance(value, str):
    return value
  before, path, after = split(value)
  text = path or value
  for old, new in places:
    if Path(text).is_relative_to(old):
      text = absolute(Path(new, Path(text).relative_to(old)))
      return before + text + after if path else text
  return value
