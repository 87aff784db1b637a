"""One letter on a gravestone as an RGB image: a pure function of (seed, letter, index, size)."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from lr_study.data.letters import camera, faces, stones
from lr_study.data.letters.light import light
from lr_study.data.letters.noise import fractal, noise, stretched

VERSION = '2.0.0'  # of the images; raise it whenever a pixel changes
LETTERS = 'ABCEHNORST'  # the ten classes of the published experiment ...
PER_CLASS = 700  # ... and its number of images of each
SIZES = (64, 256)  # smallest and largest image in pixels
UNSEEN_EVERY = 4  # every 4th image has a typeface and a stone that the others do not have


def is_unseen(index: int | np.ndarray) -> bool | np.ndarray:
  """True for the images that a split by typeface and stone uses for validation."""
  return index % UNSEEN_EVERY == UNSEEN_EVERY - 1


class Plan(NamedTuple):
  """What an image shows, and the generator for everything else."""

  face: faces.Face
  weight: int | None
  stone: stones.Stone
  rng: np.random.Generator


def plan(seed: int, letter: str, index: int) -> Plan:
  """Chooses the typeface and the stone of an image."""
  rng = np.random.default_rng([seed, ord(letter), index])
  unseen = is_unseen(index)
  face, weight = faces.draw_face(rng, unseen)
  return Plan(face, weight, stones.draw_stone(rng, unseen), rng)


def render(seed: int, letter: str, index: int, size: int) -> np.ndarray:
  """Renders one photograph-like image of a letter on a gravestone.

  The stone is a height field: the relief of a slab, with the letter cut into it or raised above it
  by a profile of the distance from its outline. Sun and sky light it (Lambert's cosine law with
  the field's normals), and a camera takes a picture.

  Args:
    seed: seed of the data set.
    letter: one capital letter.
    index: which image of this letter, from 0.
    size: height and width in pixels.

  Returns:
    uint8 array of shape (size, size, 3), the same for the same arguments.
  """
  face, weight, stone, rng = plan(seed, letter, index)
  slab = stones.slab(rng, stone, size)
  distance = _wear(rng, _look(rng, letter, face, weight, size), size)
  inside = np.clip(distance[1:, 1:] + np.float32(0.5), 0, 1)
  relief, sunk = _profile(rng, distance, size)
  height = relief
  height[1:, 1:] += slab.relief * np.float32(size / 64)
  albedo = _paint(rng, slab.albedo, inside, stone, size)
  _age(rng, albedo, inside, size)
  image = light(rng, albedo, height, sunk, size)
  stroke = _stroke(distance)
  taken = camera.take(rng, image, 0.4 * stroke, size)
  if not camera.legible(taken, inside):
    # Dirt darkens a cut, or rain makes it pale: increase either, and take a sharper picture.
    pale = rng.random() < (0.8 if image.mean() < 0.3 else 0.2)
    for _ in range(3):
      image *= (1 + inside * np.float32(0.8 if pale else -0.5))[..., None]
      taken = camera.take(rng, image, 0.2 * stroke, size)
      if camera.legible(taken, inside):
        break
  return camera.develop(rng, taken, size)


def _look(
  rng: np.random.Generator, letter: str, face: faces.Face, weight: int | None, size: int
) -> np.ndarray:
  """The distance from the outlines in pixels, (size + 1, size + 1), from a random viewpoint."""
  line = faces.set_line(rng, letter, face, weight, round(0.75 * size))
  # Cropped to the letter and squashed to a square, fully or partly, like crops of photographs.
  fit = rng.uniform(0.62, 0.95) * size
  width, height = line.ink
  largest = max(width, height)
  squash = rng.uniform(0, 1)
  scale_x = fit / largest * (largest / max(width, 0.4 * height)) ** squash
  scale_y = fit / largest * (largest / height) ** squash
  if rng.random() < 0.3:  # farther away, with more of the line
    farther = rng.uniform(0.65, 1.0)
    scale_x, scale_y = scale_x * farther, scale_y * farther
  angle, slant = np.radians(rng.normal(0, 5.5)), rng.normal(0, 0.06)
  if rng.random() < 0.2:  # an italic line
    slant -= rng.uniform(0.1, 0.35)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  shape = np.array([[1.0, slant], [0.0, 1.0]]) @ np.diag([scale_x, scale_y])
  shift = np.clip(rng.normal(0, 0.045, 2), -0.12, 0.12) * size
  away = rng.normal(0, 0.12, 2) / size  # perspective: how fast the far side shrinks
  forward = np.eye(3)
  forward[:2, :2] = turn @ shape
  forward[:2, 2] = size / 2 + 0.5 + shift
  centre = np.eye(3)
  centre[:2, 2] = -np.asarray(line.distance.shape[::-1]) / 2
  tilt = np.eye(3)
  tilt[2, :2] = away
  tilt = _about(size / 2) @ tilt @ _about(-size / 2)
  back = np.linalg.inv(tilt @ forward @ centre)
  back /= back[2, 2]
  seen = Image.fromarray(line.distance).transform(
    (size + 1, size + 1),
    Image.Transform.PERSPECTIVE,
    back.ravel()[:8].tolist(),
    Image.Resampling.BILINEAR,
    fillcolor=float(line.distance.min()),
  )
  return np.asarray(seen) * np.float32(np.sqrt(scale_x * scale_y))


def _about(shift: float) -> np.ndarray:
  matrix = np.eye(3)
  matrix[:2, 2] = shift
  return matrix


def _stroke(distance: np.ndarray) -> float:
  """The width of strokes in pixels; in a stroke of width w, the mean distance is w / 4."""
  strokes = distance[distance > 0]
  return 4 * float(strokes.mean()) if len(strokes) else 1.0


def _wear(rng: np.random.Generator, distance: np.ndarray, size: int) -> np.ndarray:
  """The distance from worn outlines, with crumbled edges and chips broken off."""
  side, pixel = len(distance), size / 64
  distance = distance + noise(rng, side, 32) * np.float32(pixel * rng.uniform(0, 0.35))
  if rng.random() < 0.4:  # thicker strokes than the typeface's, up to a sixth of the image
    room = max(0.0, size / 6 - _stroke(distance))
    distance += np.float32(room / 2 * rng.uniform(0, 1))
  if rng.random() < 0.35:
    chips = noise(rng, side, int(rng.choice((8, 16)))) - np.float32(rng.uniform(1.4, 2.2))
    distance -= np.maximum(chips, 0) * np.float32(pixel * 2)
  return distance


def _profile(
  rng: np.random.Generator, distance: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """The letter's height in pixels, and how deep each place lies, 0 to 1."""
  pixel = size / 64
  soft = np.float32((pixel * rng.uniform(0.15, 0.9)) ** 2)  # worn edges are round
  inner = (distance + np.sqrt(distance * distance + soft)) * np.float32(0.5)
  kind = rng.random()
  if kind < 0.55:  # cut to a V, by a chisel
    slope, floor = rng.uniform(0.7, 1.5), pixel * rng.uniform(2.5, 7)
  elif kind < 0.75:  # blasted: steep walls, a flat floor
    slope, floor = rng.uniform(1.2, 2.5), pixel * rng.uniform(0.7, 1.5)
  else:  # raised, with the stone around it removed
    slope, floor = -rng.uniform(0.7, 2.0), pixel * rng.uniform(0.8, 2.0)
  depth = np.minimum(inner, np.float32(floor))
  share = depth * np.float32(1 / floor)
  height = depth * np.float32(-slope)
  return height, share[1:, 1:] if slope > 0 else (1 - share)[1:, 1:] * np.float32(0.5)


class _Fill(NamedTuple):
  """A colour on the letter, and the range of how much it covers."""

  colour: tuple[float, float, float]
  cover: tuple[float, float]


_DARK = (
  _Fill((0.10, 0.09, 0.07), (0.5, 0.8)),  # dirt
  _Fill((0.04, 0.04, 0.05), (0.8, 1.0)),  # black paint
  _Fill((0.16, 0.16, 0.18), (0.8, 1.0)),  # lead
  _Fill((0.35, 0.08, 0.06), (0.7, 0.95)),  # red paint
  _Fill((0.10, 0.12, 0.28), (0.7, 0.95)),  # blue paint
)
_PALE = (
  _Fill((0.86, 0.85, 0.82), (0.5, 0.8)),  # freshly cut, or frosted on polished stone
  _Fill((0.93, 0.93, 0.91), (0.8, 1.0)),  # white paint
  _Fill((0.85, 0.64, 0.24), (0.75, 1.0)),  # gilding
)


def _paint(
  rng: np.random.Generator,
  albedo: np.ndarray,
  inside: np.ndarray,
  stone: stones.Stone,
  size: int,
) -> np.ndarray:
  """Puts paint, gilding or dirt on the letter, or leaves the stone bare."""
  if rng.random() < 0.3:
    return albedo
  brightness = np.mean(stone.ground)
  dark = rng.random() < np.clip((brightness - 0.15) * 1.6, 0.05, 0.75)
  fills = _DARK if dark else _PALE
  fill = fills[rng.integers(len(fills))]
  whole = rng.uniform(1.0, 3.0) if rng.random() < 0.5 else 5.0
  worn = fractal(rng, size, 8, 3) * 2 + np.float32(whole)
  cover = np.clip(worn, np.float32(0.25), 1) * inside * np.float32(rng.uniform(*fill.cover))
  albedo += cover[..., None] * (np.float32(fill.colour) - albedo)
  return albedo


_LICHENS = ((0.62, 0.66, 0.58), (0.80, 0.80, 0.74), (0.72, 0.50, 0.12), (0.45, 0.45, 0.30))


def _age(rng: np.random.Generator, albedo: np.ndarray, inside: np.ndarray, size: int) -> None:
  """Adds stains, lichen and moss, in place."""
  if rng.random() < 0.5:  # rain runs down
    drips = stretched(rng, size, 3, int(rng.integers(5, 30)))
    stain = np.clip(drips * np.float32(0.5), 0, 1) * np.float32(rng.uniform(0.1, 0.4))
    albedo *= (1 - stain)[..., None]
  if rng.random() < 0.35:  # patches with a ragged edge
    patches = noise(rng, size, int(rng.choice((4, 8)))) + noise(rng, size, 32) * np.float32(0.4)
    cover = np.clip((patches - np.float32(rng.uniform(1.2, 2.0))) * 4, 0, 1)
    cover *= np.float32(rng.uniform(0.4, 0.85))
    colour = np.float32(_LICHENS[rng.integers(len(_LICHENS))])
    albedo += cover[..., None] * (colour - albedo)
  if rng.random() < 0.15:  # moss grows in the damp of the cut
    damp = noise(rng, size, 8) + inside * np.float32(1.2) - np.float32(rng.uniform(1.0, 1.8))
    cover = np.clip(damp * 2, 0, 1) * np.float32(rng.uniform(0.4, 0.8))
    albedo += cover[..., None] * (np.float32([0.20, 0.26, 0.10]) - albedo)
