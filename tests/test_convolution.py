"""Convolutions as matrix products equal XLA's own, with their gradients."""

import jax
import numpy as np
import pytest
from helpers import load, train

from lr_study.network import convolution, model
from lr_study.network.convolution import convolve, lay_out

WINDOWS = [
  (27, 3, 8, 11, 4, 0, 1),
  (30, 3, 8, 11, 4, 0, 1),  # with pixels that no window reaches
  (10, 2, 4, 5, 3, 1, 1),
  (9, 6, 8, 5, 1, 2, 2),
  (5, 4, 6, 3, 1, 1, 1),
  (7, 4, 4, 3, 2, 1, 2),
  (9, 3, 4, 2, 3, 0, 1),  # a kernel smaller than a block
  (40, 2, 4, 1, 1, 0, 1),
  (20, 32, 64, 7, 1, 3, 1),  # too large a kernel for tiles
]
TILES = [
  (24, 32, 40, 5, 1, 2, 1),
  (25, 32, 32, 3, 1, 1, 1),  # tiles that hang over
  (24, 64, 96, 3, 1, 1, 2),
  (80, 2, 40, 11, 4, 0, 1),  # in blocks of 4 x 4 x 2
  (20, 36, 32, 4, 1, 0, 1),
]


@pytest.mark.parametrize(
  ('form', 'shape'),
  [('windows', shape) for shape in WINDOWS] + [('tiles', shape) for shape in TILES],
)
def test_equals_the_convolution(form, shape):
  size, channels, features, kernel, stride, padding, groups = shape
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 2, size, size, channels)).astype(np.float32)
  w = rng.normal(size=(3, kernel, kernel, channels // groups, features)).astype(np.float32)
  of_groups = lay_out(x[0], features, kernel, stride, padding, groups).groups
  assert len(of_groups) == groups
  assert {part.ndim for part in of_groups} == {{'windows': 4, 'tiles': 5}[form]}

  def ours(x, w):
    return convolve(x, w, stride, padding, groups)

  def laid_out_before(x, w):
    laid_out = lay_out(x, features, kernel, stride, padding, groups)
    return convolve(laid_out, w, stride, padding, groups)

  def xlas(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )

  def found(convolve):
    def summed(x, w):
      y = jax.vmap(convolve)(x, w)
      return (y**2).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(summed, (0, 1), has_aux=True))(x, w)
    return y, *gradients

  expected = found(xlas)
  # Sums of up to a few hundred products of order 1, in another order: float32 gives 1e-6 each,
  # and tiles ten times that.
  for way in (ours, laid_out_before):
    for a, b in zip(found(way), expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(abs(b).max()))


@pytest.mark.parametrize('preset', ['digits_tensorflow', 'torchvision', model.SMALL])
def test_curves_of_200_steps_are_those_of_xlas_convolutions(tiny, preset, monkeypatch):
  """With every layer in tiles, both against a run in float64: they differ by rounding."""
  monkeypatch.setattr(convolution, '_LEAST_OUTPUTS', 1)
  monkeypatch.setattr(convolution, '_LEAST_FEATURES', 1)
  tiny.model.preset = preset
  rate = 1e-4
  if preset != 'digits_tensorflow':
    tiny.input.scale, tiny.optimizer.momentum, rate = 1 / 58, 0.9, 1e-3
  losses = {}
  for way in ('grouped', 'matmul'):
    tiny.model.convolution = way
    config, data_set = load(tiny)
    losses[way] = train(config, data_set, [rate], [0], 200)[0].loss
  config.model.convolution = 'grouped'
  exact = train(config, data_set, [rate], [0], 200, exact=True)[0].loss
  assert np.abs(exact[-20:].mean() - exact[:20].mean()) > 1e-4  # it did train
  for of_way in losses.values():
    np.testing.assert_allclose(of_way, exact, rtol=1e-4, atol=1e-6)
  assert (losses['matmul'] != losses['grouped']).any()
