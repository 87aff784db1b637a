"""What the studies share: letters of 16 pixels, which need no download, and a small network."""

import functools

import numpy as np
from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters
from lr_study.data import rendered

_RENDERED = 64  # pixels: the smallest size of rendered letters


def get_config(per_class: int = 400, train_fraction: float = 0.5) -> ConfigDict:
  """Ten letters in grey, standardised; a multilayer perceptron with one hidden layer."""
  config = alexnet_letters.get_config()
  config.data = {
    'name': f'{__file__}:letters',
    'per_class': per_class,
    'train_fraction': train_fraction,
  }
  config.input = {'name': 'images', 'subtract': 'none'}  # they are standardised
  config.model = {'name': 'mlp', 'hidden': (64,)}
  config.schedule = {'name': 'constant'}
  config.eval_batch_size = 500
  return config


@functools.cache
def letters(per_class: int = 400) -> tuple[np.ndarray, np.ndarray]:
  """The rendered letters, made small once rather than in every step.

  Returns:
    Images, float32 (images, 16, 16, 1), each with mean 0 and deviation 1, and labels, (images,).
  """
  source = rendered.tombstone_letters(_RENDERED, per_class=per_class)
  pixels = source.images.load().astype(np.float32)
  blocks = pixels.reshape(len(pixels), 16, _RENDERED // 16, 16, _RENDERED // 16, 3)
  grey = blocks.mean((2, 4, 5))
  grey -= grey.mean((1, 2), keepdims=True)
  grey /= np.maximum(grey.std((1, 2), keepdims=True), 1.0)  # at least one grey level
  return grey[..., None], source.labels
