"""Where the images of a step and of an evaluation come from: the devices, or files."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from lr_study import parallel
from lr_study.data import Part, stream
from lr_study.trial import Batch


class Feed(Protocol):
  """Gives the images of a part to trials."""

  labels: np.ndarray  # int32 (images,)

  def batches(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[list[Batch]]:
    """The batch_S of steps `first` to `last` of the epoch that has this order."""

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    """All images in their own order: what `trials.eval_steps` takes."""


def make_feed(part: Part, how: str) -> Feed:
  """From memory or from files, as the part is; `how` as in `parallel.make_trials`."""
  return Resident(part, how) if isinstance(part.images, np.ndarray) else Streamed(part, how)


class Resident:
  """Images that lie on the devices."""

  def __init__(self, part: Part, how: str):
    self.labels = part.labels
    self._arrays = parallel.share(parallel.Arrays(*part), how)

  def batches(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[list[Batch]]:
    for step in range(first, last):
      yield trials.gather(self._arrays, order_S, step * trials.batch_size)

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    for start in range(0, len(self.labels), trials.eval_batch):
      yield trials.window(self._arrays, start)


class Streamed:
  """Images that are read from their files while the trials train on those before."""

  def __init__(self, part: Part, how: str):
    self.labels = part.labels
    self._pixels, self._how = part.images, how

  def batches(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[list[Batch]]:
    order = np.stack(jax.device_get(order_S))  # (groups, ..., images)
    steps = [step * trials.batch_size for step in range(first, last)]
    indices = [order[..., start : start + trials.batch_size] for start in steps]
    for index, pixels in zip(indices, stream.read(self._pixels, indices), strict=True):
      yield trials.batch_to_devices(Batch(pixels, self.labels[index]))

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    each, count = trials.eval_batch, len(self.labels)
    places = [np.arange(start, start + each) for start in range(0, count, each)]
    indices = [np.minimum(place, count - 1) for place in places]
    for place, index, pixels in zip(
      places, indices, stream.read(self._pixels, indices), strict=True
    ):
      weight = (place < count).astype(np.float32)
      yield parallel.share((Batch(pixels, self.labels[index]), weight), self._how)
