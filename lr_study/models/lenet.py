"""LeNet-5: LeCun et al. (1998), "Gradient-based learning applied to document recognition"."""

from typing import Any

import flax.linen as nn
import jax

from lr_study.models.layers import scaled
from lr_study.plugs import POSITIVE, limits


@limits(width=POSITIVE)
class LeNet(nn.Module):
  """Two 5 x 5 convolutions with tanh and average pooling, then three dense layers.

  Unlike in the paper, conv2 sees all feature maps, pooling has no weights, and the outputs are
  logits. The padding of conv1 turns MNIST's 28 x 28 images into the paper's 32 x 32.

  Attributes:
    classes: number of logits.
    width: factor on the number of features of every hidden layer.
    dtype: of activations and products.
  """

  classes: int
  width: float = 1.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes)."""
    del train  # there is no dropout and no normalisation
    for i, (features, padding) in enumerate(((6, 2), (16, 0)), 1):
      conv = nn.Conv(
        scaled(features, self.width),
        (5, 5),
        padding=padding,
        dtype=self.dtype,
        name=f'conv{i}',
      )
      x = nn.avg_pool(nn.tanh(conv(x)), (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    for i, features in enumerate((120, 84), 1):
      x = nn.Dense(scaled(features, self.width), dtype=self.dtype, name=f'dense{i}')(x)
      x = nn.tanh(x)
    return nn.Dense(self.classes, dtype=self.dtype, name='dense3')(x)
