"""Vision transformers: Dosovitskiy et al. (2020), "An image is worth 16x16 words"."""

from typing import Any

import flax.linen as nn
import jax

from lr_study.models.layers import scaled
from lr_study.plugs import BELOW_1, COUNT, COUNT_OR_0, POSITIVE, limits

_LINEAR = nn.initializers.truncated_normal(0.02)  # of all kernels, as in DeiT
_LIMITS = limits(width=POSITIVE, patch=COUNT_OR_0, depth=COUNT, heads=COUNT, dropout=BELOW_1)


class ViT(nn.Module):
  """Patches as tokens, learned positions, pre-norm transformer blocks, and a dense layer.

  The sizes are those of DeiT (Touvron et al., 2020). Instead of a class token, the head uses the
  mean over all tokens, as in Beyer et al. (2022), "Better plain ViT baselines for ImageNet-1k".

  Attributes:
    features: of a token, before `width`.
    classes: number of logits.
    width: factor on the number of features; the result is rounded to a multiple of `heads`.
    patch: height and width of patches in pixels; images are padded with zeros to whole patches. 0
      chooses by the shorter side of the image: 16 from 112 pixels up, 4 from 16 pixels up, else 2.
    depth: number of blocks.
    heads: of the attention.
    dropout: probability of dropping a feature in training, after the patches' embedding, in the
      MLPs and before each residual sum.
    dtype: of activations and products.
  """

  features: int
  classes: int
  width: float = 1.0
  patch: int = 0
  depth: int = 12
  heads: int = 3
  dropout: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, channels) to logits (batch, classes).

    With dropout, a 'dropout' rng is needed in training.
    """
    features, side = scaled(self.features, self.width, self.heads), min(x.shape[1:3])
    patch = self.patch or (16 if side >= 112 else 4 if side >= 16 else 2)
    x = nn.Conv(
      features,
      (patch, patch),
      strides=patch,
      padding='SAME',
      kernel_init=_LINEAR,
      dtype=self.dtype,
      name='embed',
    )(x)
    x = x.reshape(x.shape[0], -1, features)
    position = self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + position.astype(x.dtype)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(self.depth):
      x = Block(self.heads, self.dropout, self.dtype, name=f'block{i}')(x, train)
    x = nn.LayerNorm(dtype=self.dtype, name='norm')(x).mean(1)
    return nn.Dense(self.classes, kernel_init=_LINEAR, dtype=self.dtype, name='head')(x)


class Block(nn.Module):
  """Self-attention and an MLP with four times the features, each residual and after a LayerNorm."""

  heads: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps tokens (batch, tokens, features) to the same shape."""
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    y = nn.LayerNorm(dtype=self.dtype, name='norm1')(x)
    y = nn.MultiHeadDotProductAttention(
      self.heads,
      kernel_init=_LINEAR,
      dtype=self.dtype,
      force_fp32_for_softmax=True,
      name='attention',
    )(y, y)
    x = x + dropout(y)
    y = nn.LayerNorm(dtype=self.dtype, name='norm2')(x)
    features = x.shape[-1]
    y = nn.Dense(4 * features, kernel_init=_LINEAR, dtype=self.dtype, name='dense1')(y)
    y = dropout(nn.gelu(y))
    y = nn.Dense(features, kernel_init=_LINEAR, dtype=self.dtype, name='dense2')(y)
    return x + dropout(y)


@_LIMITS
def vit_tiny(
  classes: int,
  width: float = 1.0,
  patch: int = 0,
  depth: int = 12,
  heads: int = 3,
  dropout: float = 0.0,
  dtype: Any = None,
) -> ViT:
  """ViT-Ti of 192 features; arguments as the attributes of `ViT`."""
  return ViT(192, classes, width, patch, depth, heads, dropout, dtype)


@_LIMITS
def vit_small(
  classes: int,
  width: float = 1.0,
  patch: int = 0,
  depth: int = 12,
  heads: int = 6,
  dropout: float = 0.0,
  dtype: Any = None,
) -> ViT:
  """ViT-S of 384 features; arguments as the attributes of `ViT`."""
  return ViT(384, classes, width, patch, depth, heads, dropout, dtype)
