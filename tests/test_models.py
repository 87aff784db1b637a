"""The networks: sizes, initial weights, logits, what fits which data, and networks of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lr_study import models, plugs
from lr_study.errors import StudyError
from lr_study.models import layers

ALEXNETS = ('digits_tensorflow', 'digits_caffe', 'torchvision')
# Small, but with every kind of layer: name -> arguments, fields to replace, shape of an input.
SMALL = {
  'digits_tensorflow': ({'width': 1 / 32}, {}, (67, 67, 3)),
  'digits_caffe': ({'width': 1 / 32}, {}, (39, 39, 3)),
  'torchvision': ({'width': 1 / 32}, {}, (63, 63, 3)),
  'small_cnn': ({'width': 1 / 8}, {}, (16, 16, 3)),
  'mlp': ({'hidden': (8,), 'dropout': 0.5}, {}, (7,)),
  'lenet': ({}, {}, (12, 12, 1)),
  'resnet18': ({'width': 1 / 16}, {'depths': (1, 1)}, (8, 8, 3)),
  'resnet50': ({'width': 1 / 16, 'norm': 'group'}, {'depths': (1, 1)}, (8, 8, 3)),
  'vit_tiny': ({'width': 1 / 16, 'depth': 1, 'dropout': 0.5}, {}, (9, 8, 3)),
  'vit_small': ({'width': 1 / 16, 'depth': 1, 'patch': 4}, {}, (8, 8, 3)),
  'convnext_tiny': ({'width': 1 / 16, 'drop_path': 0.5}, {'depths': (1, 2)}, (8, 8, 3)),
}


def make(name, classes=10, dtype='float32', **values):
  return models.build({'name': name, **values}, classes, dtype)


def make_small(name, dtype='float32'):
  values, replaced, shape = SMALL[name]
  return make(name, dtype=dtype, **values).clone(**replaced), shape


def shapes(model, shape):
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)['params']
  )


def init(model, shape):
  draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False))
  return draw(jax.random.key(0))


def any_variables(model, shape, trials=()):
  """Random numbers in place of initial weights, which take longest to compile."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=(*trials, *leaf.shape)) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    name = path[-1].key
    return (np.abs(values) + 0.5 if name in ('var', 'scale') else values).astype(np.float32)

  abstract = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
  )
  return jax.tree_util.tree_map_with_path(draw, abstract)


@pytest.mark.parametrize(
  ('name', 'shape', 'classes', 'count'),
  [
    ('digits_tensorflow', (227, 227, 3), 10, 58_322_314),
    ('digits_tensorflow', (256, 256, 3), 10, 58_322_314),
    ('digits_tensorflow', (224, 224, 3), 10, 46_787_978),
    ('digits_caffe', (227, 227, 3), 10, 56_909_194),
    ('torchvision', (224, 224, 3), 10, 57_044_810),
    ('torchvision', (224, 224, 3), 1000, 61_100_840),
    ('lenet', (28, 28, 1), 10, 61_706),
    ('resnet18', (224, 224, 3), 1000, 11_689_512),
    ('resnet50', (224, 224, 3), 1000, 25_557_032),
    # DeiT's 5,717,416 and 22,050,664 less the class token and its position.
    ('vit_tiny', (224, 224, 3), 1000, 5_717_032),
    ('vit_small', (224, 224, 3), 1000, 22_049_896),
    ('convnext_tiny', (224, 224, 3), 1000, 28_589_128),
  ],
)
def test_parameter_counts(name, shape, classes, count):
  params = shapes(make(name, classes), shape)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
  ('name', 'size', 'features'),
  [
    ('digits_tensorflow', 227, 9216),
    ('digits_tensorflow', 256, 9216),
    ('digits_tensorflow', 224, 6400),
    ('digits_caffe', 227, 9216),
    ('torchvision', 224, 9216),
  ],
)
def test_features_into_fc6(name, size, features):
  assert shapes(make(name), (size, size, 3))['fc6']['kernel'].shape == (features, 4096)


@pytest.mark.parametrize('name', models.KNOWN)
def test_logits_in_training_and_evaluation_under_vmap_and_in_bfloat16(name):
  model, shape = make_small(name)
  half, _ = make_small(name, 'bfloat16')
  variables = any_variables(model, shape, trials=(2,))
  images = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)

  @jax.jit
  @jax.vmap
  def run(variables, key):
    mutable = [collection for collection in variables if collection != 'params']
    trained, state = model.apply(
      variables, images, train=True, rngs={'dropout': key}, mutable=mutable
    )
    plain, low = (of.apply(variables, images, train=False) for of in (model, half))
    return plain, low, trained, state

  plain, low, trained, state = run(variables, jax.random.split(jax.random.key(0)))
  assert (plain.dtype, low.dtype) == (jnp.float32, jnp.bfloat16)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
  for logits in (plain, low, trained):
    assert logits.shape == (2, 3, 10)
    assert np.isfinite(logits).all()
    assert not np.array_equal(logits[0], logits[1])  # of two trials
  np.testing.assert_allclose(low, plain, atol=0.05 * np.abs(plain).max())
  # Dropout, batch statistics and skipped blocks are for training; three networks have none here.
  assert np.array_equal(plain, trained) == (name in ('lenet', 'resnet50', 'vit_small'))


@pytest.mark.parametrize('name', models.KNOWN)
def test_known_networks_fit_in_full_size_and_equal_configs_give_equal_networks(name):
  models.check(make(name, dtype='bfloat16'), (67, 67, 1), 10, 'bfloat16', name)
  assert make(name) == make(name)
  assert hash(make(name)) == hash(make(name))
  assert make(name) != make(name, dtype='bfloat16')


def test_batch_statistics_change_in_training_only():
  model, shape = make_small('resnet18')
  variables = any_variables(model, shape)
  images = np.random.default_rng(1).normal(1, 1, (4, *shape)).astype(np.float32)

  @jax.jit
  def run(variables):
    return [
      model.apply(variables, images, train=train, mutable=['batch_stats'])[1]
      for train in (True, False)
    ]

  trained, evaluated = run(variables)
  before = variables['batch_stats']
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(trained), strict=True):
    assert not np.array_equal(old, new)
  jax.tree.map(np.testing.assert_array_equal, evaluated['batch_stats'], before)


def test_stem_and_patches_follow_the_size_of_the_image():
  def kernel(name, layer, size, **values):
    return shapes(make(name, **values), (size, size, 3))[layer]['kernel'].shape[0]

  assert [kernel('resnet18', 'stem', size) for size in (32, 224)] == [3, 7]
  assert [kernel('resnet18', 'stem', 224, stem=stem) for stem in ('small', 'large')] == [3, 7]
  assert [kernel('vit_tiny', 'embed', size, depth=1) for size in (8, 32, 224)] == [2, 4, 16]
  assert kernel('vit_tiny', 'embed', 224, depth=1, patch=32) == 32


def test_mlp_takes_tables_and_images():
  for shape in ((12,), (4, 3), (2, 2, 3)):
    params = shapes(make('mlp', hidden=(7, 5)), shape)
    sizes = [params[f'dense{i}']['kernel'].shape for i in (1, 2, 3)]
    assert sizes == [(12, 7), (7, 5), (5, 10)]


def test_mlp_with_tanh_and_a_last_layer_that_starts_smaller():
  x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
  plain, other = make('mlp', hidden=(7,)), make('mlp', hidden=(7,), output_scale=0.25)
  params, scaled = (init(of, (6,))['params'] for of in (plain, other))
  np.testing.assert_allclose(scaled['dense2']['kernel'], params['dense2']['kernel'] / 4, rtol=1e-6)
  np.testing.assert_array_equal(scaled['dense1']['kernel'], params['dense1']['kernel'])
  tanh = make('mlp', hidden=(7,), activation='tanh')
  expected = np.tanh(x @ params['dense1']['kernel']) @ params['dense2']['kernel']
  found = tanh.apply({'params': params}, x, train=False)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  zero = make('mlp', hidden=(7,), output_scale=0.0)
  assert (zero.apply(init(zero, (6,)), x, train=False) == 0).all()


def uniform_bound(values, bound):
  """All within the bound, and spread over it as a uniform distribution is."""
  assert np.abs(values).max() <= bound * (1 + 1e-6)  # the draw is scaled in float32
  # The standard deviation of n uniform draws is bound / sqrt(3), within about 1 / sqrt(n).
  np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=4 / np.sqrt(values.size))


def test_xavier_initialisers():
  params = init(make('digits_tensorflow', width=0.25), (67, 67, 3))['params']
  for layer in params.values():
    kernel = np.asarray(layer['kernel'])
    field = int(np.prod(kernel.shape[:-2]))
    uniform_bound(kernel, np.sqrt(6 / (field * (kernel.shape[-2] + kernel.shape[-1]))))
    assert not layer['bias'].any()


def test_gaussian_initialisers():
  params = init(make('digits_caffe', width=0.25), (67, 67, 3))['params']
  for name, layer in params.items():
    kernel = np.asarray(layer['kernel'])
    std = 0.005 if name in ('fc6', 'fc7') else 0.01
    np.testing.assert_allclose(kernel.std(), std, rtol=4 / np.sqrt(2 * kernel.size))
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size)
    assert (layer['bias'] == (0 if name in ('conv1', 'conv3', 'fc8') else np.float32(0.1))).all()


def test_torch_initialisers():
  params = init(make('torchvision', width=0.25), (67, 67, 3))['params']
  for layer in params.values():
    bound = 1 / np.sqrt(np.prod(layer['kernel'].shape[:-1]))
    uniform_bound(np.asarray(layer['kernel']), bound)
    uniform_bound(np.asarray(layer['bias']), bound)


def test_width_keeps_groups_whole():
  assert layers.scaled(384, 0.25) == 96
  assert layers.scaled(384, 0.01, groups=2) == 4
  assert layers.scaled(96, 0.001, groups=2) == 2
  for width in (0.013, 0.3):  # two towers, three heads, groups of a normalisation
    models.check(make('digits_caffe', width=width), (39, 39, 3), 10, 'float32', 'digits_caffe')
    models.check(make('vit_tiny', width=width, depth=1), (8, 8, 3), 10, 'float32', 'vit_tiny')
    model = make('resnet18', width=width, norm='group')
    models.check(model, (8, 8, 3), 10, 'float32', 'resnet18')


def test_head_is_linear_only_with_digits_tensorflow():
  """Without a ReLU, doubling fc7's input doubles its output: logits stay affine in a feature."""
  for name, affine in (('digits_tensorflow', True), ('digits_caffe', False)):
    model, shape = make_small(name)
    params = any_variables(model, shape)['params']
    image = np.random.default_rng(1).normal(size=(1, *shape))

    @jax.jit
    def logits(scale, params=params, model=model, image=image):
      scaled = params | {'fc7': jax.tree.map(lambda x: scale * x, params['fc7'])}
      return model.apply({'params': scaled}, image, train=False)

    low, middle, high = (logits(scale) for scale in (-1.0, 0.0, 1.0))
    straight = np.allclose(high - middle, middle - low, rtol=1e-3, atol=1e-6)
    assert straight == affine


@pytest.mark.parametrize('name', ['digits_caffe', 'resnet18', 'vit_tiny'])
def test_outputs_are_those_on_the_way_to_the_logits(name):
  model, shape = make_small(name)
  variables = any_variables(model, shape)
  images = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
  names = []

  @jax.jit
  def run(variables):
    by_layer, logits = models.outputs(model, variables, images)
    names.extend(by_layer)  # jit sorts what it returns
    return by_layer, logits, model.apply(variables, images, train=False)

  by_layer, logits, expected = run(variables)
  np.testing.assert_array_equal(logits, expected)
  np.testing.assert_array_equal(by_layer[names[-1]], logits)
  if name == 'digits_caffe':
    assert names == [*(f'conv{i}' for i in range(1, 6)), 'fc6', 'fc7', 'fc8']
  elif name == 'resnet18':
    assert names[:5] == ['stem', 'stem_norm', 'block0_0/conv1', 'block0_0/norm1', 'block0_0/conv2']
  else:
    attention = [f'block0/attention/{of}' for of in ('query', 'key', 'value', 'out')]
    assert names[:6] == ['embed', 'block0/norm1', *attention]
  for path, values in by_layer.items():
    assert len(values) == 2
    layer = variables['params']
    for part in path.split('/'):
      layer = layer[part]
    if 'bias' in layer and layer['bias'].ndim == 1:
      assert values.shape[-1] == len(layer['bias'])


def test_outputs_in_training():
  model, shape = make_small('resnet18')
  images = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)

  @jax.jit
  def run(variables):
    return [models.outputs(model, variables, images, train)[0] for train in (False, True)]

  by_mode = run(any_variables(model, shape))
  assert np.array_equal(*(by_layer['stem'] for by_layer in by_mode))
  assert not np.array_equal(*(by_layer['stem_norm'] for by_layer in by_mode))


@pytest.mark.parametrize(
  ('name', 'smallest'),
  [
    ('digits_tensorflow', 67),
    ('digits_caffe', 39),
    ('torchvision', 63),
    ('small_cnn', 15),
    ('lenet', 12),
  ],
)
def test_too_small_an_image_is_an_error_that_names_the_smallest_that_works(name, smallest):
  model = make(name)
  models.check(model, (smallest, smallest, 3), 10, 'float32', name)
  with pytest.raises(StudyError) as found:
    models.check(model, (smallest - 1, smallest - 1, 3), 10, 'float32', name)
  message = str(found.value)
  assert '\n' not in message
  assert message.startswith(f'model.name={name}: ')
  assert f'(2, {smallest - 1}, {smallest - 1}, 3)' in message
  assert f'--config.image_size={smallest},' in message


def test_a_table_is_no_image():
  with pytest.raises(StudyError, match=r'resnet18: it fails on inputs of shape \(2, 30\).*=mlp'):
    models.check(make('resnet18'), (30,), 10, 'float32', 'resnet18')


@pytest.mark.parametrize(
  ('name', 'values', 'message'),
  [
    ('mlp', {'hidden': (8, 0)}, 'model.hidden is'),
    ('resnet18', {'norm': 'layer'}, 'model.norm is'),
    ('resnet18', {'width': 0}, 'model.width is'),
    ('vit_tiny', {'heads': 0}, 'model.heads is'),
    ('convnext_tiny', {'drop_path': 1.0}, 'model.drop_path is'),
    ('small_cnn', {'widht': 1.0}, 'widht'),
    ('resnet19', {}, 'resnet18'),
  ],
)
def test_arguments_out_of_their_limits(name, values, message):
  with pytest.raises(StudyError, match=message):
    make(name, **values)


OWN = """
import flax.linen as nn
import jax
from flax import nnx


class Plain(nn.Module):
  classes: int
  features: int = 4

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(nn.relu(nn.Dense(self.features)(x.mean((1, 2)))))


def function(classes, scale=1.0):
  return nn.Sequential([lambda x: scale * x.mean((1, 2)), nn.Dense(classes)])


def without_classes():
  return nn.Dense(3)


class NoParameters(nn.Module):
  classes: int

  def __call__(self, x):
    return x.mean((1, 2))[:, :1].repeat(self.classes, 1)


class Pair(Plain):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(x.mean((1, 2))), x


class Wrong(Plain):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes + 1)(x.mean((1, 2)))


class Fails(Plain):
  @nn.compact
  def __call__(self, x):
    return x.no_such_method()


class Pools(Plain):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (5, 5), padding='VALID')(x)
    return nn.Dense(self.classes)(x.mean((1, 2)))


number = 3
instance = Plain(2)


def number_of(classes):
  return classes


def raises(classes):
  raise RuntimeError('no network today')


class Block(nnx.Module):
  def __init__(self, features, rngs):
    self.conv = nnx.Conv(features, features, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(features, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.dropout(nnx.relu(self.norm(self.conv(x))))


class New(nnx.Module):
  def __init__(self, classes, *, width: int = 4, rngs):
    self.shift = jax.random.normal(rngs.params(), (3,))
    self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
    self.blocks = nnx.List([Block(width, rngs)])
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x - self.shift)
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def new(classes, rngs, dtype=None):
  return nnx.Linear(3, classes, dtype=dtype, rngs=rngs)


def new_without_rngs(classes):
  return nnx.Linear(3, classes, rngs=nnx.Rngs(0))


class NewWithMode(nnx.Module):
  def __init__(self, classes, rngs):
    self.head = nnx.Linear(3, classes, rngs=rngs)

  def __call__(self, x, train):
    return self.head(x.mean((1, 2))) * (2 if train else 1)
"""


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """The path of a file with networks of a user's own."""
  file = tmp_path_factory.mktemp('own') / 'my_models.py'
  file.write_text(OWN)
  return file


def test_own_linen_modules(own):
  images = jnp.ones((2, 8, 8, 3))
  for name, values in (('Plain', {'features': 7}), ('function', {'scale': 2.0})):
    model = make(f'{own}:{name}', classes=5, **values)
    models.check(model, (8, 8, 3), 5, 'float32', name)
    variables = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), images))
  assert variables['params']['layers_1']['kernel'].shape == (3, 5)
  plain = make(f'{own}:Plain', classes=5, features=7)
  assert plain.features == 7
  by_layer, _ = models.outputs(plain, plain.init(jax.random.key(0), images), images)
  assert {name: of.shape for name, of in by_layer.items()} == {'Dense_1': (2, 7), 'Dense_0': (2, 5)}


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('without_classes', ['without_classes', 'classes']),
    ('NoParameters', ['NoParameters', 'no parameters']),
    ('Pair', ['Pair', 'tuple', 'logits']),
    ('Wrong', ['Wrong', '(2, 6)', '(2, 5)']),
    ('Fails', ['Fails', 'no_such_method', 'my_models.py:46', '(2, 4, 4, 3)']),
    ('Pools', ['Pools', 'Conv_0', 'empty', '--config.image_size=5,']),
    ('number', ['number']),
    ('instance', ['instance', 'class']),
    ('number_of', ['number_of', 'int', 'Flax module']),
    ('raises', ['raises', 'no network today', 'my_models.py']),
    ('new_without_rngs', ['new_without_rngs', 'rngs']),
    ('Nothing', ['Nothing', 'my_models.py']),
  ],
)
def test_own_networks_that_do_not_fit_are_named_in_one_line(own, name, words):
  with pytest.raises(StudyError) as found:
    models.check(make(f'{own}:{name}', classes=5), (4, 4, 3), 5, 'float32', f'{own}:{name}')
  message = str(found.value)
  assert '\n' not in message
  for word in words:
    assert word in message


def test_nnx_module_with_batch_norm_and_dropout(own):
  model = make(f'{own}:New', classes=5, width=6)
  models.check(model, (4, 4, 3), 5, 'float32', 'New')
  images = np.random.default_rng(1).normal(size=(3, 4, 4, 3)).astype(np.float32)

  # Initial weights depend on the key alone.
  draw = jax.jit(lambda key: model.init(key, images, train=False))
  variables, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, variables, again)
  assert not np.allclose(variables['params']['head']['kernel'], other['params']['head']['kernel'])
  state = {name: of for name, of in variables.items() if name != 'params'}
  assert variables['params']['blocks']['0']['conv']['kernel'].shape == (3, 3, 6, 6)
  assert set(state) == {'batch_stats', 'constants'}

  @functools.partial(jax.jit, static_argnums=2)
  def run(variables, key, train):
    return model.apply(variables, images, train, rngs={'dropout': key}, mutable=list(state))

  # Nothing is random in evaluation, and nothing changes.
  keys = [jax.random.key(seed) for seed in (1, 1, 2)]
  (logits, new), _, (same, _) = (run(variables, key, False) for key in keys)
  assert logits.shape == (3, 5)
  np.testing.assert_array_equal(logits, same)
  jax.tree.map(np.testing.assert_array_equal, new, state)
  # Training draws from the dropout rng and changes the statistics.
  (one, new), (same, _), (two, _) = (run(variables, key, True) for key in keys)
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one, two)
  assert not np.array_equal(one, logits)
  for name in ('mean', 'var'):
    old, changed = (of['batch_stats']['blocks']['0']['norm'][name] for of in (state, new))
    assert not np.array_equal(old, changed)
  # Evaluation uses them, and arrays that were drawn as plain attributes.
  for changed in ({**variables, **new}, {**variables, 'constants': other['constants']}):
    assert not np.array_equal(run(changed, keys[0], False)[0], logits)


def test_nnx_module_under_vmap_and_grad(own):
  model = make(f'{own}:New', classes=5)
  images = np.random.default_rng(1).normal(size=(3, 4, 4, 3)).astype(np.float32)
  variables_T = any_variables(model, (4, 4, 3), trials=(2,))
  key_T = jax.random.split(jax.random.key(0))

  def grads(variables, key):
    def loss(params):
      logits, _ = model.apply(
        {**variables, 'params': params}, images, True, rngs={'dropout': key}, mutable=True
      )
      return logits.var()

    return jax.grad(loss)(variables['params'])

  together, alone = jax.jit(jax.vmap(grads)), jax.jit(grads)
  found_T = jax.tree.leaves(together(variables_T, key_T))
  for i, key in enumerate(key_T):
    found = jax.tree.leaves(alone(jax.tree.map(lambda x, i=i: x[i], variables_T), key))
    assert any(leaf.any() for leaf in found)
    for one, one_T in zip(found, found_T, strict=True):
      np.testing.assert_allclose(one_T[i], one, rtol=1e-3, atol=1e-6)


def test_nnx_module_that_takes_train(own):
  images = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
  model = make(f'{own}:NewWithMode', classes=5)
  variables = any_variables(model, (4, 4, 3))
  plain, trained = (
    model.apply(variables, images, train, rngs={'dropout': jax.random.key(0)})
    for train in (False, True)
  )
  np.testing.assert_array_equal(trained, 2 * plain)


@pytest.mark.parametrize('name', ['new', 'NewWithMode'])  # one takes `dtype`, the other does not
def test_nnx_module_in_bfloat16(own, name):
  model = make(f'{own}:{name}', classes=5, dtype='bfloat16')
  inputs = jnp.ones((2, 3) if name == 'new' else (2, 4, 4, 3), jnp.bfloat16)
  variables = any_variables(model, inputs.shape[1:])
  logits = model.apply(variables, inputs, train=False)
  assert logits.dtype == jnp.bfloat16
  exact = make(f'{own}:{name}', classes=5).apply(variables, inputs, train=False)
  np.testing.assert_allclose(logits.astype(jnp.float32), exact, atol=0.05)


def test_outputs_of_an_nnx_module(own):
  model = make(f'{own}:New', classes=5)
  images = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
  names = []

  @jax.jit
  def run(variables):
    by_layer, logits = models.outputs(model, variables, images)
    names.extend(by_layer)  # jit sorts what it returns
    return by_layer, logits

  by_layer, logits = run(any_variables(model, (4, 4, 3)))
  assert names == ['stem', 'blocks/0/conv', 'blocks/0/norm', 'head']
  assert by_layer['blocks/0/conv'].shape == (2, 4, 4, 4)
  np.testing.assert_array_equal(by_layer['head'], logits)


def test_fields_of_an_nnx_module(own):
  factory = plugs.find('model', f'{own}:New')
  assert plugs.fields('model', factory).keys() == {'width', *plugs.common('model')}
  with pytest.raises(StudyError, match='widht'):
    make(f'{own}:New', widht=3)


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


@pytest.mark.parametrize('size', [3, 4, 7])
@pytest.mark.parametrize(('ceil', 'padding'), [(False, 0), (True, 0), (False, 1)])
def test_max_pool_is_xlas_and_its_gradient_goes_to_the_first_maximum(size, ceil, padding):
  # Few values, so that most windows have several maxima; XLA's gradient takes the first, too.
  x = np.random.default_rng(0).integers(-2, 2, (2, size, size + 2, 3)).astype(np.float32)
  over = (padding, padding + ((size - 3) % 2 if ceil else 0))

  def xlas(x):
    shape, strides, pads = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), over, over, (0, 0))
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, shape, strides, pads)

  def found(pool):
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(pool, x).shape)

    @jax.jit
    def run(x):
      y, back = jax.vjp(pool, x)
      return y, back(weights.astype(np.float32))[0]

    return run(x)

  ours = found(lambda x: layers.max_pool(x, ceil, padding))
  for one, other in zip(ours, found(xlas), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)  # sums of up to four gradients


def test_max_pool_of_too_few_pixels():
  with pytest.raises(ValueError, match='2 x 5 pixels'):
    layers.max_pool(jnp.zeros((1, 2, 5, 1)))
  assert layers.max_pool(jnp.zeros((1, 2, 5, 1)), ceil=True).shape == (1, 1, 2, 1)
