"""The three AlexNets: their sizes, their initial weights, and the layers that are ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lr_study.network import layers, model, presets


def make(preset, classes=10, width=1.0):
  config = ConfigDict({
    'preset': preset, 'width': width, 'dropout': 0.5, 'convolution': 'grouped', 'dense': 'plain'
  })  # fmt: skip
  return model.make_model(config, classes)


def init(network, image_size):
  return jax.jit(lambda key: model.init_params(network, key, image_size))(jax.random.key(0))


def shapes(preset, image_size, classes=10):
  network = make(preset, classes)
  return jax.eval_shape(lambda key: model.init_params(network, key, image_size), jax.random.key(0))


@pytest.mark.parametrize(
  ('preset', 'image_size', 'classes', 'count'),
  [
    ('digits_tensorflow', 227, 10, 58_322_314),
    ('digits_tensorflow', 256, 10, 58_322_314),
    ('digits_tensorflow', 224, 10, 46_787_978),
    ('digits_caffe', 227, 10, 56_909_194),
    ('torchvision', 224, 10, 57_044_810),
    ('torchvision', 224, 1000, 61_100_840),
  ],
)
def test_parameter_counts(preset, image_size, classes, count):
  params = shapes(preset, image_size, classes)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
  ('preset', 'image_size', 'features'),
  [
    ('digits_tensorflow', 227, 9216),
    ('digits_tensorflow', 256, 9216),
    ('digits_tensorflow', 224, 6400),
    ('digits_caffe', 227, 9216),
    ('torchvision', 224, 9216),
  ],
)
def test_features_into_fc6(preset, image_size, features):
  assert shapes(preset, image_size)['fc6']['kernel'].shape == (features, 4096)
  size = presets.feature_size(presets.PRESETS[preset], image_size)
  assert size * size * 256 == features


@pytest.mark.parametrize('preset', presets.PRESETS)
def test_smallest_image_is_the_smallest_that_gives_logits(preset):
  network = make(preset, width=1 / 16)
  smallest = presets.smallest_image(network.preset)
  params = init(network, smallest)
  logits = model.apply(network, params, jnp.ones((2, smallest, smallest, 3)))
  assert logits.shape == (2, 10)
  assert presets.feature_size(network.preset, smallest - 1) == 0


@pytest.mark.parametrize('preset', presets.PRESETS)
@pytest.mark.parametrize('image_size', [84, 100, 131])
def test_feature_size_is_the_networks_own(preset, image_size):
  network = make(preset, width=1 / 16)
  _, found = jax.eval_shape(
    lambda key: network.init_with_output(
      key, jnp.zeros((1, image_size, image_size, 3)), train=False, capture_intermediates=True
    ),
    jax.random.key(0),
  )
  kernel = found['params']['fc6']['kernel']
  size = 6 if network.preset.adaptive_pool else presets.feature_size(network.preset, image_size)
  assert kernel.shape[0] == size**2 * model.scaled(256, 1 / 16, network.preset.groups[4])


def uniform_bound(values, bound):
  """All within the bound, and spread over it as a uniform distribution is."""
  assert np.abs(values).max() <= bound * (1 + 1e-6)  # the draw is scaled in float32
  # The standard deviation of n uniform draws is bound / sqrt(3), within about 1 / sqrt(n).
  np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=4 / np.sqrt(values.size))


def test_xavier_initialisers():
  params = init(make('digits_tensorflow', width=0.5), 84)
  for layer in params.values():
    kernel = np.asarray(layer['kernel'])
    field = int(np.prod(kernel.shape[:-2]))
    uniform_bound(kernel, np.sqrt(6 / (field * (kernel.shape[-2] + kernel.shape[-1]))))
    assert not layer['bias'].any()


def test_gaussian_initialisers():
  params = init(make('digits_caffe', width=0.5), 84)
  for name, layer in params.items():
    kernel = np.asarray(layer['kernel'])
    std = 0.005 if name in ('fc6', 'fc7') else 0.01
    np.testing.assert_allclose(kernel.std(), std, rtol=4 / np.sqrt(2 * kernel.size))
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size)
    assert (layer['bias'] == (0 if name in ('conv1', 'conv3', 'fc8') else np.float32(0.1))).all()


def test_torch_initialisers():
  params = init(make('torchvision', width=0.5), 84)
  for layer in params.values():
    bound = 1 / np.sqrt(np.prod(layer['kernel'].shape[:-1]))
    uniform_bound(np.asarray(layer['kernel']), bound)
    uniform_bound(np.asarray(layer['bias']), bound)


def test_width_keeps_groups_whole():
  assert model.scaled(384, 0.25) == 96
  assert model.scaled(384, 0.01, groups=2) == 4
  assert model.scaled(96, 0.001, groups=2) == 2


def test_head_is_linear_only_with_digits_tensorflow():
  """Without a ReLU, doubling fc7's input doubles its output: logits stay affine in a feature."""
  for preset, affine in (('digits_tensorflow', True), ('digits_caffe', False)):
    network = make(preset, width=1 / 16)
    params = init(network, 84)
    image = 100 * jax.random.normal(jax.random.key(1), (1, 84, 84, 3))

    def logits(scale, params=params, network=network, image=image):
      scaled = params | {'fc7': jax.tree.map(lambda x: scale * x, params['fc7'])}
      return model.apply(network, scaled, image)

    straight = jnp.allclose(logits(1.0) - logits(0.0), logits(0.0) - logits(-1.0), rtol=1e-3)
    assert bool(straight) == affine


def test_dropout_only_in_training():
  network = make('digits_tensorflow', width=1 / 16)
  params = init(network, 84)
  image = jnp.ones((1, 84, 84, 3))
  first, second = (model.apply(network, params, image, jax.random.key(k)) for k in (1, 2))
  assert not jnp.allclose(first, second)
  assert (model.apply(network, params, image) == model.apply(network, params, image)).all()


def test_local_response_norm_is_its_formula():
  x = np.random.default_rng(0).normal(0, 100, (1, 2, 2, 7)).astype(np.float32)
  expected = np.empty_like(x)
  for c in range(7):
    near = x[..., max(0, c - 2) : c + 3].astype(np.float64)
    expected[..., c] = x[..., c] / (1 + 1e-4 / 5 * (near**2).sum(-1)) ** 0.75
  np.testing.assert_allclose(layers.local_response_norm(x), expected, rtol=1e-5)


@pytest.mark.parametrize('n', [1, 4, 6, 7, 13])
def test_adaptive_average_pool_is_its_definition(n):
  x = np.random.default_rng(0).normal(size=(1, n, n, 2)).astype(np.float32)
  pooled = layers.adaptive_average_pool(x, 6)
  for i in range(6):
    for j in range(6):
      rows = slice(i * n // 6, int(np.ceil((i + 1) * n / 6)))
      columns = slice(j * n // 6, int(np.ceil((j + 1) * n / 6)))
      expected = x[0, rows, columns].mean((0, 1))
      np.testing.assert_allclose(pooled[0, i, j], expected, atol=1e-6)


@pytest.mark.parametrize('network', model.NETWORKS)
def test_the_two_parts_are_the_whole(network):
  network = make(network, width=0.1)
  params = init(network, 84)
  images = jax.random.normal(jax.random.key(1), (3, 84, 84, 3))
  rows = model.convolve(network, params, images)
  assert rows.ndim == 2
  np.testing.assert_array_equal(
    model.classify(network, params, rows), model.apply(network, params, images)
  )


@pytest.mark.parametrize('preset', ['digits_tensorflow', 'digits_caffe'])
def test_outputs_are_those_on_the_way_to_the_logits(preset):
  network = make(preset, width=1 / 16)
  params = init(network, 84)
  images = jax.random.normal(jax.random.key(1), (2, 84, 84, 3))
  by_layer, logits = model.outputs(network, params, images)
  assert [*by_layer, max(params)] == sorted(params)  # all but the last, in their order
  np.testing.assert_array_equal(logits, model.apply(network, params, images))
  for name, values in by_layer.items():
    assert values.shape[-1] == len(params[name]['bias'])
    rectified = name.startswith('conv') or preset == 'digits_caffe'
    assert (float(values.min()) >= 0) == rectified


@pytest.mark.parametrize('size', [3, 4, 7, 10])
@pytest.mark.parametrize('ceil', [False, True])
def test_max_pool_is_xlas_and_its_gradient_goes_to_the_first_maximum(size, ceil):
  # Few values, so that most windows have several maxima; XLA's gradient takes the first, too.
  x = np.random.default_rng(0).integers(-2, 2, (2, size, size + 2, 3)).astype(np.float32)
  over = (0, (size - 3) % 2 if ceil else 0)

  def xlas(x):
    shape, strides, padding = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), over, over, (0, 0))
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, shape, strides, padding)

  def found(pool):
    y, back = jax.vjp(pool, x)
    weights = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    return y, back(weights)[0]

  for ours, theirs in zip(found(lambda x: layers.max_pool(x, ceil)), found(xlas), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # sums of up to four gradients
