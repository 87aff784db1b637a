"""The optimiser against the same arithmetic written out in NumPy, float64."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import alexnet_letters, alexnet_letters_caffe
from lr_study.optimizer import make_optimizer

STEPS, DROP = 12, 7


def height(step):
  return jnp.where(step < DROP, 1.0, 0.1)


def run(config, rate, gradients):
  """Weights after each step: {'kernel': (steps, 3), 'bias': (steps, 3)}."""
  optimizer = make_optimizer(config, height)
  params = {'fc': {'kernel': jnp.ones(3), 'bias': jnp.ones(3)}}
  state, seen = optimizer.init(params), {'kernel': [], 'bias': []}
  for gradient in gradients:
    updates, state = optimizer.update(
      {'fc': {'kernel': jnp.asarray(gradient), 'bias': jnp.asarray(gradient)}},
      state,
      params,
      learning_rate=jnp.float32(rate),
    )
    params = optax.apply_updates(params, updates)
    for name, values in seen.items():
      values.append(params['fc'][name])
  return {name: np.asarray(values) for name, values in seen.items()}


def by_hand(gradients, rate, momentum, inside, decay, rate_factor):
  """w = w - v, v = m v + r g (inside) or w = w - r v, v = m v + g; g includes the decay."""
  w, v, seen = np.ones(3), np.zeros(3), []
  for step, gradient in enumerate(gradients):
    r = rate * (1.0 if step < DROP else 0.1)
    g = rate_factor * (gradient + decay * w)
    v = momentum * v + (r * g if inside else g)
    w = w - (v if inside else r * v)
    seen.append(w)
  return np.asarray(seen)


@pytest.fixture
def gradients():
  return np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)


def test_tensorflow_solver_is_plain_sgd(gradients):
  found = run(alexnet_letters.get_config().optimizer, 0.05, gradients)
  expected = by_hand(gradients, 0.05, 0.0, True, 0.0, 1.0)
  np.testing.assert_allclose(found['kernel'], expected, rtol=1e-5)
  np.testing.assert_allclose(found['bias'], expected, rtol=1e-5)


def test_caffe_solver(gradients):
  """Biases at twice the rate without decay; decay is a hundredth of the rate, undropped."""
  rate = 0.5
  found = run(alexnet_letters_caffe.get_config().optimizer, rate, gradients)
  kernel = by_hand(gradients, rate, 0.9, True, 0.01 * rate, 1.0)
  bias = by_hand(gradients, rate, 0.9, True, 0.0, 2.0)
  np.testing.assert_allclose(found['kernel'], kernel, rtol=1e-4)
  np.testing.assert_allclose(found['bias'], bias, rtol=1e-4)


@pytest.mark.parametrize('inside', [True, False])
@pytest.mark.parametrize('coupled', [True, False])
def test_momentum_and_decay(gradients, inside, coupled):
  config = alexnet_letters.get_config().optimizer
  config.update(momentum=0.9, rate_in_velocity=inside, weight_decay=0.1, decay_per_rate=coupled)
  decay = 0.1 * (0.05 if coupled else 1.0)
  expected = by_hand(gradients, 0.05, 0.9, inside, decay, 1.0)
  np.testing.assert_allclose(run(config, 0.05, gradients)['kernel'], expected, rtol=1e-4)


def test_a_drop_shrinks_old_velocity_only_if_the_rate_is_outside(gradients):
  config = alexnet_letters.get_config().optimizer
  config.momentum = 0.9
  moved = {}
  for inside in (True, False):
    config.rate_in_velocity = inside
    kernel = run(config, 0.05, np.ones_like(gradients))['kernel'][:, 0]
    moved[inside] = kernel[DROP - 1] - kernel[DROP]
  # Before the drop v is 0.05 (1 + m + m^2 + ...); at it, 0.9 v is added whole or a tenth of it.
  before = sum(0.9**k for k in range(DROP))
  np.testing.assert_allclose(moved[True], 0.05 * (0.9 * before + 0.1), rtol=1e-4)
  np.testing.assert_allclose(moved[False], 0.05 * 0.1 * (0.9 * before + 1), rtol=1e-4)
