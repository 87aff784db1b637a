"""What the studies of stability, width and range tests compute, on trials whose answer is known."""

import types

import numpy as np
import pytest

from lr_study.configs.studies import width as width_config
from lr_study.studies import edge_of_stability, range_test, warm_up, width
from lr_study.studies.table import Table

RATES = 2.0 ** np.arange(-4, 4)


def part(losses, name='train_loss', **columns):
  """A table of losses (rates, seeds), with NaN where a trial diverged."""
  rates, seeds = losses.shape
  found = {
    'learning_rate': np.repeat(RATES[:rates], seeds),
    'seed': np.tile(np.arange(seeds, dtype=float), rates),
    name: losses.ravel(),
    'status': np.where(np.isnan(losses.ravel()), 'diverged', 'plateaued').astype(object),
  }
  return Table(found | columns, about={'guessing_loss': 2.3, 'classes': 10})


def joined(parts):
  names = next(iter(parts)).columns
  columns = {name: np.concatenate([of[name] for of in parts]) for name in names}
  return Table(columns, about=parts[0].about)


def test_the_largest_stable_rate_is_below_all_that_fail():
  """By divergence or by a loss above that of guessing, whatever larger rates do."""
  losses = np.full((8, 3), 1.0)
  losses[4, 0], losses[6, 1], losses[0, 2] = np.nan, 2.4, 3.0
  shorter = np.full((8, 3), 1.0)
  parts = [
    part(of, 'train_loss_at_end', **{'schedule.warmup_steps': np.full(24, float(length))})
    for length, of in ((16, losses), (4, shorter))
  ]
  lengths, found = warm_up.largest_stable(joined(parts))
  assert lengths.tolist() == [4, 16]
  assert found[0].tolist() == [RATES[7]] * 3
  np.testing.assert_allclose(found[1], [RATES[3] * 2**0.5, RATES[5] * 2**0.5, np.nan])


def test_what_the_rate_of_a_narrow_network_costs_a_wide_one():
  x = np.log2(RATES)[:, None]
  narrow, wide = (part(1 + 0.1 * (x - best) ** 2 + [[0, 0.01]]) for best in (1, -1))
  tables = {'standard_32': narrow, 'standard_512': wide, 'mup_32': narrow, 'mup_512': narrow}
  parts = width.by_width(tables, 'standard')
  assert list(parts) == [32, 512]
  np.testing.assert_allclose(width.carried_over(parts), [0.4, 0.4])
  np.testing.assert_allclose(width.carried_over(width.by_width(tables, 'mup')), 0, atol=1e-12)
  np.testing.assert_allclose(width.best_rates(parts), [[2, 2], [0.5, 0.5]])


def test_the_coordinate_check_measures_what_a_step_moves():
  """In muP, Adam moves the outputs of a wide hidden layer less; the first layer is the same."""
  moved = {}
  for part in ('standard_256', 'mup_256'):
    own = width_config.get_config(part)
    own.data.per_class = 8
    moved[part] = width.moves(own, 0)
  assert moved['standard_256']['layer 1'] == pytest.approx(moved['mup_256']['layer 1'], rel=0.5)
  assert moved['standard_256']['layer 2'] > 1.3 * moved['mup_256']['layer 2']


def test_only_trials_that_reach_the_edge_late_have_arrived():
  """One starts above it and falls, one rises to it, one reaches it and then diverges."""
  steps, edge = 30, 10.0
  rises = np.minimum(np.linspace(0, 22, steps), 11)
  sharpness = np.stack([np.r_[99, 99, np.full(28, 5.0)], rises, rises], 1)
  sharpness[-1, 2] = np.nan
  study = types.SimpleNamespace(
    curves={
      'sharpness': sharpness,
      'sharpness_edge': np.full((steps, 3), edge),
      'critical_sharpness': np.full((steps, 3), 4.0),
    },
    trials=[types.SimpleNamespace(learning_rate=0.5)] * 3,
  )
  found = edge_of_stability.columns(study)
  assert found['arrived'].tolist() == [0, 1, 0]
  np.testing.assert_allclose(found['ratio'][:2], [0.5, 1.1])
  np.testing.assert_allclose(found['critical_ratio'], 1)
  status = np.asarray(['plateaued', 'plateaued', 'diverged'], object)
  part = Table({'learning_rate': np.full(3, 0.5), 'status': status, **found})
  sentence = edge_of_stability._settles('sgd', part).sentence
  assert '1 of 3 trials; 1 diverged' in sentence
  assert '1.10 of the edge' in sentence


def test_what_a_suggested_rate_costs():
  """Between two rates the accuracy is on a straight line; outside of the sweep it is its end's."""
  accuracy = np.asarray([0.5, 0.6, 0.7, 0.8, 0.9, 0.7, np.nan, np.nan])[:, None]
  sweep = part(accuracy, 'validation_accuracy')
  suggested = np.asarray([RATES[4] * 2**0.5, RATES[0] / 100, np.nan])
  tables = dict.fromkeys(range_test._TITLES, sweep)
  tables |= {f'{case}_test': Table({'valley': suggested}) for case in range_test._TITLES}
  off, cost = range_test.off_and_cost(tables, 'valley')
  np.testing.assert_allclose(cost[0], [10, 40, np.nan], rtol=1e-6)
  np.testing.assert_allclose(off[0, :2], [np.log10(2) / 2, np.log10(RATES[0] / RATES[4]) - 2])
  assert range_test.accuracies(sweep)[1][-1] == pytest.approx(10)  # diverged: guesses


def test_the_suggestions_are_those_for_the_rising_rate():
  """A loss that falls steeply at one rate and then explodes."""
  steps = np.arange(100)
  rates = 10.0 * 1e-8 ** (1 - steps / 99)
  loss = np.where(rates < 3, 2 / (1 + (rates / 0.01) ** 2) + 0.1, 50.0)
  config = {'schedule': {'name': 'exponential', 'start_height': 1e-8}}
  study = types.SimpleNamespace(
    record={'config': config},
    curves={'loss': loss[:, None]},
    trials=[types.SimpleNamespace(learning_rate=10.0)],
  )
  found = range_test.columns(study)
  assert set(found) == set(range_test.RULES)
  assert 0.003 < found['steep'][0] < 0.1
  config['schedule']['name'] = 'linear'
  assert range_test.columns(study) == {}
