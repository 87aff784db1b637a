"""A folder of images, one sub-folder a class: what lies in it and what of it can be read."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lr_study.data.images import decode
from lr_study.errors import StudyError


def scan(folder: Path, classes: Sequence[str]) -> dict[str, list[Path]]:
  """Lists the files of each class, sorted, hidden ones left out.

  Args:
    folder: holds one sub-folder a class, named by it.
    classes: the classes to keep, in the order of their labels; all if empty.

  Returns:
    class -> its files, those of deeper sub-folders included.

  Raises:
    StudyError: if the folder is missing or holds no classes, or a class is missing.
  """
  if not folder.is_dir():
    raise StudyError(f'data.dir: {folder} is not a folder; name one with a sub-folder a class')
  try:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))
    return _classes(folder, found, classes)
  except OSError as error:
    raise StudyError(f'data.dir: cannot read {error.filename}: {error.strerror}') from error


def fingerprint(files: Sequence[Path]) -> str:
  """A hash of the files' paths, sizes and times of change: another one, and the set is rebuilt."""
  digest = hashlib.sha256()
  for file in files:
    digest.update(os.fsencode(file) + b'\0')
    try:
      stat = file.stat()
      digest.update(b'%d %d' % (stat.st_size, stat.st_mtime_ns))
    except OSError as error:  # a link to nowhere, say; `unreadable` names it
      digest.update(str(error.errno).encode())
  return digest.hexdigest()[:16]


def unreadable(files: Sequence[Path]) -> dict[Path, str]:
  """Tries to decode every file: the ones that are no whole image, and why."""

  def reason(file):
    try:
      decode(file.read_bytes())
    except (OSError, ValueError) as error:
      return str(error)

  with ThreadPoolExecutor() as pool:
    reasons = pool.map(reason, files)
    return {file: why for file, why in zip(files, reasons, strict=True) if why is not None}


def _classes(folder: Path, found: Sequence[str], classes: Sequence[str]) -> dict[str, list[Path]]:
  if not found:
    raise StudyError(f'data.dir: {folder} has no sub-folders; make one for each class of images')
  missing = [name for name in classes if name not in found]
  if missing:
    raise StudyError(
      f'data.classes: {folder} has no class {missing[0]!r}; it has {", ".join(found)}'
    )
  return {name: _files(folder / name) for name in classes or found}


def _files(folder: Path) -> list[Path]:
  found = []
  for parent, folders, names in os.walk(folder, onerror=_raise):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    found += [Path(parent, name) for name in sorted(names) if not name.startswith('.')]
  return found


def _raise(error: OSError) -> None:
  raise error  # os.walk would pass over what it may not read
