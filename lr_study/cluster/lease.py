"""Who may write: a lease that lapses unless renewed, by files on a disk that all machines see.

It needs no locks of the file system, only that linking a file to a name that exists fails.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from lr_study.files import record, workdir
from lr_study.progress import note

SECONDS = 60.0  # without being renewed, after which somebody else may take a lease
_RENEWALS = 6  # in this time
_LOOK_SECONDS = 0.2  # between two looks at the lease of another process
_TELL_SECONDS = 3.0  # of waiting for it, after which people are told


class Lost(Exception):
  """Somebody else holds the lease now: this process must not write any more."""


class Lease:
  """The right to write something, held by one process at a time. Get one from `taken`.

  The k-th holder's file is `NAME.k`, which only that process changes. Who takes the lease over
  creates `NAME.k+1`, which works for only one of several. So the holder is whose file is the last.
  """

  def __init__(self, folder: Path, name: str, lapses: float = SECONDS):
    """Holds nothing yet; see `taken`."""
    self._folder, self._name, self._lapses = folder, name, lapses
    self._token, self._number, self._renewals = uuid.uuid4().hex, 0, 0
    self._renewed, self._lost, self._ends = 0.0, False, threading.Event()
    self._lock = threading.Lock()
    self.to_end = 0.0  # seconds that its holder needs to end in good order, for all to read

  def take(self, is_moot: Callable[[], bool]) -> bool:
    """Waits for the lease, and takes it; False if meanwhile it `is_moot`."""
    self._folder.mkdir(parents=True, exist_ok=True)
    seen, since, began, told = None, time.monotonic(), time.monotonic(), False
    while not is_moot():
      number, content = self._newest()
      if content != seen:
        # By this machine's clock alone: those of two machines may differ.
        seen, since = content, time.monotonic()
      lapsed = time.monotonic() - since > (content or {}).get('lapses_after', self._lapses)
      if content is None or content['released'] or lapsed or _is_dead(content):
        if self._create(number + 1):
          return True
        continue
      if not told and time.monotonic() - began > _TELL_SECONDS:
        note(f'Waiting for {content["holder"]}, which holds {self._name}, to end or to lose it')
        told = True
      time.sleep(_LOOK_SECONDS)
    return False

  def check(self, surely: bool = False) -> None:
    """Call this right before each write.

    Args:
      surely: look at the files even if nobody can have taken the lease yet, as this process
        renewed it a moment ago.

    Raises:
      Lost: somebody else holds it.
    """
    with self._lock:
      if self._lost:
        raise Lost(self._name)
      if surely or time.monotonic() - self._renewed > self._lapses / _RENEWALS:
        self._renew()

  def renew_until_released(self) -> None:
    """Renews the lease again and again; to be run in a thread."""
    while not self._ends.wait(self._lapses / _RENEWALS):
      with contextlib.suppress(Lost, OSError):  # `check` raises what lasts
        self.check(surely=True)

  def release(self) -> None:
    """Lets somebody else take it at once."""
    self._ends.set()
    with self._lock, contextlib.suppress(Lost, OSError):
      self._renew(released=True)

  def _renew(self, released: bool = False) -> None:
    own = self._file(self._number)
    # Renaming also makes a network disk look again at what is in this folder.
    if (_read(own) or {}).get('token') != self._token:
      self._lost = True  # the file is gone: the study was deleted, or has ended
    else:
      self._renewals += 1
      with self._written(released) as part:
        part.replace(own)
      self._lost = self._file(self._number + 1).exists()
    if self._lost:
      raise Lost(self._name)
    self._renewed = time.monotonic()

  def _create(self, number: int) -> bool:
    with self._written() as part:
      try:
        os.link(part, self._file(number))
      except FileExistsError:
        return False
      finally:
        part.unlink()
    self._number, self._renewed = number, time.monotonic()
    return True

  @contextlib.contextmanager
  def _written(self, released: bool = False) -> Iterator[Path]:
    part = self._folder / f'{self._name}.{self._token}'
    content = {
      **_holder(), 'token': self._token, 'renewals': self._renewals, 'released': released,
      'lapses_after': self._lapses, 'to_end': self.to_end,
    }  # fmt: skip
    part.write_text(json.dumps(content))
    yield part

  def _newest(self) -> tuple[int, dict[str, Any] | None]:
    number = 0
    while self._file(number + 1).exists():
      number += 1
    return number, _read(self._file(number)) if number else None

  def _file(self, number: int) -> Path:
    return self._folder / f'{self._name}.{number}'


@contextlib.contextmanager
def taken(
  folder: Path, name: str, is_moot: Callable[[], bool], lapses: float = SECONDS
) -> Iterator[Lease | None]:
  """Holds the lease `name` of a folder, once nobody else does; None if it `is_moot` before.

  Args:
    folder: of leases; created if missing.
    name: of what is held.
    is_moot: called while another process holds it: True if it is not needed any more.
    lapses: seconds; who has not renewed it for so long has lost it. A process of this machine that
      has ended has lost it at once.
  """
  lease = Lease(folder, name, lapses)
  if not lease.take(is_moot):
    yield None
    return
  thread = threading.Thread(target=lease.renew_until_released, daemon=True)
  thread.start()
  try:
    yield lease
  finally:
    lease.release()
    thread.join()


@contextlib.contextmanager
def of_wave(folder: Path, number: int) -> Iterator[Callable[..., None]]:
  """For a command without a cluster: holds the lease of a wave if a cluster has trained the study.

  A worker that was cut off may still write. Returns what to call before each write; see `check`.
  """
  if not (folder / workdir.LEASES).is_dir():
    yield lambda surely=False: None
    return
  with taken(folder / workdir.LEASES, f'wave_{number}', lambda: False) as held:
    assert held is not None  # it is never moot
    yield held.check


def forget(folder: Path) -> None:
  """Deletes the leases of a study that is trained: who still holds one has lost it."""
  if (folder / workdir.LEASES).is_dir():
    record.delete(folder, keep=lambda name: name != f'{workdir.LEASES}/')


def holder_of(folder: Path, name: str) -> dict[str, Any] | None:
  """What the holder of a lease last wrote: 'holder', 'to_end' and more; None if nobody holds it."""
  _, content = Lease(folder, name)._newest()
  return content if content and not content['released'] else None


def _read(file: Path) -> dict[str, Any] | None:
  try:
    return json.loads(file.read_text())
  except (OSError, ValueError):
    return None


def _holder() -> dict[str, Any]:
  own = psutil.Process()
  return {
    'holder': f'process {own.pid} on {platform.node()}',
    'machine': _machine(),
    'pid': own.pid,
    'began': own.create_time(),
  }


def _machine() -> str:
  """Where process numbers mean the same: this start of this machine, and of this container."""
  try:
    boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{platform.node()} {boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return uuid.uuid4().hex  # unlike any other


def _is_dead(content: dict[str, Any]) -> bool:
  """True if the holder was a process of this machine that has ended."""
  if content['machine'] != _machine():
    return False
  try:
    process = psutil.Process(content['pid'])
    is_other = abs(process.create_time() - content['began']) > 1
    return is_other or process.status() == psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return True
