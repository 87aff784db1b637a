"""ConvNeXt: Liu et al. (2022), "A ConvNet for the 2020s"."""

from typing import Any

import flax.linen as nn
import jax

from lr_study.models.layers import scaled
from lr_study.plugs import BELOW_1, COUNT, POSITIVE, limits

_LINEAR = nn.initializers.truncated_normal(0.02)  # of all kernels, as in the paper's code


class ConvNeXt(nn.Module):
  """A stem of patches, four stages of depthwise convolutions and MLPs, and a dense layer.

  Attributes:
    depths: blocks of each stage.
    features: of each stage, before `width`.
    classes: number of logits.
    width: factor on the number of features of every layer.
    patch: pixels down and across of the stem's patches.
    drop_path: probability of skipping the last block in training; it rises linearly from 0 at the
      first one (stochastic depth: Huang et al., 2016). Drawn from the 'dropout' rng.
    dtype: of activations and products.
  """

  depths: tuple[int, ...]
  features: tuple[int, ...]
  classes: int
  width: float = 1.0
  patch: int = 4
  drop_path: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes).

    Images whose size is not a multiple of the patch are padded with zeros. With `drop_path`, a
    'dropout' rng is needed in training.
    """
    blocks, last = 0, max(1, sum(self.depths) - 1)
    for stage, depth in enumerate(self.depths):
      features, size = scaled(self.features[stage], self.width), 2 if stage else self.patch
      if stage:
        x = self._norm(f'downsample{stage}_norm', x)
      x = nn.Conv(
        features,
        (size, size),
        strides=size,
        padding='SAME',  # nothing is lost at the edge of small images
        kernel_init=_LINEAR,
        dtype=self.dtype,
        name=f'downsample{stage}' if stage else 'stem',
      )(x)
      if not stage:
        x = self._norm('stem_norm', x)
      for i in range(depth):
        drop = self.drop_path * blocks / last
        x = Block(features, drop, self.dtype, name=f'block{stage}_{i}')(x, train)
        blocks += 1
    x = self._norm('norm', x.mean((1, 2)))
    return nn.Dense(self.classes, kernel_init=_LINEAR, dtype=self.dtype, name='head')(x)

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)


class Block(nn.Module):
  """A 7 x 7 depthwise convolution and an MLP, scaled by a learned factor per feature."""

  features: int
  drop_path: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps (batch, height, width, features) to the same shape."""
    features = self.features
    y = nn.Conv(
      features,
      (7, 7),
      padding=3,
      feature_group_count=features,
      kernel_init=_LINEAR,
      dtype=self.dtype,
      name='depthwise',
    )(x)
    y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm')(y)
    y = nn.gelu(nn.Dense(4 * features, kernel_init=_LINEAR, dtype=self.dtype, name='dense1')(y))
    y = nn.Dense(features, kernel_init=_LINEAR, dtype=self.dtype, name='dense2')(y)
    y = y * self.param('layer_scale', nn.initializers.constant(1e-6), (features,)).astype(y.dtype)
    # One draw per image: the block is skipped as a whole.
    drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
    return x + drop(y)


@limits(width=POSITIVE, patch=COUNT, drop_path=BELOW_1)
def convnext_tiny(
  classes: int,
  width: float = 1.0,
  patch: int = 4,
  drop_path: float = 0.1,
  dtype: Any = None,
) -> ConvNeXt:
  """ConvNeXt-T; arguments as the attributes of `ConvNeXt`."""
  return ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), classes, width, patch, drop_path, dtype)
