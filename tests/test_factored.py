"""Factored dense kernels train as plain ones do, in each preset and with every term of SGD."""

import numpy as np
import optax
import pytest
from helpers import load, train

from configs import alexnet_letters_caffe
from lr_study.network import factored

STEPS = 200


def variant(tiny, name):
  """A config, and a rate at which it is stable and moves."""
  tiny.data.per_class = 16  # 120 training letters: the drop comes amid the 200 steps
  if name == 'digits_tensorflow':
    return tiny, 3e-4
  tiny.model.preset, tiny.model.dense = name, 'factored'
  if name == 'digits_caffe':
    tiny.optimizer = alexnet_letters_caffe.get_config().optimizer
    tiny.optimizer.weight_decay = 10.0  # times the rate: enough to shrink the kernels in 200 steps
    return tiny, 3e-3
  tiny.optimizer.momentum = 0.9
  tiny.optimizer.weight_decay = 1e-2
  tiny.schedule.every_epochs = 0.7
  tiny.input.scale = 1 / 58
  return tiny, 1e-3


@pytest.mark.parametrize('preset', ['digits_tensorflow', 'digits_caffe', 'torchvision'])
def test_curves_of_200_steps_are_those_of_plain_kernels(tiny, preset):
  tiny, rate = variant(tiny, preset)
  curves, states = {}, {}
  for dense in ('plain', 'factored'):
    tiny.model.dense = dense
    config, data_set = load(tiny)
    curves[dense], states[dense], _ = train(config, data_set, [rate, rate / 3], [0, 0], STEPS)
  losses = curves['plain'].loss
  assert np.abs(losses[-20:].mean() - losses[:20].mean()) > 1e-4  # it did train
  np.testing.assert_allclose(curves['factored'].loss, losses, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    curves['factored'].gradient_norm, curves['plain'].gradient_norm, rtol=1e-3, atol=1e-6
  )
  assert states['factored'].factors
  assert not states['plain'].factors


@pytest.mark.parametrize('batch_size', [2, 4])
def test_larger_batches(tiny, batch_size):
  tiny.batch_size = batch_size
  tiny.optimizer.momentum = 0.5
  curves = {}
  for dense in ('plain', 'factored'):
    tiny.model.dense = dense
    config, data_set = load(tiny)
    curves[dense], _, _ = train(config, data_set, [1e-4], [0], 60)
  np.testing.assert_allclose(curves['factored'].loss, curves['plain'].loss, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    curves['factored'].gradient_norm, curves['plain'].gradient_norm, rtol=1e-3, atol=1e-6
  )


def test_a_fold_changes_no_kernel(tiny):
  """base and coordinates change; the kernel that they stand for does not."""
  tiny.model.dense = 'factored'
  config, data_set = load(tiny)
  _, state, trials = train(config, data_set, [1e-3], [0], 40)

  def kernels(state):
    return {
      name: state.params[name]['kernel'][0, 0] * factors.base[0]
      + (factors.x[0] * state.params[name]['kernel'][0, 1:, None]).T @ factors.g[0]
      for name, factors in state.factors.items()
    }

  before = kernels(state)
  folded = trials.to_host(trials.fold(trials.to_devices(state)))
  for name, kernel in kernels(folded).items():
    assert (folded.params[name]['kernel'][0] == np.eye(1, 65)[0]).all()
    np.testing.assert_allclose(kernel, before[name], atol=1e-6)
    assert np.abs(kernel - state.factors[name].base[0]).max() > 1e-5  # there was something to fold


@pytest.mark.parametrize('inputs', [100, 256, 600])  # less than a block of rows, one, and a rest
def test_a_fold_writes_every_row(inputs):
  rng, rows = np.random.default_rng(0), 8
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  params, factors = factored.split({'fc': {'kernel': draw(inputs, 5)}}, ('fc',), rows)
  base, x, g, coordinates = factors['fc'].base, draw(rows, inputs), draw(rows, 5), draw(1 + rows)
  factors = {'fc': factored.Factors(base, x, g)}
  params = {'fc': {'kernel': coordinates}}
  optimizer = optax.sgd(0.1)
  _, _, folded = factored.fold(optimizer, params, optimizer.init(params), factors)
  kernel = coordinates[0] * base + (x * coordinates[1:, None]).T @ g
  # Sums of eight products of order 1 in float32.
  np.testing.assert_allclose(folded['fc'].base, kernel, atol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 2, 3, 16, 64, 100])
@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9])
def test_no_pair_is_overwritten_while_it_is_needed(batch_size, momentum):
  rows, every = factored.pairs(batch_size, momentum), factored.fold_every(batch_size)
  assert rows % batch_size == 0  # a batch's pairs never wrap around
  steps_kept = rows // batch_size
  assert steps_kept >= every
  assert momentum ** (steps_kept - every + 1) <= 1.1e-9 or momentum == 0


def test_auto_takes_factors_where_they_are_less_work():
  assert factored.pays((9216, 4096), 1, 0.9, 1e-4)
  assert factored.pays((1024, 1024), 1, 0.0, 0.0)
  assert not factored.pays((4096, 10), 1, 0.0, 0.0)
  assert not factored.pays((9216, 4096), 128, 0.0, 0.0)
  assert not factored.pays((9216, 4096), 1, 0.9, 0.5)


def test_double_precision_agrees(tiny):
  """Both paths against the same study in float64: what they differ by is rounding."""
  tiny.model.width = 1 / 32
  config, data_set = load(tiny)
  rounded = {}
  for dense in ('plain', 'factored'):
    config.model.dense = dense
    rounded[dense], _, _ = train(config, data_set, [3e-4], [0], 120)
  config.model.dense = 'plain'
  exact, state, _ = train(config, data_set, [3e-4], [0], 120, exact=True)
  assert state.params['fc7']['kernel'].dtype == np.float64
  for curves in rounded.values():
    np.testing.assert_allclose(curves.loss, exact.loss, rtol=1e-4, atol=1e-6)


def test_gradients_that_cancel_have_a_norm_of_0():
  """Rounding must not make the sum of squares negative, and its root NaN."""
  rng = np.random.default_rng(0)
  row, g = rng.normal(size=(1, 50)).astype(np.float32), rng.normal(size=(4, 7)).astype(np.float32)
  g -= g.mean(0)
  for k in range(20):
    x = np.repeat(row * 1.1**k, 4, 0)
    norm = factored.norm({}, {'fc': x}, {'fc': g * 1.3**k})
    assert norm < 1e-2 * np.linalg.norm(x) * np.linalg.norm(g * 1.3**k)
