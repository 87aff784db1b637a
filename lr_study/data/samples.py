"""Samples of any shape: whether they are images, what they are called and how they are shown."""

from collections.abc import Sequence

import numpy as np

_CHANNELS = (1, 3, 4)  # grey; RGB; RGB and opacity
_SIDE, _ASPECT = 8, 4  # of a grey image without an axis for its channel


def is_image(shape: Sequence[int]) -> bool:
  """True if samples of this shape, such as (28, 28) or (32, 32, 3), count as images.

  Images are (height, width, 1, 3 or 4), or (height, width) if both are at least 8 and neither is
  more than four times the other. Other shapes are more likely tables or time series.
  """
  if len(shape) == 3:
    return shape[2] in _CHANNELS
  return len(shape) == 2 and min(shape) >= _SIDE and max(shape) <= _ASPECT * min(shape)


def noun(shape: Sequence[int]) -> str:
  """What messages call samples of this shape."""
  return 'images' if is_image(shape) else 'samples'


def visible(images: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
  """Images of any kind as RGB pictures, uint8 (n, height, width, 3), on white where transparent.

  Args:
    images: uint8 or float (n, height, width[, channels]); see `is_image`.
    scale: an array whose smallest number is black and whose largest is white, for floats; the
      images themselves by default.
  """
  if images.dtype != np.uint8:
    scale = images if scale is None else scale
    low, high = scale.min(initial=np.inf), scale.max(initial=-np.inf)
    images = (images.astype(np.float64) - low) / ((high - low) or 1)
    images = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
  if images.ndim == 3:
    images = images[..., None]
  if images.shape[3] == 4:
    opaque = images[..., 3:] / 255
    return np.rint(images[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
  return np.broadcast_to(images, (*images.shape[:3], 3))
