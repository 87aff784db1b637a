"""Convolutions as matrix products equal XLA's own, with their gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerated import double, engine_of, task_of, train

from lr_study.accelerate import convolution, products
from lr_study.accelerate.convolution import convolve, lay_out
from lr_study.engine import plain
from lr_study.models import KNOWN
from lr_study.models.small_cnn import SmallCNN

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

  # Sums of up to a few hundred products of order 1, in another order: float32 gives 1e-6 each,
  # and tiles ten times that.
  for a, b in zip(found(ours), found(xlas), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(abs(b).max()))


class Net(nn.Module):
  """One layer, and logits."""

  layer: nn.Module

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3, name='head')(self.layer(x).reshape(len(x), -1))


@pytest.mark.parametrize(
  'layer',
  [
    nn.Conv(6, (3, 3)),
    nn.Conv(6, (4, 4), padding='VALID', use_bias=False),
    nn.Conv(6, (3, 3), strides=2),
    nn.Conv(6, (4, 4), strides=3, padding='SAME'),
    nn.Conv(6, (3, 3), strides=(2, 2), padding=((2, 0), (1, 3))),
    nn.Conv(6, (3, 3), padding=1, feature_group_count=2),
    nn.Conv(6, (1, 1), padding=(1, 2)),
  ],
)
def test_a_layer_of_any_network_gives_the_same(layer):
  check_layer(layer, as_product=True)


@pytest.mark.parametrize(
  'layer',
  [
    nn.Conv(6, (3, 2)),
    nn.Conv(6, (3, 3), strides=(1, 2)),
    nn.Conv(6, (3, 3), kernel_dilation=2),
    nn.Conv(6, (3, 3), padding=1, input_dilation=2),
    nn.Conv(6, (3, 3), padding='CIRCULAR'),
    nn.Conv(6, (3, 3), precision='highest'),
    nn.Conv(6, (3, 3), mask=np.ones((3, 3, 4, 6), np.float32)),
  ],
)
def test_a_layer_that_is_no_plain_convolution_is_left_alone(layer):
  check_layer(layer, as_product=False)


def check_layer(layer, as_product):
  task = task_of(Net(layer), (9, 10, 4))
  assert (products.survey(task, 2)[:2] == (1, 0)) == as_product
  x = np.random.default_rng(0).normal(size=(2, 9, 10, 4)).astype(np.float32)
  params = task.model.init(jax.random.key(0), x)['params']

  def loss(params, x):
    return (task.model.apply({'params': params}, x) ** 2).sum()

  def found(intercept):
    with nn.intercept_methods(intercept):
      lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, x)
    return lowered.as_text(), lowered.compile()(params, x)

  text, expected = found(
    lambda next_call, arguments, keywords, _: next_call(*arguments, **keywords)
  )
  assert 'stablehlo.convolution' in text
  text, ours = found(products.intercept)
  assert ('stablehlo.convolution' not in text) == as_product
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, expected)


class Forms(nn.Module):
  """Layers by nn.scan, nn.remat and nn.vmap, one that is called twice, one whose kernel changes."""

  @nn.compact
  def __call__(self, x):
    scan = nn.scan(
      lambda layer, x, _: (jnp.tanh(layer(x)), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=2,
    )
    x, _ = scan(nn.Conv(4, (3, 3)), x, None)
    x = nn.remat(nn.Conv)(4, (3, 3))(x)
    over = {'variable_axes': {'params': 0}, 'split_rngs': {'params': True}}
    x = nn.vmap(nn.Conv, in_axes=None, axis_size=2, **over)(4, (3, 3))(x).sum(0)
    twice = nn.Conv(4, (3, 3))
    x = twice(jnp.tanh(twice(x)))
    return nn.Dense(3)(nn.WeightNorm(nn.Conv(4, (3, 3)))(x).mean((1, 2)))


def both(task, rate, steps, batch_size=1):
  """Losses with convolutions as products, and with XLA's own."""
  ours = engine_of(task, 'auto', batch_size)
  assert ours.about.endswith('convolutions as matrix products')
  expected = train(plain(task), task, rate, steps, batch_size)
  assert np.abs(np.diff(expected.losses)).max() > 1e-3  # it did train
  return train(ours, task, rate, steps, batch_size).losses, expected.losses


def test_layers_in_transformations_train_the_same():
  ours, expected = both(task_of(Forms(), (6, 6, 4)), 0.1, 30, 2)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def always_tiles(monkeypatch):
  """Layers of any size are computed in tiles."""
  monkeypatch.setattr(convolution, '_LEAST_OUTPUTS', 1)
  monkeypatch.setattr(convolution, '_LEAST_FEATURES', 1)


def test_200_steps_in_tiles(always_tiles):
  ours, expected = both(task_of(SmallCNN(3, 1 / 16, 0.0), (16, 16, 1)), 1e-2, 200)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
  assert (ours != expected).any()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['digits_tensorflow', 'torchvision', 'small_cnn'])
def test_200_steps_in_tiles_against_float64(always_tiles, name):
  """Both of them: they differ by rounding."""
  task = task_of(KNOWN[name](3, 1 / 16, 0.0), (67, 67, 3))
  exact = train(plain(double(task)), task, 1e-3, 200, exact=True).losses
  for losses in both(task, 1e-3, 200):
    np.testing.assert_allclose(losses, exact, rtol=1e-4, atol=1e-6)
