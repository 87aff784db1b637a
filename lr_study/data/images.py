"""Image files of any kind to upright RGB squares."""

import collections
import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

RESIZE_MODES = ('squash', 'crop', 'fill', 'half_crop')

# Pillow reads some fifty formats; with one of them (EPS) it starts another program.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# A progressive JPEG has about ten scans. Each costs a pass over all pixels but only a few bytes,
# so thousands of them would keep the decoder busy for hours.
_SCANS = 100
# Images of more pixels are decoded one at a time: in each of many threads they would fill memory.
_LARGE = 2**25
_one_large = threading.Lock()


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
  """The function of each item, in order, or the error of the first one that has one.

  A thread a core: Pillow releases the interpreter's lock in its loops, and more threads would
  take it from each other.
  """
  threads = os.cpu_count() or 1
  found, failed, left = [None] * len(items), {}, iter(range(len(items)))

  def stop():
    collections.deque(left, 0)  # nothing is left to take

  def take():
    # From one iterator: to hand over each alone takes a fifth of reading a small image.
    for k in left:
      try:
        found[k] = function(items[k])
      except BaseException as error:
        failed[k] = error
        stop()

  with warnings.catch_warnings():  # here, because it is not safe in a thread
    warnings.simplefilter('ignore')  # Pillow warns of odd metadata, which does no harm
    with ThreadPoolExecutor(threads) as pool:
      try:
        wait([pool.submit(take) for _ in range(threads)])
      finally:
        stop()  # after Ctrl-C too
  if failed:
    raise failed[min(failed)]
  return found


def decode(encoded: bytes) -> Image.Image:
  """Decodes an image file's bytes to an upright RGB image.

  The first frame of an animation; turned as its EXIF orientation says; transparent pixels
  over white; 16 bits scaled to 8.

  Raises:
    ValueError: if the bytes are no JPEG, PNG, WebP, BMP, GIF, TIFF or PPM, are cut off, or hold
      more pixels than Pillow thinks safe.
  """
  if not encoded:
    raise ValueError('empty')
  try:
    with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
      pixels = image.width * image.height
      if pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f'{pixels} pixels, a decompression bomb?')
      if image.format in ('JPEG', 'MPO') and encoded.count(b'\xff\xda') > _SCANS:
        raise ValueError(f'a JPEG of more than {_SCANS} scans')
      with _one_large if pixels > _LARGE else contextlib.nullcontext():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
  except UnidentifiedImageError as error:  # its message holds an address in memory
    raise ValueError('not an image') from error
  except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
    raise ValueError(str(error) or type(error).__name__) from error


def size(encoded: bytes) -> tuple[int, int]:
  """Width and height of an image file, in pixels as they are stored; nothing is decoded."""
  with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
    return image.size


def resize(image: Image.Image, size: int, mode: str) -> np.ndarray:
  """Makes an RGB image square as DIGITS does (digits/utils/image.py, resize_image).

  Args:
    image: an RGB image.
    size: height and width of the result in pixels.
    mode: 'squash' changes the aspect; 'crop' keeps it and cuts off the long side; 'fill' keeps
      it and fills the short side up with noise; 'half_crop' goes half of either way.

  Returns:
    uint8 array (size, size, 3).
  """
  if image.size == (size, size):
    return np.asarray(image)
  ratios = (image.width / size, image.height / size)
  if mode == 'squash' or ratios[0] == ratios[1]:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
  ratio = {'crop': min(ratios), 'fill': max(ratios), 'half_crop': sum(ratios) / 2}[mode]
  # Only what will be seen is scaled: the whole of an image of 1 x 50,000 would become gigabytes.
  seen = [min(n, size * ratio) for n in image.size]
  left, top = ((n - part) / 2 for n, part in zip(image.size, seen, strict=True))
  width, height = (min(size, max(1, round(part / ratio))) for part in seen)
  box = (left, top, left + seen[0], top + seen[1])
  scaled = image.resize((width, height), Image.Resampling.BILINEAR, box)
  # Noise, as in DIGITS, so that no flat border can be learned; seeded, so that the same
  # image always comes out the same.
  noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
  square = Image.fromarray(noise)
  square.paste(scaled, ((size - width) // 2, (size - height) // 2))
  return np.asarray(square)


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I') or image.mode == 'F':
    values = np.asarray(image)
    # Pillow opens 16-bit files in these modes; a float image holds 0 to 1 or 0 to 255.
    tops = (1, 255, 65535) if image.mode == 'F' else (255, 65535) if image.mode == 'I' else (65535,)
    top = next((top for top in tops if values.max() <= top), tops[-1])
    shares = np.nan_to_num(values.astype(np.float32))
    shares *= 1 / top  # in place: such an image may have 89 million pixels
    np.clip(shares, 0, 1, out=shares)
    shares *= 255
    shares += 0.5
    image = Image.fromarray(shares.astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')
  return image.convert('RGB')
