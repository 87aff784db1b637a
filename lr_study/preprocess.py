"""From the stored uint8 images to the network's input, inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

Preprocess = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]

# In training each image is looked at through a square that is moved by a random amount.
_MOVES = ('rotation', 'shift', 'zoom', 'stretch', 'shear')


def input_shape(config: ConfigDict) -> tuple[int, int]:
  """Height and width in pixels, and channels, of the network's input in a study."""
  size = config.input.crop or config.input.size or config.image_size
  return size, 1 if config.input.grey else 3


def subtracted(config: ConfigDict, mean: np.ndarray) -> np.ndarray:
  """What a study subtracts from an image, by the `input` part of its config.

  Args:
    config: `subtract` names it.
    mean: the mean image of the training part, float32 (size, size, 3).
  """
  if config.subtract == 'none':
    return np.zeros(3, np.float32)
  return mean if config.subtract == 'image' else mean.mean((0, 1))


def make_preprocess(config: ConfigDict) -> Preprocess:
  """Builds `preprocess(images, mean, key) -> inputs` from the `input` part of a config.

  images: uint8 (batch, size, size, 3), RGB. mean: float32, broadcasts against one image.
  key: for what is random in training; None in evaluation, which takes the image as it is, and
  its centre where there is a crop. inputs: float32 (batch, height, width, channels). The mean is
  subtracted first, at the pixel it belongs to (Caffe, data_transformer.cpp).
  """

  def preprocess(images, mean, key):
    x = images.astype(jnp.float32) - mean
    keys = dict.fromkeys(_RANDOM) if key is None else _keys(key)
    if config.grey:
      x = x @ jnp.float32([[0.299], [0.587], [0.114]])  # ITU-R BT.601, as Pillow's mode L
    size = config.size or x.shape[1]
    if key is not None and any(config[name] for name in _MOVES):
      x = _move(config, x, size, keys['move'])
    elif size != x.shape[1]:
      x = jax.image.resize(x, (x.shape[0], size, size, x.shape[3]), 'linear')
    if config.crop:
      x = _crop(x, config.crop, keys['crop'])
    if config.mirror and key is not None:
      flip = jax.random.bernoulli(keys['mirror'], 0.5, (x.shape[0], 1, 1, 1))
      x = jnp.where(flip, x[:, :, ::-1], x)
    if key is not None:
      x = _recolour(config, x, keys)
    x = x * config.scale
    if config.standardise:
      x = x - x.mean((1, 2, 3), keepdims=True)
      # At least one grey level: a constant image has no contrast to be brought up.
      x = x / jnp.maximum(x.std((1, 2, 3), keepdims=True), config.scale)
    return x[..., ::-1] if config.bgr else x

  return preprocess


_RANDOM = ('crop', 'mirror', 'move', 'brightness', 'contrast', 'invert', 'noise')


def _keys(key: jax.Array) -> dict[str, jax.Array]:
  # The first two as they were before there were more: the same crops from the same seed.
  first, *rest = jax.random.split(key), *jax.random.split(jax.random.fold_in(key, 1), 5)
  return dict(zip(_RANDOM, (*first, *rest), strict=True))


def _uniform(key: jax.Array, x: jax.Array, limit: float) -> jax.Array:
  """One draw an image, (batch, 1, 1, 1), between -limit and limit."""
  return jax.random.uniform(key, (x.shape[0], 1, 1, 1), minval=-limit, maxval=limit)


def _crop(x: jax.Array, crop: int, key: jax.Array | None) -> jax.Array:
  room = x.shape[1] - crop
  if key is None:
    top = left = jnp.full(x.shape[0], room // 2)
  else:
    top, left = jax.random.randint(key, (2, x.shape[0]), 0, room + 1)
  window = (crop, crop, x.shape[3])
  return jax.vmap(lambda image, y, x: jax.lax.dynamic_slice(image, (y, x, 0), window))(x, top, left)


def _move(config: ConfigDict, x: jax.Array, size: int, key: jax.Array) -> jax.Array:
  """Turns, moves, zooms, stretches and shears each image about its centre, to `size` pixels."""
  draws = jax.random.uniform(key, (6, x.shape[0]), minval=-1.0)
  angle = jnp.radians(config.rotation) * draws[0]
  # Logarithms: half the size is as likely as twice the size.
  zoom, stretch = (
    jnp.exp(jnp.log1p(config[n]) * draws[i]) for i, n in ((1, 'zoom'), (2, 'stretch'))
  )
  shear, down, right = config.shear * draws[3], config.shift * draws[4], config.shift * draws[5]
  steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
  y, x_ = steps[:, None], steps[None, :]

  def one(image, angle, zoom, stretch, shear, down, right):
    # From a place in the result to where it lies in the image, in shares of its side.
    across = (x_ + shear * y) * stretch * zoom
    along = y / stretch * zoom
    rows = jnp.sin(angle) * across + jnp.cos(angle) * along + down
    columns = jnp.cos(angle) * across - jnp.sin(angle) * along + right
    places = [(place + 0.5) * image.shape[0] - 0.5 for place in (rows, columns)]
    return jnp.stack(
      [map_coordinates(image[..., c], places, 1, mode='reflect') for c in range(image.shape[2])], -1
    )

  return jax.vmap(one)(x, angle, zoom, stretch, shear, down, right)


def _recolour(config: ConfigDict, x: jax.Array, keys: dict[str, jax.Array]) -> jax.Array:
  """Brightness, contrast, inversion and noise, in grey levels."""
  if config.contrast or config.invert:
    factor = jnp.exp(_uniform(keys['contrast'], x, np.log1p(config.contrast)))
    if config.invert:
      turned = jax.random.bernoulli(keys['invert'], 0.5, factor.shape)
      factor = jnp.where(turned, -factor, factor)
    middle = x.mean((1, 2, 3), keepdims=True)
    x = middle + factor * (x - middle)
  if config.brightness:
    x = x + _uniform(keys['brightness'], x, config.brightness)
  if config.noise:
    amount_key, noise_key = jax.random.split(keys['noise'])
    amount = jax.random.uniform(amount_key, (x.shape[0], 1, 1, 1), maxval=config.noise)
    x = x + amount * jax.random.normal(noise_key, x.shape)
  return x
