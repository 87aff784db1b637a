"""Losses, compared with their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lr_study import losses
from lr_study.errors import StudyError

COUNTS = np.array([40, 30, 20, 10])
LABELS = jnp.array([0, 1, 2, 3, 3, 0])
SHARES = jax.nn.one_hot(LABELS, 4) * 0.7 + jax.nn.one_hot(LABELS[::-1], 4) * 0.3


@pytest.fixture
def logits():
  return jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)


def build(name, sweep=(), counts=COUNTS, **arguments):
  return losses.build({'name': name, **arguments}, counts, sweep)


def test_plain_cross_entropy_is_that_of_optax(logits):
  plain = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
  assert (build('cross_entropy')(logits, LABELS) == plain).all()
  found = build('cross_entropy')(logits, SHARES)
  np.testing.assert_allclose(found, optax.softmax_cross_entropy(logits, SHARES), rtol=1e-6)


def test_smoothing(logits):
  log_p = np.asarray(jax.nn.log_softmax(logits))
  plain = -log_p[np.arange(6), LABELS]
  found = build('cross_entropy', smoothing=0.2)(logits, LABELS)
  np.testing.assert_allclose(found, 0.8 * plain - 0.2 * log_p.mean(1), rtol=1e-5)


@pytest.mark.parametrize(
  'name', ['cross_entropy', 'focal', 'binary_cross_entropy', 'squared_error']
)
def test_shares_of_one_class_are_its_label(logits, name):
  for arguments in ({}, {'class_weights': ('balanced',)}):
    loss = build(name, **arguments)
    of_shares = loss(logits, jax.nn.one_hot(LABELS, 4))
    np.testing.assert_allclose(loss(logits, LABELS), of_shares, rtol=1e-5)
    assert loss(logits, SHARES).shape == (6,)


def test_focal(logits):
  """(1 - p)^gamma times the cross-entropy; its slope is finite even where p is 1."""
  plain = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
  found = build('focal')(logits, LABELS)
  np.testing.assert_allclose(found, (1 - np.exp(-plain)) ** 2 * plain, rtol=1e-4)
  np.testing.assert_allclose(build('focal', gamma=0.0)(logits, LABELS), plain, rtol=1e-5)
  for gamma in (0.0, 0.5, 2.0):
    loss = build('focal', gamma=gamma)
    slope = jax.grad(lambda x, loss=loss: loss(x, LABELS).sum())(100 * logits)
    assert jnp.isfinite(slope).all()


def test_squared_error(logits):
  hot = np.asarray(jax.nn.one_hot(LABELS, 4))
  expected = ((np.asarray(logits) - hot) ** 2).sum(1) / 2
  np.testing.assert_allclose(build('squared_error')(logits, LABELS), expected, rtol=1e-5)


def test_binary_cross_entropy(logits):
  p = np.asarray(jax.nn.sigmoid(logits))
  hot = np.asarray(jax.nn.one_hot(LABELS, 4))
  found = build('binary_cross_entropy')(logits, LABELS)
  np.testing.assert_allclose(found, -np.log(np.where(hot > 0, p, 1 - p)).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
  'name', ['cross_entropy', 'focal', 'binary_cross_entropy', 'squared_error']
)
@pytest.mark.parametrize('weights', [(1.0, 2.0, 0.0, 5.0), ('balanced',)])
def test_class_weights_have_mean_1_over_the_training_images(logits, name, weights):
  labels = jnp.asarray(np.repeat(np.arange(4), COUNTS))
  same = jnp.tile(logits[:1], (len(labels), 1))
  factor = build(name, class_weights=weights)(same, labels) / build(name)(same, labels)
  np.testing.assert_allclose(factor.mean(), 1, rtol=1e-5)
  of_class = np.asarray(factor)[np.cumsum(COUNTS) - 1]
  expected = 1 / COUNTS if weights == ('balanced',) else np.asarray(weights)
  np.testing.assert_allclose(of_class / of_class.sum(), expected / expected.sum(), rtol=1e-5)


def test_a_class_without_training_images_keeps_balanced_weights_finite(logits):
  loss = build('cross_entropy', counts=np.array([5, 0, 5, 10]), class_weights=('balanced',))
  assert jnp.isfinite(loss(logits, LABELS)).all()


@pytest.mark.parametrize(
  ('name', 'argument', 'values'),
  [('cross_entropy', 'smoothing', (0.0, 0.1, 0.3)), ('focal', 'gamma', (0.0, 0.5, 2.0))],
)
def test_a_swept_argument_is_traced_and_equals_the_fixed_one(logits, name, argument, values):
  swept, compiled = build(name, (argument,), class_weights=('balanced',)), []

  @jax.jit
  def slopes(value):
    compiled.append(value)
    return jax.value_and_grad(lambda x: swept(x, LABELS, **{argument: value}).sum())(logits)

  for value in values:
    fixed = build(name, class_weights=('balanced',), **{argument: value})
    expected = jax.value_and_grad(lambda x, loss=fixed: loss(x, LABELS).sum())(logits)
    for a, b in zip(slopes(jnp.float32(value)), expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert len(compiled) == 1
  config = build(name, class_weights=('balanced',))
  assert (swept(logits, LABELS) == config(logits, LABELS)).all()


def entropy(counts):
  p = counts[counts > 0] / counts.sum()
  return -np.sum(p * np.log(p))


@pytest.mark.parametrize(
  'counts', [COUNTS, np.array([7, 0, 3]), np.array([5, 0]), np.ones(10, int)]
)
def test_guessing_costs_the_entropy(counts):
  loss = build('cross_entropy', counts=counts)
  np.testing.assert_allclose(losses.guessing(loss, counts), entropy(counts), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ('name', 'arguments'),
  [
    ('cross_entropy', {'class_weights': ('balanced',)}),
    ('cross_entropy', {'smoothing': 0.1}),
    ('focal', {}),
    ('binary_cross_entropy', {}),
    ('squared_error', {}),
  ],
)
def test_guessing_is_about_the_best_constant_answer(name, arguments):
  loss = build(name, **arguments)
  labels = jnp.asarray(np.repeat(np.arange(4), COUNTS))
  mean = jax.jit(jax.value_and_grad(lambda x: loss(jnp.tile(x, (100, 1)), labels).mean()))
  constant = jnp.zeros(4)
  for _ in range(300):
    constant -= mean(constant)[1]
  best = mean(constant)[0]
  assert best - 1e-4 < losses.guessing(loss, COUNTS) < 1.02 * best


@pytest.mark.parametrize(
  ('name', 'arguments', 'words'),
  [
    ('cross_entropi', {}, 'did you mean cross_entropy?'),
    ('cross_entropy', {'smoothing': 1.0}, 'loss.smoothing is 1.0; it must be a number from 0 to'),
    ('focal', {'gamma': -1.0}, 'loss.gamma is -1.0; it must be a number from 0 up'),
    (
      'focal',
      {'class_weights': (1, -1)},
      "loss.class_weights is (1, -1); it must be ('balanced',)",
    ),
    ('focal', {'class_weights': (1, 2)}, 'loss.class_weights has 2 numbers, but the data has 4 cl'),
    ('focal', {'class_weights': (0, 0, 0, 0)}, 'loss.class_weights are 0 for every class'),
    ('focal', {'smoothing': 0.1}, 'config.loss.smoothing: no such field of focal'),
  ],
)
def test_wrong_arguments_are_one_line(name, arguments, words):
  with pytest.raises(StudyError) as error:
    build(name, **arguments)
  assert words in str(error.value)
  assert '\n' not in str(error.value)


OWN = """
import jax, jax.numpy as jnp, optax

def hinge(logits, labels, margin=1.0):
  return optax.losses.multiclass_hinge_loss(logits, labels) * margin

def tempered(counts, temperature=1.0):
  prior = jnp.log(counts / counts.sum())
  def loss(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits / temperature + prior, targets)
  return loss

def mean(logits, targets):
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

def no_function(counts):
  return None

def breaks(logits, targets):
  return logits @ targets
"""


@pytest.fixture
def own(tmp_path):
  file = tmp_path / 'own.py'
  file.write_text(OWN)
  return lambda name, *args, **arguments: build(f'{file}:{name}', *args, **arguments)


def test_losses_of_the_users_own(own, logits):
  """One that is a function of logits, and a factory; each with an argument that can be swept."""
  expected = optax.losses.multiclass_hinge_loss(logits, LABELS)
  assert (own('hinge')(logits, LABELS) == expected).all()
  assert (own('hinge', margin=2.0)(logits, LABELS) == 2 * expected).all()
  swept = jax.jit(own('hinge', ('margin',)))(logits, LABELS, margin=jnp.float32(2))
  np.testing.assert_allclose(swept, 2 * expected, rtol=1e-6)
  prior = jnp.log(COUNTS / COUNTS.sum())
  expected = optax.softmax_cross_entropy_with_integer_labels(logits / 2 + prior, LABELS)
  swept = own('tempered', ('temperature',))(logits, LABELS, temperature=jnp.float32(2))
  np.testing.assert_allclose(swept, expected, rtol=1e-5)
  np.testing.assert_allclose(own('tempered', temperature=2.0)(logits, LABELS), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    (
      'mean',
      r'^mean .*own.py:13\) gave float32 \(\) for logits \(3, 4\) and labels \(3,\); a loss',
    ),
    ('no_function', r'own.py:16.*NoneType'),
    ('breaks', r'own.py:20: in breaks, a loss: TypeError: '),
    ('absent', 'has no absent'),
  ],
)
def test_a_function_that_is_no_loss_is_one_line(own, name, words):
  with pytest.raises(StudyError, match=words) as error:
    own(name)
  assert '\n' not in str(error.value)


def test_a_loss_that_takes_labels_only_says_so_when_images_are_mixed(own, logits):
  with pytest.raises(StudyError, match=r'own.py:5: in hinge, a loss: '):
    jax.jit(own('hinge'))(logits, SHARES)
  with pytest.raises(StudyError, match=r'loss.gain: hinge .* has no such argument'):
    own('hinge', ('gain',))
