"""Factored dense kernels train like plain ones, and are used only where they do."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from accelerated import double, engine_of, task_of, train

from lr_study.accelerate import factored
from lr_study.accelerate.factored import Bounds, Factors
from lr_study.engine import plain
from lr_study.models import KNOWN
from lr_study.models.mlp import MLP
from lr_study.models.resnet import ResNet
from lr_study.models.vit import vit_tiny
from lr_study.trial import State

CAFFE = {  # a decay of 10 times the rate
  'name': 'caffe_sgd', 'momentum': 0.9, 'weight_decay': 10.0, 'decay_per_rate': True
}  # fmt: skip
TORCH = {'momentum': 0.9, 'weight_decay': 1e-2}


@pytest.fixture
def always(monkeypatch):
  """Factors small kernels too, where that is correct."""
  monkeypatch.setattr(factored, 'pays', lambda kernel, batch_size, bounds: bounds.decay < 0.01)


def both(task, rate, steps, batch_size=1, **fields):
  """The task trained with accelerators and without; they agree."""
  of = {
    how: train(engine_of(task, how, batch_size, **fields), task, rate, steps, batch_size)
    for how in ('auto', 'off')
  }
  assert_same(of['auto'], of['off'])
  return of['auto']


def assert_same(ours, expected):
  losses = expected.losses
  assert np.abs(losses[-10:].mean() - losses[:10].mean()) > 1e-3  # it did train
  np.testing.assert_allclose(ours.losses, losses, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(ours.gradient_norms, expected.gradient_norms, rtol=1e-3, atol=1e-5)
  for part in ('params', 'model_state'):
    same = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(same, getattr(ours.plain, part), getattr(expected.plain, part))


def drop(step):
  return jnp.where(step < 120, 1.0, 0.1)


ALEXNETS = [('digits_tensorflow', {}), ('digits_caffe', CAFFE), ('torchvision', TORCH)]


def test_an_alexnet(always):
  """Convolutions as products, dense kernels as factors, and a drop of the rate within 200 steps."""
  task = task_of(KNOWN['digits_caffe'](3, 1 / 32, 0.2), (67, 67, 3), drop, **CAFFE)
  ours = both(task, 2e-4, 200, **CAFFE)
  assert ours.state.factors.keys() == {'fc6/kernel', 'fc7/kernel', 'fc8/kernel'}


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'fields'), ALEXNETS)
def test_all_alexnets(always, name, fields):
  """Against float64 too: what they differ by is rounding."""
  task = task_of(KNOWN[name](3, 1 / 16, 0.0), (84, 84, 3), drop, **fields)
  ours = both(task, 2e-4, 200, **fields)
  assert len(ours.state.factors) == 3
  exact = train(plain(double(task)), task, 2e-4, 200, exact=True)
  np.testing.assert_allclose(ours.losses, exact.losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  'fields',
  [
    {'momentum': 0.9, 'nesterov': True, 'weight_decay': 1e-2, 'no_decay': ('dense2',)},
    {'momentum': 0.5, 'rate_factors': (('dense1/kernel', 3.0), ('bias', 0.0))},
    CAFFE,
    {**CAFFE, 'rate_in_velocity': False, 'decay_per_rate': False, 'weight_decay': 0.5},
  ],
)
def test_every_term_of_sgd(always, fields):
  task = task_of(MLP(3, (8,), 0.2), (6,), drop, **fields)
  assert both(task, 1e-2, 200, **fields).state.factors.keys() == {'dense1/kernel', 'dense2/kernel'}


@pytest.mark.parametrize('batch_size', [2, 4, 48])
def test_larger_batches(always, batch_size):
  task = task_of(MLP(3, (8,)), (6,), momentum=0.5)
  assert both(task, 1e-2, 60, batch_size, momentum=0.5).state.factors


def test_the_optimizers_numbers_may_differ_between_trials(always):
  """A momentum of 0 in the config removes it from the optimiser, unless it is swept."""
  names = ('momentum', 'weight_decay')
  task = task_of(MLP(3, (8,)), (6,), sweep=names, momentum=0.0)
  largest = {'learning_rate': 0.1, 'optimizer.momentum': 0.9, 'optimizer.weight_decay': 0.01}
  engine = engine_of(task, 'auto', largest=largest, momentum=0.0)
  for momentum in (0.0, 0.9):
    hyper = largest | {'learning_rate': 1e-2, 'optimizer.momentum': momentum}
    ours = train(engine, task, hyper, 100)
    assert ours.state.factors['dense1/kernel'].x.shape == (factored.pairs(1, 0.9), 6)
    assert_same(ours, train(plain(task), task, hyper, 100))


def test_trials_side_by_side(always):
  """vmap has a rule of its own for a fold."""
  task = task_of(MLP(3, (8,)), (300,), momentum=0.9)
  engine = engine_of(task, 'auto', momentum=0.9)
  alone = [train(engine, task, rate, 70) for rate in (1e-3, 1e-4)]

  def many(function, *axes):
    return function and jax.vmap(function, axes)

  stack = functools.partial(jax.tree.map, lambda x: jnp.stack([x, x]))
  together = train(
    engine._replace(
      start=lambda *of: stack(engine.start(*of)),
      step=many(engine.step, 0, 0, None, None, None),
      settle=many(engine.settle, 0),
      plain=many(engine.plain, 0),
    ),
    task,
    jnp.float32([1e-3, 1e-4]),
    70,
  )
  for k, one in enumerate(alone):
    np.testing.assert_allclose(together.losses[:, k], one.losses, rtol=1e-5, atol=1e-6)
    ours = jax.tree.map(lambda x, k=k: x[k], together.plain.params)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, ours, one.plain.params)


@pytest.mark.parametrize(
  'fields',
  [
    {'name': 'lion'},
    {'name': 'adam'},
    {'name': 'adamw', 'weight_decay': 1e-2},
    {'name': 'dog', 'weight_decay': None},  # as by default
    {'name': 'rmsprop'},
    {'momentum': 0.9, 'clip_norm': 0.5},
    {'momentum': 0.9, 'clip_value': 0.05},
  ],
)
def test_no_kernel_is_factored_unless_the_optimizer_is_linear(always, fields):
  task = task_of(MLP(3, (8,)), (6,), **fields)
  assert engine_of(task, 'auto', **fields).about == 'plain Flax and optax'


def test_an_optimizer_that_is_not_linear_trains_as_it_should(always):
  task = task_of(MLP(3, (8,)), (6,), name='lion')
  ours, expected = (train(engine_of(task, how), task, 3e-3, 60) for how in ('auto', 'off'))
  np.testing.assert_array_equal(ours.losses, expected.losses)
  assert ours.losses[-10:].mean() < ours.losses[:10].mean()


def test_a_residual_network(always):
  task = task_of(ResNet((1,), False, 3, 1 / 8), (8, 8, 3), momentum=0.9)
  ours = both(task, 1e-2, 40, 4, momentum=0.9)
  assert ours.state.factors.keys() == {'head/kernel'}
  assert ours.plain.model_state['batch_stats']['stem_norm']['mean'].any()


def test_a_vision_transformer(always):
  """Tokens are not rows of a batch, so their layers are not factored."""
  task = task_of(vit_tiny(3, 1 / 16, patch=6, depth=1), (12, 12, 3), momentum=0.9)
  assert both(task, 1e-2, 60, 2, momentum=0.9).state.factors.keys() == {'head/kernel'}


class Net(nn.Module):
  """A plain layer, layers in these forms, and another plain one."""

  forms: tuple[str, ...]

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(6, name='plain')(x)
    for form in self.forms:
      x = nn.LayerNorm()(x + FORMS[form](self, x))
    return nn.Dense(3, name='head')(x)


def scanned(module, x):
  scan = nn.scan(
    lambda layer, x, _: (jnp.tanh(layer(x)), None),
    variable_axes={'params': 0},
    split_rngs={'params': True},
    length=3,
  )
  return scan(nn.Dense(6), x, None)[0]


def looped(module, x):
  """The same weights in each turn."""
  loop = nn.scan(
    lambda layer, x, _: (jnp.tanh(layer(x)), None),
    variable_broadcast='params',
    split_rngs={'params': False},
    length=3,
  )
  return loop(nn.Dense(6), x, None)[0]


def twice(module, x):
  layer = nn.Dense(6)
  return layer(jnp.tanh(layer(x)))


def tied(module, x):
  layer = nn.Dense(6)
  return layer(x) @ layer.get_variable('params', 'kernel').T


def many(module, x):
  heads = nn.vmap(
    nn.Dense, in_axes=None, out_axes=1, axis_size=2, variable_axes={'params': 0},
    split_rngs={'params': True},
  )(3)  # fmt: skip
  return heads(x).reshape(len(x), -1)


def changed(module, x):
  doubled = nn.map_variables(
    nn.Dense,
    'params',
    trans_in_fn=lambda tree: jax.tree.map(lambda w: 2 * w, tree),
    init=module.is_initializing(),
    mutable=True,
  )
  return doubled(6)(x)


FORMS = {
  'scanned': scanned,
  'looped': looped,
  'remat': lambda module, x: nn.remat(nn.Dense)(6)(x),
  'twice': twice,
  'tied': tied,
  'vmap': many,
  'tokens': lambda module, x: nn.Dense(2)(x.reshape(len(x), 3, 2)).reshape(len(x), -1),
  'changed': changed,
  'normalised': lambda module, x: nn.WeightNorm(nn.Dense(6))(x),
  'spectral': lambda module, x: nn.SpectralNorm(nn.Dense(6))(x, update_stats=False),
  'precise': lambda module, x: nn.Dense(6, precision='highest')(x),
  'low': lambda module, x: nn.Dense(6, dtype=jnp.bfloat16)(x).astype(jnp.float32),
  'general': lambda module, x: nn.DenseGeneral(6)(x),
}


@pytest.mark.parametrize('form', FORMS)
def test_a_layer_that_is_not_plain_is_left_alone(always, form):
  task = task_of(Net((form,)), (5,), momentum=0.5)
  assert factored.layers(task, 1, Bounds(0.5, 0.0)) == ('plain/kernel', 'head/kernel')


def test_a_network_of_such_layers(always):
  forms = tuple(form for form in FORMS if form != 'low')  # whose rounding is seen in the curves
  task = task_of(Net(forms), (5,), momentum=0.5)
  ours = both(task, 1e-2, 70, momentum=0.5)
  assert ours.state.factors.keys() == {'plain/kernel', 'head/kernel'}


@pytest.mark.parametrize('accelerate', ['auto', 'off'])
def test_double_precision_agrees(always, accelerate):
  """Both against the same in float64: what they differ by is rounding."""
  task = task_of(MLP(3, (8,)), (6,), drop, momentum=0.9)
  exact = train(plain(double(task)), task, 1e-2, 200, exact=True)
  assert exact.plain.params['dense1']['kernel'].dtype == np.float64
  ours = train(engine_of(task, accelerate, momentum=0.9), task, 1e-2, 200)
  np.testing.assert_allclose(ours.losses, exact.losses, rtol=1e-4, atol=1e-6)


def test_settling_changes_no_kernel(always):
  """base and coordinates change, but not the kernel that they represent."""
  task = task_of(MLP(3, (8,)), (6,))
  engine = engine_of(task, 'auto')
  before = train(engine._replace(settle=None), task, 1e-2, 40).state
  params = before.state.params
  for path, kernel in engine.plain(jax.jit(engine.settle)(before)).params.items():
    factors, coordinates = before.factors[f'{path}/kernel'], params[path]['kernel']
    expected = (factors.x * coordinates[1:, None]).T @ factors.g + coordinates[0] * factors.base
    np.testing.assert_allclose(kernel['kernel'], expected, atol=1e-6)
    assert np.abs(expected - factors.base).max() > 1e-3  # there was something to fold


@pytest.mark.parametrize('inputs', [100, 256, 600])  # less than a block of rows, one, and a rest
def test_a_fold_writes_every_row(inputs):
  rng, rows = np.random.default_rng(0), 8
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  params, factors = factored.split({'fc': {'kernel': draw(inputs, 5)}}, ('fc/kernel',), rows)
  assert (params['fc']['kernel'] == np.eye(1, 1 + rows)).all()
  base, coordinates = factors['fc/kernel'].base, draw(1 + rows)
  factors = {'fc/kernel': Factors(base, draw(rows, inputs), draw(rows, 5))}
  params, optimizer = {'fc': {'kernel': coordinates}}, optax.sgd(0.1)
  _, x, g = factors['fc/kernel']
  folded = factored.fold(optimizer, State(params, {}, optimizer.init(params)), factors)
  kernel = coordinates[0] * base + (x * coordinates[1:, None]).T @ g
  # Sums of eight products of order 1 in float32.
  np.testing.assert_allclose(folded.factors['fc/kernel'].base, kernel, atol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 2, 3, 16, 64, 100])
@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9])
def test_no_pair_is_overwritten_while_it_is_needed(batch_size, momentum):
  rows, every = factored.pairs(batch_size, momentum), factored.fold_every(batch_size)
  assert rows % batch_size == 0  # a batch's pairs never wrap around
  steps_kept = rows // batch_size
  assert steps_kept >= every
  assert momentum ** (steps_kept - every + 1) <= 1.1e-9 or momentum == 0


def test_kernels_are_factored_where_that_is_less_work():
  assert factored.pays((9216, 4096), 1, Bounds(0.9, 1e-4))
  assert factored.pays((1024, 1024), 1, Bounds(0.0, 0.0))
  assert not factored.pays((4096, 10), 1, Bounds(0.0, 0.0))
  assert not factored.pays((9216, 4096), 128, Bounds(0.0, 0.0))
  assert not factored.pays((9216, 4096), 1, Bounds(0.9, 0.5))


@pytest.mark.parametrize(
  ('fields', 'is_small'),
  [
    ({'weight_decay': 0.01}, True),
    ({'weight_decay': 0.2}, False),
    ({'name': 'caffe_sgd', 'weight_decay': 0.2}, True),  # times the rate once more
    ({'name': 'caffe_sgd', 'weight_decay': 0.2, 'decay_per_rate': False}, False),
  ],
)
def test_a_large_decay_is_found_out(fields, is_small):
  """At a rate of 0.1 the second takes 0.02 of a kernel in a step."""
  task = task_of(MLP(3, (800,)), (800,), **fields)
  fields = ({'decay_per_rate': True} if 'name' in fields else {}) | fields
  engine = engine_of(task, 'auto', largest={'learning_rate': 0.1}, momentum=0.5, **fields)
  assert (engine.settle is not None) == is_small


def test_gradients_that_cancel_have_a_norm_of_0():
  """Rounding must not make the sum of squares negative, and its root NaN."""
  rng = np.random.default_rng(0)
  row, g = rng.normal(size=(1, 50)).astype(np.float32), rng.normal(size=(4, 7)).astype(np.float32)
  g -= g.mean(0)
  for k in range(20):
    x = np.repeat(row * 1.1**k, 4, 0)
    norm = factored.norm({}, {'fc/kernel': x}, {'fc/kernel': g * 1.3**k})
    assert norm < 1e-2 * np.linalg.norm(x) * np.linalg.norm(g * 1.3**k)
