"""Each strategy against made-up training: what it asks for, round by round, until it ends."""

import itertools
import math

import pytest
from conftest import make_tiny

from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.search import optuna_search
from lr_study.search import strategies as search
from lr_study.search.strategies import Ask, Told

LADDER = tuple(10.0**-k for k in range(1, 8))


def study(name, epochs=8, **fields):
  config = make_tiny('')
  config.learning_rates, config.epochs, config.search.name = LADDER, epochs, name
  for field, value in fields.items():
    config.search[field] = value
  return check(config)


def simulate(config, best=1e-4, edge=3e-2, width=2.0, noise=0.0):
  """Asks until the search ends. Accuracy falls off to both sides of `best`; above `edge`: NaN.

  Returns:
    The rates of each round, and all that was told.
  """
  told, rounds = [], []
  for _ in range(50):
    asks = search.ask(config, told)
    if not asks:
      return rounds, told
    rounds.append([ask.learning_rate for ask in asks])
    for rate, epochs in asks:
      distance = math.log10(rate / best) / width
      accuracy = 0.1 + 0.8 * math.exp(-(distance**2)) * (1 - 0.5**epochs)
      diverged = rate > edge
      told.append(Told(rate, epochs, diverged, accuracy > 0.15 and not diverged,
                       math.nan if diverged else accuracy, False))  # fmt: skip
    top = max((t.accuracy for t in told if t.learned), default=0)
    told = [t._replace(alike=t.learned and top - t.accuracy <= noise) for t in told]
  raise AssertionError('the search does not end')


def named_best(told):
  return max((t for t in told if t.learned), key=lambda t: (t.epochs, t.accuracy)).learning_rate


def test_grid_is_one_round():
  rounds, told = simulate(study('grid'))
  assert rounds == [list(LADDER)]
  assert named_best(told) == 1e-4


def test_outside_in_goes_from_the_ends_to_the_middle():
  rounds, told = simulate(study('outside_in'))
  assert rounds == [[1e-1, 1e-7], [1e-2, 1e-6], [1e-3, 1e-5], [1e-4]]
  assert named_best(told) == 1e-4


def test_outside_in_ends_once_the_peak_is_behind():
  rounds, told = simulate(study('outside_in'), best=1e-6)
  assert rounds == [[1e-1, 1e-7], [1e-2, 1e-6], [1e-3, 1e-5]]
  assert named_best(told) == 1e-6


def test_middle_out_ends_where_both_sides_get_worse():
  rounds, told = simulate(study('middle_out'))
  assert rounds == [[1e-4], [1e-3, 1e-5]]
  assert named_best(told) == 1e-4
  rounds, told = simulate(study('middle_out'), best=1e-6)
  assert rounds == [[1e-4], [1e-3, 1e-5], [1e-6], [1e-7]]
  assert named_best(told) == 1e-6


def test_middle_out_leaves_a_middle_that_diverges_downwards():
  rounds, _ = simulate(study('middle_out'), best=1e-6, edge=1e-5)
  assert rounds == [[1e-4], [1e-5], [1e-6], [1e-7]]


@pytest.mark.parametrize('edge', [3e-2, 4.4e-6, 0.5, 2e-9])
def test_bisect_finds_the_edge_within_its_factor(edge):
  rounds, told = simulate(study('bisect', epochs=8), edge=edge)
  stable = max(t.learning_rate for t in told if not t.diverged)
  broken = min(t.learning_rate for t in told if t.diverged)
  assert stable <= edge < broken
  assert broken / stable <= 1.25
  assert {t.epochs for t in told} == {1}  # short runs
  assert len(rounds) <= 7


@pytest.mark.parametrize('best', [2.3e-4, 7e-3, 3e-9])
def test_refine_comes_nearer_to_the_peak_than_the_ladder(best):
  rounds, told = simulate(study('refine'), best=best)
  assert rounds[0] == list(LADDER)
  assert abs(math.log(named_best(told) / best)) < math.log(1.25)
  rates = sorted(t.learning_rate for t in told)
  assert min(b / a for a, b in itertools.pairwise(rates)) > 1.1  # none of them in vain


def test_refine_ends_where_the_neighbours_are_as_good():
  rounds, _ = simulate(study('refine'), noise=0.2)
  assert len(rounds) == 1


def test_refine_takes_the_places_of_trials_that_diverged():
  few, _ = simulate(study('refine'), edge=3e-2)
  many, _ = simulate(study('refine'), edge=2e-4)
  assert (len(few[1]), len(many[1])) == (2, 4)  # 1 diverged, then 3: two on each side


def test_halving_keeps_the_best_half_and_no_more():
  config = study('halving', epochs=8)
  rounds, told = simulate(config)
  assert [len(rates) for rates in rounds] == [7, 4, 2, 1]
  assert sorted({t.epochs for t in told}) == [1, 2, 4, 8]
  assert named_best(told) == 1e-4
  for earlier, later in itertools.pairwise(rounds):
    assert set(later) < set(earlier)


def test_halving_lets_no_diverged_trial_go_on():
  rounds, _ = simulate(study('halving', epochs=8), edge=2e-6, best=1e-6)
  assert set(rounds[1]) == {1e-6, 1e-7}


def test_optuna_is_asked_and_told():
  pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  config = study('optuna', trials=40)
  rounds, _ = simulate(config, best=1e-6)
  assert sum(map(len, rounds)) == 40
  assert rounds == simulate(config, best=1e-6)[0]  # seeded
  assert all(1e-7 <= rate <= 1e-1 for rates in rounds for rate in rates)
  # It learns where to look: half of the last rates are within a factor of 10, a third of the space.
  near = [abs(math.log10(rate / 1e-6)) < 1 for rates in rounds for rate in rates]
  assert sum(near[-20:]) >= 10
  assert sum(near[:7]) <= 2


def test_trials_go_into_an_optuna_database_once(tmp_path):
  optuna = pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  trials = [
    {'learning_rate': 1e-3, 'seed': 0, 'status': 'converged', 'validation_accuracy': 0.5},
    {'learning_rate': 1e-1, 'seed': 0, 'status': 'diverged', 'validation_accuracy': None},
  ]
  url = f'sqlite:///{tmp_path}/lr.db'
  assert optuna_search.store(url, 'letters', trials) == 2
  assert optuna_search.store(url, 'letters', trials) == 0
  study = optuna.load_study(study_name='letters', storage=url)
  assert study.best_params == {'learning_rate': 1e-3}
  assert [trial.state.name for trial in study.trials] == ['COMPLETE', 'FAIL']
  assert study.trials[1].user_attrs['status'] == 'diverged'
  with pytest.raises(StudyError, match='--storage cannot be opened'):
    optuna_search.store(f'sqlite:///{tmp_path}/none/lr.db', 'letters', trials)


def test_optuna_that_is_not_installed_is_named(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
  with pytest.raises(StudyError, match='Optuna is not installed; pip install -r'):
    search.ask(study('optuna'), [])


@pytest.mark.parametrize('name', [name for name in search.STRATEGIES if name != 'optuna'])
@pytest.mark.parametrize('count', [1, 2, 3])
def test_short_ladders_and_studies_where_all_diverges(name, count):
  config = study(name)
  with config.unlocked():
    config.learning_rates = LADDER[-count:]
  simulate(config)
  rounds, _ = simulate(config, edge=0)
  assert rounds
  assert search.ask(config, []) == [Ask(*ask) for ask in search.ask(config, [])]
