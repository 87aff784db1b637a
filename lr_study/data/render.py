"""One letter cut in stone as an RGB image: a pure function of (seed, letter, index, size)."""

import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VERSION = '1.0.0'  # of the images; raise it whenever a pixel changes
LETTERS = 'ABCEHNORST'  # the ten classes of the published experiment ...
PER_CLASS = 700  # ... and its images of each
SIZES = (64, 256)  # smallest and largest image in pixels

# Upright files of the `fontpkg-*` packages, with the range of their weight axis
# (None: a static font). All are serif faces of the kind that masons cut.
FONTS = (
  ('cardo', 'Cardo-Regular.ttf', None),
  ('cardo', 'Cardo-Bold.ttf', None),
  ('cinzel', 'Cinzel[wght].ttf', (400, 900)),
  ('cormorant', 'Cormorant[wght].ttf', (400, 700)),
  ('crimson_text', 'CrimsonText-Regular.ttf', None),
  ('crimson_text', 'CrimsonText-Bold.ttf', None),
  ('domine', 'Domine[wght].ttf', (400, 700)),
  ('eb_garamond', 'EBGaramond[wght].ttf', (400, 800)),
  ('frank_ruhl_libre', 'FrankRuhlLibre[wght].ttf', (400, 900)),
  ('libre_baskerville', 'LibreBaskerville[wght].ttf', (400, 700)),
  ('marcellus', 'Marcellus-Regular.ttf', None),
  ('playfair_display', 'PlayfairDisplay[wght].ttf', (400, 900)),
  ('roboto_slab', 'RobotoSlab[wght].ttf', (300, 800)),
  ('vollkorn', 'Vollkorn[wght].ttf', (400, 900)),
)


def render(seed: int, letter: str, index: int, size: int) -> np.ndarray:
  """Renders one photograph-like image of a letter cut into a gravestone.

  The glyph, blurred, is a height field with sloping walls (a V-shaped cut); the
  sun lights it from one side (Lambert's cosine law on the field's normals).

  Args:
    seed: seed of the data set.
    letter: one capital letter.
    index: which image of this letter, from 0.
    size: height and width in pixels.

  Returns:
    uint8 array of shape (size, size, 3), the same for the same arguments.
  """
  rng = np.random.default_rng([seed, ord(letter), index])
  glyph = _glyph(rng, letter, size)
  stone = STONES[rng.integers(len(STONES))](rng, size)

  # A blur of about half a stroke's width turns the flat glyph into a groove.
  wall = rng.uniform(0.008, 0.02) * size
  groove = _blur(glyph, wall)
  depth = rng.uniform(1.6, 3.2) * wall
  height = stone.relief * size / 64 - depth * groove
  slope_y, slope_x = np.gradient(height)

  azimuth = rng.uniform(0, 2 * np.pi)
  elevation = rng.uniform(np.pi / 8, np.pi / 3)
  sun_x, sun_y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
  sun_z = np.sin(elevation)
  cosine = (sun_z - slope_x * sun_x - slope_y * sun_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
  sky = rng.uniform(0.25, 0.5) * (1 - 0.4 * groove)  # a groove sees less of the sky
  light = sky + (1 - sky) * np.maximum(cosine, 0) / sun_z

  # What the years left in the cut: dirt, bare pale stone, or remains of paint.
  fill, cover = _FILLS[rng.integers(len(_FILLS))]
  worn = np.clip(_noise(rng, size, 8, 3) + rng.uniform(0.3, 1.0), 0, 1)
  in_cut = (cover * worn * glyph)[..., None]
  albedo = stone.albedo * (1 - in_cut) + np.float32(fill) * in_cut

  image = albedo * light[..., None] * rng.uniform(0.75, 1.2)
  image += rng.normal(0, rng.uniform(0.005, 0.025), image.shape)  # sensor noise
  return np.uint8(np.clip(image, 0, 1) * 255 + 0.5)


class Stone(NamedTuple):
  """A slab of stone: albedo (size, size, 3) in 0 to 1, relief (size, size) in pixels at 64 px."""

  albedo: np.ndarray
  relief: np.ndarray


def _granite(rng: np.random.Generator, size: int) -> Stone:
  base = _colour(rng, (0.35, 0.70), tint=0.05)
  dark, pale = _noise(rng, size, size // 3, 2), _noise(rng, size, size // 2, 2)
  shade = 1 - 0.35 * (dark > 0.55) + 0.30 * (pale > 0.6) + 0.12 * _noise(rng, size, size // 4, 2)
  return Stone(base * shade[..., None], 0.10 * dark)


def _marble(rng: np.random.Generator, size: int) -> Stone:
  base = _colour(rng, (0.70, 0.92), tint=0.02)
  warp = _noise(rng, size, 3, 4)
  vein = np.exp(-np.abs(warp) * rng.uniform(8, 16))
  shade = 1 - rng.uniform(0.2, 0.45) * vein + 0.05 * _noise(rng, size, 4, 3)
  return Stone(base * shade[..., None], 0.04 * _noise(rng, size, size // 3, 2))


def _sandstone(rng: np.random.Generator, size: int) -> Stone:
  base = _colour(rng, (0.50, 0.75), tint=0.02) * np.float32([1.12, 0.96, 0.76])
  y, x = np.mgrid[:size, :size] / size
  angle = rng.normal(0, 0.25)
  bands = y * np.cos(angle) + x * np.sin(angle) + 0.08 * _noise(rng, size, 3, 2)
  grain = _noise(rng, size, size // 2, 2)
  shade = 1 + 0.09 * np.sin(bands * rng.uniform(15, 50)) + 0.12 * grain
  return Stone(base * shade[..., None], 0.16 * grain)


def _slate(rng: np.random.Generator, size: int) -> Stone:
  base = _colour(rng, (0.22, 0.40), tint=0.02) * np.float32([0.94, 1.0, 1.06])
  cleft = _noise(rng, size, 4, 4)
  shade = 1 + 0.18 * cleft + 0.08 * _noise(rng, size, size // 2, 1)
  return Stone(base * shade[..., None], 0.25 * cleft)


STONES = (_granite, _marble, _sandstone, _slate)
_FILLS = (  # colour in the cut and how much of it is covered
  ((0.10, 0.09, 0.07), 0.55),  # dirt
  ((0.88, 0.87, 0.84), 0.50),  # freshly cut stone
  ((0.05, 0.05, 0.05), 0.90),  # black paint
  ((0.80, 0.62, 0.25), 0.85),  # gilding
  ((0.0, 0.0, 0.0), 0.0),  # nothing
)


def _glyph(rng: np.random.Generator, letter: str, size: int) -> np.ndarray:
  """Draws the letter, a little turned and off centre: (size, size) coverage in 0 to 1."""
  package, file, weights = FONTS[rng.integers(len(FONTS))]
  weight = None if weights is None else 100 * round(rng.uniform(*weights) / 100)
  scale = 2  # drawn at twice the size, so that edges stay smooth
  font = _font(package, file, weight, round(rng.uniform(0.72, 0.98) * size * scale))
  canvas = Image.new('L', (size * scale, size * scale))
  centre = size * scale / 2 + rng.normal(0, 0.035, 2) * size * scale
  ImageDraw.Draw(canvas).text(tuple(centre), letter, fill=255, font=font, anchor='mm')
  # 'mm' centres the line, whose ascenders are higher than a capital: shift the ink itself.
  left, top, right, bottom = canvas.getbbox()
  shift = np.round(centre - ((left + right) / 2, (top + bottom) / 2)).astype(int)
  canvas = canvas.rotate(
    rng.normal(0, 4.0), Image.Resampling.BILINEAR, translate=(int(shift[0]), int(shift[1]))
  )
  canvas = canvas.resize((size, size), Image.Resampling.BOX)
  return np.asarray(canvas, np.float32) / 255


@functools.lru_cache(maxsize=512)
def _font(package: str, file: str, weight: int | None, pixels: int) -> ImageFont.FreeTypeFont:
  path = resources.files(f'fontpkg_{package}') / 'files' / file
  font = ImageFont.truetype(str(path), pixels)
  if weight is not None:
    font.set_variation_by_axes([weight])
  return font


def _colour(rng: np.random.Generator, brightness: tuple[float, float], tint: float) -> np.ndarray:
  # Minerals are grey, or warm (iron) more often than cold: green and violet stones look wrong.
  warm = np.float32([1.0, 0.1, -0.6]) * (rng.gamma(1.0, tint) - tint / 2)
  return np.float32(rng.uniform(*brightness)) + warm + np.float32(rng.normal(0, tint / 6, 3))


def _noise(rng: np.random.Generator, size: int, cells: int, octaves: int) -> np.ndarray:
  """Smooth noise of about -1 to 1, (size, size): random grids of `cells`, 2 `cells`, ... added."""
  total = np.zeros((size, size), np.float32)
  for octave in range(octaves):
    n = min(cells * 2**octave, size)
    grid = Image.fromarray(rng.standard_normal((n, n), np.float32))
    total += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) * 0.5**octave
  return total / (2 * np.sqrt(sum(0.25**k for k in range(octaves))))


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
  # Pillow blurs 8-bit images only; 8 bits would show as terraces on a slope that is lit.
  spread = max(1, round(radius * 1.2))
  kernel = np.hanning(2 * spread + 3)[1:-1].astype(np.float32)
  kernel /= kernel.sum()
  padded = np.pad(image, spread, mode='edge')
  n = image.shape[0]
  rows = sum(k * padded[i : i + n] for i, k in enumerate(kernel))
  return sum(k * rows[:, i : i + n] for i, k in enumerate(kernel))
