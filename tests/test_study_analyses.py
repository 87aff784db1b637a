"""What the studies compute from their trials, on trials whose answer is known."""

import numpy as np
import pytest

from lr_study.configs.studies import _letters
from lr_study.studies import (
  batch_size,
  optimizers,
  published_100,
  published_table,
  rates,
  reproduce,
  schedules,
  seeds,
)
from lr_study.studies.table import Table

RATES = 2.0 ** np.arange(-4, 4)


def part(losses, **columns):
  """A table of losses (rates, seeds), with NaN where a trial diverged."""
  count = losses.shape[1]
  found = {
    'learning_rate': np.repeat(RATES, count),
    'seed': np.tile(np.arange(count, dtype=float), len(RATES)),
    'validation_loss': losses.ravel(),
  }
  found |= {name: values.ravel() for name, values in columns.items()}
  return Table(found, about={'guessing_loss': 2.3, 'classes': 10})


def test_the_best_rate_lies_between_those_tried():
  """Of three seeds: a parabola, one whose right neighbour diverged, and one that only falls."""
  x = np.log(RATES)[:, None]
  losses = 1 + 0.1 * (x - np.log([0.3, 0.3, 1e-4])) ** 2
  found = rates.best(part(losses))
  np.testing.assert_allclose(found[:2], 0.3, rtol=1e-6)
  assert np.isnan(found[2])
  losses[3:, 1] = 1e30, np.nan, np.nan, np.nan, np.nan  # from 0.5 up
  assert 0.125 < rates.best(part(losses))[1] < 0.25


def test_the_steps_to_a_loss_are_those_of_its_running_mean():
  losses = 3 - 0.01 * np.arange(400)
  losses[::2] += 0.2
  losses[1::2] -= 0.2  # noise that a mean over an even number of steps takes out
  assert batch_size.steps_to_target(losses, 64) == pytest.approx(181, abs=0.6)
  # A whole batch is its own mean: the first loss below 1.2 is at step 162 of these.
  assert batch_size.steps_to_target(losses, 1024) == pytest.approx(161, abs=1)
  assert np.isnan(batch_size.steps_to_target(losses[:100], 64))


def test_the_critical_batch_size_is_that_of_the_hyperbola():
  sizes = 2.0 ** np.arange(3, 11)
  found = batch_size.hyperbola(sizes, 25 * (1 + 190 / sizes))
  assert found == pytest.approx((25, 190))
  np.testing.assert_allclose(found(sizes), 25 * (1 + 190 / sizes))


def test_studies_of_more_seeds_are_wrong_less_often():
  """Of two rates 1 point apart, with a deviation of 1 point each: one seed is wrong in 24 %."""
  random = np.random.default_rng(0)
  accuracy = np.asarray([[70], [71]]) + random.normal(size=(2, 4000))
  one, three = (seeds.named(accuracy, count) for count in (1, 3))
  assert one.wrong == pytest.approx(0.24, abs=0.02)
  assert one.low < one.wrong < one.high
  assert one.cost == pytest.approx(one.wrong, abs=0.03)  # as the rates are 1 point apart
  assert three.wrong == pytest.approx(0.11, abs=0.02)


def test_the_basin_of_an_optimizer_has_no_gap():
  accuracy = np.asarray([50.0, 69.5, 60.0, 69.5, 70.0, 69.2, 50.0, 69.9])[:, None]
  found = optimizers.Swept(RATES, np.repeat(accuracy, 2, 1), usual=3)
  assert found.best == 4
  assert found.basin == (RATES[3], RATES[5])
  found.accuracy[:4] = 69.5
  assert found.basin == (RATES[0], RATES[5])


def test_a_rate_above_one_that_diverges_is_not_stable():
  losses = np.asarray([[1.0, 1], [1, 1], [1, 1], [1, 1], [1, np.nan], [1, 1], [1e9, 1], [1, 1]])
  found = published_table.swept(part(losses, train_accuracy=np.full((8, 2), 0.5)))
  assert found.stable == RATES[3]
  assert found.diverged.tolist() == [False] * 4 + [True, False, True, False]
  assert found.learns.tolist() == RATES[[0, 1, 2, 3, 5, 7]].tolist()


@pytest.mark.parametrize('differs', [None, 'best', 'fails', 'lower'])
def test_what_of_the_published_experiment_agrees(differs):
  """Of rates 10 apart, the third is best, those above fail, and the fourth does worse."""
  accuracy = np.asarray([0.1, np.nan, 0.8, 0.4])
  status = np.asarray(['at_chance', 'diverged', 'plateaued', 'at_chance'], object)
  if differs == 'best':
    accuracy[1], status[1] = 0.9, 'plateaued'
  elif differs == 'fails':
    status[0] = 'plateaued'
  elif differs == 'lower':
    accuracy[3] = 0.78  # within two standard deviations
  columns = {
    'learning_rate': np.asarray([1e-2, 1e-3, 1e-4, 1e-5]),
    'status': status,
    'validation_accuracy': accuracy,
    'train_accuracy': accuracy,
    'steps': np.full(4, 100),
  }
  of = Table(columns, about={'train': 750, 'validation': 250})
  best, fails, lower, trained = published_100.claims({'tensorflow': of})
  assert best.agrees == (differs != 'best')
  assert fails.agrees == (differs not in ('best', 'fails'))
  assert lower.agrees == (differs != 'lower')
  assert trained.agrees is None
  if differs == 'best':
    assert fails.sentence.endswith('; 1e-03 ends at 90.0 % (90 % on training images).')
  if not differs:
    assert fails.sentence.endswith(': 1e-03 diverges, and 1e-02 and 1e-05 learn nothing.')
    assert lower.sentence.endswith(': below 1e-04, the validation accuracy is 40.0 % at 1e-05.')


def test_a_cool_down_off_a_constant_run_is_the_end_of_a_whole_run(monkeypatch, tmp_path):
  """To the same bytes: it sees the images that a run of WSD would have seen."""

  def small(part, epochs):
    config = _letters.get_config(per_class=8)
    config.model = {'name': 'mlp', 'hidden': (8,)}
    config.learning_rates, config.seeds, config.batch_size = (0.5, 0.05), (0, 1), 8
    config.epochs, config.schedule, config.parallel = epochs, {'name': part}, 'vmap'
    return config

  monkeypatch.setattr(schedules, 'get_config', small)
  monkeypatch.setattr(schedules, 'HORIZONS', (5,))
  branched = schedules.measured(tmp_path)['branched']
  whole = reproduce.train(small('wsd', 5), tmp_path)
  ends = branched.where(horizon=5)
  assert np.isnan(ends.curves['validation_accuracy'][:4]).all()
  for result in whole.trials:
    own = ends.where(np.isclose(ends['learning_rate'], result.learning_rate), seed=result.seed)
    assert own['validation_accuracy'].tolist() == [round(result.validation_accuracy, 6)]
