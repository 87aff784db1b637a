"""The state of trials on disk, so that a stopped study goes on where it was."""

import errno
import math
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lr_study.errors import StudyError
from lr_study.progress import note

_ROOM = 2**20  # bytes beside the arrays: folders, and what describes the arrays


class Checkpoints:
  """The two newest checkpoints, numbered by the steps done, written in the background."""

  def __init__(self, folder: Path):
    """Opens `folder`, or makes it; what an interrupted write left there is cleaned up."""
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder.resolve()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
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
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      sum=ocp.args.JsonSave({'crc32': _sum(state), 'form': _form(state)}),
    )
    self._manager.save(steps_done, args=items)

  def newest(self, like: Callable[[int], Any], before: float = math.inf) -> tuple[int, Any]:
    """Reads the newest checkpoint that is whole; damaged ones are named and put aside.

    Args:
      like: gives, for a number of steps done, a tree of host arrays with the form, the shapes
        and the types of what was saved then.
      before: only those of fewer steps done count.

    Returns:
      Steps done, and the tree of host arrays; 0 and None if there is none.

    Raises:
      StudyError: if a whole one is of another form, which is no damage: a network in a file of the
        user's own has changed, say.
    """
    for steps_done in sorted(self._manager.all_steps(), reverse=True):
      if steps_done >= before:
        continue
      wanted = like(steps_done)
      try:
        self._check_form(steps_done, _form(wanted))
        return steps_done, self._read(steps_done, wanted)
      except (MemoryError, StudyError):
        raise
      except Exception as error:  # Orbax and TensorStore raise many kinds for a broken file
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        damaged = self._folder / str(steps_done)
        damaged.rename(self._folder / f'damaged_{steps_done}')
        note(f'{damaged} is damaged ({why[:200]}); it is put aside as damaged_{steps_done}')
        self._manager.reload()
    return 0, None

  def _check_form(self, steps_done: int, wanted: dict[str, Any]) -> None:
    found = self._manager.restore(steps_done, args=ocp.args.Composite(sum=ocp.args.JsonRestore()))
    saved = found['sum']['form']
    differ = [name for name in saved | wanted if saved.get(name) != wanted.get(name)]
    if differ:
      first, none = differ[0], ('none',)
      raise StudyError(
        f'{self._folder / str(steps_done)} holds another state than this network and optimizer '
        f'have: {first} is {" ".join(saved.get(first, none))}, not '
        f'{" ".join(wanted.get(first, none))}; did a file of your own change? Restore it, or start '
        'again with --overwrite'
      )

  def _read(self, steps_done: int, like: Any) -> Any:
    items = ocp.args.Composite(state=ocp.args.StandardRestore(like), sum=ocp.args.JsonRestore())
    found = self._manager.restore(steps_done, args=items)
    if found['sum']['crc32'] != _sum(found['state']):
      raise ValueError('its checksum does not fit')
    return found['state']

  def close(self) -> None:
    """Waits for the last write."""
    self._manager.close()


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
