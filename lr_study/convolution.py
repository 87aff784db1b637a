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
  rows, columns, channels, features = rhs.shape
  down, across = window_strides
  x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
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
    outputs.append(_product(patches.reshape(-1, patches.shape[-1]), kernel))
  return jnp.concatenate(outputs, -1).reshape(x.shape[0], height, width, features)


@jax.custom_vjp
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """a @ b, with gradients that XLA computes without a transposed copy of b or of its gradient."""
  return a @ b


def _product_forward(a, b):
  return a @ b, (a, b)


def _product_backward(factors, g):
  a, b = factors
  of_a = jax.lax.dot_general(g, b, (((1,), (1,)), ((), ())))
  return of_a, jax.lax.dot_general(a, g, (((0,), (0,)), ((), ())))


_product.defvjp(_product_forward, _product_backward)
