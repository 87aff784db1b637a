"""Image files of any kind to upright RGB squares."""

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

RESIZE_MODES = ('squash', 'crop', 'fill', 'half_crop')


def decode(encoded: bytes) -> Image.Image:
  """Decodes an image file's bytes to an upright RGB image.

  The first frame of an animation; turned as its EXIF orientation says; transparent pixels
  over white; 16 bits scaled to 8.

  Raises:
    ValueError: if the bytes are no image that Pillow reads, are cut off, or hold more pixels
      than Pillow thinks safe.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of odd metadata, which does no harm ...
      warnings.simplefilter('error', Image.DecompressionBombWarning)  # ... a bomb does
      with Image.open(BytesIO(encoded)) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
  except UnidentifiedImageError as error:  # its message holds an address in memory
    raise ValueError('not an image') from error
  except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
    raise ValueError(str(error) or type(error).__name__) from error


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
  ratios = (image.width / size, image.height / size)
  if mode == 'squash' or ratios[0] == ratios[1]:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
  ratio = {'crop': min(ratios), 'fill': max(ratios), 'half_crop': sum(ratios) / 2}[mode]
  width, height = (max(1, round(n / ratio)) for n in image.size)
  scaled = image.resize((width, height), Image.Resampling.BILINEAR)
  # Noise, as in DIGITS, so that no flat border can be learned; seeded, so that the same
  # image always comes out the same.
  noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
  square = Image.fromarray(noise)
  square.paste(scaled, ((size - width) // 2, (size - height) // 2))
  return np.asarray(square)


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I') or image.mode == 'F':
    values = np.asarray(image, np.float64)
    # Pillow opens 16-bit files in these modes; a float image holds 0 to 1 or 0 to 255.
    tops = (1, 255, 65535) if image.mode == 'F' else (255, 65535) if image.mode == 'I' else (65535,)
    top = next((top for top in tops if values.max() <= top), tops[-1])
    image = Image.fromarray(np.uint8(np.clip(np.nan_to_num(values) / top, 0, 1) * 255 + 0.5))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')
  return image.convert('RGB')
