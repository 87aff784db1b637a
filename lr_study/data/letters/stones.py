"""Slabs of stone: granite, marble, sandstone and slate, each from several quarries."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lr_study.data.letters.noise import fractal, noise, stretched

Colour = tuple[float, float, float]


class Stone(NamedTuple):
  """The stone of a quarry: its kind, the colour of its ground, and that of its inclusions."""

  name: str
  kind: str
  ground: Colour
  inner: Colour
  amount: float  # of the inner colour, 0 to 1


class Slab(NamedTuple):
  """albedo: float32 (size, size, 3) in 0 to 1. relief: (size, size), in pixels at 64 px."""

  albedo: np.ndarray
  relief: np.ndarray


SEEN = (
  Stone('grey granite', 'granite', (0.56, 0.55, 0.54), (0.16, 0.16, 0.17), 0.35),
  Stone('pink granite', 'granite', (0.62, 0.52, 0.48), (0.28, 0.27, 0.27), 0.35),
  Stone('black granite', 'granite', (0.13, 0.13, 0.14), (0.30, 0.30, 0.32), 0.25),
  Stone('white marble', 'marble', (0.84, 0.83, 0.80), (0.50, 0.51, 0.53), 0.5),
  Stone('grey marble', 'marble', (0.60, 0.60, 0.61), (0.86, 0.86, 0.85), 0.6),
  Stone('cream marble', 'marble', (0.82, 0.75, 0.62), (0.58, 0.45, 0.32), 0.5),
  Stone('buff sandstone', 'sandstone', (0.70, 0.60, 0.43), (0.56, 0.42, 0.26), 0.6),
  Stone('red sandstone', 'sandstone', (0.56, 0.39, 0.31), (0.45, 0.29, 0.22), 0.6),
  Stone('brown sandstone', 'sandstone', (0.46, 0.37, 0.29), (0.34, 0.26, 0.20), 0.6),
  Stone('blue slate', 'slate', (0.25, 0.28, 0.33), (0.33, 0.36, 0.40), 0.5),
  Stone('grey slate', 'slate', (0.38, 0.38, 0.38), (0.30, 0.30, 0.31), 0.5),
  Stone('purple slate', 'slate', (0.33, 0.27, 0.30), (0.40, 0.34, 0.35), 0.5),
)
# The stones that a split by stone keeps for validation: one in four of each kind.
UNSEEN = (
  Stone('red granite', 'granite', (0.46, 0.30, 0.27), (0.14, 0.12, 0.12), 0.4),
  Stone('green marble', 'marble', (0.24, 0.30, 0.27), (0.66, 0.70, 0.67), 0.5),
  Stone('grey sandstone', 'sandstone', (0.57, 0.55, 0.49), (0.45, 0.42, 0.37), 0.6),
  Stone('green slate', 'slate', (0.34, 0.38, 0.33), (0.27, 0.30, 0.28), 0.5),
)


def describe() -> str:
  """A sentence that names the stones."""
  seen, unseen = (', '.join(stone.name for stone in stones) for stones in (SEEN, UNSEEN))
  return f'Stones: {seen}; and, on the unseen side of the split, {unseen}.'


def draw_stone(rng: np.random.Generator, unseen: bool) -> Stone:
  """Draws a stone of one side of the split."""
  stones = UNSEEN if unseen else SEEN
  return stones[rng.integers(len(stones))]


def slab(rng: np.random.Generator, stone: Stone, size: int) -> Slab:
  """Draws a slab of `size` pixels of a stone."""
  ground = _vary(rng, stone.ground)
  share, shade, relief = _KINDS[stone.kind](rng, stone.amount, size)
  step = _vary(rng, stone.inner) - ground
  albedo = share[..., None] * step
  albedo += ground
  albedo *= shade[..., None]
  return Slab(albedo, relief)


# Each kind returns the share of the inner colour, a factor on all colours, and the relief.
Kind = tuple[np.ndarray, np.ndarray, np.ndarray]


def _granite(rng: np.random.Generator, amount: float, size: int) -> Kind:
  """Crystals of two sizes: dark ones among pale ones of uneven shades."""
  cells = int(rng.choice((16, 32, 64)))
  dark, feldspar = noise(rng, size, cells), noise(rng, size, cells)
  fine = noise(rng, size, min(size, 4 * cells))
  threshold = np.float32(1.6 - 2.2 * amount)
  share = np.clip((dark + np.float32(0.4) * fine - threshold) * 4, 0, 1)
  shade = np.clip(feldspar * 5, -1, 1) * np.float32(rng.uniform(0.03, 0.12))
  shade += fine * np.float32(0.06)
  shade += 1
  return share, shade, fine * np.float32(0.05)


def _marble(rng: np.random.Generator, amount: float, size: int) -> Kind:
  """Veins, thin and wide, where a smooth field is near zero, and clouds between them."""
  warp = fractal(rng, size, 2, 5)
  thin = np.float32(rng.uniform(6, 25)) * warp
  share = np.float32(amount * rng.uniform(0.3, 1.0)) / (1 + thin * thin)
  share *= np.clip(noise(rng, size, 4) * np.float32(0.6) + np.float32(0.6), 0, 1)
  shade = fractal(rng, size, 2, 3) * np.float32(0.05)
  shade += 1
  return share, shade, noise(rng, size, 64) * np.float32(0.03)


def _sandstone(rng: np.random.Generator, amount: float, size: int) -> Kind:
  """Beds that lie at an angle and bend, and grains of sand."""
  steps = np.linspace(0, 1, size, dtype=np.float32)
  angle = rng.normal(0, 0.5)
  across = steps[:, None] * np.float32(np.cos(angle)) + steps * np.float32(np.sin(angle))
  across += noise(rng, size, 2) * np.float32(0.04)
  across -= across.min()
  # Beds of all widths: a random profile, looked up by the position across them.
  profile = stretched(rng, 512, int(rng.integers(6, 40)), 1)[:, 0]
  share = profile[(across * np.float32(511 / max(1.0, across.max()))).astype(np.int32)]
  share = np.clip(share * np.float32(0.35 * amount / 0.6) + np.float32(0.5 * amount), 0, 1)
  grain = noise(rng, size, size // 2)
  shade = grain * np.float32(rng.uniform(0.04, 0.10)) + noise(rng, size, 4) * np.float32(0.05)
  shade += 1
  return share, shade, grain * np.float32(rng.uniform(0.04, 0.12))


def _slate(rng: np.random.Generator, amount: float, size: int) -> Kind:
  """Sheets: terraces where it was split, and fine lines in one direction."""
  sheet = fractal(rng, size, 2, 4)
  terraces = np.floor(sheet * 2) * np.float32(0.5)
  lines = stretched(rng, size, size // 2, size // 12)
  lines = lines.T if rng.random() < 0.5 else lines
  share = np.clip(lines * np.float32(0.3) + sheet * np.float32(0.3) + np.float32(amount), 0, 1)
  shade = sheet * np.float32(0.06) + lines * np.float32(0.05)
  shade += 1
  return share, shade, terraces * np.float32(rng.uniform(0, 0.5)) + lines * np.float32(0.04)


_KINDS: dict[str, Callable[[np.random.Generator, float, int], Kind]] = {
  'granite': _granite,
  'marble': _marble,
  'sandstone': _sandstone,
  'slate': _slate,
}


def _vary(rng: np.random.Generator, colour: Colour) -> np.ndarray:
  """Varies a colour between slabs: a little lighter or darker, warmer or colder."""
  warm = np.float32([1.0, 0.1, -0.9]) * np.float32(rng.normal(0, 0.015))
  return np.float32(colour) * np.float32(rng.uniform(0.8, 1.2)) + warm
