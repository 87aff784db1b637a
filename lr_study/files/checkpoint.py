"""The state of trials on disk, so that a stopped study goes on where it was."""

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lr_study.errors import StudyError, is_out_of_memory
from lr_study.files import record
from lr_study.progress import note

_ROOM = 2**20  # bytes beside the arrays: folders, and what describes the arrays
_FILES = 'files.json'  # in a checkpoint's folder: size and CRC-32 of each file that it needs
_BLOCK = 2**20  # bytes read at once


class Checkpoints:
  """The two newest checkpoints, numbered by the steps done, written in the background."""

  def __init__(self, folder: Path, read_only: bool = False):
    """Opens `folder`.

    Args:
      folder: made if missing, and rid of what an interrupted write left there.
      read_only: leaves everything in it as it is, as whoever does not train in it has to.
    """
    self._folder, self._read_only = folder.resolve(), read_only
    self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    self._saving, self._manager = 0, None
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
      OSError: if there is no room for it; or if there was none for the last one.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(self._folder).free < size + _ROOM:
      # Looked at first: the threads that write have no clean way to fail.
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
    self._manager.wait_until_finished()  # `_seal` asks which one is being written
    self._saving = steps_done
    record.add(self._folder / str(steps_done), is_folder=True)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      sum=ocp.args.JsonSave({'crc32': _sum(state), 'form': _form(state)}),
    )
    self._manager.save(steps_done, args=items)

  def newest(self, like: Callable[[int], Any], before: float = math.inf) -> tuple[int, Any]:
    """Reads the newest checkpoint that is whole.

    One that is proven to be damaged, as its files are not those that were written, is named.
    Whoever trains puts it aside; who only reads passes it over.

    Args:
      like: gives, for a number of steps done, a tree of host arrays with the form, the shapes
        and the types of what was saved then.
      before: only those of fewer steps done count.

    Returns:
      Steps done, and the tree of host arrays; 0 and None if there is none.

    Raises:
      StudyError: if a whole one is of another form, which is no damage: a network in a file of the
        user's own has changed, say. Or if one cannot be read; nothing is changed then.
    """
    for steps_done in self._steps():
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

  def _steps(self) -> list[int]:
    """Of every checkpoint that was written to its end, the newest first."""
    if not self._folder.is_dir():
      return []
    names = (path.name for path in self._folder.iterdir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

  def _checked(self, steps_done: int, wanted: Any) -> Any:
    """Reads a checkpoint whose files are those that were written, as far as one knows."""
    folder = self._folder / str(steps_done)
    try:
      # First: a read that fails in its middle leaves threads of TensorStore's that complain.
      damage = _damage(folder)
    except OSError as error:
      raise StudyError(
        f'{error.filename or folder} cannot be read: {error.strerror or error}; nothing was '
        'changed: try again once it can be'
      ) from error
    if damage:
      raise _Damaged(damage)
    for is_last in (False, True):  # an error may pass
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
            f'{folder} cannot be read ({_line(error)}), and {state}; has Orbax or JAX changed '
            'since? Nothing was changed: move that folder away yourself to do without it'
          ) from error
    return None

  def _read(self, folder: Path, wanted: Any) -> Any:
    described = ocp.args.Composite(sum=ocp.args.JsonRestore())
    found = self._reader.restore(folder, args=described)['sum']
    self._check_form(folder, found['form'], _form(wanted))
    items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
    state = self._reader.restore(folder, args=items)['state']
    if found['crc32'] != _sum(state):
      raise _WrongSum('its checksum does not fit')
    return state

  def _check_form(self, folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differ = [name for name in saved | wanted if saved.get(name) != wanted.get(name)]
    if differ:
      first, none = differ[0], ('none',)
      raise StudyError(
        f'{folder} holds another state than this network and optimizer have: {first} is '
        f'{" ".join(saved.get(first, none))}, not {" ".join(wanted.get(first, none))}; did a file '
        f'of your own change? Restore it, or {record.start_again(folder)}'
      )

  def _pass_over(self, steps_done: int, why: str) -> None:
    damaged = self._folder / str(steps_done)
    if self._read_only:
      note(f'{damaged} is damaged ({why}); it is passed over')
      return
    aside, number = self._folder / f'damaged_{steps_done}', 1
    while aside.exists():
      number += 1
      aside = self._folder / f'damaged_{steps_done}_{number}'
    record.add(aside, is_folder=True)
    damaged.rename(aside)
    note(f'{damaged} is damaged ({why}); it is put aside as {aside.name}')
    self._manager.reload()

  def _seal(self) -> None:
    """Leaves in a checkpoint what its files are, before it gets its name."""
    (part,) = self._folder.glob(f'{self._saving}.orbax-checkpoint-tmp*')
    with (part / _FILES).open('w') as stream:
      json.dump(_contents(part), stream)
      stream.flush()
      os.fsync(stream.fileno())


class _Damaged(Exception):
  """The files of a checkpoint are not those that were written; its text says which."""


class _WrongSum(ValueError):
  """Arrays were read, and are not those that were saved."""


def _damage(folder: Path) -> str | None:
  """What of a checkpoint is not as it was written; '' if all is, None where nothing tells.

  Raises:
    OSError: if a file cannot be read.
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
  except FileNotFoundError:  # an older version wrote it
    return None
  except (AttributeError, TypeError, ValueError):
    return f'{_FILES} is not what was written'
  return ''


def _contents(folder: Path) -> dict[str, list[int]]:
  """Size and CRC-32 of each file of a checkpoint's items, by its path in `folder`.

  Raises:
    OSError: if one cannot be read.
  """

  def fail(error):
    raise error

  found = {}
  for place, _, names in os.walk(folder, onerror=fail):
    for name in names if Path(place) != folder else ():  # beside the items Orbax notes times
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
    if error.filename is None:  # as where it opens, and then cannot be read
      error.filename = str(file)
    raise


def _line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [repr(error)])[0][:200]


def _sum(tree: Any) -> int:
  """CRC-32 of all arrays."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    total = zlib.crc32(np.ascontiguousarray(leaf).data, total)
  return total


def _form(tree: Any) -> dict[str, list[str]]:
  """Shape and type of each array by its path, as JSON holds them."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(at): [str(x.shape), str(x.dtype)] for at, x in leaves}
