"""SGD against arithmetic in NumPy; every optimiser with traced numbers against solo runs."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lr_study import optimizers, plugs, trial
from lr_study.errors import StudyError

STEPS, DROP = 12, 7


def height(step):
  return jnp.where(step < DROP, 1.0, 0.1)


def run(config, rate, gradients, **swept):
  """Weights after each step: {'kernel': (steps, 3), 'bias': (steps, 3)}."""
  optimizer = optimizers.build(config, tuple(swept))
  params = {'fc': {'kernel': jnp.ones(3), 'bias': jnp.ones(3)}}
  base = jnp.float32(rate)
  swept = {name: jnp.float32(x) for name, x in swept.items()}

  @jax.jit
  def step(carry, at):
    (params, state), (t, gradient) = carry, at
    transform = optimizer.make(learning_rate=base * height(t), base_rate=base, **swept)
    grads = {'fc': {'kernel': gradient, 'bias': gradient}}
    updates, state = transform.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params['fc']

  state = optimizer.make(learning_rate=base, base_rate=base, **swept).init(params)
  times = jnp.arange(len(gradients))
  _, seen = jax.lax.scan(step, (params, state), (times, jnp.asarray(gradients)))
  return {name: np.asarray(values) for name, values in seen.items()}


def by_hand(gradients, rate, momentum, inside, decay, rate_factor, nesterov=False):
  """w = w - v, v = m v + r g (inside) or w = w - r v, v = m v + g; g includes the decay."""
  w, v, seen = np.ones(3), np.zeros(3), []
  for step, gradient in enumerate(gradients):
    r = rate * (1.0 if step < DROP else 0.1)
    g = rate_factor * (gradient + decay * w)
    v = momentum * v + (r * g if inside else g)
    moved = g + momentum * v if nesterov else v
    w = w - (moved if inside else r * moved)
    seen.append(w)
  return np.asarray(seen)


@pytest.fixture
def gradients():
  return np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)


def test_sgd_alone_is_plain(gradients):
  found = run({'name': 'sgd'}, 0.05, gradients)
  expected = by_hand(gradients, 0.05, 0.0, True, 0.0, 1.0)
  np.testing.assert_allclose(found['kernel'], expected, rtol=1e-5)
  np.testing.assert_allclose(found['bias'], expected, rtol=1e-5)


def test_caffe_sgd_is_as_digits_sets_it(gradients):
  """Biases at twice the rate without decay; decay is a hundredth of the rate, undropped."""
  rate = 0.5
  found = run({'name': 'caffe_sgd'}, rate, gradients)
  kernel = by_hand(gradients, rate, 0.9, True, 0.01 * rate, 1.0)
  bias = by_hand(gradients, rate, 0.9, True, 0.0, 2.0)
  np.testing.assert_allclose(found['kernel'], kernel, rtol=1e-4)
  np.testing.assert_allclose(found['bias'], bias, rtol=1e-4)


@pytest.mark.parametrize('inside', [True, False])
@pytest.mark.parametrize('coupled', [True, False])
def test_momentum_and_decay(gradients, inside, coupled):
  config = {
    'name': 'caffe_sgd', 'rate_in_velocity': inside, 'weight_decay': 0.1, 'decay_per_rate': coupled,
    'bias_rate': 1.0, 'bias_decay': 1.0,
  }  # fmt: skip
  decay = 0.1 * (0.05 if coupled else 1.0)
  expected = by_hand(gradients, 0.05, 0.9, inside, decay, 1.0)
  found = run(config, 0.05, gradients)
  np.testing.assert_allclose(found['kernel'], expected, rtol=1e-4)
  np.testing.assert_array_equal(found['kernel'], found['bias'])


@pytest.mark.parametrize('nesterov', [True, False])
def test_sgd_with_momentum_is_pytorchs(gradients, nesterov):
  config = {'name': 'sgd', 'momentum': 0.9, 'nesterov': nesterov, 'weight_decay': 0.1}
  expected = by_hand(gradients, 0.05, 0.9, False, 0.1, 1.0, nesterov)
  np.testing.assert_allclose(run(config, 0.05, gradients)['kernel'], expected, rtol=1e-4)
  swept = {'momentum': 0.9, 'weight_decay': 0.1}
  found = run(config | {'momentum': 0.0, 'weight_decay': 0.0}, 0.05, gradients, **swept)
  np.testing.assert_allclose(found['kernel'], expected, rtol=1e-4)


def test_sgd_and_caffe_sgd_are_one_where_they_should_be(gradients):
  config = {'momentum': 0.9, 'weight_decay': 0.1}
  same = {'rate_in_velocity': False, 'decay_per_rate': False, 'bias_rate': 1.0, 'bias_decay': 1.0}
  sgd = run({'name': 'sgd', **config}, 0.05, gradients)
  caffe = run({'name': 'caffe_sgd', **config, **same}, 0.05, gradients)
  np.testing.assert_array_equal(sgd['kernel'], caffe['kernel'])


def test_a_drop_shrinks_old_velocity_only_if_the_rate_is_outside(gradients):
  moved = {}
  for inside in (True, False):
    config = {'name': 'caffe_sgd', 'weight_decay': 0.0, 'rate_in_velocity': inside}
    kernel = run(config, 0.05, np.ones_like(gradients))['kernel'][:, 0]
    moved[inside] = kernel[DROP - 1] - kernel[DROP]
  # Before the drop v is 0.05 (1 + m + m^2 + ...); at it, 0.9 v is added whole or a tenth of it.
  before = sum(0.9**k for k in range(DROP))
  np.testing.assert_allclose(moved[True], 0.05 * (0.9 * before + 0.1), rtol=1e-4)
  np.testing.assert_allclose(moved[False], 0.05 * 0.1 * (0.9 * before + 1), rtol=1e-4)


# Every optimiser ------------------------------------------------------------------------------

CANNOT = {
  'lbfgs': 'value_fn',  # its line search evaluates the loss at other weights
  'sophia': 'obj_fn',  # it takes products with the Hessian of the loss
}
NEEDED = {
  'noisy_sgd': {'key': 0},
  'adafactor': {'min_dim_size_to_factor': 3},
  'galore': {'rank': 2},
}
RATES = (0.03, 0.01, 0.003)
SECOND = ('weight_decay', 'momentum', 'b1', 'beta')  # the other number that is swept, if it has one


class Mlp(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.tanh(nn.Dense(4, use_bias=False)(x)))


@pytest.fixture(scope='module')
def mlp():
  """Initial weights, and a function of weights: loss and gradient on twelve points."""
  images = jnp.asarray(np.random.default_rng(1).normal(size=(12, 5)), jnp.float32)
  labels = jnp.arange(12) % 3

  def loss(params):
    logits = Mlp().apply({'params': params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  return Mlp().init(jax.random.key(0), images)['params'], jax.value_and_grad(loss)


def make_task(config, sweep=()):
  return trial.Task(
    model=Mlp(),
    optimizer=optimizers.build(config, sweep),
    schedule=lambda step: 1 - 0.125 * step,
    loss=None,
    inputs=None,
    metrics={},
    shape=(5,),
  )


def init(task, params, hyper):
  return trial.State(params, {}, trial.make_transform(task, hyper, 0).init(params))


def step(task, state, loss_and_grads, hyper, t):
  loss, grads = loss_and_grads
  updates, opt_state = trial.update(task, state, grads, loss, hyper, t)
  return trial.State(optax.apply_updates(state.params, updates), {}, opt_state)


def second(name, config):
  """Another number that can be swept, with three values; {} if there is none."""
  names = [n for n in optimizers.may_sweep(config) if not n.startswith('clip')]
  chosen = next((n for n in (*SECOND, *names) if n in names), None)
  default = plugs.fields('optimizer', optimizers.KNOWN[name]).get(chosen)
  values = tuple(default * x for x in (1, 0.95, 0.9)) if default else (0.01, 0.05, 0.1)
  return {chosen: values} if chosen else {}


@pytest.fixture(scope='module')
def gradients_of(mlp):
  """Of one trial and of several, each compiled once for all optimisers."""
  return jax.jit(mlp[1]), jax.jit(jax.vmap(mlp[1]))


@pytest.mark.filterwarnings('ignore:.*optimistic_adam_v2:DeprecationWarning')
@pytest.mark.parametrize('name', [n for n in optimizers.KNOWN if n not in CANNOT])
def test_traced_numbers_train_as_python_numbers_do(name, mlp, gradients_of):
  """To 1e-5: the trials of one program round otherwise than operations one by one.

  A rounding of 6e-8 is multiplied where an optimiser divides by a root of squared gradients.
  """
  config = {'name': name, **NEEDED.get(name, {})}
  params, (one, several) = mlp[0], gradients_of
  other = second(name, config)
  task = make_task(config, other)
  alone = [make_task(config | {n: x[i] for n, x in other.items()}) for i in range(3)]
  traced = {f'optimizer.{n}': jnp.asarray(x) for n, x in other.items()}
  traced['learning_rate'] = jnp.asarray(RATES)

  @jax.jit
  def both(state, states, of_all, of_each, t):
    together = jax.vmap(functools.partial(step, task), in_axes=(0, 0, 0, None))
    each = [
      step(alone[i], states[i], of_each[i], {'learning_rate': rate}, t)
      for i, rate in enumerate(RATES)
    ]
    return together(state, of_all, traced, t), each

  state = jax.vmap(functools.partial(init, task, params))(traced)
  state = state._replace(params=jax.tree.map(lambda w: jnp.stack([w] * 3), params))
  states = [
    init(of, params, {'learning_rate': rate}) for of, rate in zip(alone, RATES, strict=True)
  ]
  for t in range(6):
    of_each = [one(of.params) for of in states]
    state, states = both(state, states, several(state.params), of_each, t)
  weights = jax.vmap(task.optimizer.eval_params)(state.opt_state, state.params)
  for i, of in enumerate(states):
    expected = alone[i].optimizer.eval_params(of.opt_state, of.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
      found = functools.reduce(lambda tree, key: tree[key.key], path, weights)[i]
      assert np.isfinite(leaf).all()
      np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6)


def test_an_argument_that_optax_refuses_is_told():
  with pytest.raises(StudyError, match=r"^optimizer.name is 'galore'; it rejects its .*positive"):
    optimizers.build({'name': 'galore', 'rank': -1})


@pytest.mark.parametrize('name', CANNOT)
def test_an_optimizer_that_needs_more_than_the_loss_says_so(name):
  with pytest.raises(StudyError, match=f"^optimizer.name is '{name}'; .*{CANNOT[name]}"):
    optimizers.build({'name': name})


# Functions of optax.contrib that are no optimisers by themselves, and what else they need.
PARTS = {
  'differentially_private_aggregate': 'gradients of each image',
  'hutchinson_estimator_diag_hessian': 'the loss as a function',
  'mechanize': 'an optimiser to wrap',
  'normalize': 'an optimiser after it',
  'reduce_on_plateau': 'an optimiser before it',
  'sam': 'two optimisers',
  'schedule_free': 'an optimiser to wrap',
  'schedule_free_eval_params': 'a state',
  'split_real_and_imaginary': 'an optimiser to wrap',
  'dpsgd': 'gradients of each image',
}


def test_all_of_optax_is_known():
  contrib = {
    name
    for name, of in vars(optax.contrib).items()
    if inspect.isfunction(of) and not name.startswith(('_', 'scale_by_'))
  }
  assert contrib - set(PARTS) <= set(optimizers.KNOWN)
  module = inspect.getmodule(optax.adamw)
  alias = {name for name, of in vars(module).items() if 'learning_rate' in (of.__doc__ or '')}
  assert len(alias) > 25
  assert alias <= set(optimizers.KNOWN)
  assert not set(PARTS) & set(optimizers.KNOWN)


@pytest.mark.parametrize('name', PARTS)
def test_a_part_of_an_optimizer_is_no_optimizer(name):
  with pytest.raises(StudyError, match='your own function'):
    plugs.find('optimizer', name)


def test_a_slip_of_the_pen_names_the_nearest():
  with pytest.raises(StudyError, match='did you mean adamw'):
    optimizers.build({'name': 'adamww'})
  with pytest.raises(StudyError, match=r'did you mean .*weight_decay'):
    optimizers.build({'name': 'lion', 'weight_decai': 0.1})
  with pytest.raises(StudyError, match=r'optimizer.momentum is 1.0; it must be'):
    optimizers.build({'name': 'sgd', 'momentum': 1.0})


# What can be swept ----------------------------------------------------------------------------


def test_shapes_switches_and_branches_cannot_be_swept():
  assert set(optimizers.may_sweep({'name': 'sgd'})) == {
    'momentum', 'weight_decay', 'clip_norm', 'clip_value',
  }  # fmt: skip
  found = optimizers.may_sweep({'name': 'adafactor'})
  assert 'weight_decay_rate' in found
  assert not {'min_dim_size_to_factor', 'factored'} & set(found)
  assert 'rank' not in optimizers.may_sweep({'name': 'galore'})
  assert 'warmup_steps' not in optimizers.may_sweep({'name': 'schedule_free_sgd'})
  for name in ('warmup_steps', 'state_dtype', 'b3'):
    with pytest.raises(StudyError, match=rf'^optimizer\.{name}'):
      optimizers.build({'name': 'schedule_free_sgd'}, (name,))


def test_a_whole_number_stays_one():
  """The number of Muon's iterations cannot be a float."""
  params = {'fc': {'kernel': jnp.float32([[1, 2], [3, 4], [5, 7]])}}
  found = updates_of({'name': 'muon'}, params, params, ns_steps=jnp.float32(2))
  alone = updates_of({'name': 'muon', 'ns_steps': 2}, params, params)
  np.testing.assert_allclose(flat(found), flat(alone), rtol=1e-5)
  assert np.isfinite(flat(alone)).all()


# What any optimiser can have around it ---------------------------------------------------------


def updates_of(config, params, grads, steps=1, **swept):
  optimizer = optimizers.build(config, tuple(swept))
  transform = optimizer.make(learning_rate=1.0, base_rate=1.0, **swept)
  state = transform.init(params)
  for _ in range(steps):
    updates, state = jax.jit(transform.update)(grads, state, params)
  return updates


@pytest.fixture
def tree():
  """Parameters, and gradients of norm 13."""
  params = {'conv': {'kernel': jnp.ones(2), 'bias': jnp.ones(1)}, 'norm': {'scale': jnp.ones(1)}}
  grads = {
    'conv': {'kernel': jnp.float32([3, 0]), 'bias': jnp.float32([4])},
    'norm': {'scale': jnp.float32([12])},
  }
  return params, grads


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist()


@pytest.mark.parametrize('swept', [True, False])
def test_clipping(tree, swept):
  def clipped(**limit):
    config = {'name': 'sgd'}
    if swept:
      return flat(updates_of(config, *tree, **{n: jnp.float32(x) for n, x in limit.items()}))
    return flat(updates_of(config | limit, *tree))

  assert clipped(clip_norm=26.0) == [-4, -3, 0, -12]
  np.testing.assert_allclose(clipped(clip_norm=6.5), [-2, -1.5, 0, -6], rtol=1e-6)
  assert clipped(clip_value=3.5) == [-3.5, -3, 0, -3.5]
  assert clipped(clip_norm=0.0, clip_value=0.0) == [-4, -3, 0, -12]


@pytest.mark.parametrize('name', ['sgd', 'caffe_sgd', 'adamw', 'muon', 'adafactor', 'lars'])
def test_no_decay_leaves_the_weights_that_match(tree, name):
  params, grads = tree[0], jax.tree.map(jnp.zeros_like, tree[1])
  decay = 'weight_decay_rate' if name == 'adafactor' else 'weight_decay'
  config = {'name': name, decay: 0.1}
  if name == 'caffe_sgd':
    config |= {'decay_per_rate': False, 'bias_decay': 1.0}
  if name == 'muon':
    params, grads = ({'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones((1, 2))}} for _ in '12')
    grads = jax.tree.map(jnp.zeros_like, grads)
  decays = updates_of(config, params, grads)
  assert all(x != 0 for x in flat(decays))
  kept = updates_of(config | {'no_decay': ('bias|norm',)}, params, grads)
  for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
    assert bool((leaf == 0).all()) is any(key.key in ('bias', 'norm') for key in path)


def test_no_decay_needs_a_mask_and_parameters():
  params = {'fc': {'kernel': jnp.ones(2)}}
  with pytest.raises(StudyError, match='prodigy has no mask'):
    optimizers.build({'name': 'prodigy', 'no_decay': ('bias',)})
  with pytest.raises(StudyError, match='adam_weight_decay'):
    optimizers.build({'name': 'muon', 'no_decay': ('bias',), 'adam_weight_decay': 0.1})
  optimizer = optimizers.build({'name': 'adamw', 'no_decay': ('biass',)})
  with pytest.raises(StudyError, match=r"no_decay: 'biass' matches no parameter; .* fc/kernel"):
    optimizer.make(learning_rate=0.1, base_rate=0.1).init(params)
  with pytest.raises(StudyError, match=r"no_decay is \('\(',\); it must be regular"):
    optimizers.build({'name': 'adamw', 'no_decay': ('(',)})


def test_rate_factors_multiply_updates(tree):
  config = {'name': 'sgd', 'rate_factors': (('conv', 0.5), ('bias$', 2.0), ('norm', 0.0))}
  assert flat(updates_of(config, *tree)) == [-4, -1.5, 0, 0]
  with pytest.raises(StudyError, match=r'rate_factors is .*; it must be pairs'):
    optimizers.build(config | {'rate_factors': ('conv', 0.5)})
  with pytest.raises(StudyError, match=r'rate_factors: .* matches no parameter'):
    updates_of(config | {'rate_factors': (('fc', 0.5),)}, *tree)
  with pytest.raises(StudyError, match='rate_factors: a schedule-free optimizer evaluates other'):
    optimizers.build({'name': 'schedule_free_sgd', 'rate_factors': (('conv', 0.5),)})


def test_only_plain_sgd_is_linear():
  for config, linear in (
    ({'name': 'sgd', 'momentum': 0.9, 'nesterov': True, 'rate_factors': (('a', 2.0),)}, True),
    ({'name': 'caffe_sgd', 'no_decay': ('bias',)}, True),
    ({'name': 'sgd', 'clip_norm': 1.0}, False),
    ({'name': 'caffe_sgd', 'clip_value': 1.0}, False),
    ({'name': 'adamw'}, False),
    ({'name': 'lion'}, False),
  ):
    assert optimizers.build(config).linear is linear
  assert not optimizers.build({'name': 'sgd'}, ('clip_norm',)).linear


@pytest.mark.parametrize('config', [
  {'name': 'sgd', 'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1},
  {'name': 'caffe_sgd', 'no_decay': ('bias',), 'rate_factors': (('kernel', 3.0),)},
])  # fmt: skip
def test_what_is_linear_maps_combinations_to_combinations(tree, config):
  """As accelerate/ needs: if w and u are runs on g and h, a w + b u is a run on a g + b h."""
  optimizer = optimizers.build(config)
  numbers = np.random.default_rng(2)

  def train(params, gradients):
    transform = optimizer.make(learning_rate=0.1, base_rate=0.1)
    state = transform.init(params)
    for grads in gradients:
      updates, state = transform.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    return params

  def draw():
    return jax.tree.map(lambda w: jnp.asarray(numbers.normal(size=w.shape), jnp.float32), tree[0])

  def combined(a, b):
    return jax.tree.map(lambda x, y: 2 * x - 0.5 * y, a, b)

  first, second = ((draw(), [draw() for _ in range(4)]) for _ in range(2))
  both = combined(train(*first), train(*second))
  steps = [combined(a, b) for a, b in zip(first[1], second[1], strict=True)]
  of_both = train(combined(first[0], second[0]), steps)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), both, of_both)


# Weights to evaluate --------------------------------------------------------------------------


def test_schedule_free_evaluates_its_averages(mlp):
  optimizer = optimizers.build({'name': 'schedule_free_sgd', 'clip_norm': 1.0})
  params, gradient = mlp
  transform = optimizer.make(learning_rate=0.5, base_rate=0.5)
  state, plain = transform.init(params), optax.contrib.schedule_free_sgd(0.5)
  expected, own = params, plain.init(params)
  for _ in range(3):
    updates, state = transform.update(gradient(params)[1], state, params)
    params = optax.apply_updates(params, updates)
    grads = optax.clip_by_global_norm(1.0).update(gradient(expected)[1], optax.EmptyState())[0]
    updates, own = plain.update(grads, own, expected)
    expected = optax.apply_updates(expected, updates)
  found = optimizer.eval_params(state, params)
  expected = optax.contrib.schedule_free_eval_params(own, expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
  assert flat(found) != flat(params)


# Functions of the user's own ------------------------------------------------------------------

OWN = """
import jax, jax.numpy as jnp, optax

def averaged(learning_rate, base_rate, decay=0.5):
  ema = optax.ema(decay, debias=False)
  inner = optax.sgd(learning_rate)

  def init(params):
    return inner.init(params), params

  def update(updates, state, params):
    updates, first = inner.update(updates, state[0], params)
    new = optax.apply_updates(params, updates)
    return updates, (first, jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state[1], new))

  return optax.GradientTransformation(init, update), lambda state, params: state[1]

def closing(learning_rate, decay=0.5):
  def weights(state, params):
    return jax.tree.map(lambda w: decay * w, params)
  return optax.sgd(learning_rate), weights

def attributed(learning_rate):
  return optax.sgd(learning_rate)

attributed.eval_params = lambda state, params: jax.tree.map(lambda w: 2 * w, params)

def misshapen(learning_rate):
  return optax.sgd(learning_rate), lambda state, params: state

def branching(learning_rate, weight_decay=0.0):
  if weight_decay > 0:
    return optax.adamw(learning_rate, weight_decay=weight_decay)
  return optax.adam(learning_rate)

def masked(learning_rate, mask=None):
  return optax.adamw(learning_rate, weight_decay=0.1, mask=mask)

def nothing(learning_rate):
  return learning_rate

def no_rate(momentum=0.9):
  return optax.sgd(0.1, momentum)

def wrong(learning_rate):
  return optax.stateless(lambda updates, params: updates['missing'])

def flat(learning_rate):
  return optax.stateless(lambda updates, params: jax.tree.map(jnp.sum, updates))
"""


@pytest.fixture
def own(tmp_path):
  """A function: name -> config of an optimiser of the user's own."""
  file = tmp_path / 'my_optimizers.py'
  file.write_text(OWN)
  return lambda name, **arguments: {'name': f'{file}:{name}', **arguments}


def test_a_function_of_ones_own_with_weights_to_evaluate(own, tree):
  optimizer = optimizers.build(own('averaged', clip_value=1.0), ('decay',))
  transform = optimizer.make(learning_rate=1.0, base_rate=1.0, decay=jnp.float32(0.25))
  state = transform.init(tree[0])
  updates, state = transform.update(tree[1], state, tree[0])
  params = optax.apply_updates(tree[0], updates)
  assert flat(params) == [0, 0, 1, 0]
  assert flat(optimizer.eval_params(state, params)) == [0.25, 0.25, 1, 0.25]
  assert not optimizer.linear
  assert flat(optimizers.build(own('attributed')).eval_params((), tree[0])) == [2] * 4
  with pytest.raises(StudyError, match='gave weights to evaluate not shaped like the weights'):
    optimizers.build(own('misshapen')).eval_params((), tree[0])
  assert flat(updates_of(own('masked', no_decay=('.',)), *tree)) != flat(
    updates_of(own('masked'), *tree)
  )


def test_weights_to_evaluate_may_not_close_over_what_is_swept(own, tree):
  optimizer = optimizers.build(own('closing'))
  assert flat(optimizer.eval_params((), tree[0])) == [0.5] * 4
  optimizer = optimizers.build(own('closing'), ('decay',))
  with pytest.raises(StudyError, match=r'my_optimizers.py:.*UnexpectedTracerError'):
    optimizer.eval_params((), tree[0])


@pytest.mark.parametrize(('name', 'says'), [
  ('nothing', r'nothing \(.*my_optimizers.py:\d+\) gave .*must return an optax transform'),
  ('no_rate', 'takes no argument .learning_rate.'),
])  # fmt: skip
def test_a_function_that_is_no_optimizer_is_told_at_once(own, name, says):
  with pytest.raises(StudyError, match=says) as told:
    optimizers.build(own(name))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize(('name', 'says'), [
  ('wrong', r"my_optimizers.py:46: in wrong, .*: KeyError: 'missing'"),
  ('flat', r'flat \(.*\) gave an update not shaped like the weights: conv/bias'),
])  # fmt: skip
def test_a_function_that_does_not_fit_the_network_is_told_in_one_line(own, tree, name, says):
  transform = optimizers.build(own(name)).make(learning_rate=1.0, base_rate=1.0)
  with pytest.raises(StudyError, match=says) as told:
    transform.update(tree[1], transform.init(tree[0]), tree[0])
  assert '\n' not in str(told.value)


def test_what_a_function_branches_on_cannot_be_swept(own):
  optimizers.build(own('branching', weight_decay=0.1))
  assert 'weight_decay' not in optimizers.may_sweep(own('branching'))
  says = 'optimizer.weight_decay cannot be an axis of one program: .*my_optimizers.py:32'
  with pytest.raises(StudyError, match=says):
    optimizers.build(own('branching'), ('weight_decay',))
