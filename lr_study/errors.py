"""Errors that the user sees as one line."""

import errno
import os
from typing import TypeGuard

FULL = errno.ENOSPC
_FULL = (FULL, errno.EDQUOT, errno.EFBIG)
# Of a disk that is broken, unreachable or not writable.
_OF_DISK = (
  errno.EIO,
  errno.ESTALE,
  errno.ETIMEDOUT,
  errno.EHOSTUNREACH,
  errno.ENETDOWN,
  errno.ENETUNREACH,
  errno.ENOTCONN,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
)


class StudyError(Exception):
  """An error that the user can fix, printed as one line; the command's exit status is then 2."""

  def _render_traceback_(self) -> list[str]:  # in a notebook, in place of a long traceback
    return [f'StudyError: {self}']


class MoreWaves(Exception):
  """There was no memory for trials that train together; fewer will, when the study goes on."""


def first_line(error: BaseException) -> str:
  """The first line of an error's text; what it is if it has none."""
  return (str(error).strip().splitlines() or [repr(error)])[0]


def is_full(error: BaseException) -> bool:
  """True if this error or its cause says that a disk, quota or file size limit is exhausted."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return True
  # TensorStore, which writes checkpoints, has its own exception with the system's message.
  if any(os.strerror(number) in str(error) for number in _FULL):
    return True
  cause = error.__cause__ or error.__context__
  return cause is not None and is_full(cause)


def is_of_disk(error: BaseException) -> TypeGuard[OSError]:
  """True if a file cannot be read or written for a reason outside of this program."""
  return isinstance(error, OSError) and error.errno in _OF_DISK


def is_out_of_memory(error: BaseException) -> bool:
  """True if this error says that the memory of the machine or of a device is exhausted."""
  words = ('RESOURCE_EXHAUSTED', 'Out of memory')  # XLA has no exception class for it
  return isinstance(error, MemoryError) or any(word in str(error) for word in words)
