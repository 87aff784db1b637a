"""How much memory there is, and how much of it trials take."""

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import psutil

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # as glibc's malloc.h numbers them


class Memory(NamedTuple):
  """Bytes on a device: of each trial, its checkpoint with it, and of calls of the programs.

  shared: of what all trials have in common. It is there already, so no part of what is free.
  """

  trial: int
  call: int
  devices: int
  shared: int = 0


def free_memory() -> int:
  """Bytes that are free on a device; for CPUs, of the machine or of this process's cgroups."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats()
    return stats['bytes_limit'] - stats['bytes_in_use']
  return free_of_machine()


def free_of_machine() -> int:
  """Bytes of main memory that this process can still have."""
  return min(psutil.virtual_memory().available, *room_in_cgroups())


def room_in_cgroups(root: Path = Path('/')) -> list[int]:
  """Bytes that are left in each cgroup with a limit that this process is in, at any height.

  A container or a job of a cluster may be limited by a group above its own. Memory that holds
  files can be reclaimed, so it counts as left.

  Args:
    root: where proc/ and sys/ are.
  """
  own = {'': ''}  # of each controller, '' standing for all those of version 2
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
      if folder == top:  # a container may see its own group as this one, whatever its path is
        break
  return found


# Limit, use, and which entry of memory.stat tells what can be reclaimed.
_VERSION_2 = ('memory.max', 'memory.current', 'inactive_file')
_VERSION_1 = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')


def _room(folder: Path, limit: str, used: str, reclaimable: str) -> list[int]:
  """Bytes left in one cgroup; nothing if it has no limit, or is none."""
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
  """Lets this process keep what one call frees for the next one, where the C library can.

  glibc returns arrays of more than 32 MB to the system at once (mallopt(3)), which clears each of
  their pages when it hands them out again: a seventh of a step of AlexNet on a CPU.
  """
  for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
    with contextlib.suppress(AttributeError, OSError, TypeError):  # as below
      ctypes.CDLL(None).mallopt(option, 2**30)


def give_back() -> None:
  """Returns to the system what compilers have freed, a third of a GB, where the C library can."""
  with contextlib.suppress(AttributeError, OSError, TypeError):  # glibc alone has it
    ctypes.CDLL(None).malloc_trim(0)
