"""Typefaces as signed distances from the outline, and lines of letters set in them."""

import functools
import importlib.util
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import scipy  # imports scipy.ndimage, which takes long, only when it is used
from PIL import Image, ImageDraw, ImageFont

from lr_study.errors import StudyError

_MARGIN = 0.16  # around a glyph, as a share of the height of a capital; distances end there


class Face(NamedTuple):
  """One upright file of a `fontpkg-*` package; `weights`: the ends of its axis, if it has one."""

  package: str
  file: str
  weights: tuple[int, int] | None
  sans: bool = False
  licence: str = 'OFL-1.1'

  @property
  def family(self) -> str:
    """Its name in lower case: `eb garamond`."""
    return self.package.replace('_', ' ')


# Mostly serif capitals, as masons cut them; slab and sans faces as on later stones.
SEEN = (
  Face('abril_fatface', 'AbrilFatface-Regular.ttf', None),
  Face('alfa_slab_one', 'AlfaSlabOne-Regular.ttf', None),
  Face('archivo_narrow', 'ArchivoNarrow[wght].ttf', (500, 700), sans=True),
  Face('bodoni_moda', 'BodoniModa[opsz,wght].ttf', (500, 900)),
  Face('cardo', 'Cardo-Regular.ttf', None),
  Face('cardo', 'Cardo-Bold.ttf', None),
  Face('cinzel', 'Cinzel[wght].ttf', (400, 900)),
  Face('crimson_pro', 'CrimsonPro[wght].ttf', (400, 900)),
  Face('crimson_text', 'CrimsonText-Regular.ttf', None),
  Face('crimson_text', 'CrimsonText-Bold.ttf', None),
  Face('dm_serif_display', 'DMSerifDisplay-Regular.ttf', None),
  Face('eb_garamond', 'EBGaramond[wght].ttf', (400, 800)),
  Face('frank_ruhl_libre', 'FrankRuhlLibre[wght].ttf', (400, 900)),
  Face('instrument_serif', 'InstrumentSerif-Regular.ttf', None),
  Face('josefin_sans', 'JosefinSans[wght].ttf', (400, 700), sans=True),
  Face('libre_baskerville', 'LibreBaskerville[wght].ttf', (400, 700)),
  Face('libre_franklin', 'LibreFranklin[wght].ttf', (400, 900), sans=True),
  Face('marcellus', 'Marcellus-Regular.ttf', None),
  Face('oswald', 'Oswald[wght].ttf', (300, 700), sans=True),
  Face('roboto_slab', 'RobotoSlab[wght].ttf', (300, 900), licence='Apache-2.0'),
  Face('varela_round', 'VarelaRound-Regular.ttf', None, sans=True),
  Face('vollkorn', 'Vollkorn[wght].ttf', (400, 900)),
)
# The families that a split by typeface keeps for validation: one in five, of every kind.
UNSEEN = (
  Face('arvo', 'Arvo-Regular.ttf', None),
  Face('arvo', 'Arvo-Bold.ttf', None),
  Face('cormorant', 'Cormorant[wght].ttf', (500, 700)),
  Face('domine', 'Domine[wght].ttf', (400, 700)),
  Face('league_spartan', 'LeagueSpartan[wght].ttf', (400, 900), sans=True),
  Face('lora', 'Lora[wght].ttf', (400, 700)),
  Face('playfair_display', 'PlayfairDisplay[wght].ttf', (400, 900)),
)
_SANS = 0.4  # share of letters without serifs


class Glyph(NamedTuple):
  """A letter as distances from its outline: float32 (rows, columns), in pixels, positive inside.

  The other fields are in pixels too. The pen is at column `origin`, and `advance` further on for
  the next letter. Row 0 is `top` rows below the middle of capitals.
  """

  distance: np.ndarray
  origin: float
  advance: float
  top: float


class Line(NamedTuple):
  """A letter among others: distance (rows, columns), with the letter in the centre.

  ink: width and height of the letter's strokes. Everything is in pixels.
  """

  distance: np.ndarray
  ink: tuple[float, float]


def describe() -> str:
  """A sentence that names the typefaces."""
  seen, unseen = (sorted({face.family for face in faces}) for faces in (SEEN, UNSEEN))
  return f'Typefaces: {", ".join(seen)}; and, on the unseen side of the split, {", ".join(unseen)}.'


def check_installed() -> None:
  """Raises StudyError if a typeface is missing: they are an extra of the package."""
  packages = sorted({face.package for face in SEEN + UNSEEN})
  missing = [name for name in packages if importlib.util.find_spec(f'fontpkg_{name}') is None]
  if missing:
    raise StudyError(
      f'{len(missing)} of the {len(packages)} typefaces that letters are rendered from are not '
      f'installed, such as fontpkg-{missing[0].replace("_", "-")}; in the checkout of '
      'lr_study, run pip install ".[letters]"'
    )


def licences() -> str:
  """A line for each typeface with its package and its licence as an SPDX name."""
  found = {face.package: face.licence for face in SEEN + UNSEEN}
  lines = [f'fontpkg-{name.replace("_", "-")}: {found[name]}' for name in sorted(found)]
  return 'The images: Apache-2.0. The typefaces they were rendered from:\n' + '\n'.join(lines)


def draw_face(rng: np.random.Generator, unseen: bool) -> tuple[Face, int | None]:
  """Draws a family of one side of the split, one of its faces, and one of its weights, if any."""
  sans = rng.random() < _SANS
  by_family = {}
  for face in UNSEEN if unseen else SEEN:
    if face.sans == sans:
      by_family.setdefault(face.package, []).append(face)
  families = list(by_family.values())
  faces = families[rng.integers(len(families))]
  face, step = faces[rng.integers(len(faces))], int(rng.integers(4))
  if face.weights is None:
    return face, None
  light, heavy = face.weights
  return face, light + (heavy - light) * step // 3


def set_line(
  rng: np.random.Generator, letter: str, face: Face, weight: int | None, cap: int
) -> Line:
  """Sets `letter` among other capitals of its face, parts of which are visible at the edges.

  Args:
    rng: draws the neighbours and the spacing.
    letter: the one in the middle.
    face: of all letters.
    weight: on the face's axis.
    cap: height of a capital in pixels.
  """
  half = round(1.35 * cap)
  canvas = np.full((2 * half, 2 * half), -_MARGIN * cap, np.float32)
  main = glyph(face, weight, letter, cap)
  rows, columns = main.distance.shape
  spacing = rng.uniform(-0.02, 0.2) * cap
  margin = round(_MARGIN * cap)
  middle = columns / 2
  left = half - middle
  _paste(canvas, main, half + main.top, left)
  ink = (columns - 2 * margin, rows - 2 * margin)
  alone = rng.random() < 0.2
  for way in (-1, 1):
    x = left + main.origin + (main.advance if way > 0 else 0)
    for _ in range(0 if alone or rng.random() < 0.15 else 2):
      other = glyph(face, weight, _NEIGHBOURS[rng.integers(len(_NEIGHBOURS))], cap)
      x += spacing * way - (other.advance if way < 0 else 0)
      _paste(canvas, other, half + other.top, x - other.origin)
      x += other.advance if way > 0 else 0
  gap = rng.uniform(1.45, 2.4) * cap
  for way in (-1, 1):
    if gap < 1.8 * cap and rng.random() < 0.5:
      x = half - rng.uniform(0.3, 1.2) * cap
      for _ in range(2):
        other = glyph(face, weight, _NEIGHBOURS[rng.integers(len(_NEIGHBOURS))], cap)
        _paste(canvas, other, half + other.top + way * gap, x - other.origin)
        x += other.advance + spacing
  return Line(canvas, ink)


_NEIGHBOURS = 'AABCDEEEHHILMNNORRSSTTUY'


@functools.lru_cache(maxsize=1024)
def glyph(face: Face, weight: int | None, letter: str, cap: int) -> Glyph:
  """Computes distances from a letter's outline; capitals are `cap` pixels high."""
  scale = 1 if cap > 100 else 2  # drawn at twice the size if pixels are coarse
  font, middle = _font(face, weight, cap * scale)
  left, top, right, bottom = map(int, font.getbbox(letter, anchor='ls'))
  margin = round(_MARGIN * cap) * scale
  width, height = (-(-n // scale) * scale + 2 * margin for n in (right - left, bottom - top))
  canvas = Image.new('L', (width, height))
  ImageDraw.Draw(canvas).text((margin - left, margin - top), letter, 255, font, anchor='ls')
  inside = np.asarray(canvas) >= 128
  depth = scipy.ndimage.distance_transform_edt
  distance = depth(inside) - depth(~inside)
  distance = np.maximum(distance.astype(np.float32), -margin)
  if scale == 1:
    # Smooths the steps between pixels.
    distance = scipy.ndimage.uniform_filter(distance, 3, mode='nearest')
  else:
    distance = distance.reshape(height // scale, scale, width // scale, scale).mean((1, 3)) / scale
  return Glyph(
    distance,
    (margin - left) / scale,
    font.getlength(letter) / scale,
    (top - margin - middle) / scale,
  )


@functools.lru_cache(maxsize=256)
def _font(face: Face, weight: int | None, cap: int) -> tuple[ImageFont.FreeTypeFont, float]:
  """The font at a size at which capitals are `cap` high, and the row of the capitals' middle."""

  def at(pixels):
    font = ImageFont.truetype(path, pixels)
    if weight is not None:
      axes: list[Any] = font.get_variation_axes()
      font.set_variation_by_axes(
        [weight if axis['name'] == b'Weight' else axis['default'] for axis in axes]
      )
    return font

  path = str(resources.files(f'fontpkg_{face.package}') / 'files' / face.file)
  _, top, _, bottom = at(1000).getbbox('H', anchor='ls')
  font = at(round(1000 * cap / (bottom - top)))
  _, top, _, bottom = font.getbbox('H', anchor='ls')
  return font, (top + bottom) / 2


def _paste(canvas: np.ndarray, glyph: Glyph, row: float, column: float) -> None:
  """Adds a glyph to the canvas, rounded to the nearest pixel and clipped at its edges."""
  rows, columns = glyph.distance.shape
  r, c = round(row), round(column)
  r0, c0 = max(r, 0), max(c, 0)
  r1, c1 = min(r + rows, len(canvas)), min(c + columns, canvas.shape[1])
  if r0 < r1 and c0 < c1:
    there = canvas[r0:r1, c0:c1]
    np.maximum(there, glyph.distance[r0 - r : r1 - r, c0 - c : c1 - c], out=there)
