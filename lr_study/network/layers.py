"""Layers: convolutions by products, dense ones with factored kernels, normalisation, pooling."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lr_study.network import factored
from lr_study.network.convolution import Layout, convolve, product


class Conv(nn.Module):
  """A convolution, computed by XLA's own or, with `matmul`, as products (convolution.py).

  Attributes:
    features: of the output.
    size: of the kernel, in pixels down and across.
    stride: pixels from one window to the next.
    padding: zeros on each side.
    groups: of channels, which are convolved on their own.
    matmul: compute it as products of matrices.
    kernel_init: draws the kernel, (size, size, channels // groups, features).
    bias_init: draws the bias, (features,).
  """

  features: int
  size: int
  stride: int = 1
  padding: int = 0
  groups: int = 1
  matmul: bool = False
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array | Layout) -> jax.Array:
    """Maps (batch, height, width, channels), or their layout, to (batch, h, w, features)."""
    shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    if self.matmul:
      y = convolve(x, kernel, self.stride, self.padding, self.groups)
    else:
      y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (self.stride, self.stride),
        [(self.padding, self.padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=self.groups,
      )
    return y + self.param('bias', self.bias_init, (self.features,))


class Dense(nn.Module):
  """A dense layer whose kernel is a matrix, or factors (factored.py) if given those.

  With factors its input and, as the gradient of a tap that is added to it, the gradient of its
  output can be had from outside.
  """

  features: int
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (batch, inputs) to (batch, features)."""
    if self.has_variable('factors', 'kernel'):
      coordinates = self.get_variable('params', 'kernel')
      self.sow('inputs', 'x', x, reduce_fn=lambda _, value: value)
      x = factored.product(x, coordinates, self.get_variable('factors', 'kernel'))
      x = x + self.get_variable('taps', 'kernel')
    else:
      x = product(x, self.param('kernel', self.kernel_init, (x.shape[-1], self.features)))
    return x + self.param('bias', self.bias_init, (self.features,))


def local_response_norm(x: jax.Array) -> jax.Array:
  """x / (1 + alpha / n * sum of x^2 over n channels)^beta, as Caffe's lrn_layer.cpp does it.

  n = 5, alpha = 1e-4, beta = 0.75 (Krizhevsky et al., 2012, section 3.3, with k = 1).
  """
  padded = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (2, 2)))
  channels = x.shape[-1]
  total = sum(padded[..., k : k + channels] for k in range(5))
  return x * (1 + 1e-4 / 5 * total) ** -0.75


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
  """Averages (batch, h, w, channels) to (batch, size, size, channels).

  Cell i covers rows floor(i h / size) to ceil((i + 1) h / size), as torch's
  AdaptiveAveragePool.cpp does it, so cells overlap where `size` does not divide h.
  """

  def weights(n: int) -> np.ndarray:
    matrix = np.zeros((size, n), np.float32)
    for i in range(size):
      start, stop = i * n // size, -(-(i + 1) * n // size)
      matrix[i, start:stop] = 1 / (stop - start)
    return matrix

  return jnp.einsum('ph,qw,bhwc->bpqc', weights(x.shape[1]), weights(x.shape[2]), x)


def max_pool(x: jax.Array, ceil: bool) -> jax.Array:
  """Maxima of 3 x 3 windows, 2 apart, of (batch, h, w, channels); `ceil`: they may hang over.

  The gradient goes to the first of equal maxima, row by row, as in Caffe's pooling_layer.cpp.
  Written as comparisons: the gradient of XLA's reduce_window takes ten times as long on CPUs, and
  that of slices with a stride, which spreads zeros, twice to five times.
  """
  for axis in (2, 1):  # within the rows first: then ties go to the first row
    size = x.shape[axis]
    count = (size - 3 + (1 if ceil else 0)) // 2 + 1
    # Of each pair of pixels the even and the odd one: a window is a pair and the next even one.
    pairs = [(0, 2 * (count + 1) - size, 0) if i == axis else (0, 0, 0) for i in range(4)]
    x = jax.lax.pad(x, -jnp.inf, pairs)
    x = x.reshape(*x.shape[:axis], count + 1, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(x, k, axis + 1, keepdims=False) for k in (0, 1))
    x = jax.lax.slice_in_dim(even, 0, count, axis=axis)
    for other in (
      jax.lax.slice_in_dim(odd, 0, count, axis=axis),
      jax.lax.slice_in_dim(even, 1, count + 1, axis=axis),
    ):
      x = jnp.where(other > x, other, x)
  return x
