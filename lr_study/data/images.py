"""Turns image files of any kind into upright RGB squares."""

import collections
import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

RESIZE_MODES = ('squash', 'crop', 'fill', 'half_crop')

# Pillow reads some fifty formats. For one of them (EPS) it would start another program.
_FORMATS: tuple[str, ...] = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# Pillow may have been built without these.
_FORMATS += tuple(
  name for name, codec in (('AVIF', 'avif'), ('JPEG2000', 'jpg_2000')) if features.check(codec)
)
# Other files found among images: an offset in the file, the bytes there, and what it is called.
_OTHERS = (
  (4, (b'ftypheic', b'ftypheix', b'ftyphevc', b'ftypheim', b'ftypheis'), 'a HEIC image'),
  (4, (b'ftypmif1', b'ftypmsf1'), 'a HEIF image'),
  (4, (b'ftypavif', b'ftypavis'), 'an AVIF image'),
  (0, (b'\0\0\0\x0cjP  ', b'\xff\x4f\xff\x51'), 'a JPEG 2000 image'),
  (0, (b'\xff\x0a', b'\0\0\0\x0cJXL '), 'a JPEG XL image'),
  (0, (b'8BPS',), 'a Photoshop image'),
  (0, (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'), 'a TIFF image of an unsupported kind'),
  (0, (b'<svg',), 'an SVG drawing'),
  (0, (b'%PDF',), 'a PDF document'),
  (128, (b'DICM',), 'a DICOM image'),
  (0, (b'v/1\x01',), 'an OpenEXR image'),
)
_NO_IMAGES = (
  (0, (b'version https://git-lfs',), 'a Git LFS pointer, not the image; run git lfs pull'),
  (0, (b'<!DOCTYPE', b'<!doctype', b'<html', b'<HTML'), 'a web page; download the image again'),
  (0, (b'\x93NUMPY',), 'a NumPy array; load it with data.name=npz:FILE or a function'),
  (4, (b'ftyp',), 'a video'),
)
# A progressive JPEG has about ten scans. Each takes a pass over all pixels but only a few bytes, so
# a small file with thousands of them would keep the decoder busy for hours.
_SCANS = 100
# Images with more pixels are decoded one at a time: many threads at once would fill the memory.
_LARGE = 2**25
_one_large = threading.Lock()


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
  """Applies the function to each item, in order; raises the error of the first item that fails.

  Uses one thread per core: Pillow releases the interpreter's lock in its loops, and more threads
  would compete for it.
  """
  threads = os.cpu_count() or 1
  found, failed, left = [None] * len(items), {}, iter(range(len(items)))

  def stop():
    collections.deque(left, 0)  # exhausts the iterator

  def take():
    # From one iterator: to submit each item takes a fifth of the time to read a small image.
    for k in left:
      try:
        found[k] = function(items[k])
      except BaseException as error:
        failed[k] = error
        stop()

  with warnings.catch_warnings():  # not in the threads, where it is not safe
    warnings.simplefilter('ignore')  # Pillow warns about odd but harmless metadata
    with ThreadPoolExecutor(threads) as pool:
      try:
        wait([pool.submit(take) for _ in range(threads)])
      finally:
        stop()  # after Ctrl-C too
  if failed:
    raise failed[min(failed)]
  return found


class Scale(NamedTuple):
  """The values of black and white, for images that do not define them: floats and 32 bits."""

  low: float
  high: float


def decode(encoded: bytes, scale: Scale | None = None) -> Image.Image:
  """Decodes an image file's bytes to an upright RGB image.

  Takes the first frame of an animation, applies the EXIF orientation, puts transparent pixels on
  white, and scales 16 bits to 8.

  Args:
    encoded: the file's bytes.
    scale: for values that need one.

  Raises:
    ValueError: the bytes are not an image in one of `_FORMATS`, are truncated, or hold more pixels
      than Pillow considers safe; or the values need a scale and none is given.
  """

  def convert(image):
    if not _needs_scale(image):
      return _to_rgb(image, Scale(0, 65535))
    if scale is None:
      raise ValueError(
        'its values are floats or 32 bits, and no image of the study says which value is white'
      )
    return _to_rgb(image, scale)

  return _read(encoded, convert)


def needed_scale(encoded: bytes) -> Scale | None:
  """The smallest and largest value of an image that needs a scale; None if it does not.

  Raises:
    ValueError: see `decode`; also if there is no finite value.
  """

  def find(image):
    if not _needs_scale(image):
      _to_rgb(image, Scale(0, 65535))  # to find anything unreadable now
      return None
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    if not values.size:
      raise ValueError('it holds no finite numbers')
    return Scale(float(values.min()), float(values.max()))

  return _read(encoded, find)


def widest(scales: Iterable[Scale | None]) -> Scale | None:
  """A common scale for several images: from the smallest value to the largest; None if unneeded."""
  found = [scale for scale in scales if scale]
  return Scale(min(s.low for s in found), max(s.high for s in found)) if found else None


def _read(encoded: bytes, function: Callable[[Image.Image], Any]) -> Any:
  """Applies the function to the opened image."""
  if not encoded:
    raise ValueError('empty')
  try:
    with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
      pixels = image.width * image.height
      if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f'{pixels} pixels, a decompression bomb?')
      if image.format in ('JPEG', 'MPO') and encoded.count(b'\xff\xda') > _SCANS:
        raise ValueError(f'a JPEG with more than {_SCANS} scans')
      with _one_large if pixels > _LARGE else contextlib.nullcontext():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return function(image)
  except UnidentifiedImageError as error:  # its message holds an address in memory
    raise ValueError(_what(encoded)) from error
  except Exception as error:  # a broken file can make Pillow's readers raise anything
    raise ValueError(str(error) or type(error).__name__) from error


def _what(encoded: bytes) -> str:
  """What an unreadable file is, and what to do about it."""

  def first(kinds):
    return next((name for at, heads, name in kinds if encoded.startswith(heads, at)), None)

  if encoded.startswith(b'<?xml'):
    encoded = encoded[encoded.find(b'<svg') :]  # an SVG drawing may begin like this
  image = first(_OTHERS)
  if image:
    return f'{image}; convert it to PNG or JPEG, for example: magick FILE FILE.png'
  return first(_NO_IMAGES) or 'not an image'


def size(encoded: bytes) -> tuple[int, int]:
  """Width and height of an image file in pixels, as stored; nothing is decoded."""
  with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
    return image.size


def resize(image: Image.Image, size: int, mode: str) -> np.ndarray:
  """Makes an RGB image square as DIGITS does (digits/utils/image.py, resize_image).

  Args:
    image: an RGB image.
    size: height and width of the result in pixels.
    mode: 'squash' changes the aspect ratio; 'crop' keeps it and crops the long side; 'fill' keeps
      it and pads the short side with noise; 'half_crop' does half of each.

  Returns:
    uint8 array (size, size, 3).
  """
  if image.size == (size, size):
    return np.asarray(image)
  ratios = (image.width / size, image.height / size)
  if mode == 'squash' or ratios[0] == ratios[1]:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
  ratio = {'crop': min(ratios), 'fill': max(ratios), 'half_crop': sum(ratios) / 2}[mode]
  # Scale only the visible part: a whole image of 1 x 50,000 pixels would become gigabytes.
  seen = [min(n, size * ratio) for n in image.size]
  left, top = ((n - part) / 2 for n, part in zip(image.size, seen, strict=True))
  width, height = (min(size, max(1, round(part / ratio))) for part in seen)
  box = (left, top, left + seen[0], top + seen[1])
  scaled = image.resize((width, height), Image.Resampling.BILINEAR, box)
  # Noise, as in DIGITS, so that the network cannot learn from a flat border; seeded, so that the
  # result is always the same.
  noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
  square = Image.fromarray(noise)
  square.paste(scaled, ((size - width) // 2, (size - height) // 2))
  return np.asarray(square)


def _needs_scale(image: Image.Image) -> bool:
  # Pillow opens 16-bit files as I;16, but PPM as 32 bits that are scaled to 16.
  return image.mode == 'F' or (image.mode == 'I' and image.format not in ('PNG', 'PPM'))


def _to_rgb(image: Image.Image, scale: Scale) -> Image.Image:
  """Converts an image of any mode; `scale` says what is black and white in 16 or more bits."""
  if image.mode.startswith('I') or image.mode == 'F':
    shares = np.asarray(image).astype(np.float32)
    # In place: the image may have 89 million pixels.
    np.nan_to_num(shares, copy=False, nan=scale.low)
    shares -= scale.low
    shares *= 1 / ((scale.high - scale.low) or 1)
    np.clip(shares, 0, 1, out=shares)
    shares *= 255
    shares += 0.5
    image = Image.fromarray(shares.astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')
  return image.convert('RGB')
