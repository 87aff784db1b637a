"""A small convolutional network that trains in seconds."""

from typing import Any

import flax.linen as nn
import jax

from lr_study.models.layers import max_pool, scaled
from lr_study.plugs import BELOW_1, POSITIVE, limits

_HE = nn.initializers.he_normal()  # He et al., 2015: keeps the scale of signals through ReLUs


@limits(width=POSITIVE, dropout=BELOW_1)
class SmallCNN(nn.Module):
  """Three blocks of a 3 x 3 convolution, ReLU and max pooling, then two dense layers.

  Attributes:
    classes: number of logits.
    width: factor on the number of features of every hidden layer.
    dropout: probability of dropping an input of a dense layer in training.
    dtype: of activations and products.
  """

  classes: int
  width: float = 1.0
  dropout: float = 0.5
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes).

    In training a 'dropout' rng is needed.
    """
    for i, features in enumerate((32, 64, 128), 1):
      conv = nn.Conv(
        scaled(features, self.width),
        (3, 3),
        padding=1,
        kernel_init=_HE,
        dtype=self.dtype,
        name=f'conv{i}',
      )
      x = max_pool(nn.relu(conv(x)))
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    x = dropout(x.reshape(x.shape[0], -1))
    features = scaled(256, self.width)
    x = nn.relu(nn.Dense(features, kernel_init=_HE, dtype=self.dtype, name='dense1')(x))
    x = dropout(x)
    init = nn.initializers.normal(0.01)
    return nn.Dense(self.classes, kernel_init=init, dtype=self.dtype, name='dense2')(x)
