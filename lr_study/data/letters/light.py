"""Lights a height field with sun and sky."""

import numpy as np

from lr_study.data.letters.noise import noise


def light(
  rng: np.random.Generator, albedo: np.ndarray, height: np.ndarray, sunk: np.ndarray, size: int
) -> np.ndarray:
  """Lights a stone.

  Args:
    rng: draws the sun, the sky and a shadow.
    albedo: float32 (size, size, 3), 0 to 1; overwritten.
    height: (size + 1, size + 1), in pixels; has one more row and column than the image.
    sunk: (size, size), how deep in a groove a place is, 0 to 1.
    size: height and width of the image in pixels.

  Returns:
    The reflected light, (size, size, 3); 1 is white stone in full light.
  """
  slope_x = height[1:, 1:] - height[1:, :-1]
  slope_y = height[1:, 1:] - height[:-1, 1:]
  azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(10, 65))
  sun_x, sun_y = np.cos(azimuth) / np.tan(elevation), np.sin(azimuth) / np.tan(elevation)
  flat = min(1.0, 2.0 / np.hypot(sun_x, sun_y))  # slopes would be too bright in low light
  cosine = np.float32(-sun_x * flat) * slope_x - np.float32(sun_y * flat) * slope_y + 1
  cosine /= np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
  sun = np.clip(cosine, 0, np.float32(2.2))
  # Cast shadows, if the ground a few pixels away is higher than the ray towards the sun.
  ground = height[1:, 1:]
  for reach in (1.5, 3.5):
    step = reach * size / 64
    dx, dy = round(step * np.cos(azimuth)), round(step * np.sin(azimuth))
    towards = _shifted(ground, dy, dx)
    above = towards - ground - np.float32(np.hypot(dx, dy) * np.tan(elevation))
    sun *= 1 - np.clip(above * np.float32(64 / size * 2), 0, 1)
  if rng.random() < 0.3:  # the shadow of a tree or of another stone
    direction = rng.normal(0, 1, 2)
    direction *= rng.uniform(2, 12) / np.hypot(*direction)
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    edge = steps[:, None] * np.float32(direction[0]) + steps * np.float32(direction[1])
    edge = edge + noise(rng, size, 8) * np.float32(rng.uniform(0, 0.8))
    edge += np.float32(rng.normal(0, 1))
    sun *= 1 - np.clip(edge + np.float32(0.5), 0, 1) * np.float32(rng.uniform(0.4, 1.0))
  sky = rng.uniform(0.2, 0.6) if rng.random() < 0.75 else rng.uniform(0.6, 0.95)
  open_sky = 1 - sunk * np.float32(rng.uniform(0.3, 0.6))  # less of the sky lights a groove
  warmth = rng.uniform(0, 0.12)
  sun_colour = np.float32([1 + warmth, 1, 1 - 1.5 * warmth]) * np.float32(1 - sky)
  sky_colour = np.float32([1 - 0.6 * warmth, 1, 1 + warmth]) * np.float32(sky)
  arriving = sun[..., None] * sun_colour
  arriving += open_sky[..., None] * sky_colour
  albedo *= arriving
  if rng.random() < 0.3:  # polished stone reflects the sky, but not in the letter
    mirror = np.clip(noise(rng, size, 2) * np.float32(0.5) + np.float32(0.5), 0, 1)
    mirror = mirror * (1 - sunk) * np.float32(rng.uniform(0.05, 0.2))
    albedo += mirror[..., None] * np.float32([0.92, 0.97, 1.0])
  return albedo


def _shifted(field: np.ndarray, down: int, right: int) -> np.ndarray:
  """field[y + down, x + right], with the edges repeated."""
  rows = np.clip(np.arange(len(field)) + down, 0, len(field) - 1)
  columns = np.clip(np.arange(field.shape[1]) + right, 0, field.shape[1] - 1)
  return field.take(rows, 0).take(columns, 1)
