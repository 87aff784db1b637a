"""A study's folder: which study owns it, its lock, and files that are written all or nothing."""

import contextlib
import errno
import io
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

try:
  import fcntl
except ImportError:  # Windows has no such lock
  fcntl = None

import numpy as np
from ml_collections import ConfigDict

from lr_study import errors
from lr_study.config import adds, differences, flatten
from lr_study.errors import StudyError
from lr_study.files import record
from lr_study.progress import note

LOCK = 'lock'  # its content names the process that holds the study
MEAN = 'mean.npy'  # of the training images: float32, with the shape of one image
SEEN = 'seen.npz'  # digests of the training and of the validation images
TRACKING = 'tracking.json'  # what was sent to which tracker
WEIGHTS = 'weights.npz'  # that trials start from, by name; missing if they are drawn
LEASES = 'leases'  # who trains which wave, on a cluster

# What a study writes at the top of its folder.
CONTENT = (
  'checkpoints',
  'tensorboard',
  'history',
  'figures',
  'so_far',
  'diverged',
  LEASES,
  MEAN,
  SEEN,
  WEIGHTS,
  TRACKING,
  'results.json',
  'results.csv',
  'summary.md',
  'report.html',
  'config.json',
)
# The only files left by a study that ended before it trained, for example by an error.
_BARE = re.compile(rf'(config\.json(\.part)?|lock|{record.NAME}(_\d+)?)')

_HOLDER = re.compile(r'process \d+ on .*')  # the content of a lock

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # errors for a lock that another one holds
# Errors of file systems without such locks: Lustre, EFS, some of NFS.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Creates the folder if missing, and locks it against other processes.

  The system releases the lock when the process ends for any reason. A finished study on a read-only
  disk is not locked.

  Raises:
    StudyError: another process holds the lock, or the folder cannot be created.
  """
  file = workdir / LOCK
  with _written(workdir):
    new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
      stream = file.open('a+', encoding='utf-8', errors='replace')
    except OSError as error:
      if error.errno not in _UNWRITABLE or not (workdir / 'results.json').is_file():
        raise
      stream = None
  if stream is None:
    yield
    return
  with stream:
    _take(stream, workdir)
    record.enter(workdir)
    try:
      stream.truncate(0)
      stream.write(f'process {os.getpid()} on {platform.node()}\n')
      stream.flush()
      yield
    finally:
      record.leave(workdir)
      file.unlink(missing_ok=True)
      if new and not any(workdir.iterdir()):
        workdir.rmdir()


def _take(stream: TextIO, workdir: Path) -> None:
  """Takes the lock of a folder; raises StudyError, or prints a line, if that is impossible."""
  stream.seek(0)
  holder = stream.readline().strip()
  if holder and not _HOLDER.fullmatch(holder):
    raise StudyError(f'{stream.name} is not the lock of a study; choose another --workdir')
  found = _lock(stream)
  if found is False:
    raise StudyError(
      f'{workdir} is in use by {holder or "another process"}; wait for it to end, or choose '
      'another --workdir'
    )
  if found is None:
    last = f'; the last one was {holder}' if holder else ''
    note(f'The file system of {workdir} has no locks: run only one process in it{last}')


@contextlib.contextmanager
def _written(workdir: Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    if errors.is_full(error):
      raise
    raise StudyError(
      f'cannot write {workdir}: {error.strerror or error}; choose another --workdir'
    ) from error


def _lock(stream: TextIO) -> bool | None:
  """True if it was locked, False if another process holds it, None if there are no locks."""
  if fcntl is None:
    return True
  for lock in (fcntl.flock, fcntl.lockf):
    try:
      lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _TAKEN:
        return False
      if error.errno not in _NO_LOCKS:
        raise
    else:
      # The last holder may have deleted the file after we opened it and before we locked it.
      name = Path(stream.name)
      return name.exists() and os.fstat(stream.fileno()).st_ino == name.stat().st_ino
  return None


def claim(workdir: Path, study: dict[str, Any], overwrite: bool) -> None:
  """Makes the folder this study's, unless it already is.

  Args:
    workdir: created if missing.
    study: `config` and `data` decide whether two studies are the same; the rest is only recorded.
    overwrite: delete the recorded files of another study.

  Raises:
    StudyError: the folder holds another study or other files, or cannot be written.
  """
  file = workdir / 'config.json'
  with _written(workdir):
    if _is_begun(workdir) and file.exists() and not overwrite:
      _check_same(workdir, file, study)
      if os.access(workdir, os.W_OK):
        _keep_config(workdir, study['config'])
      return
    workdir.mkdir(parents=True, exist_ok=True)
    if overwrite and record.is_there(workdir):
      kept = record.delete(workdir, keep=lambda name: name == file.name)
      if kept:
        note(f'Kept in {workdir}, because the study did not write it: {shortened(kept)}')
    elif not _is_bare(workdir, file):
      raise StudyError(_why_not(workdir, file, overwrite))
    record.begin(workdir)
    write_text(file, json.dumps(study, indent=1) + '\n')


def as_begun(workdir: Path, config: ConfigDict) -> ConfigDict:
  """A checked config with which the study in the folder can resume.

  `log_every_steps` keeps its first value. Steps come in chunks of that size; diverged trials are
  dropped after a chunk, and checkpoints hold the others.
  """
  name = 'log_every_steps'
  try:
    before = json.loads((workdir / 'config.json').read_text())['config']
    now = _as_json(config.to_dict())
    same = _is_begun(workdir) and (adds(before, now) or not differences(before, now))
    kept = before[name]
  except (OSError, AttributeError, KeyError, TypeError, ValueError):
    return config  # `claim` reports what is wrong
  if same and kept != config[name]:
    note(f'{name} stays {kept}, the value with which the study in {workdir} began')
    config = config.copy_and_resolve_references()
    config[name] = kept
  return config


def _is_begun(workdir: Path) -> bool:
  return any((workdir / name).exists() for name in CONTENT if name != 'config.json')


def _as_json(content: Any) -> Any:
  return json.loads(json.dumps(content))  # tuples become lists, as in a file


def _keep_config(workdir: Path, config: dict[str, Any]) -> None:
  """Records the config with which the study resumes: its images may have been moved."""
  for name, of_study in (('config.json', lambda c: c), ('results.json', lambda c: c['study'])):
    file = workdir / name
    # A damaged file is reported by the code that reads it.
    with contextlib.suppress(FileNotFoundError, KeyError, TypeError, ValueError):
      content = json.loads(file.read_text())
      if of_study(content)['config'] != _as_json(config):
        of_study(content)['config'] = config
        write_text(file, json.dumps(content, indent=1) + '\n')


def _is_bare(workdir: Path, file: Path) -> bool:
  """True if a folder is empty, or holds only what a study leaves that did not train."""
  if not all(_BARE.fullmatch(path.name) for path in workdir.iterdir()):
    return False
  has_other = (workdir / record.NAME).exists() and not record.is_there(workdir)
  return not has_other and (not file.exists() or record.is_there(workdir) or _is_ours(file))


def _is_ours(file: Path) -> bool:
  """True if a config.json belongs to a study."""
  try:
    return isinstance(json.loads(file.read_text())['data']['fingerprint'], str)
  except (KeyError, TypeError, ValueError):
    return False


def _why_not(workdir: Path, file: Path, overwrite: bool) -> str:
  if overwrite and file.exists() and _is_ours(file):
    return (
      f'{workdir} holds a study of an older version without a record of its files, so --overwrite '
      'cannot delete it; delete it yourself, or choose another --workdir'
    )
  return f'{workdir} holds files, but not a study; choose another --workdir'


def shortened(names: Sequence[str], most: int = 5) -> str:
  """Names for people; only the first few if there are many."""
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more


def write_text(file: Path, text: str) -> None:
  """Writes a file atomically: a reader, or a crash, finds the old one or the new one."""
  # File names in the text may not be valid Unicode, and the locale may not be UTF-8.
  write_bytes(file, text.encode('utf-8', 'backslashreplace'))


def write_array(file: Path, array: np.ndarray) -> None:
  """Writes an array atomically, in the format of np.save."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  write_bytes(file, buffer.getvalue())


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name atomically, in the format of np.savez."""
  buffer = io.BytesIO()
  np.savez(buffer, allow_pickle=False, **arrays)
  write_bytes(file, buffer.getvalue())


def write_bytes(file: Path, content: bytes) -> None:
  """Writes a file atomically; see `write_text`."""
  record.add(file)
  part = file.with_name(file.name + '.part')
  with part.open('wb') as stream:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())
  part.replace(file)


def holds_another(workdir: Path, study: dict[str, Any]) -> bool:
  """True if the folder holds a study with another config that can be read."""
  try:
    old = json.loads((workdir / 'config.json').read_text())['config']
    return bool(differences(old, _as_json(study['config'])))
  except (AttributeError, KeyError, OSError, TypeError, ValueError):
    return False


def weights_of(study: Mapping[str, Any]) -> str | None:
  """The fingerprint of the weights that a study's trials start from; None if they are drawn."""
  return study.get('weights', {}).get('fingerprint')


def _check_same(workdir: Path, file: Path, study: dict[str, Any]) -> None:
  new = _as_json(study)
  try:
    old = json.loads(file.read_text())
    changed = differences(old['config'], new['config'])
    was, fingerprint = old['data']['fingerprint'], new['data']['fingerprint']
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error!r}); {record.start_again(file)}') from error
  way_out = 'choose another --workdir'
  if record.is_there(workdir):
    way_out += ', or start again with --overwrite'
    if changed and adds(old['config'], new['config']):
      way_out = f'add --extend to keep its trials and train the rest, {way_out}'
  if changed:
    what = f'another config: {", ".join(changed)}'
    raise StudyError(f'{workdir} holds a study with {what}; {way_out}')
  if weights_of(old) != weights_of(new):
    raise StudyError(
      f'{workdir} holds a study with other weights: the fingerprint of model.weights was '
      f'{weights_of(old)} and is {weights_of(new)}; {way_out}'
    )
  if was != fingerprint:
    before, now = flatten(old['config']['data']), flatten(new['config']['data'])
    fields = [
      f'data.{n} {before.get(n)!r} -> {x!r}' for n, x in sorted(now.items()) if before.get(n) != x
    ]
    raise StudyError(
      f'{workdir} holds a study with other images: their fingerprint was {was} and is '
      f'{", ".join([fingerprint, *fields])}; {way_out}'
    )
