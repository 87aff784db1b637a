"""How much memory is free, and how much of it trials need."""

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import psutil

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # as glibc's malloc.h numbers them


class Memory(NamedTuple):
  """Bytes on a device: per trial, including its checkpoint, and per call of the programs.

  shared: what all trials have in common. It is already in memory, so it is not part of what is
  free.
  """

  trial: int
  call: int
  devices: int
  shared: int = 0


def free_memory() -> int:
  """Bytes free on a device; for CPUs, on the machine or in this process's cgroups."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats()
    return stats['bytes_limit'] - stats['bytes_in_use']
  return free_of_machine()


def free_of_machine() -> int:
  """Bytes of main memory that this process can still allocate."""
  return min(psutil.virtual_memory().available, *room_in_cgroups())


def room_in_cgroups(root: Path = Path('/')) -> list[int]:
  """Bytes left in each cgroup that has a limit and contains this process, at any level.

  A container or a cluster job may be limited by a group above its own. The page cache can be
  reclaimed, so it counts as left.

  Args:
    root: where proc/ and sys/ are.
  """
  own = {'': ''}  # controller -> its group's path; '' is all controllers of version 2
  with contextlib.suppress(OSError, ValueError):
    for line in (root / 'proc/self/cgroup').read_text().splitlines():
      _, controllers, path = line.split(':', 2)
      own |= dict.fromkeys(controllers.split(','), path)
  found, mounted = [], root / 'sys/fs/cgroup'
  for top, path, names in (
    (mounted, own[''], _VERSION_2),
    (mounted / 'unified', own[''], _VERSION_2),  # where both versions are mounted
    (mounted / 'memory', own.get('memory', ''), _VERSION_1),
  ):
    group = top / path.strip('/')
    for folder in (group, *group.parents):
      found += _room(folder, *names)
      if folder == top:  # a container may see its group here, whatever its path
        break
  return found


# Limit, use, and the entry of memory.stat that says how much can be reclaimed.
_VERSION_2 = ('memory.max', 'memory.current', 'inactive_file')
_VERSION_1 = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')


def _room(folder: Path, limit: str, used: str, reclaimable: str) -> list[int]:
  """Bytes left in one cgroup; [] if it has no limit, or if the folder is not a cgroup."""
  try:
    left = int((folder / limit).read_text()) - int((folder / used).read_text())
  except (OSError, ValueError):  # 'max'
    return []
  with contextlib.suppress(OSError, KeyError, ValueError):
    stat = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
    left += int(stat[reclaimable])
  return [max(0, left)]


@functools.cache
def keep_freed() -> None:
  """Makes this process keep freed memory for the next call, if the C library can.

  glibc returns arrays of more than 32 MB to the system immediately (mallopt(3)). The system clears
  each page when it hands it out again: a seventh of the time of an AlexNet step on a CPU.
  """
  for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
      ctypes.CDLL(None).mallopt(option, 2**30)


def give_back() -> None:
  """Returns memory that compilers have freed, a third of a GB, if the C library can."""
  with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
    ctypes.CDLL(None).malloc_trim(0)
