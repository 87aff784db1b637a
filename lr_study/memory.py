"""How much memory is free, and how much of it trials need."""

import contextlib
import ctypes
import functools
import os
from pathlib import Path
from typing import NamedTuple

import jax
import psutil

from lr_study import nvml

# Of JAX, for GPUs: its share of a card's memory, whether it takes all of it at once, and how.
_SETTINGS = (
  'XLA_CLIENT_MEM_FRACTION',
  'XLA_PYTHON_CLIENT_MEM_FRACTION',  # as it was called before
  'XLA_PYTHON_CLIENT_PREALLOCATE',
  'XLA_PYTHON_CLIENT_ALLOCATOR',
)
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
  return free_of_machine() if device.platform == 'cpu' else _free_of(device)


def _free_of(device: jax.Device) -> int:
  """Bytes that JAX may still take on a GPU, or that other processes have left, if those are fewer.

  JAX has a limit, a share of the whole card, that it keeps to; it does not know what others take.
  Some of its allocators do not tell; then it is what the card has, and without that what the
  machine has.
  """
  stats, free = device.memory_stats() or {}, nvml.free_memory()
  if 'bytes_limit' not in stats:
    return free_of_machine() if free is None else free
  used = stats['bytes_in_use']
  allowed = stats['bytes_limit'] - used
  if free is None:
    return allowed
  # What JAX holds for itself, as it does from its start, is not free on the card, but is to it.
  held = max(stats.get('pool_bytes', used), used)
  return min(allowed, free + held - used)


def about() -> str:
  """For people, what decides how much of a GPU JAX may take; empty on a CPU."""
  if jax.local_devices()[0].platform == 'cpu':
    return ''
  given = [f'{name}={os.environ[name]}' for name in _SETTINGS if name in os.environ]
  if not any('FRACTION' in setting for setting in given):
    given.insert(0, f'{_SETTINGS[0]} is 0.75 by default')
  return f' ({", ".join(given)})'


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
