"""Takes a picture of a lit stone, and checks whether a person could read it."""

import numpy as np
from PIL import Image, ImageFilter

from lr_study.data.letters.noise import noise


def take(
  rng: np.random.Generator, image: np.ndarray, largest_blur: float, size: int
) -> Image.Image:
  """A picture of light (size, size, 3): exposed, and blurred by at most `largest_blur` pixels."""
  exposure = (rng.uniform(0.2, 0.75) / max(float(image.mean()), 0.02)) ** 0.7
  image = image * np.float32(min(exposure, 3.0))
  # The response of film and sensors: a shoulder instead of a hard limit.
  image = image * np.float32(1.25) / (image * np.float32(0.45) + np.float32(0.8))
  taken = Image.fromarray(np.uint8(np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)))
  blur = rng.uniform(0, 0.6) if rng.random() < 0.6 else rng.uniform(0.6, 3.2)
  blur = min(blur * size / 64, largest_blur)
  return taken.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.25 else taken


def develop(rng: np.random.Generator, taken: Image.Image, size: int) -> np.ndarray:
  """Adds the noise of the sensor: of each pixel, and of colours over two pixels."""
  image = np.asarray(taken, np.float32)
  grain = np.float32(255 * rng.gamma(2.0, 0.007))
  image += noise(rng, size, size)[..., None] * grain
  image += np.stack([noise(rng, size, size // 2) for _ in range(3)], -1) * (grain * np.float32(0.5))
  return np.uint8(np.clip(image, 0, 255) + np.float32(0.5))


_COARSE = 32  # width and height in pixels at which legibility is judged


def legible(taken: Image.Image, inside: np.ndarray) -> bool:
  """True if enough of the image's contrast comes from the letter.

  The image is fitted by the letter's area, which paint shows, and by its slopes in two directions,
  which light shows. The residual is stone, stains and shadows.
  """
  grey = taken.convert('L').resize((_COARSE, _COARSE), Image.Resampling.BOX)
  values = np.asarray(grey, np.float32)[1:-1, 1:-1] / 255
  area = Image.fromarray(inside).resize((_COARSE, _COARSE), Image.Resampling.BOX)
  area = np.asarray(area)
  shapes = np.stack(
    [
      area[1:-1, 1:-1],
      area[1:-1, 2:] - area[1:-1, :-2],
      area[2:, 1:-1] - area[:-2, 1:-1],
      np.ones_like(values),
    ]
  ).reshape(4, -1)
  values = values.ravel()
  weights = np.linalg.lstsq(shapes.T, values, rcond=None)[0]
  fitted = weights @ shapes
  signal, rest = float(fitted.std()), float((values - fitted).std())
  return signal > 0.04 and signal > 0.7 * rest
