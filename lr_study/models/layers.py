"""Functions that several networks share: pooling, normalisation, and the number of features."""

import jax
import jax.numpy as jnp
import numpy as np


def scaled(features: int, width: float, groups: int = 1) -> int:
  """`features` times `width`, rounded to a multiple of `groups`, and at least `groups`."""
  return groups * max(1, round(features * width / groups))


def local_response_norm(x: jax.Array) -> jax.Array:
  """x / (1 + alpha / n * sum of x^2 over n channels)^beta, as in Caffe's lrn_layer.cpp.

  The channels are the n nearest, with n = 5, alpha = 1e-4, beta = 0.75 (Krizhevsky et al., 2012,
  section 3.3, with k = 1). Computed in float32: bfloat16 would round the sum to 1.
  """
  channels = x.shape[-1]
  squares = jnp.square(x.astype(jnp.float32))
  padded = jnp.pad(squares, ((0, 0), (0, 0), (0, 0), (2, 2)))
  total = sum(padded[..., k : k + channels] for k in range(5))
  return (x * (1 + 1e-4 / 5 * total) ** -0.75).astype(x.dtype)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
  """Averages (batch, h, w, channels) to (batch, size, size, channels).

  Cell i covers rows floor(i h / size) to ceil((i + 1) h / size), as in PyTorch's
  AdaptiveAveragePool.cpp, so cells overlap where `size` does not divide h.
  """

  def weights(n: int) -> np.ndarray:
    matrix = np.zeros((size, n), np.float32)
    for i in range(size):
      start, stop = i * n // size, -(-(i + 1) * n // size)
      matrix[i, start:stop] = 1 / (stop - start)
    return matrix

  pooled = jnp.einsum('ph,qw,bhwc->bpqc', weights(x.shape[1]), weights(x.shape[2]), x)
  return pooled.astype(x.dtype)


def max_pool(x: jax.Array, ceil: bool = False, padding: int = 0) -> jax.Array:
  """Maxima of 3 x 3 windows with stride 2.

  The gradient goes to the first of equal maxima, row by row, as in Caffe's pooling_layer.cpp. It is
  computed by comparisons, because on CPUs the gradient of XLA's reduce_window takes ten times as
  long.

  Args:
    x: (batch, h, w, channels).
    ceil: include windows that extend beyond the right and lower edges.
    padding: pixels of minus infinity on each side.

  Raises:
    ValueError: the images are smaller than a window.
  """
  before = x.shape
  for axis in (2, 1):  # within the rows first: then ties go to the first row
    size = x.shape[axis] + 2 * padding
    count = (size - 3 + (1 if ceil else 0)) // 2 + 1
    if count < 1:
      raise ValueError(f'{before[1]} x {before[2]} pixels are too small for 3 x 3 pooling')
    # Split the axis into pairs. A window is a pair and the first pixel of the next one.
    end = 2 * (count + 1) - x.shape[axis] - padding
    pairs = [(padding, end, 0) if i == axis else (0, 0, 0) for i in range(4)]
    x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), pairs)
    x = x.reshape(*x.shape[:axis], count + 1, 2, *x.shape[axis + 1 :])
    first, second = (jax.lax.index_in_dim(x, k, axis + 1, keepdims=False) for k in (0, 1))
    x = jax.lax.slice_in_dim(first, 0, count, axis=axis)
    for other in (
      jax.lax.slice_in_dim(second, 0, count, axis=axis),
      jax.lax.slice_in_dim(first, 1, count + 1, axis=axis),
    ):
      x = jnp.where(other > x, other, x)
  return x
