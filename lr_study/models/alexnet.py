"""AlexNet (Krizhevsky et al., 2012) as defined by DIGITS's two back ends and by torchvision."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lr_study.models.layers import adaptive_average_pool, local_response_norm, max_pool, scaled
from lr_study.plugs import BELOW_1, POSITIVE, limits

_KERNELS = (11, 5, 3, 3, 3)  # of the five convolutions
_POOL_AFTER = (0, 1, 4)  # these convolutions are followed by 3 x 3 max pooling with stride 2

# Standard deviation of the kernel and value of the bias of each layer, from alexnet.prototxt.
_GAUSSIAN = {
  'conv1': (0.01, 0.0),
  'conv2': (0.01, 0.1),
  'conv3': (0.01, 0.0),
  'conv4': (0.01, 0.1),
  'conv5': (0.01, 0.1),
  'fc6': (0.005, 0.1),
  'fc7': (0.005, 0.1),
  'fc8': (0.01, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Variant:
  """The differences between the three networks; tuples have one entry per convolution."""

  features: tuple[int, ...]
  padding: tuple[int, ...]
  groups: tuple[int, ...]
  init: str  # 'xavier' | 'gaussian' | 'torch'
  norm: bool  # local response normalisation after the first two convolutions
  ceil_pool: bool  # pooling windows may extend beyond the edge
  head_relu: bool  # ReLU after fc6 and fc7
  dropout_first: bool  # dropout before fc6 and fc7 instead of after them
  adaptive_pool: bool  # average to 6 x 6 before fc6


# DIGITS 6.1.1, standard-networks/tensorflow/alexnet.py. Its head is linear: DIGITS omitted the
# activations.
_DIGITS_TENSORFLOW = Variant(
  features=(96, 256, 384, 384, 256),
  padding=(0, 2, 1, 1, 1),
  groups=(1, 1, 1, 1, 1),
  init='xavier',
  norm=False,
  ceil_pool=False,
  head_relu=False,
  dropout_first=False,
  adaptive_pool=False,
)
# DIGITS 6.1.1, standard-networks/caffe/alexnet.prototxt, with layers as in Caffe.
_DIGITS_CAFFE = Variant(
  features=(96, 256, 384, 384, 256),
  padding=(0, 2, 1, 1, 1),
  groups=(1, 2, 1, 2, 2),
  init='gaussian',
  norm=True,
  ceil_pool=True,
  head_relu=True,
  dropout_first=False,
  adaptive_pool=False,
)
# torchvision.models.alexnet: the single tower of "One weird trick" (Krizhevsky, 2014).
_TORCHVISION = Variant(
  features=(64, 192, 384, 256, 256),
  padding=(2, 2, 1, 1, 1),
  groups=(1, 1, 1, 1, 1),
  init='torch',
  norm=False,
  ceil_pool=False,
  head_relu=True,
  dropout_first=True,
  adaptive_pool=True,
)


class AlexNet(nn.Module):
  """Five convolutions, conv1 to conv5, and three dense layers, fc6 to fc8.

  Attributes:
    variant: which of the three networks.
    classes: number of logits.
    width: factor on the number of features of every hidden layer; 1 is the published network.
    dropout: probability of dropping a feature in front of a dense layer in training.
    dtype: of activations and products.
  """

  variant: Variant
  classes: int
  width: float = 1.0
  dropout: float = 0.5
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes).

    In training a 'dropout' rng is needed.
    """
    variant = self.variant
    for i, size in enumerate(_KERNELS):
      groups, name = variant.groups[i], f'conv{i + 1}'
      whole = math.lcm(*variant.groups[i : i + 2])  # the next convolution also splits its inputs
      x = nn.Conv(
        scaled(variant.features[i], self.width, whole),
        (size, size),
        strides=1 if i else 4,
        padding=variant.padding[i],
        feature_group_count=groups,
        dtype=self.dtype,
        name=name,
        **_initializers(variant, name, size * size * x.shape[-1] // groups),
      )(x)
      x = nn.relu(x)
      if variant.norm and i < 2:
        x = local_response_norm(x)
      if i in _POOL_AFTER:
        x = max_pool(x, variant.ceil_pool)
    if variant.adaptive_pool:
      x = adaptive_average_pool(x, 6)
    x = x.reshape(x.shape[0], -1)
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    for name in ('fc6', 'fc7'):
      if variant.dropout_first:
        x = dropout(x)
      x = self._dense(scaled(4096, self.width), name, x)
      if variant.head_relu:
        x = nn.relu(x)
      if not variant.dropout_first:
        x = dropout(x)
    return self._dense(self.classes, 'fc8', x)

  def _dense(self, features: int, name: str, x: jax.Array) -> jax.Array:
    initializers = _initializers(self.variant, name, x.shape[-1])
    return nn.Dense(features, dtype=self.dtype, name=name, **initializers)(x)


def _initializers(variant: Variant, name: str, fan_in: int) -> dict[str, Callable[..., jax.Array]]:
  """Keyword arguments of a layer: the initialisers of its kernel and its bias."""
  if variant.init == 'xavier':  # Glorot and Bengio, 2010: the default of TensorFlow's slim
    return {'kernel_init': nn.initializers.xavier_uniform()}
  if variant.init == 'gaussian':
    std, bias = _GAUSSIAN[name]
    return {
      'kernel_init': nn.initializers.normal(std),
      'bias_init': nn.initializers.constant(bias),
    }

  # 'torch': kernel and bias uniform within 1 / sqrt(fan in), as in torch/nn/modules/linear.py.
  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / np.sqrt(fan_in)

  return {'kernel_init': uniform, 'bias_init': uniform}


@limits(width=POSITIVE, dropout=BELOW_1)
def digits_tensorflow(
  classes: int, width: float = 1.0, dropout: float = 0.5, dtype: Any = None
) -> AlexNet:
  """AlexNet of DIGITS's TensorFlow back end: one tower, a linear head; arguments as `AlexNet`."""
  return AlexNet(_DIGITS_TENSORFLOW, classes, width, dropout, dtype)


@limits(width=POSITIVE, dropout=BELOW_1)
def digits_caffe(
  classes: int, width: float = 1.0, dropout: float = 0.5, dtype: Any = None
) -> AlexNet:
  """AlexNet of DIGITS's Caffe back end: grouped convolutions and LRN; arguments as `AlexNet`."""
  return AlexNet(_DIGITS_CAFFE, classes, width, dropout, dtype)


@limits(width=POSITIVE, dropout=BELOW_1)
def torchvision(
  classes: int, width: float = 1.0, dropout: float = 0.5, dtype: Any = None
) -> AlexNet:
  """AlexNet of torchvision: one tower, average pooling to 6 x 6; arguments as `AlexNet`."""
  return AlexNet(_TORCHVISION, classes, width, dropout, dtype)
