"""Sharpness and the size of updates, against what they are defined as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lr_study import trial
from lr_study.config import check
from lr_study.diagnosis import curvature
from lr_study.network import factored
from lr_study.network import model as models
from lr_study.trial import Batch


def test_the_largest_eigenvalue_and_not_the_largest_in_magnitude():
  eigenvalues = np.linspace(-10, 3, 60)
  basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 60)))
  hessian = jnp.float32(basis * eigenvalues @ basis.T)

  def loss(params):
    flat, _ = ravel_pytree(params)
    return flat @ hessian @ flat / 2

  params = {'a': jnp.ones((4, 5)), 'b': jnp.ones(40)}
  # The spectrum is even, with a hundredth of it between the two largest: the hardest there is.
  assert curvature.sharpness(loss, params) == pytest.approx(3, rel=0.02)
  assert curvature.sharpness(loss, params, iterations=60) == pytest.approx(3, rel=1e-4)


def test_a_hessian_of_few_eigenvalues():
  """Lanczos's vectors run out after two; the iterations go on."""
  found = curvature.sharpness(lambda x: 3 * jnp.sum(x[:3] ** 2), jnp.ones(30))
  assert found == pytest.approx(6, rel=1e-5)
  assert curvature.sharpness(jnp.sum, jnp.ones(5)) == 0


def test_the_edge():
  assert curvature.edge(0.1, 0.0) == pytest.approx(20)
  assert curvature.edge(0.1, 0.9) == pytest.approx(38)
  sides = [curvature.side(sharpness, 20.0) for sharpness in (-1, 16, 17, 20, 23, 25)]
  assert sides == ['below', 'below', 'at', 'at', 'at', 'above']


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('inside', [True, False])
def test_a_quadratic_diverges_above_the_edge_only(tiny, momentum, inside):
  """The formula against the optimiser itself, in both forms of momentum."""
  tiny.optimizer.momentum, tiny.optimizer.rate_in_velocity = momentum, inside
  optimizer = trial.make_optimizer(tiny.optimizer, lambda step: 1.0)
  sharpness = 7.0

  def end(rate):
    def step(carry, _):
      params, state = carry
      gradients = jax.tree.map(lambda w: sharpness * w, params)
      updates, state = optimizer.update(gradients, state, params, learning_rate=rate)
      return (jax.tree.map(jnp.add, params, updates), state), None

    params = {'fc': {'kernel': jnp.ones(1)}}
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2000)
    return abs(float(params['fc']['kernel'][0]))

  rate = curvature.edge(sharpness, momentum)  # edge(rate) is the sharpness: it is its own inverse
  assert end(0.98 * rate) < 1e-2
  assert not end(1.02 * rate) < 1e2


def small(tiny, dense):
  """A trial of a network of some hundred weights, and a batch of noise."""
  tiny.model.preset, tiny.model.dense, tiny.model.width = 'small_cnn', dense, 1 / 32
  tiny.optimizer.momentum, tiny.optimizer.weight_decay = 0.9, 0.1
  tiny.image_size, tiny.batch_size, tiny.input.scale = 15, 4, 1 / 58
  tiny.input.subtract = 'none'
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4, 15, 15, 3)).astype(np.uint8)
  return trial.make_trial(check(tiny), 10, 10), Batch(images, np.arange(4))


@pytest.mark.parametrize('dense', ['plain', 'factored'])
def test_sharpness_of_a_trial_is_the_largest_eigenvalue_of_its_hessian(tiny, dense):
  one, batch = small(tiny, dense)
  state = jax.jit(one.init)(jax.random.key(0))
  assert bool(state.factors) == (dense == 'factored')
  found = jax.jit(one.sharpness)(state, batch, np.zeros(3, np.float32))
  network = models.make_model(tiny.model, 10)
  flat, unravel = ravel_pytree(factored.merge(state.params, state.factors))

  def loss(flat):
    logits = models.apply(network, unravel(flat), batch.images.astype(np.float32) / 58)
    return trial.cross_entropy(logits, batch.labels).mean()

  eigenvalues = np.linalg.eigvalsh(jax.jit(jax.hessian(loss))(flat))
  np.testing.assert_allclose(found, eigenvalues[-1], rtol=1e-3)


@pytest.mark.parametrize('dense', ['plain', 'factored'])
def test_update_ratio_is_what_the_weights_move_by(tiny, dense):
  one, batch = small(tiny, dense)
  mean, key, rate = np.zeros(3, np.float32), jax.random.key(1), jnp.float32(0.05)
  measured_step, fold = jax.jit(one.measured_step), jax.jit(one.fold)
  inputs = one.prepare(batch.images, mean, key, 0)

  def weights(state):
    folded = fold(state)
    flat, _ = ravel_pytree(factored.merge(folded.params, folded.factors))
    return np.asarray(flat, np.float64)

  state = jax.jit(one.init)(jax.random.key(0))
  for step in range(12):
    if step == 6:
      state = fold(state)  # as amid an epoch
    of_step = state, rate, inputs, batch.labels, key, step
    before, (state, _, ratio) = weights(state), measured_step(*of_step)
    moved = np.linalg.norm(weights(state) - before) / np.linalg.norm(before)
    assert moved > 1e-4
    # The difference of float32 weights errs by 6e-8 of them: by 6e-4 of a 1e-4th.
    np.testing.assert_allclose(ratio, moved, rtol=1e-3)
