"""A study's folder: whose it is, and files that are there whole or not at all."""

import contextlib
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
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
from lr_study.processes import ALONE, Process
from lr_study.progress import note

_PLANNED = 'planned'  # what process 0 adds to its lock

MEAN = 'mean.npy'  # of the training images: float32 (size, size, 3)
WEIGHTS = 'weights.npz'  # that trials start from, by name; not there if they are drawn

# What a study writes; --overwrite deletes these and nothing else.
CONTENT = (
  'checkpoints',
  'tensorboard',
  'history',
  'figures',
  'diverged',
  MEAN,
  WEIGHTS,
  'results.json',
  'results.csv',
  'summary.md',
  'report.html',
  'config.json',
)


@contextlib.contextmanager
def held(workdir: Path, process: Process = ALONE) -> Iterator[None]:
  """Makes the folder if it is missing, and keeps other processes out of it.

  The system lets go of the lock when the process ends, in whatever way.

  Raises:
    StudyError: at once, if another process is in it, or if the folder cannot be made.
  """
  file = _lock_of(workdir, process.index)
  with _written(workdir):
    new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    stream = file.open('a+')
  with stream:
    if not _lock(stream):
      stream.seek(0)
      holder = stream.readline().strip() or 'another process'
      raise StudyError(
        f'{workdir} is in use by {holder}; wait for it to end, or choose another --workdir'
      )
    try:
      stream.truncate(0)
      stream.write(f'process {os.getpid()} on {platform.node()}, one of {process.count}\n')
      stream.flush()
      yield
    finally:
      file.unlink(missing_ok=True)
      if new and not any(workdir.iterdir()):
        workdir.rmdir()


def is_held(workdir: Path, index: int) -> bool:
  """True if process `index` of the study is in the folder."""
  try:
    with _lock_of(workdir, index).open('r+') as stream:
      return not _lock(stream)
  except OSError:
    return False


def tell_planned(workdir: Path) -> None:
  """Lets the other processes of the study go on, which `wait_until_planned`."""
  with _lock_of(workdir, 0).open('a') as stream:
    stream.write(_PLANNED + '\n')


def wait_until_planned(workdir: Path, process: Process) -> None:
  """Waits until process 0, which holds the folder, has claimed it and planned the study.

  Raises:
    StudyError: if it ends before.
  """
  while True:
    held = is_held(workdir, 0)
    with contextlib.suppress(OSError):
      first, *more = _lock_of(workdir, 0).read_text().splitlines() or ['']
      held = held and first.endswith(f', one of {process.count}')
      if held and _PLANNED in more:
        return
    if not held and (workdir / 'results.json').exists():
      return  # it had only to read them
    if not held:
      raise StudyError('process 0 has ended before it planned the study; its message says why')
    time.sleep(0.1)


def _lock_of(workdir: Path, index: int) -> Path:
  return workdir / (f'lock_{index}' if index else 'lock')


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
  with _written(workdir):
    begun = _is_begun(workdir)
    if begun and file.exists() and not overwrite:
      _check_same(workdir, file, study)
      _keep_config(workdir, study['config'])
      return
    workdir.mkdir(parents=True, exist_ok=True)
    others = (
      path.name
      for path in workdir.iterdir()
      # A study that ended before it trained anything, by an error, say, leaves its config alone.
      if not path.name.startswith((file.name, 'lock'))
    )
    if not overwrite and any(others):
      raise StudyError(
        f'{workdir} holds files but no study; choose another --workdir, or --overwrite'
      )
    for name in CONTENT:
      path = workdir / name
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
    write_text(file, json.dumps(study, indent=1) + '\n')


def as_begun(workdir: Path, config: ConfigDict) -> ConfigDict:
  """A checked config as the study in the folder can go on with it.

  Its steps come in chunks of `log_every_steps`: after one of them trials that diverged leave, and
  a checkpoint holds the others. So that stays what it was, whatever it is now.
  """
  name = 'log_every_steps'
  try:
    before = json.loads((workdir / 'config.json').read_text())['config']
    now = _as_json(config.to_dict())
    same = _is_begun(workdir) and (adds(before, now) or not differences(before, now))
    kept = before[name]
  except (OSError, AttributeError, KeyError, TypeError, ValueError):
    return config  # `claim` says what is wrong
  if same and kept != config[name]:
    note(f'{name} stays {kept}, with which the study in {workdir} began')
    config = config.copy_and_resolve_references()
    config[name] = kept
  return config


def _is_begun(workdir: Path) -> bool:
  return any((workdir / name).exists() for name in CONTENT if name != 'config.json')


def _as_json(content: Any) -> Any:
  return json.loads(json.dumps(content))  # tuples become lists, as in a file


def _keep_config(workdir: Path, config: dict[str, Any]) -> None:
  """Puts the config on record with which the study goes on: its images may have been moved."""
  for name, of_study in (('config.json', lambda c: c), ('results.json', lambda c: c['study'])):
    file = workdir / name
    # A damaged one is for its reader to name.
    with contextlib.suppress(FileNotFoundError, KeyError, TypeError, ValueError):
      content = json.loads(file.read_text())
      if of_study(content)['config'] != _as_json(config):
        of_study(content)['config'] = config
        write_text(file, json.dumps(content, indent=1) + '\n')


def write_text(file: Path, text: str) -> None:
  """Writes a file at once: a reader, or a crash, finds the old one or the new one."""
  # Names of files may hold what is no Unicode; the locale may hold less than UTF-8.
  _write(file, text.encode('utf-8', 'backslashreplace'))


def write_array(file: Path, array: np.ndarray) -> None:
  """Writes an array at once, as np.save does."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  _write(file, buffer.getvalue())


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name at once, as np.savez does."""
  buffer = io.BytesIO()
  np.savez(buffer, allow_pickle=False, **arrays)
  _write(file, buffer.getvalue())


def _write(file: Path, content: bytes) -> None:
  part = file.with_name(file.name + '.part')
  with part.open('wb') as stream:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())
  part.replace(file)


def holds_another(workdir: Path, study: dict[str, Any]) -> bool:
  """True if the folder holds a study whose config can be read and is another."""
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
    raise StudyError(
      f'{file} is damaged ({error!r}); choose another --workdir, or --overwrite'
    ) from error
  way_out = 'choose another --workdir, or start again with --overwrite'
  if changed and adds(old['config'], new['config']):
    way_out = f'add --extend to keep its trials and train the rest, {way_out}'
  if changed:
    raise StudyError(f'{workdir} holds a study of another config: {", ".join(changed)}; {way_out}')
  if weights_of(old) != weights_of(new):
    raise StudyError(
      f'{workdir} holds a study of other weights: the fingerprint of model.weights was '
      f'{weights_of(old)} and is {weights_of(new)}; {way_out}'
    )
  if was != fingerprint:
    before, now = flatten(old['config']['data']), flatten(new['config']['data'])
    fields = [
      f'data.{n} {before.get(n)!r} -> {x!r}' for n, x in sorted(now.items()) if before.get(n) != x
    ]
    raise StudyError(
      f'{workdir} holds a study of other images: their fingerprint was {was} and is '
      f'{", ".join([fingerprint, *fields])}; {way_out}'
    )
