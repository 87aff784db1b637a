"""Residual networks: He et al. (2015), "Deep residual learning for image recognition"."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax

from lr_study.models.layers import max_pool, scaled
from lr_study.plugs import POSITIVE, limits, one_of

_HE = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # as in torchvision
_LARGE = 96  # pixels; for images at least this high and wide, 'auto' chooses the large stem
_LIMITS = limits(
  width=POSITIVE, norm=one_of(('batch', 'group')), stem=one_of(('auto', 'small', 'large'))
)


class ResNet(nn.Module):
  """A stem, four stages of residual blocks, the mean over all pixels, and a dense layer.

  It has the same parameters as torchvision's. The scale of a block's last normalisation starts at
  0, as in Goyal et al. (2017), "Accurate, large minibatch SGD", section 5.1.

  Attributes:
    depths: blocks of each stage.
    bottleneck: blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions; otherwise of two 3 x 3 convolutions.
    classes: number of logits.
    width: factor on the number of features of every layer.
    norm: 'batch' (BatchNorm, whose statistics are in the collection 'batch_stats') or 'group'
      (GroupNorm of up to 32 groups: Wu and He, 2018).
    stem: 'small' is a 3 x 3 convolution, as in the paper's networks for CIFAR-10; 'large' a 7 x 7
      one with stride 2, followed by max pooling; 'auto' is 'large' for images of 96 pixels or more.
    dtype: of activations and products.
  """

  depths: tuple[int, ...]
  bottleneck: bool
  classes: int
  width: float = 1.0
  norm: str = 'batch'
  stem: str = 'auto'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes)."""
    features = scaled(64, self.width)
    conv = functools.partial(nn.Conv, use_bias=False, kernel_init=_HE, dtype=self.dtype)
    norm = functools.partial(_norm, kind=self.norm, train=train, dtype=self.dtype)
    if self.stem == 'large' or (self.stem == 'auto' and min(x.shape[1:3]) >= _LARGE):
      x = conv(features, (7, 7), strides=2, padding=3, name='stem')(x)
      x = max_pool(nn.relu(norm('stem_norm', x)), padding=1)
    else:
      x = conv(features, (3, 3), padding=1, name='stem')(x)
      x = nn.relu(norm('stem_norm', x))
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        block = Block(
          features * 2**stage,
          stride=2 if stage and not i else 1,
          bottleneck=self.bottleneck,
          norm=self.norm,
          dtype=self.dtype,
          name=f'block{stage}_{i}',
        )
        x = block(x, train)
    return nn.Dense(self.classes, dtype=self.dtype, name='head')(x.mean((1, 2)))


class Block(nn.Module):
  """Convolutions with a shortcut, which is a 1 x 1 convolution if shapes differ.

  A bottleneck has its stride in the 3 x 3 convolution, as in torchvision, and four times as many
  output features.
  """

  features: int
  stride: int
  bottleneck: bool
  norm: str
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps (batch, height, width, channels) to (batch, height / stride, width / stride, ...)."""
    conv = functools.partial(nn.Conv, use_bias=False, kernel_init=_HE, dtype=self.dtype)
    norm = functools.partial(_norm, kind=self.norm, train=train, dtype=self.dtype)
    outputs = self.features * (4 if self.bottleneck else 1)
    if self.bottleneck:
      layers: tuple[tuple[int, int, int], ...]
      layers = ((self.features, 1, 1), (self.features, 3, self.stride), (outputs, 1, 1))
    else:
      layers = ((self.features, 3, self.stride), (outputs, 3, 1))
    y = x
    for i, (features, size, stride) in enumerate(layers, 1):
      last = i == len(layers)
      y = conv(features, (size, size), stride, padding=size // 2, name=f'conv{i}')(y)
      y = norm(f'norm{i}', y, zero=last)
      y = y if last else nn.relu(y)
    if x.shape != y.shape:
      x = conv(outputs, (1, 1), self.stride, padding=0, name='conv_shortcut')(x)
      x = norm('norm_shortcut', x)
    return nn.relu(x + y)


def _norm(
  name: str, x: jax.Array, kind: str, train: bool, dtype: Any, zero: bool = False
) -> jax.Array:
  """Normalises (batch, h, w, channels) with a layer of this name; `zero`: its scale starts at 0."""
  init = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
  if kind == 'group':
    groups = math.gcd(32, x.shape[-1])
    return nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype, scale_init=init, name=name)(x)
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    scale_init=init,
    name=name,
  )(x)


@_LIMITS
def resnet18(
  classes: int, width: float = 1.0, norm: str = 'batch', stem: str = 'auto', dtype: Any = None
) -> ResNet:
  """ResNet-18; arguments as the attributes of `ResNet`."""
  return ResNet((2, 2, 2, 2), False, classes, width, norm, stem, dtype)


@_LIMITS
def resnet50(
  classes: int, width: float = 1.0, norm: str = 'batch', stem: str = 'auto', dtype: Any = None
) -> ResNet:
  """ResNet-50; arguments as the attributes of `ResNet`."""
  return ResNet((3, 4, 6, 3), True, classes, width, norm, stem, dtype)
