"""Images that stay in their files until they are needed; grain reads them ahead of time."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lr_study.data import images
from lr_study.errors import StudyError

_AHEAD_BYTES = 2**27  # of images that are read before they are needed
_BLOCK_BYTES = 2**21  # of a block in a pass over all images; small enough for processor caches


class Stored:
  """Images in their files, indexed by an array of indices like an array of images."""

  dtype = np.dtype(np.uint8)

  def __init__(
    self,
    items: Sequence[Mapping[str, bytes]],
    names: Sequence[str],
    image_size: int,
    mode: str = 'squash',
    scale: images.Scale | None = None,
    indices: np.ndarray | None = None,
  ):
    """Reads nothing yet.

    Args:
      items: `items[i]['image']` is the bytes of an image file.
      names: of each item, for people.
      image_size: height and width in pixels to which images are resized.
      mode: how they are resized, one of RESIZE_MODES.
      scale: for images whose values need one.
      indices: int (images,), the items that belong to this; all by default.
    """
    self._indices = np.arange(len(items)) if indices is None else indices
    self.shape = (len(self._indices), image_size, image_size, 3)
    self.nbytes = math.prod(self.shape)
    self._items, self._names, self._mode, self._scale = items, names, mode, scale

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """uint8 (*index.shape, size, size, 3); an image that occurs several times is read once."""
    wanted, place = np.unique(index, return_inverse=True)
    return np.stack([self._read(int(k)) for k in wanted])[place.reshape(np.shape(index))]

  def at(self, indices: np.ndarray) -> 'Stored':
    """The images at `indices`, int (some,), still in their files."""
    kept = (self._items, self._names, self.shape[1], self._mode, self._scale)
    return Stored(*kept, self._indices[indices])

  def load(self) -> np.ndarray:
    """Reads all images into memory."""
    array = np.empty(self.shape, np.uint8)

    def read(k):
      array[k] = self._read(k)

    images.in_threads(read, range(len(array)))
    return array

  def sizes(self, indices: np.ndarray) -> np.ndarray:
    """Width and height in pixels of the files at `indices`, int (some, 2)."""
    items = self._indices[indices]
    found = images.in_threads(lambda item: images.size(self._items[int(item)]['image']), items)
    return np.asarray(found, int).reshape(-1, 2)

  def _read(self, k: int) -> np.ndarray:
    item = int(self._indices[k])
    try:
      decoded = images.decode(self._items[item]['image'], self._scale)
    except ValueError as error:  # only in TFDS sets: files of folders were checked before
      raise StudyError(f'{self._names[item]} cannot be read: {error}') from error
    return images.resize(decoded, self.shape[1], self._mode)


def read(pixels: Stored, indices: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  """`pixels[index]` for each index in turn, read ahead in threads."""
  import grain  # noqa: PLC0415 - a tenth of the time of all imports, only needed to stream

  if not len(indices):
    return iter(())
  # Pillow warns about odd but harmless metadata. Not in the threads, where this is not safe.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  size = indices[0].size * int(np.prod(pixels.shape[1:]))
  ahead = int(np.clip(_AHEAD_BYTES // size, 2, 64))
  options = grain.ReadOptions(
    num_threads=min(ahead, os.cpu_count() or 1), prefetch_buffer_size=ahead
  )
  return iter(grain.MapDataset.source(_Steps(pixels, indices)).to_iter_dataset(options))


def blocks(pixels: np.ndarray | Stored) -> Iterator[np.ndarray]:
  """All images in order, (some, ...) at a time."""
  each = max(1, _BLOCK_BYTES // (math.prod(pixels.shape[1:]) * pixels.dtype.itemsize))
  starts = range(0, len(pixels), each)
  if isinstance(pixels, np.ndarray):
    return (pixels[start : start + each] for start in starts)
  return read(pixels, [np.arange(k, min(k + each, len(pixels))) for k in starts])


class _Steps(Sequence):
  def __init__(self, pixels: Stored, indices: Sequence[np.ndarray]):
    self._pixels, self._indices = pixels, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, step: int) -> np.ndarray:
    return self._pixels[self._indices[step]]
