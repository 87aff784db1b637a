"""Convolutions as matrix products, which stay fast when every trial has its own kernels.

vmap over kernels turns a product into a batched product. It would turn a convolution into a grouped
convolution, which XLA computes slowly on CPUs.

If there are few outputs, they are one product of the images' windows and the kernel. If there are
many, the algorithm of Toom and Cook needs a fraction of the multiplications, as applied by Lavin
and Gray (2016), "Fast Algorithms for Convolutional Neural Networks": F(3 x 3, r x r). The outputs
of a tile of pixels are coefficients of a product of two polynomials. The product is determined by
its values at as many points as it has coefficients, and these values are products of the factors'
values. So, in one dimension,

    outputs = A ((G kernel) * (B pixels))

with small matrices A, G and B, and elementwise *; in two dimensions, with their Kronecker squares.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TILE = 3  # outputs of a tile, down and across; larger tiles have larger rounding errors
# The points at which polynomials are evaluated, besides infinity. Of points that float32 holds
# exactly, these have the smallest rounding errors: 6e-7 of the outputs of a 3 x 3 kernel, 2e-6 of
# those of a 5 x 5 kernel.
_POINTS = (0.0, 1.0, -1.0, 2.0, -0.5, -2.0)
# Tiles also need transformed kernels, which pay off from this many outputs on. Products of matrices
# that are thinner than this take no longer than the operations around them.
_LEAST_OUTPUTS, _LEAST_FEATURES = 512, 24


class Layout(NamedTuple):
  """The part of a convolution that depends only on its images.

  Attributes:
    groups: for each group of channels, either its windows, (images, height', width', size x size x
      channels), or its transformed tiles, (points, images, tiles down, tiles across, channels).
      With a stride above 1 they consist of blocks (see `_blocks`), and windows are one block high.
  """

  groups: tuple[jax.Array, ...]

  @property
  def tiled(self) -> bool:
    """True if the groups are tiles."""
    return self.groups[0].ndim == 5


def lay_out(
  images: jax.Array, features: int, size: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> Layout:
  """Prepares images (images, height, width, channels) for the products of `convolve`.

  Args:
    images: float32.
    features: of the output.
    size: height and width of the kernel in pixels.
    stride: pixels from one window to the next, down and across.
    padding: zeros on each side.
    groups: of channels, which are convolved separately.
  """
  x = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  parts = jnp.split(x, groups, -1)
  if stride > 1:
    parts, size = [_blocks(part, size, stride) for part in parts], -(-size // stride)
  count, height, width, channels = parts[0].shape
  outputs = count * (height - size + 1) * (width - size + 1)
  tiled = (
    1 < size <= len(_POINTS) + 2 - _TILE
    and outputs >= _LEAST_OUTPUTS
    and min(features // groups, channels) >= _LEAST_FEATURES
  )
  # Blocks have many channels: to lay out whole windows would take as long as their product.
  high = 1 if stride > 1 else size
  return Layout(
    tuple(_tiles(part, size) if tiled else _windows(part, high, size) for part in parts)
  )


def convolve(
  images: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1
) -> jax.Array:
  """The convolution of `jax.lax.conv_general_dilated`; arguments as in `lay_out`.

  Args:
    images: float32 (images, height, width, channels).
    kernel: (size, size, channels // groups, features).
    stride: pixels.
    padding: pixels.
    groups: of channels.

  Returns:
    (images, height', width', features).
  """
  laid_out = lay_out(images, kernel.shape[-1], len(kernel), stride, padding, groups)
  height, width = ((n + 2 * padding - len(kernel)) // stride + 1 for n in images.shape[1:3])
  if stride > 1:
    kernel = _blocks(kernel.transpose(3, 0, 1, 2), len(kernel), stride).transpose(1, 2, 3, 0)
  of_group = _of_tiles if laid_out.tiled else _of_windows
  outputs = [
    of_group(part, of_part)
    for part, of_part in zip(laid_out.groups, jnp.split(kernel, groups, -1), strict=True)
  ]
  return jnp.concatenate(outputs, -1)[:, :height, :width]


def _blocks(x: jax.Array, size: int, stride: int) -> jax.Array:
  """Images, or kernels, of an equal convolution with stride 1, whose pixels are blocks of pixels.

  AlexNet's first kernel, 11 x 11 with stride 4, becomes 3 x 3 blocks of 4 x 4 pixels, with zeros
  where the blocks extend beyond the kernel. That needs 3 slices side by side rather than 121.
  """
  for axis in (1, 2):
    wanted = ((x.shape[axis] - size) // stride + -(-size // stride)) * stride
    x = _fit(x, axis, wanted)
  images, height, width, channels = x.shape
  x = x.reshape(images, height // stride, stride, width // stride, stride, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(images, height // stride, width // stride, -1)


def _fit(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Truncates `x` to `size` along an axis, or pads it with zeros."""
  x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
  return jnp.pad(x, [(0, size - x.shape[axis] if k == axis else 0) for k in range(x.ndim)])


def _windows(x: jax.Array, high: int, wide: int) -> jax.Array:
  height, width = x.shape[1] - high + 1, x.shape[2] - wide + 1
  slices = [x[:, i : i + height, j : j + width] for i in range(high) for j in range(wide)]
  return jnp.concatenate(slices, -1)


def _of_windows(windows: jax.Array, kernel: jax.Array) -> jax.Array:
  # If windows are one pixel high but the kernel is not, adds up the products of its rows.
  depth, features = windows.shape[-1], kernel.shape[-1]
  rows = kernel.reshape(-1, depth, features)
  y = product(windows.reshape(-1, depth), rows.transpose(1, 0, 2).reshape(depth, -1))
  y = y.reshape(*windows.shape[:3], len(rows), features)
  height = y.shape[1] - len(rows) + 1
  return sum(y[:, k : k + height, :, k] for k in range(len(rows)))


def _tiles(x: jax.Array, size: int) -> jax.Array:
  side = _TILE + size - 1
  x = _slide(_slide(x, 2, size), 2, size)  # columns, then rows, whose axis has moved by one
  return _combine(_transforms(size)[0], x.reshape(side * side, *x.shape[2:]))


def _slide(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Splits an axis into overlapping tiles, and the place in a tile, which becomes the first axis.

  Works on pieces as long as the step between tiles, so that the gradient is a few sums of large
  pieces rather than one sum for each place.
  """
  side = _TILE + size - 1
  reach = -(-side // _TILE)  # pieces in a tile
  count = -(-(x.shape[axis] - size + 1) // _TILE)
  # The last tile may extend beyond the edge; its outputs there are cut off.
  x = _fit(x, axis, (count + reach - 1) * _TILE)
  x = jnp.moveaxis(x.reshape(*x.shape[:axis], -1, _TILE, *x.shape[axis + 1 :]), axis + 1, 0)
  pieces = [jax.lax.slice_in_dim(x, k, k + count, axis=axis + 1) for k in range(reach)]
  return jnp.concatenate(pieces)[:side]


def _of_tiles(tiles: jax.Array, kernel: jax.Array) -> jax.Array:
  points, images, high, wide, channels = tiles.shape
  size, features = len(kernel), kernel.shape[-1]
  _, of_kernel, of_outputs = _transforms(size)
  kernels = _combine(of_kernel, kernel.reshape(size**2, channels, features))
  y = _combine(of_outputs, product(tiles.reshape(points, -1, channels), kernels))
  y = y.reshape(_TILE, _TILE, images, high, wide, features).transpose(2, 3, 0, 4, 1, 5)
  return y.reshape(images, high * _TILE, wide * _TILE, features)


@functools.cache
def _transforms(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """B, G and A for a kernel of `size` x `size`: (points, pixels), (points, kernel), (tile, points).

  See Lavin and Gray, section 5.1. The last point is infinity, where the value of a polynomial is
  its highest coefficient.
  """
  count = _TILE + size - 2
  points = np.array(_POINTS[:count])
  others = [np.delete(points, k) for k in range(count)]

  def at_points(length):
    return np.vstack([points[:, None] ** np.arange(length), np.eye(length)[-1]])

  # Lagrange's polynomials, low coefficients first; their scales are applied to the kernel.
  of_pixels = np.zeros((count + 1, count + 1))
  for k, roots in enumerate([*others, points]):
    of_pixels[k, : len(roots) + 1] = np.poly(roots)[::-1]
  scales = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
  of_kernel = at_points(size) / np.array([*scales, 1.0])[:, None]
  matrices = of_pixels, of_kernel, at_points(_TILE).T
  return tuple(np.kron(matrix, matrix).astype(np.float32) for matrix in matrices)


@jax.custom_vjp
def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """a @ b, with gradients for which XLA makes no transposed copy of b or of its gradient."""
  return a @ b


def _product_forward(a, b):
  return a @ b, (a, b)


def _product_backward(factors, g):
  a, b = factors
  batch = tuple(range(a.ndim - 2))
  rows, columns = a.ndim - 2, a.ndim - 1
  of_a = jax.lax.dot_general(g, b, (((columns,), (columns,)), (batch, batch)))
  return of_a, jax.lax.dot_general(a, g, (((rows,), (rows,)), (batch, batch)))


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _combine(matrix: np.ndarray, x: jax.Array) -> jax.Array:
  """The matrix times x along x's first axis, with a gradient that makes no copies."""
  y = jax.lax.dot_general(matrix, x.reshape(len(x), -1), (((1,), (0,)), ((), ())))
  return y.reshape(-1, *x.shape[1:])


def _combine_forward(matrix, x):
  return _combine(matrix, x), matrix


def _combine_backward(matrix, g):
  of_x = jax.lax.dot_general(matrix, g.reshape(len(g), -1), (((0,), (0,)), ((), ())))
  return None, of_x.reshape(-1, *g.shape[1:])


_combine.defvjp(_combine_forward, _combine_backward)
