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

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """Reads the newest checkpoint.

    Args:
      like: a tree of arrays, or of their shapes and types, in the form of what was saved.

    Returns:
      The steps done and the tree of host arrays; None if there is no checkpoint.
    """
    steps_done = self._manager.latest_step()
    if steps_done is None:
      return None
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return steps_done, self._manager.restore(steps_done, args=ocp.args.StandardRestore(like))

  def close(self) -> None:
    """Waits for the last write."""
    self._manager.close()
