"""The suggestions of range tests on known curves."""

import numpy as np
import pytest

from lr_study import schedules
from lr_study.search import range_test

RATES = np.geomspace(1e-7, 10, 200)


def curve(noise=0.0):
  """Flat, a fall about 1e-3, and an explosion from 1e-1 on."""
  place = np.log10(RATES)
  losses = 2.3 - 2 / (1 + np.exp(-4 * (place + 3))) + 10.0 ** (3 * (place + 0.5))
  return losses + noise * np.random.default_rng(0).normal(size=len(losses))


@pytest.mark.parametrize('noise', [0.0, 0.02])
def test_suggestions_lie_on_the_fall(noise):
  found = range_test.suggestions(RATES, curve(noise))
  assert found.keys() == {'valley', 'steep', 'minimum', 'lightning'}
  # A mean over some 1 / (1 - 0.98) = 50 of 200 steps over 8 decades trails by up to two decades.
  assert 1e-4 < found['steep'] < 0.1
  assert 1e-4 < found['valley'] < found['minimum'] * 10 < 1
  assert found['steep'] < 10 * found['minimum']


def test_steep_minimum_and_valley_as_they_are_defined():
  """A rise, then three levels of loss: each rule reads off a known place."""
  steps = np.concatenate([np.linspace(4, 5, 400), np.repeat([4.0, 1, 2], 200)])
  rates = np.geomspace(1e-5, 1, len(steps))
  found = range_test.fastai(rates, steps)
  # A mean of this kind falls the fastest with the first step of the largest drop, here 4 to 1.
  assert found['steep'] == pytest.approx(rates[599])
  assert found['minimum'] == pytest.approx(rates[799] / 10)  # the last step of the loss of 1
  # It falls from step 400 to 800: half of the way in steps. The rule starts one step early and
  # cuts off two fractions: up to three steps, of 1.2 % each.
  assert found['valley'] == pytest.approx(rates[599], rel=0.036)


def test_lightning_goes_by_the_rate_and_not_by_its_logarithm():
  """Two drops, the larger one at a rate a hundred times as large: there it is less steep."""
  steps = np.repeat([3.0, 2, 1.99, 0.5, 0.5], 100)
  rates = np.geomspace(1e-5, 1, len(steps))
  assert range_test.lightning(rates, steps) < rates[120]
  assert range_test.fastai(rates, steps)['steep'] == pytest.approx(rates[299])


def test_it_stops_at_four_times_the_best():
  """What comes after the stop is not used."""
  losses = curve()
  smooth = range_test._smoothed(losses, 1)
  stop = np.flatnonzero(smooth > 4 * np.minimum.accumulate(smooth))[0] + 1
  assert stop < len(losses)
  changed = losses.copy()
  changed[stop:] = -1e6  # the steepest fall there is
  assert range_test.fastai(RATES, changed) == range_test.fastai(RATES, losses)
  assert range_test.lightning(RATES, changed) == range_test.lightning(RATES, losses)


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_a_trial_that_diverges(broken):
  losses = curve()
  losses[150:] = broken
  found = range_test.suggestions(RATES, losses)
  assert all(0 < rate < RATES[150] for rate in found.values())


def test_smoothing_is_corrected_for_its_start():
  np.testing.assert_allclose(range_test._smoothed(np.full(50, 3.0), 1), 3)


@pytest.mark.parametrize('steps', [1, 5, 11])
def test_too_short_a_curve_suggests_nothing(steps):
  found = range_test.suggestions(RATES[:steps], curve()[:steps])
  assert found['lightning'] is None
  assert steps > 7 or found['valley'] is found['steep'] is None


def test_a_curve_that_only_rises_has_no_valley():
  found = range_test.suggestions(RATES, np.linspace(1, 2, len(RATES)))
  assert found['valley'] == RATES[20]  # the first that counts


def test_the_schedule_climbs_evenly_in_the_logarithm():
  schedule = schedules.build({'name': 'exponential', 'start_height': 1e-6}, 7, 3)
  np.testing.assert_allclose(schedules.heights(schedule, 21), np.geomspace(1e-6, 1, 21), rtol=1e-5)
