"""Image files of any kind to upright RGB squares."""

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

# Pillow reads some fifty formats; with one of them (EPS) it starts another program.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# Pillow may have been built without these.
_FORMATS += tuple(
  name for name, codec in (('AVIF', 'avif'), ('JPEG2000', 'jpg_2000')) if features.check(codec)
)
# What else lies among images: the bytes at some place of its file, and what people call it.
_OTHERS = (
  (4, (b'ftypheic', b'ftypheix', b'ftyphevc', b'ftypheim', b'ftypheis'), 'a HEIC image'),
  (4, (b'ftypmif1', b'ftypmsf1'), 'a HEIF image'),
  (4, (b'ftypavif', b'ftypavis'), 'an AVIF image'),
  (0, (b'\0\0\0\x0cjP  ', b'\xff\x4f\xff\x51'), 'a JPEG 2000 image'),
  (0, (b'\xff\x0a', b'\0\0\0\x0cJXL '), 'a JPEG XL image'),
  (0, (b'8BPS',), 'a Photoshop image'),
  (0, (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'), 'a TIFF image of a kind that is not read'),
  (0, (b'<svg',), 'an SVG drawing'),
  (0, (b'%PDF',), 'a PDF document'),
  (128, (b'DICM',), 'a DICOM image'),
  (0, (b'v/1\x01',), 'an OpenEXR image'),
)
_NO_IMAGES = (
  (0, (b'version https://git-lfs',), "Git LFS's note of an image, without it; run git lfs pull"),
  (0, (b'<!DOCTYPE', b'<!doctype', b'<html', b'<HTML'), 'a web page; download the image again'),
  (0, (b'\x93NUMPY',), 'an array of NumPy; data.name=npz:FILE, or a function, brings those'),
  (4, (b'ftyp',), 'a video'),
)
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


class Scale(NamedTuple):
  """Which value is black, and which white, where a file does not say: in floats, and in 32 bits."""

  low: float
  high: float


def decode(encoded: bytes, scale: Scale | None = None) -> Image.Image:
  """Decodes an image file's bytes to an upright RGB image.

  The first frame of an animation; turned as its EXIF orientation says; transparent pixels
  over white; 16 bits scaled to 8.

  Args:
    encoded: the file's bytes.
    scale: of values that need one.

  Raises:
    ValueError: if the bytes are no image in one of `_FORMATS`, are cut off, or hold more pixels
      than Pillow thinks safe; if the values need a scale and there is none.
  """

  def convert(image):
    if not _needs_scale(image):
      return _to_rgb(image, Scale(0, 65535))
    if scale is None:
      raise ValueError(
        'its values are floats or of 32 bits, and no image of the study says which is white'
      )
    return _to_rgb(image, scale)

  return _read(encoded, convert)


def needed_scale(encoded: bytes) -> Scale | None:
  """The least and the largest value of an image that needs a scale; None if it needs none.

  Raises:
    ValueError: as in `decode`, and if there is no finite value.
  """

  def find(image):
    if not _needs_scale(image):
      _to_rgb(image, Scale(0, 65535))  # so that whatever cannot be read is found now
      return None
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    if not values.size:
      raise ValueError('it holds no finite number')
    return Scale(float(values.min()), float(values.max()))

  return _read(encoded, find)


def widest(scales: Iterable[Scale | None]) -> Scale | None:
  """The one scale of several images: from the least value of all to the largest."""
  found = [scale for scale in scales if scale]
  return Scale(min(s.low for s in found), max(s.high for s in found)) if found else None


def _read(encoded: bytes, function: Callable[[Image.Image], Any]) -> Any:
  """The function of the opened image."""
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
        return function(image)
  except UnidentifiedImageError as error:  # its message holds an address in memory
    raise ValueError(_what(encoded)) from error
  except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
    raise ValueError(str(error) or type(error).__name__) from error


def _what(encoded: bytes) -> str:
  """What a file is that cannot be read, and what to do."""

  def first(kinds):
    return next((name for at, heads, name in kinds if encoded.startswith(heads, at)), None)

  if encoded.startswith(b'<?xml'):
    encoded = encoded[encoded.find(b'<svg') :]  # an SVG drawing may begin so, and so may anything
  image = first(_OTHERS)
  if image:
    return f'{image}; convert it to PNG or JPEG, as with: magick FILE FILE.png'
  return first(_NO_IMAGES) or 'not an image'


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


def _needs_scale(image: Image.Image) -> bool:
  # Pillow opens files of 16 bits as I;16, and scales those of PPM to 16 bits in 32.
  return image.mode == 'F' or (image.mode == 'I' and image.format not in ('PNG', 'PPM'))


def _to_rgb(image: Image.Image, scale: Scale) -> Image.Image:
  """An image of any mode; of one channel of many values, with black and white as `scale` says."""
  if image.mode.startswith('I') or image.mode == 'F':
    shares = np.asarray(image).astype(np.float32)
    # In place: such an image may have 89 million pixels.
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
