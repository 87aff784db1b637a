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

  def chunks(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[parallel.Chunk]:
    """Steps `first` to `last` of the epoch that has this order, as a call takes them."""

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

  def chunks(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[parallel.Chunk]:
    for start, stop in trials.chunks(first, last):
      yield parallel.Chunk([self._arrays] * len(order_S), order_S, start, stop - start)

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    for start in range(0, len(self.labels), trials.eval_batch):
      yield trials.window(self._arrays, start)


class Streamed:
  """Images that are read from their files while the trials train on those before."""

  def __init__(self, part: Part, how: str):
    self.labels = part.labels
    self._pixels, self._how = part.images, how

  def chunks(
    self, trials: parallel.Trials, order_S: Any, first: int, last: int
  ) -> Iterator[parallel.Chunk]:
    order = np.stack(jax.device_get(order_S))  # (groups, ..., images)
    parts, size = list(trials.chunks(first, last)), trials.batch_size
    indices = [order[..., start * size : stop * size] for start, stop in parts]
    for (start, stop), index, pixels in zip(
      parts, indices, stream.read(self._pixels, indices), strict=True
    ):
      yield parallel.Chunk(*self._on_devices(trials, index, pixels), 0, stop - start)

  def windows(self, trials: parallel.Trials) -> Iterator[tuple[Batch, jax.Array]]:
    each, count = trials.eval_batch, len(self.labels)
    places = [np.arange(start, start + each) for start in range(0, count, each)]
    indices = [np.minimum(place, count - 1) for place in places]
    for place, index, pixels in zip(
      places, indices, stream.read(self._pixels, indices), strict=True
    ):
      weight = (place < count).astype(np.float32)
      yield parallel.share((Batch(pixels, self.labels[index]), weight), self._how)

  def _on_devices(
    self, trials: parallel.Trials, index: np.ndarray, pixels: np.ndarray
  ) -> tuple[list[parallel.Arrays], Any]:
    """arrays_S and order_S of a chunk of the images at `index`, (groups, ..., images).

    A device holds those of all its seeds in one array, each seed's after the one before it, and
    room for a whole chunk: then all chunks have one shape.
    """
    axes = 2 if self._how == 'pmap' else 1  # groups, and devices
    room = trials.most_steps * trials.batch_size
    lead, seeds, fill = index.shape[:axes], index.shape[axes:-1], room - index.shape[-1]

    def flat(values, *rest):
      widths = [(0, 0)] * (index.ndim - 1) + [(0, fill)] + [(0, 0)] * len(rest)
      return np.pad(values, widths).reshape(*lead, -1, *rest)

    arrays = parallel.Arrays(flat(pixels, *pixels.shape[-3:]), flat(self.labels[index]))
    order = np.arange(arrays.labels.shape[-1], dtype=np.int32).reshape(*seeds, room)
    order_S = np.broadcast_to(order, (*lead, *order.shape))
    return trials.groups_to_devices(arrays), trials.groups_to_devices(order_S)
