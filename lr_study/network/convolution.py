"""Convolutions as matrix products: what stays fast when every trial has kernels of its own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def as_matmul(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  *,
  feature_group_count: int = 1,
  **unused: Any,
) -> jax.Array:
  """The convolution of `jax.lax.conv_general_dilated`, undilated, as one product a group.

  The windows of the input are laid side by side by slicing it once for each place in the kernel.
  vmap over kernels turns the product into a batched product, where it would turn a convolution
  into a grouped one, which XLA computes slowly on CPUs.

  Args:
    lhs: images (batch, height, width, channels).
    rhs: kernel (rows, columns, channels // groups, features).
    window_strides: steps down and across.
    padding: zeros (before, after) in height and in width.
    feature_group_count: groups of channels that are convolved on their own.
    **unused: Flax's other arguments, which have their default values here.

  Returns:
    (batch, height', width', features).
  """
  x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
  if feature_group_count == 1 and max(window_strides) > 1:
    x, rhs = _in_blocks(x, rhs, window_strides)
    window_strides = (1, 1)
  rows, columns, channels, features = rhs.shape
  down, across = window_strides
  height = (x.shape[1] - rows) // down + 1
  width = (x.shape[2] - columns) // across + 1
  windows = [
    x[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
    for i in range(rows)
    for j in range(columns)
  ]
  outputs = []
  for group in range(feature_group_count):
    first, each = group * channels, features // feature_group_count
    patches = jnp.concatenate([w[..., first : first + channels] for w in windows], -1)
    kernel = rhs[..., group * each : (group + 1) * each].reshape(-1, each)
    outputs.append(product(patches.reshape(-1, patches.shape[-1]), kernel))
  return jnp.concatenate(outputs, -1).reshape(x.shape[0], height, width, features)


def _in_blocks(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
  """Image and kernel of the same convolution with stride 1: a block of pixels is a pixel there.

  AlexNet's first kernel, 11 x 11 with stride 4, is one of 3 x 3 blocks of 4 x 4 pixels, with zeros
  where the blocks are larger than the kernel: 9 slices to lay side by side, and not 121.
  """
  for axis, stride in enumerate(strides):
    size, length = x.shape[axis + 1], kernel.shape[axis]
    blocks = -(-length // stride)  # that the kernel is long
    wanted = ((size - length) // stride + blocks) * stride
    kernel = _fit(kernel, axis, blocks * stride)
    x = _fit(x, axis + 1, wanted)
  down, across = strides
  batch, height, width, channels = x.shape
  rows, columns, _, features = kernel.shape
  x = x.reshape(batch, height // down, down, width // across, across, channels)
  kernel = kernel.reshape(rows // down, down, columns // across, across, channels, features)
  return (
    x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // down, width // across, -1),
    kernel.transpose(0, 2, 1, 3, 4, 5).reshape(rows // down, columns // across, -1, features),
  )


def _fit(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Cuts `x` off at `size` along an axis, or adds zeros up to it."""
  x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
  return jnp.pad(x, [(0, size - x.shape[axis] if k == axis else 0) for k in range(x.ndim)])


@jax.custom_vjp
def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """a @ b, with gradients that XLA computes without a transposed copy of b or of its gradient."""
  return a @ b


def _product_forward(a, b):
  return a @ b, (a, b)


def _product_backward(factors, g):
  a, b = factors
  of_a = jax.lax.dot_general(g, b, (((1,), (1,)), ((), ())))
  return of_a, jax.lax.dot_general(a, g, (((0,), (0,)), ((), ())))


product.defvjp(_product_forward, _product_backward)
