"""Each strategy against made-up training, round by round, and how rounds become waves."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict

from lr_study.answer.measure import ACCURACY, BALANCED, LOSS
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.search import asking, optuna_search, rounds
from lr_study.search import strategies as search
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.search.strategies import Ask, Told

LADDER = tuple(10.0**-k for k in range(1, 8))


def study(name, epochs=8, **fields):
  config = {'learning_rates': LADDER, 'epochs': epochs, 'search': {'name': name, **fields}}
  return check(ConfigDict(config))


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
    for rate, epochs, _ in asks:
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


DECAYS = tuple(
  Setting(1, 'constant', (('optimizer.weight_decay', decay),)) for decay in (0.0, 1e-3, 1e-2)
)


def simulate_settings(config, noise=0.0):
  """As `simulate`, over settings of one program: the best one is the second, peak at 1e-4."""
  told, rounds = [], []
  for _ in range(50):
    asks = search.ask(config, told, DECAYS)
    if not asks:
      return rounds, told
    rounds.append([(ask.learning_rate, ask.setting) for ask in asks])
    for rate, epochs, setting in asks:
      height = (0.5, 0.8, 0.6)[DECAYS.index(setting)]
      accuracy = 0.1 + height * math.exp(-(math.log10(rate / 2e-4) ** 2) / 4) * (1 - 0.5**epochs)
      diverged = rate > 3e-2
      told.append(Told(rate, epochs, diverged, not diverged, math.nan if diverged else accuracy,
                       False, setting))  # fmt: skip
  raise AssertionError('the search does not end')


def test_halving_keeps_the_best_half_of_all_settings():
  rounds, told = simulate_settings(study('halving', epochs=8))
  assert [len(asked) for asked in rounds] == [21, 11, 6, 3]
  assert rounds[0] == [(rate, setting) for setting in DECAYS for rate in LADDER]
  last = max(t.epochs for t in told)
  # The best three of 21 in the end, wherever they are.
  assert {(t.learning_rate, t.setting) for t in told if t.epochs == last} == {
    (1e-4, DECAYS[1]), (1e-3, DECAYS[1]), (1e-4, DECAYS[2])
  }  # fmt: skip


def test_refine_goes_on_in_the_best_setting_alone():
  rounds, told = simulate_settings(study('refine'))
  assert len(rounds[0]) == 21
  assert {setting for asked in rounds[1:] for _, setting in asked} == {DECAYS[1]}
  best = max((t for t in told if t.learned), key=lambda t: t.accuracy)
  assert abs(math.log(best.learning_rate / 2e-4)) < math.log(1.25)


@pytest.mark.parametrize('name', ['grid', 'outside_in', 'middle_out', 'bisect'])
def test_other_searches_ask_in_each_setting_as_they_do_in_one(name):
  _, together = simulate_settings(study(name))
  for setting in DECAYS:
    alone = []
    while asks := search.ask(study(name), alone):
      alone += [
        next(t for t in together if t[:2] == ask[:2] and t.setting == setting)._replace(
          setting=None
        )
        for ask in asks
      ]
    assert len(alone) == sum(t.setting == setting for t in together)


def test_optuna_asks_for_rates_and_settings():
  pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  config = study('optuna', trials=60)
  rounds, told = simulate_settings(config)
  assert len(told) <= 60
  assert len(rounds[0]) == 7  # as many as the grid has rates
  assert len({setting for _, setting in rounds[0]}) > 1
  assert rounds == simulate_settings(config)[0]  # the same history, the same points
  # It has learned where the peak is, in both coordinates.
  late = [t for t in told[-14:] if not t.diverged]
  assert sum(t.setting == DECAYS[1] for t in late) > len(late) / 2
  best = max((t for t in told if t.learned), key=lambda t: t.accuracy)
  assert best.setting == DECAYS[1]
  assert abs(math.log10(best.learning_rate / 2e-4)) < 0.5


def test_a_search_of_ones_own_over_settings(tmp_path):
  file = tmp_path / 'my_search.py'
  file.write_text(
    'def search(config, told, settings):\n'
    '  return [] if told else [(0.1, 1, settings[1])]\n'
    'def nowhere(config, told, settings):\n'
    '  return [(0.1, 1)]\n'
  )
  assert search.ask(study(f'{file}:search'), [], DECAYS) == [Ask(0.1, 1, DECAYS[1])]
  with pytest.raises(StudyError, match=r'must return a list of \(learning rate, epochs, setting\)'):
    search.ask(study(f'{file}:nowhere'), [], DECAYS)


def test_a_search_of_ones_own_asks_for_rates_that_are_written_apart(tmp_path):
  """Files and runs are named by what is written."""
  file = tmp_path / 'my_search.py'
  file.write_text('def search(config, told): return [(0.3, 1), (0.1 + 0.2, 1)][len(told):]')
  config = study(f'{file}:search')
  with pytest.raises(
    StudyError, match=r'0\.3 and 0\.30000000000000004, which are both written 3e-01'
  ):
    search.ask(config, [])
  with pytest.raises(StudyError, match='rates of a search must differ in their first six digits'):
    search.ask(config, [Told(0.3, 1, False, True, 0.5, True)])


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


def ended(rate, values, size=4, epochs=3, **axes):
  """The results of a rate: per seed its balanced accuracy, None where it diverged.

  Plain accuracy is the other way round, as where classes are unequal.
  """
  return [
    Result(
      rate, seed, size, 'constant', DIVERGED if value is None else 'plateaued', '', None, None, 30,
      epochs, None, None, 0.5, None if value is None else 1 - value, value,
      axes={name.replace('_', '.', 1): x for name, x in axes.items()},
    )
    for seed, value in enumerate(values)
  ]  # fmt: skip


def names(rate, measure=BALANCED, size=4, **axes):
  """A verdict that names this rate."""
  axes = {name.replace('_', '.', 1): x for name, x in axes.items()}
  found = (rate,), None, {}, rate, False, *measure[1:], axes
  return Verdict(rate, size, 'constant', '', measure.field, *found)


def test_a_study_in_an_optuna_database_goes_by_its_verdict(tmp_path):
  """One trial per rate; the best is the recommended one, also if equal; no study twice."""
  optuna = pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  url = f'sqlite:///{tmp_path}/lr.db'
  results = [
    *ended(1e0, (0.4, None)),  # diverged with one seed
    *ended(1e-1, (0.9, 0.9), epochs=1),  # ended early by a search
    *ended(1e-2, (0.1, 0.1)),  # which plain accuracy would choose
    *ended(1e-3, (0.5, 0.7)),
    *ended(1e-4, (0.6, 0.6)),  # as good
    *ended(1e-5, (0.95, 0.35)),  # better on average, but one seed did not learn
  ]
  assert optuna_search.store(url, 'letters', results, names(1e-4)) == (6, 6)
  assert optuna_search.store(url, 'letters', results, names(1e-4)) == (0, 6)
  study = optuna.load_study(study_name='letters', storage=url)
  assert study.best_params == {'learning_rate': 1e-4}
  assert study.best_value == pytest.approx(0.6)
  assert study.metric_names == ['validation_balanced_accuracy']
  states = {trial.params['learning_rate']: trial.state.name for trial in study.trials}
  assert states == {
    1e0: 'FAIL', 1e-1: 'PRUNED', 1e-2: 'COMPLETE', 1e-3: 'COMPLETE', 1e-4: 'COMPLETE',
    1e-5: 'PRUNED',
  }  # fmt: skip
  early = next(trial for trial in study.trials if trial.params['learning_rate'] == 1e-1)
  assert early.intermediate_values == {1: pytest.approx(0.9)}
  assert early.user_attrs['values'] == [0.9, 0.9]
  assert early.user_attrs['seeds'] == [0, 1]
  nothing = optuna_search.store(url, 'nothing', results, names(None))
  assert nothing == (6, 6)
  with pytest.raises((KeyError, ValueError)):
    _ = optuna.load_study(study_name='nothing', storage=url).best_trial
  by_loss = optuna_search.store(url, 'by loss', results[4:], names(1e-3, LOSS))
  assert by_loss == (4, 4)
  assert optuna.load_study(study_name='by loss', storage=url).best_value == 0.5


def test_settings_are_parameters_of_optuna(tmp_path):
  optuna = pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  url = f'sqlite:///{tmp_path}/lr.db'
  results = [
    result
    for size in (4, 8)
    for decay in (0.0, 0.1)
    for result in ended(1e-2, (0.5 + size / 100 + decay,), size, optimizer_weight_decay=decay)
  ]
  verdict = names(1e-2, size=8, optimizer_weight_decay=0.1)
  assert optuna_search.store(url, 'axes', results, verdict) == (4, 4)
  study = optuna.load_study(study_name='axes', storage=url)
  best = {'learning_rate': 1e-2, 'batch_size': 8, 'optimizer.weight_decay': 0.1}
  assert study.best_params == best
  nets = [ended(1e-2, (x,), model_name=name) for name, x in (('lenet', 0.6), ('own.py:Net', 0.7))]
  verdict = names(1e-2, model_name='own.py:Net')
  assert optuna_search.store(url, 'networks', [*nets[0], *nets[1]], verdict) == (2, 2)
  study = optuna.load_study(study_name='networks', storage=url)
  assert study.best_params == {'learning_rate': 1e-2, 'model.name': 'Net'}


def test_what_an_optuna_database_refuses(tmp_path):
  optuna = pytest.importorskip('optuna', reason='Optuna is optional: requirements-optuna.txt')
  url, results = f'sqlite:///{tmp_path}/lr.db', ended(1e-2, (0.5,))
  optuna_search.store(url, 'letters', results, names(1e-2))
  for verdict, message in (
    (names(1e-2, LOSS), 'does not minimize its values; choose another name'),
    (names(1e-2, ACCURACY), 'goes by validation_balanced_accuracy, and this study by validation_a'),
  ):
    with pytest.raises(StudyError, match=message):
      optuna_search.store(url, 'letters', results, verdict)
  with pytest.raises(StudyError, match='--storage cannot be opened'):
    optuna_search.store(f'sqlite:///{tmp_path}/none/lr.db', 'letters', results, names(1e-2))
  own = optuna.create_study(storage=url, study_name='own', direction='maximize')
  own.add_trial(optuna.trial.create_trial(value=1.0))
  with pytest.raises(StudyError, match='own uses an unnamed measure'):
    optuna_search.store(url, 'own', results, names(1e-2))
  schedules = [dataclasses.replace(results[0], schedule=name) for name in ('constant', 'cosine')]
  optuna_search.store(url, 'schedules', schedules, names(1e-2))
  schedules.append(dataclasses.replace(results[0], schedule='linear'))
  with pytest.raises(StudyError, match=r'schedules has trials of other parameters .*; choose'):
    optuna_search.store(url, 'schedules', schedules, names(1e-2))


def test_optuna_that_is_not_installed_is_named(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
  with pytest.raises(StudyError, match='Optuna is not installed; pip install -r'):
    search.ask(study('optuna'), [])


@pytest.mark.parametrize('name', [name for name in search.KNOWN if name != 'optuna'])
@pytest.mark.parametrize('count', [1, 2, 3])
def test_short_ladders_and_studies_where_all_diverges(name, count):
  config = study(name)
  with config.unlocked():
    config.learning_rates = LADDER[-count:]
  simulate(config)
  rounds, _ = simulate(config, edge=0)
  assert rounds
  assert search.ask(config, []) == [Ask(*ask) for ask in search.ask(config, [])]


AXES = {'optimizer.momentum': (0.0, 0.9)}


class Sweep(NamedTuple):
  """What `next_round` needs of one."""

  config: ConfigDict
  trials: tuple = ()


OF_ALL = {'batch_size': 1, 'optimizer': 'sgd', 'schedule': 'step_decay'}


def sweeps_of(axes=None, **fields):
  fields['axes'] = ConfigDict(axes or {}, allow_dotted_keys=True)
  config = check(
    ConfigDict({'learning_rates': (1e-1, 1e-2), 'seeds': (0, 1), 'epochs': 2, **OF_ALL} | fields)
  )
  return {setting: Sweep(own) for setting, own in rounds.settings(config).items()}


def result_of(trial, accuracy, loss=1.0, status='plateaued'):
  figures = (loss, accuracy, loss, accuracy)
  of = (trial.learning_rate, trial.seed, trial.batch_size, trial.schedule, status, '')
  return Result(*of, None, None, 10, trial.epochs, *figures, axes=dict(trial.axes))


def test_values_of_an_axis_train_together():
  """Batch sizes have separate programs; a wave is filled with trials of both momentums."""
  asked = []

  def waves(sweep):
    asked.append(sweep.trials)
    return [k % 2 for k in range(len(sweep.trials))]

  planned = asking.next_round(
    sweeps_of(axes=AXES | {'batch_size': (1, 4)}), Plan(), {}, np.arange(10), ACCURACY, waves
  )
  assert [len(trials) for trials in asked] == [8, 8]
  assert planned.waves == 4
  for number in range(4):
    of_wave = planned.of_wave(number)
    assert len({trial.batch_size for trial in of_wave}) == 1
    assert {dict(trial.axes)['optimizer.momentum'] for trial in of_wave} == {0.0, 0.9}
  assert len({trial.trial for trial in planned.trials}) == 16
  results = {trial: result_of(trial, 0.9) for trial in planned.trials}
  assert asking.next_round(
    sweeps_of(axes=AXES | {'batch_size': (1, 4)}), planned, results, np.arange(10), ACCURACY, waves
  ).ended


def test_a_search_over_settings_of_two_programs():
  """Halving keeps half of what shares a program, and the plan stays setting by setting."""

  def waves(sweep):
    return [0] * len(sweep.trials)

  sweeps = sweeps_of(
    axes=AXES | {'batch_size': (1, 4)}, search={'name': 'halving'}, seeds=(0,), epochs=2
  )
  first = asking.next_round(sweeps, Plan(), {}, np.arange(1000) % 10, ACCURACY, waves)
  assert [trial.setting for trial in first.trials] == [s for s in sweeps for _ in range(2)]
  # Batch size 1 learns better at momentum 0.9, batch size 4 at momentum 0.
  accuracy = {t: 0.5 + 0.2 * ((t.batch_size == 1) == (t.axes[0][1] == 0.9)) + t.learning_rate
              for t in first.trials}  # fmt: skip
  results = {trial: result_of(trial, value) for trial, value in accuracy.items()}
  second = asking.next_round(sweeps, first, results, np.arange(1000) % 10, ACCURACY, waves)
  kept = {(t.batch_size, t.axes[0][1], t.epochs) for t in second.of_round(1)}
  assert kept == {(1, 0.9, 2), (4, 0.0, 2)}
  assert len(second.of_round(1)) == 4


def test_a_search_by_the_loss_is_told_that_smaller_is_better():
  trials = [Planned(rate, 0, 1, 'constant', 2, 0, 0) for rate in (1e-1, 1e-2, 1e-3)]
  losses = (0.3, 0.5, None)
  results = {
    trial: result_of(trial, 0.5, loss, 'plateaued' if loss else 'diverged')
    for trial, loss in zip(trials, losses, strict=True)
  }
  best, worse, broken = asking.tell(results, np.arange(10), LOSS)
  assert (best.accuracy, worse.accuracy) == (-0.3, -0.5)
  assert best.alike
  assert not worse.alike
  assert broken.diverged
  assert math.isnan(broken.accuracy)


def test_settings_and_their_labels():
  found = list(sweeps_of(axes=AXES | {'schedule.name': ('constant', 'step_decay')}))
  assert found[0] == Setting(1, 'constant', (('optimizer.momentum', 0.0),))
  assert [rounds.label(setting, found) for setting in found] == [
    'constant_momentum_0', 'constant_momentum_0.9', 'step_decay_momentum_0',
    'step_decay_momentum_0.9',
  ]  # fmt: skip
  assert rounds.label(found[0], found[:2]) == 'momentum_0'
  assert rounds.label(found[0], found[:1]) == ''
  decay = [Setting(1, 'constant', (('optimizer.weight_decay', x),)) for x in (1e-4, 0.25, 1, 'a')]
  assert [rounds.label(setting, decay) for setting in decay] == [
    'weight_decay_1e-04', 'weight_decay_0.25', 'weight_decay_1', 'weight_decay_a',
  ]  # fmt: skip
  clash = [Setting(1, 'constant', (('optimizer.x', x), ('loss.x', 1 - x))) for x in (0, 1)]
  assert rounds.label(clash[1], clash) == 'optimizer_x_1_loss_x_0'


def test_a_schedule_keeps_its_own_arguments():
  schedule = {'name': 'step_decay', 'every_epochs': 2.0, 'warmup_epochs': 1.0}
  sweeps = sweeps_of(axes={'schedule.name': ('constant', 'step_decay')}, schedule=schedule)
  constant, decayed = (sweep.config.schedule for sweep in sweeps.values())
  assert 'every_epochs' not in constant
  assert (constant.warmup_epochs, decayed.warmup_epochs, decayed.every_epochs) == (1.0, 1.0, 2.0)


def test_equal_steps_scale_all_that_is_in_epochs():
  schedule = {'name': 'step_decay', 'every_epochs': 2.0, 'warmup_epochs': 0.5}
  study = {'epochs': 6, 'axes': {'batch_size': (1, 2, 4)}, 'equal': 'steps'}
  found = sweeps_of(**study, schedule=schedule)
  assert [sweep.config.epochs for sweep in found.values()] == [6, 12, 24]
  assert [sweep.config.schedule.every_epochs for sweep in found.values()] == [2, 4, 8]
  assert [sweep.config.schedule.warmup_epochs for sweep in found.values()] == [0.5, 1, 2]
  steps = {'name': 'piecewise', 'from_epochs': (2, 5), 'heights': (0.1, 0.01)}
  found = sweeps_of(**study, schedule=steps)
  assert [sweep.config.schedule.from_epochs for sweep in found.values()] == [
    (2, 5),
    (3, 9),
    (5, 17),
  ]
  with pytest.raises(StudyError, match=r"equal is 'steps': at batch size 1 that is 1\.5 epochs"):
    sweeps_of(**study, batch_size=4)
  with pytest.raises(
    StudyError, match=r'at batch size 1, schedule\.from_epochs would not be whole'
  ):
    sweeps_of(**study | {'epochs': 8}, batch_size=4, schedule=steps)
  study['axes']['schedule.warmup_epochs'] = (0.0, 1.0)
  with pytest.raises(StudyError, match=r'schedule\.warmup_epochs cannot be an axis together with'):
    sweeps_of(**study)


def test_a_plan_with_axes_is_read_as_it_was_written(tmp_path):
  axes = (('optimizer.momentum', 0.9), ('loss.smoothing', 0.1))
  trials = tuple(Planned(1e-3, 0, 1, 'constant', 1, 0, 0, of) for of in (axes, ()))
  rounds.write(tmp_path, Plan(trials, ended=True))
  plan = rounds.read(tmp_path)
  assert plan.trials == trials
  assert plan.column(trials[1]) == 1
  assert len(rounds.last(plan, [t.setting for t in trials])) == 2
  file = tmp_path / 'trials.json'  # as it was before there were axes
  file.write_text(file.read_text().replace(', "axes": []', ''))
  assert rounds.read(tmp_path).trials == trials


def test_what_no_program_takes_as_an_argument_has_a_config_of_its_own():
  axes = {
    'optimizer.name': ('sgd', 'adamw'),
    'optimizer.weight_decay': (0.0, 0.1),
    'model.width': (0.25, 0.5),
  }
  found = sweeps_of(axes=axes, model=ConfigDict({'name': 'small_cnn'}))
  assert len(found) == 8
  programs = {id(sweep.config): sweep.config for sweep in found.values()}
  assert [(own.model.width, own.optimizer.name) for own in programs.values()] == [
    (0.25, 'sgd'), (0.25, 'adamw'), (0.5, 'sgd'), (0.5, 'adamw'),
  ]  # fmt: skip
  for setting, sweep in found.items():
    chosen = dict(setting.axes)
    assert chosen['optimizer.name'] == sweep.config.optimizer.name
    assert dict(sweep.config.axes) == {'optimizer.weight_decay': (0.0, 0.1)}
    assert rounds.numbers_of(sweep.config, setting).keys() == {'optimizer.weight_decay'}
  label = rounds.label(next(iter(found)), found)
  assert label == 'width_0.25_sgd_weight_decay_0'


def test_a_number_that_no_program_can_take_has_a_config_of_its_own():
  """Adafactor's smallest size decides which arrays it keeps."""
  size = 'min_dim_size_to_factor'
  axes = {f'optimizer.{size}': (64, 128), 'optimizer.decay_rate': (0.7, 0.8)}
  found = sweeps_of(axes=axes, optimizer=ConfigDict({'name': 'adafactor'}))
  assert len({id(sweep.config) for sweep in found.values()}) == 2
  assert {sweep.config.optimizer[size] for sweep in found.values()} == {64, 128}
  assert all(
    dict(sweep.config.axes) == {'optimizer.decay_rate': (0.7, 0.8)} for sweep in found.values()
  )


def test_labels_of_paths_and_tuples_fit_a_folder():
  values = ('runs/a/x.npz', 'runs/b/x.npz', (64, 32), True, None)
  settings = [Setting(1, 'constant', (('model.of', value),)) for value in values]
  assert [rounds.label(setting, settings) for setting in settings] == [
    'of_x.npz_1', 'of_x.npz_2', 'of_64_32', 'of_True', 'of_None',
  ]  # fmt: skip
