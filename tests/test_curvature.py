"""Sharpness and the size of updates, compared with their definitions."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerated import CLASSES, batches, engine_of, task_of
from jax.flatten_util import ravel_pytree

from lr_study import losses, optimizers, trial, trials
from lr_study.accelerate import factored, products
from lr_study.diagnosis import curvature
from lr_study.models.mlp import MLP
from lr_study.models.resnet import ResNet


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


@pytest.mark.parametrize('strides', [1, 2])
def test_with_convolutions_as_products(strides):
  """They have gradients of their own; see accelerate/convolution.py. With stride 1, in tiles."""
  layer = nn.Conv(24, (3, 3), strides, padding=1)
  x = jax.random.normal(jax.random.key(0), (1, 24, 24, 24))
  params = layer.init(jax.random.key(1), x)

  def loss(params):
    return jnp.mean(jnp.tanh(layer.apply(params, x)) ** 2)

  expected = float(curvature.sharpness(loss, params))
  with nn.intercept_methods(products.intercept):
    assert 'custom_vjp' in str(jax.make_jaxpr(loss)(params))
    assert curvature.sharpness(loss, params) == pytest.approx(expected, rel=1e-4)


def test_the_edge():
  assert curvature.edge(0.1, 0.0) == pytest.approx(20)
  assert curvature.edge(0.1, 0.9) == pytest.approx(38)
  assert curvature.edge(0.1, 0.9, nesterov=True) == pytest.approx(38 / 2.8)
  sides = [curvature.side(sharpness, 20.0) for sharpness in (-1, 16, 17, 20, 23, 25)]
  assert sides == ['below', 'below', 'at', 'at', 'at', 'above']


@pytest.mark.parametrize(
  'fields',
  [
    {'name': 'sgd', 'momentum': 0.0},
    {'name': 'sgd', 'momentum': 0.9},
    {'name': 'sgd', 'momentum': 0.9, 'nesterov': True},
    {'name': 'caffe_sgd', 'momentum': 0.9, 'weight_decay': 0.0},
  ],
)
def test_a_quadratic_diverges_above_the_edge_only(fields):
  """The formula against the optimiser itself, in each form of momentum."""
  optimizer, sharpness = optimizers.build(fields), 7.0

  def end(rate):
    transform = optimizer.make(learning_rate=rate, base_rate=rate)

    def step(carry, _):
      params, state = carry
      gradients = jax.tree.map(lambda w: sharpness * w, params)
      updates, state = transform.update(gradients, state, params)
      return (jax.tree.map(jnp.add, params, updates), state), None

    params = {'fc': {'kernel': jnp.ones(1)}}
    (params, _), _ = jax.lax.scan(step, (params, transform.init(params)), length=2000)
    return abs(params['fc']['kernel'][0])

  # edge(rate) is the sharpness: it is its own inverse.
  rate = curvature.edge(sharpness, fields['momentum'], fields.get('nesterov', False))
  below, above = jax.vmap(end)(jnp.float32([0.98 * rate, 1.02 * rate]))
  assert below < 1e-2
  assert not above < 1e2


def test_critical_sharpness_of_a_quadratic_is_its_curvature_along_the_update():
  """For gradient descent and for any other update, from rates far below and far above."""
  random = np.random.default_rng(0)
  root = random.normal(size=(6, 6)).astype(np.float32)
  hessian, params = root @ root.T, random.normal(size=6).astype(np.float32)
  rates = np.float32([1e-6, 1e-3, 0.1, 1e3])
  gradient = hessian @ params
  found = []
  for direction in (gradient, np.sign(gradient)):  # of SGD and of sign descent

    def measure(rate, direction=direction):
      loss = lambda x: x @ hessian @ x / 2  # noqa: E731
      return curvature.critical_sharpness(loss, params, -rate * direction, rate)

    found.append(jax.jit(jax.vmap(measure))(rates))
    expected = direction @ hessian @ direction / (direction @ gradient)
    np.testing.assert_allclose(found[-1], expected, rtol=0.01)
  assert not np.allclose(*found, rtol=0.1)
  assert found[0][0] < np.linalg.eigvalsh(hessian)[-1]


def test_critical_sharpness_is_unknown_where_no_rate_is_critical():
  rate, params = jnp.float32(0.1), jnp.ones(3)
  loss = lambda x: jnp.sum(x**2)  # noqa: E731
  assert np.isnan(curvature.critical_sharpness(loss, params, 0.1 * params, rate))  # only rises
  assert np.isnan(curvature.critical_sharpness(jnp.sum, params, -0.1 * params, rate))  # only falls
  assert np.isnan(curvature.critical_sharpness(loss, params, 0 * params, jnp.float32(0)))
  explodes = lambda x: jnp.where(jnp.all(x < -4), jnp.nan, jnp.sum(x))  # noqa: E731
  found = curvature.critical_sharpness(explodes, params, -0.1 * params, rate)
  assert found == pytest.approx(2 / 5, rel=0.02)  # NaN counts as a rise


def test_the_edge_of_adam_is_that_of_its_preconditioned_quadratic():
  """Adam with its second moment held fixed, which is what the formula is about."""
  hessian, scale, b1, rate = np.diag([4.0, 9.0]), np.array([2.0, 0.5]), 0.9, 0.1
  loss = lambda x: x @ jnp.asarray(hessian, jnp.float32) @ x / 2  # noqa: E731
  ones, divisor = jnp.ones(2), jnp.asarray(scale, jnp.float32)
  sharpness = float(curvature.sharpness(loss, ones, preconditioner=divisor))
  assert sharpness == pytest.approx(18, rel=1e-4)  # 9 / 0.5, not 9
  rate = curvature.adam_edge(sharpness, b1)  # the formula is its own inverse
  assert curvature.adam_edge(0.1, 0.9) == pytest.approx(380)

  def end(rate):
    x, mean = np.ones(2), np.zeros(2)
    for _ in range(2000):
      mean = b1 * mean + (1 - b1) * hessian @ x
      x = x - rate * mean / scale
    return np.abs(x).max()

  assert end(0.98 * rate) < 1e-2
  assert end(1.02 * rate) > 1e2


def test_the_preconditioner_of_adam_is_what_its_update_divides_by():
  rate, gradients = 0.1, {'a': jnp.float32([3, -0.5]), 'b': jnp.float32([0])}
  optimizer = optimizers.build({'name': 'adam'})
  transform = optimizer.make(learning_rate=rate, base_rate=rate)
  updates, state = transform.update(gradients, transform.init(gradients), gradients)
  found = curvature.adam_preconditioner(state, b1=0.9, b2=0.999, eps=1e-8)
  mean = jax.tree.map(lambda g: 0.1 * g, gradients)  # its bias is not corrected
  expected = jax.tree.map(lambda m, p: -rate * m / p, mean, found)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), updates, expected)


def one(task, size=4):
  """A state of the task, and a batch."""
  hyper = {'learning_rate': jnp.float32(0.05)}
  state = jax.jit(lambda key: trial.init(task, hyper, key))(jax.random.key(0))
  return state, hyper, jax.tree.map(lambda x: x[0], batches(task.shape, size))


def test_sharpness_of_a_trial_is_the_largest_eigenvalue_of_its_hessian():
  """Of the loss that is trained, without dropout and augmentation; here with label smoothing."""
  task = task_of(MLP(CLASSES, (5,), dropout=0.5), (6,))
  smooth = losses.build(
    {'name': 'cross_entropy', 'smoothing': 0.0}, np.ones(CLASSES), ('smoothing',)
  )
  task = dataclasses.replace(task, loss=smooth)
  state, hyper, batch = one(task)
  hyper = hyper | {'loss.smoothing': jnp.float32(0.2)}
  found = jax.jit(trials.sharpness_of(task))(state, hyper, batch)
  flat, unravel = ravel_pytree(state.params)

  def loss(flat):
    logits = task.model.apply({'params': unravel(flat)}, batch.images, train=False)
    return smooth(logits, batch.labels, smoothing=0.2).mean()

  eigenvalues = np.linalg.eigvalsh(jax.jit(jax.hessian(loss))(flat))
  np.testing.assert_allclose(found, eigenvalues[-1], rtol=1e-3)
  assert trials.sharpness_of(task) is trials.sharpness_of(task)  # else it would compile each time


def test_curvature_of_a_trial_of_adam():
  """Sharpness is that of P^-1 H. Just below the critical rate the next update lowers the loss."""
  adam = optimizers.build({'name': 'adam'})
  task = dataclasses.replace(task_of(MLP(CLASSES, (5,)), (6,)), optimizer=adam)
  state, hyper, batch = one(task)
  train = jax.jit(functools.partial(trial.train_step, task))
  for step in range(3):
    state, _ = train(state, hyper, batch, jax.random.key(0), step)
  flat, unravel = ravel_pytree(state.params)

  def loss(flat):
    logits = task.model.apply({'params': unravel(flat)}, batch.images, train=False)
    return task.loss(logits, batch.labels).mean()

  numbers = {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8}
  of_adam = hyper | {f'optimizer.{name}': jnp.float32(x) for name, x in numbers.items()}
  found = jax.jit(trials.sharpness_of(task, is_adam=True))(state, of_adam, batch)
  divisor, _ = ravel_pytree(curvature.adam_preconditioner(state.opt_state, **numbers))
  eigenvalues = np.linalg.eigvals(np.asarray(jax.jit(jax.hessian(loss))(flat)) / divisor[:, None])
  np.testing.assert_allclose(found, eigenvalues.real.max(), rtol=1e-3)

  at_rate = hyper | {'rate': jnp.float32(1e-4)}
  critical = jax.jit(trials.critical_sharpness_of(task))(state, at_rate, batch)
  gradients = jax.grad(loss)(flat)
  step = adam.make(learning_rate=1.0, base_rate=1.0)
  updates, _ = step.update(unravel(gradients), state.opt_state, state.params)
  direction, _ = ravel_pytree(updates)
  below, above = (loss(flat + scale * 2 / critical * direction) for scale in (0.97, 1.03))
  assert below < loss(flat) < above


def test_sharpness_of_a_network_with_other_collections():
  """As in evaluation: batch statistics are those that were collected."""
  task = task_of(ResNet((1,), False, CLASSES, 1 / 32), (8, 8, 3))
  state, hyper, batch = one(task)
  found = jax.jit(trials.sharpness_of(task))(state, hyper, batch)
  scaled = jax.tree.map(lambda x: 4 * x, state.model_state)
  assert found > 0
  assert (
    jax.jit(trials.sharpness_of(task))(state._replace(model_state=scaled), hyper, batch) != found
  )


@pytest.mark.parametrize('how', ['off', 'auto'])
def test_update_ratio_is_what_the_weights_move_by(how, monkeypatch):
  monkeypatch.setattr(factored, 'pays', lambda *_: True)
  fields = {'momentum': 0.9, 'weight_decay': 0.1}
  task = task_of(MLP(CLASSES, (8,)), (6,), **fields)
  engine = engine_of(task, how, 4, **fields)
  assert (engine.settle is None) == (how == 'off')
  settle, step = jax.jit(engine.settle or (lambda state: state)), jax.jit(engine.step)
  state, hyper, batch = one(task)
  state = engine.start({'params': state.params}, hyper)

  def weights(state):
    flat, _ = ravel_pytree(engine.plain(settle(state)).params)
    return np.asarray(flat, np.float64)

  for k in range(12):
    if k == 6:
      state = settle(state)  # as within an epoch
    before = weights(state)
    state, row = step(state, hyper, batch, jax.random.key(1), np.int32(k))
    moved = np.linalg.norm(weights(state) - before) / np.linalg.norm(before)
    assert moved > 1e-4
    # The difference of float32 weights errs by 6e-8 of them: by 6e-4 of a 1e-4th.
    np.testing.assert_allclose(row['update_ratio'], moved, rtol=1e-3)
