"""What is told to the user in one line."""

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of a disk that is broken, out of reach, or may not be written.
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
  """Something the user can mend: config, data or work directory. Ends as one line, status 2."""

  def _render_traceback_(self) -> list[str]:  # in a notebook, which has traces of a screen or two
    return [f'StudyError: {self}']


def is_full(error: BaseException) -> bool:
  """True if this, or what it came from, says that a disk, a quota or a file's size is used up."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return True
  # TensorStore, which writes checkpoints, has an exception of its own with the system's words.
  if any(os.strerror(number) in str(error) for number in _FULL):
    return True
  cause = error.__cause__ or error.__context__
  return cause is not None and is_full(cause)


def is_of_disk(error: BaseException) -> bool:
  """True if a file cannot be read or written for a reason that lies outside of this program."""
  return isinstance(error, OSError) and error.errno in _OF_DISK


def is_out_of_memory(error: BaseException) -> bool:
  """True if this says that the memory of the machine or of a device is used up."""
  words = ('RESOURCE_EXHAUSTED', 'Out of memory')  # of XLA, which has no class for it
  return isinstance(error, MemoryError) or any(word in str(error) for word in words)
