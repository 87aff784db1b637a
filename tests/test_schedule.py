"""Heights of the learning rate, to the step."""

import numpy as np
import pytest

from configs import alexnet_letters
from lr_study.schedule import make_schedule


def heights(steps_per_epoch, epochs, **changes):
  config = alexnet_letters.get_config().schedule
  config.update(changes)
  schedule = make_schedule(config, steps_per_epoch, epochs)
  return np.asarray([schedule(step) for step in range(steps_per_epoch * epochs)])


def by_epoch(found, epochs):
  """One height an epoch; fails if it changes within one."""
  found = found.reshape(epochs, -1)
  assert (found == found[:, :1]).all()
  return found[:, 0]


def test_step_decay_drops_when_every_10th_epoch_is_done():
  expected = np.float32([1.0] * 10 + [0.1] * 10 + [0.01] * 10)
  assert (by_epoch(heights(7, 30), 30) == expected).all()


def test_step_decay_of_digits_drops_a_tenth_of_an_epoch_early():
  found = heights(10, 30, every_epochs=9.9)
  assert (np.flatnonzero(np.diff(found)) + 1 == [99, 198, 297]).all()


def test_constant():
  assert (heights(3, 4, name='constant') == 1).all()


def test_piecewise_is_the_published_example():
  expected = np.float32([1.0] * 10 + [0.1] * 9 + [0.01] * 11)
  assert (by_epoch(heights(3, 30, name='piecewise'), 30) == expected).all()


def test_piecewise_may_rise_again():
  found = by_epoch(heights(2, 4, name='piecewise', from_epochs=(2, 4), heights=(0.5, 2.0)), 4)
  assert found.tolist() == [1.0, 0.5, 0.5, 2.0]


@pytest.mark.parametrize('warmup', [1.0, 1.5])
def test_warmup_is_linear_and_moves_no_drop(warmup):
  plain = heights(10, 4, every_epochs=2.0)
  warm = heights(10, 4, every_epochs=2.0, warmup_epochs=warmup)
  steps = round(10 * warmup)
  np.testing.assert_allclose(warm[:steps], np.arange(1, steps + 1) / steps, rtol=1e-6)
  assert (warm[steps:] == plain[steps:]).all()
