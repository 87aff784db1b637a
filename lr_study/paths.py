"""Paths as people type them, and as a study keeps them: absolute, so that any folder reads them.

A study may be moved, and its images and files of the user's own too: what counts is in them.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_OWN, _NPZ = '.py:', 'npz:'  # 'my_models.py:MyNet', 'npz:digits.npz'

# Pairs of an old place and the one that holds its content now.
Moved = Iterable[tuple[str, str]]


def _can_be_path(text: str) -> bool:
  """False for ~ of no user, too long a name, a null byte or half a character."""
  try:
    os.stat(Path(text).expanduser().absolute())
  except OSError as error:
    return error.errno != errno.ENAMETOOLONG  # whether it is there, its reader says
  except (RuntimeError, ValueError):
    return False
  return True


# The limit of an argument that is a path; `plugs.convert` makes it absolute.
PATH = (_can_be_path, 'a path that this system can have')


def absolute(path: str | Path) -> str:
  """The path from the root on, `~` as the user's home; links stay, so that they may be turned.

  Raises:
    RuntimeError: `~` of no user.
  """
  found = Path(path).expanduser().absolute()
  return os.path.realpath(found) if '..' in found.parts else str(found)


def absolute_name(name: str) -> str:
  """The name of a plug, with the path in it made absolute: 'my.py:Net', 'npz:PATH'; others as is.

  A path that this system cannot have stays as it is, for the plug to say so.
  """
  before, path, after = split(name)
  return before + absolute(path) + after if path and _can_be_path(path) else name


def split(name: str) -> tuple[str, str, str]:
  """A plug's name as what is before its path, the path, and what is after it; '' if it has none."""
  if name.startswith(_NPZ):
    return _NPZ, name.removeprefix(_NPZ), ''
  if _OWN in name:
    path, _, inner = name.rpartition(':')
    return '', path, f':{inner}'
  return name, '', ''


def short(name: str) -> str:
  """A plug's name without folders: 'my.py:Net' of '/home/me/my.py:Net'."""
  before, path, after = split(name)
  return before + os.path.basename(path) + after


def is_same(name: str, other: str) -> bool:
  """True if two names are those of one plug: of one file, or of one that was moved or copied."""
  if name == other or short(name) != short(other) or not split(name)[1]:
    return name == other
  files = [Path(split(of)[1]).expanduser() for of in (name, other)]
  try:
    return files[0].read_bytes() == files[1].read_bytes()
  except OSError:  # one of them has gone: it was moved
    return True


def shown(path: Path) -> str:
  """A path for people: from the current folder on, if it is in there."""
  here = Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


def moved(value: Any, places: Moved) -> Any:
  """What JSON holds, each text in it that names an old place, or is below it, with the new one."""
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
