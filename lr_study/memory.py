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
  """Bytes on a device: of each trial, its checkpoint with it, and of calls of the programs."""

  trial: int
  call: int
  devices: int


def free_memory() -> int:
  """Bytes that are free on a device; for CPUs, of the machine or of this process's cgroup."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats()
    return stats['bytes_limit'] - stats['bytes_in_use']
  free = psutil.virtual_memory().available
  limit, used = (Path('/sys/fs/cgroup', f'memory.{name}') for name in ('max', 'current'))
  if limit.exists() and limit.read_text().strip() != 'max':
    free = min(free, int(limit.read_text()) - int(used.read_text()))
  return free


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
