"""Images that stay in their files until they are asked for; grain reads them ahead."""

import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from lr_study.data import images
from lr_study.data.source import Source
from lr_study.errors import StudyError

_AHEAD_BYTES = 2**27  # of images that are read before they are needed
_BLOCK_BYTES = 2**21  # of a block of a pass over all images: what is made of it stays in caches


class Stored:
  """Images of a data set in their files: what an array of them gives for an array of indices."""

  def __init__(self, source: Source, indices: np.ndarray, image_size: int, mode: str):
    """Those at `indices`, resized to squares of `image_size` pixels in `mode`."""
    self.shape = (len(indices), image_size, image_size, 3)
    self._source, self._indices, self._mode = source, indices, mode

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """uint8 (*index.shape, size, size, 3); each image is read once however often it is named."""
    wanted, place = np.unique(index, return_inverse=True)
    return np.stack([self._read(int(k)) for k in wanted])[place.reshape(np.shape(index))]

  def load(self) -> np.ndarray:
    """All of them in memory."""
    array = np.empty(self.shape, np.uint8)

    def read(k):
      array[k] = self._read(k)

    images.in_threads(read, range(len(array)))
    return array

  def _read(self, k: int) -> np.ndarray:
    item = int(self._indices[k])
    try:
      decoded = images.decode(self._source.items[item]['image'])
    except ValueError as error:  # of a set by its name: files of folders were tried before
      raise StudyError(f'{self._source.names[item]} cannot be read: {error}') from error
    return images.resize(decoded, self.shape[1], self._mode)


def read(pixels: Stored, indices: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  """`pixels[index]` for each index in turn, read ahead in threads."""
  import grain  # noqa: PLC0415 - a tenth of all imports, and images in memory need it not

  if not len(indices):
    return iter(())
  # Pillow warns of odd metadata, which does no harm; not in the threads, where it is not safe.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  size = indices[0].size * int(np.prod(pixels.shape[1:]))
  ahead = int(np.clip(_AHEAD_BYTES // size, 2, 64))
  options = grain.ReadOptions(
    num_threads=min(ahead, os.cpu_count() or 1), prefetch_buffer_size=ahead
  )
  return iter(grain.MapDataset.source(_Steps(pixels, indices)).to_iter_dataset(options))


def blocks(pixels: np.ndarray | Stored) -> Iterator[np.ndarray]:
  """All images in their order, (some, size, size, 3) at a time."""
  each = max(1, _BLOCK_BYTES // int(np.prod(pixels.shape[1:])))
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
