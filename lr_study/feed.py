"""Where the images of a step or of an evaluation come from."""

from collections.abc import Iterator
from typing import Any

import jax

from lr_study import parallel
from lr_study.data import Part
from lr_study.trial import Batch


class Resident:
  """Images that lie on the devices."""

  def __init__(self, part: Part, how: str):
    """Puts all of them there; `how` as in `parallel.make_trials`."""
    self.images = len(part.labels)
    self._arrays = parallel.share(parallel.Arrays(*part), how)

  def batches(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[list[Batch]]:
    """The batch_S of steps `first` to `last` of the epoch that has this order."""
    for step in range(first, last):
      yield trials.gather(self._arrays, order_S, step * trials.batch_size)

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    """All images in their own order: what `trials.eval_step` takes."""
    for start in range(0, self.images, trials.eval_batch):
      yield trials.window(self._arrays, start)
