"""A study's folder: whose it is, and files that are there whole or not at all."""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

try:
  import fcntl
except ImportError:  # Windows has no such lock
  fcntl = None

from lr_study.config import flatten
from lr_study.errors import StudyError

# What a study writes; --overwrite deletes these and nothing else.
CONTENT = (
  'checkpoints',
  'tensorboard',
  'history',
  'figures',
  'results.json',
  'results.csv',
  'summary.md',
  'config.json',
)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Makes the folder if it is missing, and keeps other processes out of it.

  The system lets go of the lock when the process ends, in whatever way.

  Raises:
    StudyError: at once, if another process is in it, or if the folder cannot be made.
  """
  file = workdir / 'lock'
  try:
    new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    stream = file.open('a+')
  except OSError as error:
    raise StudyError(
      f'cannot write {workdir}: {error.strerror or error}; choose another --workdir'
    ) from error
  with stream:
    if not _lock(stream):
      stream.seek(0)
      raise StudyError(
        f'{workdir} is in use by {stream.read().strip() or "another process"}; wait for it to '
        'end, or choose another --workdir'
      )
    try:
      stream.truncate(0)
      stream.write(f'process {os.getpid()} on {platform.node()}\n')
      stream.flush()
      yield
    finally:
      file.unlink(missing_ok=True)
      if new and not any(workdir.iterdir()):
        workdir.rmdir()


def _lock(stream: TextIO) -> bool:
  if fcntl is None:
    return True
  try:
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return False
  # Whoever held it may have deleted the file between our opening and our locking it.
  name = Path(stream.name)
  return name.exists() and os.fstat(stream.fileno()).st_ino == name.stat().st_ino


def claim(workdir: Path, study: dict[str, Any], overwrite: bool) -> None:
  """Makes the folder this study's, or finds that it is already.

  Args:
    workdir: made if missing.
    study: `config` and `data` decide whether two studies are the same; the rest is a record.
    overwrite: delete another study's files.

  Raises:
    StudyError: if the folder holds another study, something else, or cannot be written.
  """
  file = workdir / 'config.json'
  try:
    if file.exists() and not overwrite:
      _check_same(workdir, json.loads(file.read_text()), study)
      return
    if (
      workdir.exists()
      and not overwrite
      and any(path.name not in ('config.json.part', 'lock') for path in workdir.iterdir())
    ):
      raise StudyError(
        f'{workdir} holds files but no study; choose another --workdir, or --overwrite'
      )
    workdir.mkdir(parents=True, exist_ok=True)
    for name in CONTENT:
      path = workdir / name
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
    write_text(file, json.dumps(study, indent=1) + '\n')
  except OSError as error:
    raise StudyError(
      f'cannot write {workdir}: {error.strerror or error}; choose another --workdir'
    ) from error
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise StudyError(
      f'{file} is damaged ({error!r}); choose another --workdir, or --overwrite'
    ) from error


def write_text(file: Path, text: str) -> None:
  """Writes a file at once: a reader, or a crash, finds the old one or the new one."""
  part = file.with_name(file.name + '.part')
  # Names of files may hold what is no Unicode; the locale may hold less than UTF-8.
  with part.open('w', encoding='utf-8', errors='backslashreplace') as stream:
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())
  part.replace(file)


def _check_same(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
  new = json.loads(json.dumps(new))  # tuples become lists, as in the file
  before, now = flatten(old['config']), flatten(new['config'])
  changed = [
    f'{name} {before.get(name)!r} -> {now.get(name)!r}'
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name)
  ]
  way_out = 'choose another --workdir, or start anew with --overwrite'
  if changed:
    raise StudyError(f'{workdir} holds a study of another config: {", ".join(changed)}; {way_out}')
  if old['data']['fingerprint'] != new['data']['fingerprint']:
    raise StudyError(
      f'{workdir} holds a study of other images: their fingerprint was '
      f'{old["data"]["fingerprint"]} and is {new["data"]["fingerprint"]}; {way_out}'
    )
