"""What the driver of an NVIDIA GPU knows of the card, by its management library."""

import ctypes
import functools
import os


class _Memory(ctypes.Structure):
  _fields_ = tuple((name, ctypes.c_ulonglong) for name in ('total', 'free', 'used'))


def joules() -> float | None:
  """That the card has used since its driver was loaded; None where there is none that tells."""
  used = ctypes.c_ulonglong()
  if not _asked('nvmlDeviceGetTotalEnergyConsumption', used):
    return None
  return used.value / 1000


def free_memory() -> int | None:
  """Bytes of the card that no process has taken, this one neither; None likewise."""
  memory = _Memory()
  return memory.free if _asked('nvmlDeviceGetMemoryInfo', memory) else None


def _asked(function: str, answer: ctypes.Structure | ctypes.c_ulonglong) -> bool:
  """True if the library has filled in an answer for the first card that this process may use."""
  library = _library()
  if library is None:
    return False
  device = ctypes.c_void_p()
  first = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0].strip() or '0'
  try:
    if first.isdecimal():
      failed = library.nvmlDeviceGetHandleByIndex_v2(int(first), ctypes.byref(device))
    else:  # GPU-... or MIG-...
      failed = library.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(device))
    return not failed and not getattr(library, function)(device, ctypes.byref(answer))
  except AttributeError:  # an older driver lacks it
    return False


@functools.cache
def _library() -> ctypes.CDLL | None:
  try:
    library = ctypes.CDLL('libnvidia-ml.so.1')  # comes with the driver
    return None if library.nvmlInit_v2() else library
  except (OSError, AttributeError):
    return None
