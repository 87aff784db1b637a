"""From the stored uint8 images to the network's input, inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

Preprocess = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def make_preprocess(config: ConfigDict) -> Preprocess:
  """Builds `preprocess(images, mean, key) -> inputs` from the `input` part of a config.

  images: uint8 (batch, size, size, 3), RGB. mean: float32, broadcasts against one image.
  key: for the random crop and mirror of training; None in evaluation, which takes the
  centre. inputs: float32 (batch, crop, crop, 3). The mean is subtracted before the crop, at
  the pixel it belongs to (Caffe, data_transformer.cpp).
  """

  def preprocess(images, mean, key):
    x = (images.astype(jnp.float32) - mean) * config.scale
    if key is not None:
      crop_key, mirror_key = jax.random.split(key)
    if config.crop:
      room = x.shape[1] - config.crop
      if key is None:
        top = left = jnp.full(x.shape[0], room // 2)
      else:
        top, left = jax.random.randint(crop_key, (2, x.shape[0]), 0, room + 1)
      window = (config.crop, config.crop, 3)
      x = jax.vmap(lambda image, y, x: jax.lax.dynamic_slice(image, (y, x, 0), window))(
        x, top, left
      )
    if config.mirror and key is not None:
      flip = jax.random.bernoulli(mirror_key, 0.5, (x.shape[0], 1, 1, 1))
      x = jnp.where(flip, x[:, :, ::-1], x)
    return x[..., ::-1] if config.bgr else x

  return preprocess
