"""Supplies the images of steps and evaluations, from device memory or from files."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from lr_study import vectorize
from lr_study.data import Part, stream
from lr_study.trial import Batch
from lr_study.vectorize import Chunk, Pace, Spread, Window


class Feed:
  """The images of a part of the data, kept on the devices or read from files."""

  def __init__(self, part: Part, mean: np.ndarray, spread: Spread):
    self.labels, self._images, self._spread = part.labels, part.images, spread
    self._mean = mean
    self.stored = jax.ShapeDtypeStruct(part.images.shape[1:], part.images.dtype)
    self.resident = isinstance(part.images, np.ndarray)
    if self.resident:
      self._data = spread.share(Batch(part.images, part.labels, mean))
    self._order = functools.lru_cache(maxsize=64)(self._draw_order)

  def chunks(
    self, pace: Pace, seeds: Sequence[int], epoch: int, shuffle: int, first: int, last: int
  ) -> Iterator[Chunk]:
    """Steps `first` to `last` of an epoch, grouped into calls.

    Args:
      pace: where calls end.
      seeds: of the trials.
      epoch: from 0.
      shuffle: the epoch whose order of the images is used.
      first: the first step, counted from 0 in the epoch.
      last: the step after the last one.
    """
    parts, size = list(pace.parts(first, last)), pace.batch_size
    orders = {seed: self._order(seed, shuffle) for seed in dict.fromkeys(seeds)}
    chosen = [
      {seed: order[start * size : stop * size].reshape(-1, size) for seed, order in orders.items()}
      for start, stop, *_ in parts
    ]
    data = self._read(chosen, pace.steps_per_call * size)
    for (start, _, *flags), (batch, index_of) in zip(parts, data, strict=True):
      yield Chunk(batch, index_of, epoch * pace.steps_per_epoch + start, *flags)

  def windows(self, size: int) -> Iterator[Window]:
    """All images in order, `size` at a time; the last window is padded."""
    count = len(self.labels)
    places = [np.arange(start, start + size) for start in range(0, count, size)]
    indices = [np.minimum(place, count - 1).astype(np.int32) for place in places]
    data = self._read([{0: index[None]} for index in indices], size)
    for place, (batch, index_of) in zip(places, data, strict=True):
      yield Window(batch, index_of[0][0], (place < count).astype(np.float32))

  def some(self, index: np.ndarray) -> Batch:
    """The images at `index`, on the devices."""
    batch = Batch(self._images[index], self.labels[index], self._mean)
    return self._spread.share(batch)

  def _read(
    self, chosen: Sequence[Mapping[int, np.ndarray]], room: int
  ) -> Iterator[tuple[Batch, Mapping[int, np.ndarray]]]:
    """For each index by seed: arrays on the devices, and the places to select from them.

    Images read from files come in one array, seed after seed, padded to the longest call so that
    all calls have the same shape.
    """
    if self.resident:
      yield from ((self._data, index_of) for index_of in chosen)
      return
    flat = [np.concatenate([index.ravel() for index in index_of.values()]) for index_of in chosen]
    for index_of, index, pixels in zip(chosen, flat, stream.read(self._images, flat), strict=True):
      fill = room * len(index_of) - len(index)
      images = np.pad(pixels, [(0, fill)] + [(0, 0)] * (pixels.ndim - 1))
      labels = np.pad(self.labels[index], (0, fill))
      places, begin = {}, 0
      for seed, of_seed in index_of.items():
        places[seed] = begin + np.arange(of_seed.size, dtype=np.int32).reshape(of_seed.shape)
        begin += of_seed.size
      yield self._spread.share(Batch(images, labels, self._mean)), places

  def _draw_order(self, seed: int, epoch: int) -> np.ndarray:
    return np.asarray(vectorize.order(np.uint32(seed), np.int32(epoch), len(self.labels)))
