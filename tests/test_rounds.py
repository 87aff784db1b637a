"""Small studies with several rounds, batch sizes and schedules."""

import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from lr_study import faults, study, trial, trials, waves
from lr_study.config import check, from_json
from lr_study.errors import StudyError
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned, Setting


@pytest.fixture
def small(tiny):
  """60 training images; two rates that learn something, one that diverges."""
  tiny.model = {'name': 'mlp', 'hidden': (192,)}  # any network will do, and this one compiles fast
  tiny.input.size, tiny.input.grey, tiny.input.standardise = 16, True, True
  tiny.input.subtract = 'pixel'
  tiny.parallel = tiny.accelerate = 'auto'
  tiny.learning_rates = (1e5, 1e-2, 1e-3)
  tiny.epochs, tiny.schedule = 4, ConfigDict({'name': 'constant'})
  return tiny


def stop():
  raise KeyboardInterrupt


def read(folder):
  return json.loads((folder / 'results.json').read_text())


@pytest.mark.usefixtures('without_figures')
@pytest.mark.parametrize('network', ['mlp', 'resnet'])
def test_halving_goes_on_where_the_first_round_ended(small, tmp_path, network):
  """The trial that is kept has the same curve as in a study without halving.

  With what an optimiser and BatchNorm remember, and with a kernel that is kept as factors.
  """
  if network == 'resnet':
    small.model = {'name': 'tests/own/my_resnet.py:MyResNet', 'features': 4, 'depth': 1}
    small.optimizer = ConfigDict({'name': 'adamw'})
    small.learning_rates = (1e30, 1e-2, 1e-3)
    small.batch_size, small.log_every_steps = 6, 5
  study.run(small, tmp_path / 'grid')
  small.search.name = 'halving'
  small.search.epochs = 1
  study.run(small, tmp_path / 'halving')
  content = read(tmp_path / 'halving')
  assert content['study']['rounds'][0] == list(small.learning_rates)
  assert [len(rates) for rates in content['study']['rounds']] == [3, 2, 1]
  epochs = {trial['learning_rate']: trial['epochs'] for trial in content['trials']}
  assert sorted(epochs.values()) == [0, 2, 4]
  [kept] = [i for i, trial in enumerate(content['trials']) if trial['epochs'] == 4]
  for name in ('step_loss', 'epoch_validation_accuracy', 'epoch_update_ratio'):
    ours, whole = (np.load(tmp_path / s / 'history' / f'{name}.npy') for s in ('halving', 'grid'))
    np.testing.assert_array_equal(ours[:, kept], whole[:, kept])
    [short] = [i for i, trial in enumerate(content['trials']) if trial['epochs'] == 2]
    half = len(ours) // 2
    np.testing.assert_array_equal(ours[:half, short], whole[:half, short])
    assert np.isnan(ours[half:, short]).all()
  assert content['trials'][kept] == read(tmp_path / 'grid')['trials'][kept]


@pytest.mark.usefixtures('without_figures')
def test_a_search_that_was_stopped_between_rounds_goes_on(small, tmp_path, monkeypatch):
  small.search.name = 'middle_out'
  study.run(small, tmp_path / 'whole')
  asked = waves.next_round

  def stop_at_second(*arguments):
    planned = asked(*arguments)
    return stop() if len({trial.round for trial in planned.trials}) == 2 else planned

  with monkeypatch.context() as patch:
    patch.setattr(waves, 'next_round', stop_at_second)
    with pytest.raises(KeyboardInterrupt):
      study.run(small, tmp_path / 'stopped')
  study.run(small, tmp_path / 'stopped')
  assert faults.differences(tmp_path / 'stopped', tmp_path / 'whole') == []
  assert read(tmp_path / 'whole')['study']['rounds'] == [[1e-2], [1e5, 1e-3]]


def test_halving_over_the_settings_of_one_program(small, tmp_path):
  """The best of all rates and momentums go on, and the whole report is made of what there is."""
  small.axes = ConfigDict({'optimizer.momentum': (0.0, 0.9)}, allow_dotted_keys=True)
  small.optimizer = ConfigDict({'name': 'sgd'})
  small.model.hidden = (16,)
  small.search = ConfigDict({'name': 'halving', 'keep': 6})
  study.run(small, tmp_path)
  content = read(tmp_path)
  epochs = {(t['learning_rate'], t['axes']['optimizer.momentum']): t['epochs']
            for t in content['trials'] if t['status'] != 'diverged'}  # fmt: skip
  assert sorted(epochs.values()) == [1, 1, 1, 4]
  (rate, momentum) = max(epochs, key=epochs.get)
  verdict = content['verdict']
  assert verdict['axes'] == {'optimizer.momentum': momentum}
  assert verdict['learning_rate'] in (rate, None)
  assert 'The search ended 1 setting early.' in verdict['sentence']
  [other] = [s for s in content['settings'] if s['axes'] != verdict['axes']]
  assert other['sentence'].startswith('The search ended this setting after 1 of 4 epochs')
  assert 'ended this setting after 1 of 4 epochs' in (tmp_path / 'report.html').read_text()


def test_a_search_may_leave_settings_out(small, tmp_path):
  file = tmp_path / 'my_search.py'
  file.write_text('def ask(config, told, settings): return [(0.01, 1, settings[1])][len(told):]')
  small.axes = ConfigDict({'optimizer.momentum': (0.0, 0.9)}, allow_dotted_keys=True)
  small.optimizer, small.model.hidden = ConfigDict({'name': 'sgd'}), (16,)
  small.search = ConfigDict({'name': f'{file}:ask'})
  folder = tmp_path / 'study'
  study.run(small, folder)
  content = read(folder)
  assert [t['axes'] for t in content['trials']] == [{'optimizer.momentum': 0.9}]
  assert len(content['settings']) == 1
  assert (folder / 'history' / 'step_loss.npy').exists()
  assert (folder / 'report.html').exists()


def test_batch_sizes_and_schedules_are_axes(small, tmp_path):
  small.axes = ConfigDict(
    {'batch_size': (1, 4), 'schedule.name': ('constant', 'step_decay')}, allow_dotted_keys=True
  )
  small.learning_rates, small.epochs, small.model.hidden = (1e-2, 3e-3), 2, (16,)
  small.schedule = ConfigDict({'name': 'step_decay', 'every_epochs': 1.0})
  study.run(small, tmp_path)
  content = read(tmp_path)
  trials = content['trials']
  assert [(t['batch_size'], t['schedule'], t['learning_rate']) for t in trials] == [
    (size, schedule, rate)
    for size in (1, 4)
    for schedule in ('constant', 'step_decay')
    for rate in (1e-2, 3e-3)
  ]
  steps = {t['batch_size']: t['steps'] for t in trials}
  assert steps[1] == 4 * steps[4]  # the same number of epochs
  losses = {
    name: np.load(tmp_path / 'history' / name / 'step_loss.npy')
    for name in ('batch_1_constant', 'batch_1_step_decay', 'batch_4_constant')
  }
  same, decayed = losses['batch_1_constant'], losses['batch_1_step_decay']
  per_epoch = len(same) // 2
  np.testing.assert_array_equal(same[:per_epoch], decayed[:per_epoch])  # the drop comes after it
  assert (same[per_epoch + 1 :] != decayed[per_epoch + 1 :]).any()
  assert len(losses['batch_4_constant']) == per_epoch // 2
  assert len(content['settings']) == 4
  assert re.match(r'(Of|None of) 4 settings', content['verdict']['sentence'])
  for gain in content['gains']:
    assert (gain['schedule'], gain['over']) == ('step_decay', 'constant')
  assert (tmp_path / 'figures' / 'batch_4_constant' / 'all_rates.png').exists()
  assert (tmp_path / 'tensorboard' / 'batch_1_step_decay' / 'lr_1e-02_seed_0').is_dir()
  summary = (tmp_path / 'summary.md').read_text()
  pictures = re.findall(r'!\[.*\]\((.*)\)', summary)
  assert len(pictures) == 8
  assert all((tmp_path / picture).exists() for picture in pictures)
  # A table of its own for each setting, whose figures are that setting's.
  sections = summary.split('\n## ')[1:]
  for verdict, section in zip(content['settings'], sections, strict=True):
    head, table = section.lower().split('\n', 1)
    assert str(verdict['batch_size']) in head
    assert verdict['schedule'].replace('_', ' ') in head
    best = max(
      t['validation_accuracy']
      for t in trials
      if (t['batch_size'], t['schedule']) == (verdict['batch_size'], verdict['schedule'])
    )
    assert f'| {100 * best:.1f} % |' in table


@pytest.mark.usefixtures('without_figures')
def test_values_of_an_axis_share_a_wave_and_a_program(small, tmp_path, monkeypatch):
  """Each pair of a rate and a decay gives the same as in a separate study, also after a stop."""
  small.learning_rates, small.epochs, small.model.hidden = (1e5, 1e-2), 2, (16,)
  decays, prepared, prepare, evaluate = (0.0, 0.1), [], trials.prepare, trials.evaluate
  small.axes['optimizer.weight_decay'] = decays
  monkeypatch.setattr(trials, 'prepare', lambda *of: prepared.append(prepare(*of)) or prepared[-1])
  study.run(small, tmp_path / 'both')
  assert prepared[0].spread.programs['train']._cache_size() == 1
  planned = rounds.read(tmp_path / 'both' / 'history')
  assert [
    (dict(t.axes)['optimizer.weight_decay'], t.learning_rate) for t in planned.of_wave(0)
  ] == [(decay, rate) for decay in decays for rate in small.learning_rates]
  content = read(tmp_path / 'both')
  assert [t['axes'] for t in content['trials'][::2]] == [
    {'optimizer.weight_decay': x} for x in decays
  ]
  assert [t['status'] == 'diverged' for t in content['trials']] == [True, False] * 2
  stops = iter([False, True])
  with monkeypatch.context() as patch:
    patch.setattr(trials, 'evaluate', lambda *of: stop() if next(stops) else evaluate(*of))
    with pytest.raises(KeyboardInterrupt):
      study.run(small, tmp_path / 'stopped')
  study.run(small, tmp_path / 'stopped')
  assert faults.differences(tmp_path / 'stopped', tmp_path / 'both') == []
  small.axes, small.optimizer.weight_decay = ConfigDict(), 0.1
  study.run(small, tmp_path / 'alone')
  ours, alone = (
    np.load(tmp_path / folder / 'step_loss.npy')
    for folder in ('both/history/weight_decay_0.1', 'alone/history')
  )
  # As a number of the program it is multiplied in another order.
  np.testing.assert_allclose(ours[:25], alone[:25], rtol=1e-5)


def test_equal_steps_scale_epochs_and_drops(small):
  small.epochs, small.axes, small.equal = (
    6,
    ConfigDict({'batch_size': (1, 2, 4)}, allow_dotted_keys=True),
    'steps',
  )
  small.schedule = ConfigDict({'name': 'step_decay', 'every_epochs': 2.0})
  found = rounds.settings(check(small))
  assert {s.batch_size: own.epochs for s, own in found.items()} == {1: 6, 2: 12, 4: 24}
  assert [own.schedule.every_epochs for own in found.values()] == [2, 4, 8]
  small.batch_size = 4
  with pytest.raises(StudyError, match=r"equal is 'steps': at batch size 1 that is 1\.5 epochs"):
    rounds.settings(check(small))


def test_the_plan_is_on_disk(tmp_path):
  first, again = (Planned(1e-3, 0, 1, 'constant', epochs, k, k) for k, epochs in ((0, 1), (1, 2)))
  other = Planned(1e-4, 0, 1, 'constant', 1, 0, 0)
  rounds.write(tmp_path, Plan((other, first, again), ended=True))
  plan = rounds.read(tmp_path)
  assert plan == Plan((other, first, again), ended=True)
  assert rounds.last(plan, [Setting(1, 'constant')]) == [again, other]
  assert rounds.before(plan, again) == first
  assert rounds.before(plan, first) is None
  assert (plan.column(first), plan.column(again), plan.waves) == (1, 0, 2)
  assert rounds.read(tmp_path / 'nowhere') == Plan()
  (tmp_path / 'trials.json').write_text('{"trials": [{}]}')
  with pytest.raises(StudyError, match='is damaged'):
    rounds.read(tmp_path)


@pytest.mark.usefixtures('without_figures')
def test_an_axis_of_the_network_trains_as_it_would_alone(small, tmp_path):
  """Widths have separate programs; label smoothing is an argument of each."""
  small.learning_rates, small.epochs = (1e-2,), 2
  axes = {'model.hidden': ((8,), (16, 8)), 'loss.smoothing': (0.0, 0.1)}
  small.axes = ConfigDict(axes, allow_dotted_keys=True)
  study.run(small, tmp_path / 'both')
  content = read(tmp_path / 'both')
  assert [trial['axes'] for trial in content['trials']] == [
    {'loss.smoothing': smoothing, 'model.hidden': hidden}
    for smoothing in (0.0, 0.1)
    for hidden in ([8], [16, 8])
  ]
  assert len(content['settings']) == 4
  small.model.hidden = (16, 8)
  small.axes = ConfigDict({'loss.smoothing': (0.0, 0.1)}, allow_dotted_keys=True)
  study.run(small, tmp_path / 'alone')
  for smoothing in (0, 0.1):
    ours, alone = (
      np.load(tmp_path / name / 'history' / f'smoothing_{smoothing}{of}' / 'step_loss.npy')
      for name, of in (('both', '_hidden_16_8'), ('alone', ''))
    )
    np.testing.assert_array_equal(ours, alone)
  again = study.run(from_json(content['study']['config']), tmp_path / 'both')  # reads it
  assert again.sentence == content['verdict']['sentence']


def test_the_setting_that_is_named():
  """By the whole name of an axis, or what it ends in; numbers as people write them."""
  found = [
    Setting(size, schedule, (('model.name', net), ('optimizer.weight_decay', decay)))
    for size in (1, 4)
    for schedule in ('constant', 'own.py:half')
    for net in ('lenet', 'own.py:Net')
    for decay in (0.0, 1e-4)
  ]
  for wanted, count in (
    ({}, 16),
    ({'batch_size': 4}, 8),
    ({'schedule': 'half', 'model.name': 'Net'}, 4),
    ({'schedule.name': 'own.py:half', 'model': 'lenet', 'weight_decay': 0.0001000001}, 2),
    ({'batch_size': 1, 'schedule': 'constant', 'model': 'Net', 'weight_decay': 0}, 1),
  ):
    assert len(rounds.matching(found, wanted)) == count
  for wanted, message in (
    ({'batch_size': 2}, 'batch_size=2 is not in the study, which has 1, 4'),
    ({'batch_size': 1, 'weight_decay': 0.5}, 'weight_decay=0.5 is not .*, which has 0, 1e-04'),
    ({'model': 'resnet18'}, 'model=resnet18 is not in the study, which has lenet, Net'),
    ({'name': 'lenet'}, '--axis name is not an axis of the study, which has batch_size, sch'),
    ({'momentum': 0.9}, '--axis momentum is not an axis'),
  ):
    with pytest.raises(StudyError, match=message):
      rounds.matching(found, wanted)


@pytest.mark.usefixtures('without_figures')
def test_a_grid_of_numbers_compiles_one_program(small, tmp_path, monkeypatch):
  """As many times as for one combination is a step traced for rate x decay x momentum."""
  traced, train_step = [], trial.train_step

  def count(*arguments):
    traced.append(arguments)
    return train_step(*arguments)

  monkeypatch.setattr(trial, 'train_step', count)
  small.epochs, small.seeds = 1, (0, 1)
  counts = []
  for name, decays, momenta in (('one', (0.1,), (0.9,)), ('grid', (0.0, 0.1), (0.0, 0.5, 0.9))):
    axes = {'optimizer.weight_decay': decays, 'optimizer.momentum': momenta}
    small.axes = ConfigDict(axes, allow_dotted_keys=True)
    study.run(small, tmp_path / name)
    counts.append(len(traced) - sum(counts))
  assert len(read(tmp_path / 'grid')['trials']) == 3 * 2 * 2 * 3
  assert counts[0] == counts[1] > 0
