"""The tests behind the statuses, on curves whose right word is known."""

import numpy as np
import pytest

from lr_study.answer import confidence, status
from lr_study.answer.measure import ACCURACY, BALANCED, LOSS

TRIALS = 1000  # of one kind; a false rate of 5 % is known to 0.7 % then, one standard error


def autocorrelated(draw, steps, rho):
  noise = draw.normal(size=(steps, TRIALS))
  for step in range(1, steps):
    noise[step] += rho * noise[step - 1]
  return noise


def share_that_falls(curves, per_epoch):
  """Beyond noise; the smallest fall that counts is a question of its own."""
  trends = [status.trend(curve, per_epoch) for curve in curves.T]
  return np.mean([trend.high < 0 for trend in trends])


@pytest.mark.parametrize(
  ('steps', 'per_epoch'), [(20, 20), (100, 100), (225, 75), (300, 30), (600, 75), (600, 20)]
)
def test_noise_alone_seldom_falls(steps, per_epoch):
  """At 5 % by the test, whatever its distribution; of neighbours that are alike, a little more."""
  draw = np.random.default_rng(0)
  assert 0.03 < share_that_falls(1 + draw.normal(size=(steps, TRIALS)), per_epoch) < 0.07
  assert 0.02 < share_that_falls(draw.exponential(size=(steps, TRIALS)) ** 2, per_epoch) < 0.07
  of_neighbours = [share_that_falls(autocorrelated(draw, steps, r), per_epoch) for r in (0.3, 0.5)]
  assert max(of_neighbours) < (0.13 if steps < 100 else 0.1)


@pytest.mark.parametrize(('epochs', 'per_epoch'), [(5, 75), (6, 60), (10, 20), (40, 7), (300, 1)])
def test_what_recurs_in_every_epoch_is_no_slope(epochs, per_epoch):
  draw = np.random.default_rng(1)
  noise = draw.normal(size=(epochs * per_epoch, TRIALS))
  same_order = np.tile(draw.normal(size=(per_epoch, TRIALS)), (epochs, 1))
  within_epoch = np.tile(np.linspace(5, 0, per_epoch), epochs)[:, None]
  for pattern in (3 * same_order, within_epoch, -within_epoch):
    assert share_that_falls(pattern + noise, per_epoch) < 0.075


def test_a_slope_is_found_and_measured():
  draw = np.random.default_rng(2)
  slope = -0.004 * np.arange(600)[:, None]
  curves = 5 + slope + draw.normal(size=(600, TRIALS))
  assert share_that_falls(curves, 75) > 0.9
  assert share_that_falls(-curves, 75) < 0.001
  trends = [status.trend(curve, 75) for curve in curves.T]
  assert {trend.steps for trend in trends} == {225}
  np.testing.assert_allclose([t.loss for t in trends], curves[-225:].mean(0))
  assert np.mean([t.change for t in trends]) == pytest.approx(-0.004 * 225, rel=0.02)
  # The interval holds the truth as often as it says.
  held = np.mean([t.low < -0.004 * 225 < t.high for t in trends])
  assert held == pytest.approx(confidence.LEVEL, abs=0.03)


def test_a_small_fall_is_as_good_as_flat():
  """However sure: a smooth curve shows a fall of a millionth."""
  for fall, falls in ((1e-6, False), (0.009, False), (0.011, True)):
    # 300 steps of 100 an epoch; the stretch is the last hundred.
    curve = np.linspace(1 + 2.01 * fall, 1 - fall, 300)
    found = status.trend(curve, 100)
    assert found.steps == 100
    assert found.high < 0
    assert found.falls == falls == (not found.is_small)


def test_too_few_steps_tell_nothing():
  for steps in range(1, 20):
    found = status.trend(np.linspace(9, 0, steps), steps)
    assert found.change is None
    assert not found.falls
    assert found.steps == max(1, steps // 2) - (steps > 9) * (steps // 2 % 2)
    assert found.loss == np.linspace(9, 0, steps)[-found.steps :].mean()
  assert status.trend(np.linspace(9, 0, 20), 20).falls


def test_one_or_two_epochs_show_no_plateau():
  learned, guess = (0.5, 0.6), status.chance_of(np.arange(400) % 10, ACCURACY)
  for epochs, word in ((1, status.TOO_SHORT), (2, status.TOO_SHORT), (3, status.PLATEAUED)):
    assert status.of(learned, guess, status.trend(np.ones(100 * epochs), 100)) == word
    falling = status.trend(np.linspace(2, 1, 100 * epochs), 100)
    assert status.of(learned, guess, falling) == status.STILL_IMPROVING
  few = status.trend(np.linspace(2, 1, 8), 1)  # epochs of a step
  assert status.of(learned, guess, few) == status.TOO_SHORT
  assert status.of((0.05, 0.2), guess, few) == status.AT_CHANCE


def test_huge_losses_have_a_trend():
  curve = np.linspace(3e38, 1e38, 300).astype(np.float32)
  assert status.trend(curve, 300).falls


def test_the_stretch_is_whole_epochs_where_it_has_several():
  for per_epoch in (1, 3, 20, 75, 400):
    for epochs in range(1, 60):
      steps = epochs * per_epoch
      rows, length, places = status._layout(steps, per_epoch)
      assert 1 <= rows * length <= max(1, steps / 2)
      if steps >= 20:
        assert rows * places >= 5
      if epochs >= 5 and steps >= 300:
        assert rows * length % per_epoch == 0
        assert rows * length >= steps / 4
        assert (rows >= 5) == (places == 1)


def test_the_first_bad_step():
  loss, gradient = np.ones((4, 5)), np.ones((4, 5))
  loss[2, 1] = np.nan
  gradient[1, 2] = np.inf
  loss[0, 3] = -np.inf
  evaluation = np.asarray([1, 1, 1, 1, np.nan])
  assert status.first_bad_step(loss, gradient).tolist() == [0, 3, 2, 1, 0]
  assert status.first_bad_step(loss, gradient, evaluation).tolist() == [0, 3, 2, 1, 4]
  assert status.first_bad_step(loss[:, 1], gradient[:, 1]) == 3
  assert status.first_bad_step(loss[:0], gradient[:0]).tolist() == [0] * 5


def test_what_guessing_reaches():
  labels = np.repeat([0, 1, 3], [60, 12, 8])  # nobody has class 2
  assert status.chance_of(labels, ACCURACY)[:3] == (ACCURACY, 0.75, 80)
  balanced = status.chance_of(labels, BALANCED)
  assert (balanced.measure, balanced.share) == (BALANCED, pytest.approx(1 / 3))
  assert balanced.images == pytest.approx(9 / (1 / 60 + 1 / 12 + 1 / 8))
  assert status.chance_of(labels, LOSS) == balanced  # by what would lead, were it not for the loss
  assert status.chance_of(np.arange(80) % 4, LOSS)[:2] == (ACCURACY, 0.25)


def test_the_word_for_a_rate():
  improving, plateaued, chance = status.STILL_IMPROVING, status.PLATEAUED, status.AT_CHANCE
  guess = status.chance_of(np.arange(400) % 10, ACCURACY)

  def word(*found, accuracies=(0.5, 0.5)):
    return status.of_rate(found, accuracies, guess)

  assert word(improving, improving) == improving
  assert word(improving, plateaued) == plateaued
  assert word(improving, status.TOO_SHORT) == word(status.TOO_SHORT) == status.TOO_SHORT
  assert word(improving, chance, accuracies=(0.5, 0.12)) == chance
  assert word(chance, chance, accuracies=(0.1, None)) == chance
  assert word(plateaued, chance, accuracies=(0.16, 0.12)) == chance  # nor both of them together
  assert word(*[plateaued] * 3, chance, accuracies=(0.14, 0.14, 0.14, 0.12)) == plateaued
  assert word(chance, status.ENDED_EARLY) == status.ENDED_EARLY
  assert word(status.DIVERGED, status.ENDED_EARLY) == status.DIVERGED
