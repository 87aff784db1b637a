"""Convolutions as matrix products equal XLA's own, with their gradients."""

import jax
import numpy as np
import pytest

from lr_study.network.convolution import as_matmul


@pytest.mark.parametrize(
  ('size', 'channels', 'features', 'kernel', 'stride', 'padding', 'groups'),
  [
    (27, 3, 8, 11, 4, 0, 1),
    (30, 3, 8, 11, 4, 0, 1),  # with pixels that no window reaches
    (10, 2, 4, 5, 3, 1, 1),
    (9, 6, 8, 5, 1, 2, 2),
    (5, 4, 6, 3, 1, 1, 1),
    (7, 4, 4, 3, 2, 1, 2),
  ],
)
def test_equals_the_convolution(size, channels, features, kernel, stride, padding, groups):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 2, size, size, channels)).astype(np.float32)
  w = rng.normal(size=(3, kernel, kernel, channels // groups, features)).astype(np.float32)
  settings = {
    'window_strides': (stride, stride),
    'padding': [(padding, padding)] * 2,
    'dimension_numbers': jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    'feature_group_count': groups,
  }

  def summed(x, w, convolve):
    y = jax.vmap(lambda x, w: convolve(x, w, **settings))(x, w)
    return (y**2).sum(), y

  (_, ours), our_gradients = jax.value_and_grad(summed, (0, 1), has_aux=True)(x, w, as_matmul)
  (_, xlas), xla_gradients = jax.value_and_grad(summed, (0, 1), has_aux=True)(
    x, w, jax.lax.conv_general_dilated
  )
  # Sums of up to a few hundred products of order 1, in another order: float32 gives 1e-6 each.
  for a, b in zip((ours, *our_gradients), (xlas, *xla_gradients), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(abs(b).max()))
