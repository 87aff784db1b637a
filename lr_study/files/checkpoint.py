"""Checkpoints: the state of trials on disk, from which a stopped study resumes."""

import errno
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lr_study.errors import StudyError, first_line, is_out_of_memory
from lr_study.files import record
from lr_study.progress import note

_ROOM = 2**20  # bytes in addition to the arrays: folders, and descriptions of the arrays
_FILES = 'files.json'  # in a checkpoint's folder: size and CRC-32 of each file that it needs
_BLOCK = 2**20  # bytes read at once


class Checkpoints:
  """The two newest checkpoints, named by the number of steps done, written in the background."""

  def __init__(self, folder: Path, read_only: bool = False):
    """Opens `folder`.

    Args:
      folder: created if missing; what an interrupted write left there is removed.
      read_only: change nothing. Required for code that does not train in this folder.
    """
    self._folder, self._read_only = folder.resolve(), read_only
    self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    self._saving, self._manager, self._began = 0, None, 0.0
    self.seconds = 0.0  # that the slowest write took so far
    if not read_only:
      folder.mkdir(parents=True, exist_ok=True)
      options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
      )
      self._manager = ocp.CheckpointManager(self._folder, options=options)

  def save(self, steps_done: int, state: Any) -> None:
    """Starts to write a tree of host arrays, which must not change any more.

    Raises:
      OSError: there is no room for it, or there was none for the previous one.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(self._folder).free < size + _ROOM:
      # Checked first, because the threads that write cannot fail cleanly.
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
    self._manager.wait_until_finished()  # `_seal` needs to know which one is being written
    self._saving, self._began = steps_done, time.monotonic()
    record.add(self._folder / str(steps_done), is_folder=True)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      sum=ocp.args.JsonSave({'crc32': _sum(state), 'form': _form(state)}),
    )
    self._manager.save(steps_done, args=items)

  def newest(self, like: Callable[[int], Any], before: float = math.inf) -> tuple[int, Any]:
    """Reads the newest intact checkpoint.

    A checkpoint is damaged if its files are not as they were written. A damaged one is reported,
    and then set aside, or skipped if this is read-only.

    Args:
      like: returns, for a number of steps done, a tree of host arrays with the structure, shapes
        and dtypes of what was saved then.
      before: consider only checkpoints with fewer steps done.

    Returns:
      Steps done, and the tree of host arrays; 0 and None if there is no checkpoint.

    Raises:
      StudyError: an intact checkpoint has another structure, for example because a network in a
        user's file has changed; or one cannot be read, and nothing is changed.
    """
    for steps_done in steps_in(self._folder):
      if steps_done >= before:
        continue
      try:
        return steps_done, self._checked(steps_done, like(steps_done))
      except _Damaged as why:
        self._pass_over(steps_done, str(why))
    return 0, None

  def close(self) -> None:
    """Waits for the last write."""
    if self._manager:
      self._manager.close()
    self._reader.close()

  def _checked(self, steps_done: int, wanted: Any) -> Any:
    """Reads a checkpoint after checking that its files are as they were written."""
    folder = self._folder / str(steps_done)
    try:
      # First, because a read that fails midway leaves TensorStore threads that print errors.
      damage = _damage(folder)
    except OSError as error:
      raise StudyError(
        f'{error.filename or folder} cannot be read: {error.strerror or error}; nothing was '
        'changed: try again when it is readable'
      ) from error
    if damage:
      raise _Damaged(damage)
    for is_last in (False, True):  # an error may be temporary
      try:
        return self._read(folder, wanted)
      except Exception as error:  # Orbax and TensorStore raise many kinds
        if isinstance(error, StudyError) or is_out_of_memory(error):
          raise
        if isinstance(error, _WrongSum) and damage is None:
          raise _Damaged(str(error)) from error
        if is_last:
          state = 'it may be damaged' if damage is None else 'its files are as they were written'
          raise StudyError(
            f'{folder} cannot be read ({first_line(error)[:200]}), and {state}; has Orbax or JAX '
            'since? Nothing was changed: to continue without it, move that folder away'
          ) from error
    return None

  def _read(self, folder: Path, wanted: Any) -> Any:
    described = ocp.args.Composite(sum=ocp.args.JsonRestore())
    found = self._reader.restore(folder, args=described)['sum']
    self._check_form(folder, found['form'], _form(wanted))
    items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
    state = self._reader.restore(folder, args=items)['state']
    if found['crc32'] != _sum(state):
      raise _WrongSum('its checksum does not match')
    return state

  def _check_form(self, folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differ = [name for name in saved | wanted if saved.get(name) != wanted.get(name)]
    if differ:
      first, none = differ[0], ('none',)
      raise StudyError(
        f'{folder} does not fit this network and optimizer: {first} is '
        f'{" ".join(saved.get(first, none))}, not {" ".join(wanted.get(first, none))}; did one of '
        f'your files change? Restore it, or {record.start_again(folder)}'
      )

  def _pass_over(self, steps_done: int, why: str) -> None:
    damaged = self._folder / str(steps_done)
    if self._read_only:
      note(f'{damaged} is damaged ({why}); it is skipped')
      return
    aside, number = self._folder / f'damaged_{steps_done}', 1
    while aside.exists():
      number += 1
      aside = self._folder / f'damaged_{steps_done}_{number}'
    record.add(aside, is_folder=True)
    damaged.rename(aside)
    note(f'{damaged} is damaged ({why}); it is set aside as {aside.name}')
    self._manager.reload()

  def _seal(self) -> None:
    """Records the files of a checkpoint in it, before it gets its final name."""
    (part,) = self._folder.glob(f'{self._saving}.orbax-checkpoint-tmp*')
    with (part / _FILES).open('w') as stream:
      json.dump(_contents(part), stream)
      stream.flush()
      os.fsync(stream.fileno())
    self.seconds = max(self.seconds, time.monotonic() - self._began)


class _Damaged(Exception):
  """The files of a checkpoint are not as they were written; the text says which."""


class _WrongSum(ValueError):
  """The arrays that were read differ from those that were saved."""


def steps_in(folder: Path) -> list[int]:
  """The steps of every completely written checkpoint in a wave's folder, the newest first."""
  if not folder.is_dir():
    return []
  return sorted(
    (int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True
  )


def _damage(folder: Path) -> str | None:
  """What in a checkpoint is not as it was written; '' if intact, None if that is unknown.

  Raises:
    OSError: a file cannot be read.
  """
  found = _contents(folder)
  if not found:
    return 'its files are gone'
  try:
    written = json.loads(b''.join(_blocks(folder / _FILES)))
    for name, (size, crc) in written.items():
      if name not in found:
        return f'{name} is missing'
      if found[name] != [size, crc]:
        return f'{name} is {"cut off" if found[name][0] < size else "not what was written"}'
  except FileNotFoundError:  # written by an older version
    return None
  except (AttributeError, TypeError, ValueError):
    return f'{_FILES} is not what was written'
  return ''


def _contents(folder: Path) -> dict[str, list[int]]:
  """Size and CRC-32 of each file of a checkpoint's items, by its path in `folder`.

  Raises:
    OSError: a file cannot be read.
  """

  def fail(error):
    raise error

  found = {}
  for place, _, names in os.walk(folder, onerror=fail):
    for name in names if Path(place) != folder else ():  # next to the items, Orbax stores times
      file, size, crc = Path(place, name), 0, 0
      for block in _blocks(file):
        size, crc = size + len(block), zlib.crc32(block, crc)
      found[str(file.relative_to(folder))] = [size, crc]
  return found


def _blocks(file: Path) -> Iterator[bytes]:
  try:
    with file.open('rb') as stream:
      while block := stream.read(_BLOCK):
        yield block
  except OSError as error:
    if error.filename is None:  # if the file could be opened but not read
      error.filename = str(file)
    raise


def _sum(tree: Any) -> int:
  """CRC-32 of all arrays."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    total = zlib.crc32(np.ascontiguousarray(leaf).data, total)
  return total


def _form(tree: Any) -> dict[str, list[str]]:
  """Shape and dtype of each array by its path, as JSON values."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(at): [str(x.shape), str(x.dtype)] for at, x in leaves}
