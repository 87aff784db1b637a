"""The best rate between those tried, how much the rate matters, and how wide its range is."""

import dataclasses
import json

import numpy as np
import pytest

from lr_study.answer import landscape
from lr_study.answer.measure import ACCURACY, LOSS
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, judge
from lr_study.search import rounds
from lr_study.search.rounds import Setting

RATES = 10.0 ** np.arange(-5, 0)


def make_results(accuracies, losses=None, seeds=1):
  """Trials of five rates; accuracies and losses are (rates,) or (rates, seeds), NaN: diverged."""
  accuracies = np.broadcast_to(np.reshape(accuracies, (len(RATES), -1)), (len(RATES), seeds))
  losses = 1 - accuracies if losses is None else np.broadcast_to(losses, (seeds, len(RATES))).T
  found = []
  for rate, of_rate, of_losses in zip(RATES, accuracies, losses, strict=True):
    for seed, (accuracy, loss) in enumerate(zip(of_rate, of_losses, strict=True)):
      broke = np.isnan(accuracy)
      figures = [None] * 4 if broke else [float(loss), float(accuracy)] * 2
      status = DIVERGED if broke else 'plateaued'
      bad = (5, 2.3) if broke else (None, None)
      of = (float(rate), seed, 1, 'constant', status, '')
      found.append(Result(*of, *bad, 10, 1, *figures))
  return found


def landscape_of(results, measure=ACCURACY, guessing_loss=2.3, images=1000):
  verdict = judge(results, np.arange(images) % 10, measure)
  (found,) = landscape.landscapes(results, {verdict.setting: verdict}, measure, guessing_loss)
  return found, verdict


def parabola(top, height=0.9, curvature=0.05):
  return height - curvature * (np.log10(RATES) - top) ** 2


@pytest.mark.parametrize('top', [-3.4, -3.0, -2.7])
def test_the_peak_of_a_parabola_is_found(top):
  found, _ = landscape_of(make_results(parabola(top)))
  assert found.peak == pytest.approx(10**top)
  assert found.peak_interval is None  # of one seed


def test_the_interval_holds_the_peak_nine_times_in_ten():
  rng, held = np.random.default_rng(0), 0
  for _ in range(400):
    scores = parabola(-3.2, curvature=0.2)[:, None] + rng.normal(0, 0.01, (len(RATES), 4))
    _, interval = landscape.peak(RATES, scores, 1e-3)
    held += interval[0] <= 10**-3.2 <= interval[1]
  # Standard error: 1.5 %. The parabola's top is no linear function of the scores.
  assert 0.85 < held / 400 < 0.95


def test_no_peak_without_neighbours():
  edge, _ = landscape_of(make_results(parabola(-1.0)))
  assert edge.peak is None
  beside, verdict = landscape_of(make_results([0.2, 0.5, 0.9, np.nan, np.nan]))
  assert verdict.learning_rate == RATES[2]
  assert beside.peak is None
  assert beside.peak_interval is None


def test_sensitivity_of_a_step():
  """Two rates at the lowest loss, two diverged, and straight lines between."""
  results = make_results([0.9, 0.9, 0.9, np.nan, np.nan], [0.3, 0.3, 0.3, np.nan, np.nan])
  found, _ = landscape_of(results, guessing_loss=2.3)
  assert found.sensitivity == pytest.approx(2.0 * 1.5 / 4)


def test_losses_above_guessing_count_as_guessing():
  results = make_results([0.9] * 5, [0.3, 0.3, 0.3, 0.3, 50.0])
  assert landscape_of(results)[0].sensitivity == pytest.approx(2.0 * 0.5 / 4)
  assert landscape_of(make_results([0.9] * 5, [0.3] * 5))[0].sensitivity == 0


def test_the_basin_is_what_is_as_good_without_a_gap():
  narrow, _ = landscape_of(make_results([0.2, 0.3, 0.9, 0.3, 0.9 - 1e-3]))
  assert narrow.basin == 0
  wide, _ = landscape_of(make_results([0.2, 0.895, 0.9, 0.895, np.nan]), images=10**6)
  assert wide.basin == pytest.approx(2)
  by_loss, _ = landscape_of(make_results([0.9] * 5, [3, 0.5, 0.501, 0.7, 3], seeds=2), LOSS)
  assert by_loss.basin == pytest.approx(1)


def test_nothing_of_a_setting_without_a_rate():
  found, verdict = landscape_of(make_results([np.nan] * 5))
  assert verdict.learning_rate is None
  assert (found.peak, found.peak_interval, found.basin) == (None, None, None)
  assert found.sensitivity is None


def test_no_sensitivity_where_no_rate_is_better_than_guessing():
  """It would be 0, as of rates that all do equally well."""
  found, _ = landscape_of(make_results([0.2] * 5, [50.0, 9.0, 2.4, 3.0, np.nan]), guessing_loss=2.3)
  assert found.sensitivity is None


def test_its_words_say_what_it_has():
  whole = landscape.Landscape(1, 'constant', {}, 2.13e-3, (1.96e-3, 2.4e-3), 0.4567, 1.0)
  assert landscape.words(whole) == (
    'Between the rates tried, a parabola through the best one and its neighbours puts the best '
    'rate at 2.1e-03 (90 % interval 2e-03 to 2.4e-03). Rates over a factor of 10 are about as '
    'good. Rate sensitivity: 0.457 nats, the average distance of the validation loss from its '
    'lowest value over the rates tried (Wortsman et al. 2023).'
  )
  narrow = dataclasses.replace(whole, peak=None, peak_interval=None, sensitivity=None, basin=0.0)
  assert landscape.words(narrow) == 'No neighbouring rate is about as good.'
  assert landscape.words(dataclasses.replace(narrow, basin=None)) == ''


def test_it_is_read_as_it_was_written():
  found = landscape.Landscape(4, 'cosine', {'model.hidden': (8, 4)}, 1e-3, (1e-4, 1e-2), 0.1, 0.0)
  fields = json.loads(json.dumps(dataclasses.asdict(found)))
  read = landscape.Landscape(**rounds.record_of(fields))
  assert read.setting == Setting(4, 'cosine', (('model.hidden', (8, 4)),))
  assert landscape.words(read) == landscape.words(found)
