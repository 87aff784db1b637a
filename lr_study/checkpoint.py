"""The state of all trials on disk, so that a stopped study goes on where it was."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Checkpoints:
  """The newest checkpoints of a study, numbered by the steps done, written in the background."""

  def __init__(self, folder: Path):
    """Opens `folder`; what an interrupted write left there is cleaned up."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

  def save(self, steps_done: int, state: Any) -> None:
    """Starts to write a tree of host arrays; they are copied first, so they may change after."""
    state = jax.tree.map(np.array, state)
    self._manager.save(steps_done, args=ocp.args.StandardSave(state))

  def newest(self) -> int:
    """Steps done at the newest checkpoint; 0 if there is none."""
    return self._manager.latest_step() or 0

  def restore(self, steps_done: int, like: Any) -> Any:
    """Reads a checkpoint.

    Args:
      steps_done: its number.
      like: a tree of host arrays with the form, the shapes and the types of what was saved.

    Returns:
      The tree of host arrays.
    """
    return self._manager.restore(steps_done, args=ocp.args.StandardRestore(like))

  def close(self) -> None:
    """Waits for the last write."""
    self._manager.close()
