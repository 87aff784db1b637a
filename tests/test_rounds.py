"""Studies of several rounds, batch sizes and schedules, trained in small."""

import json
import re

import numpy as np
import pytest

from lr_study import faults, sweep
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned, Setting


@pytest.fixture
def small(tiny):
  """40 training images, 8 a class in all; two rates that learn something, one that diverges."""
  tiny.learning_rates = (1e1, 1e-4, 1e-5)
  tiny.epochs, tiny.schedule.name = 4, 'constant'
  return tiny


def read(folder):
  return json.loads((folder / 'results.json').read_text())


def test_halving_goes_on_where_the_first_round_ended(small, tmp_path):
  """The trial that is kept has the same curve as in a study without halving."""
  small.trials_per_call = 1  # then a trial's numbers are the same bits beside any number
  sweep.run(small, tmp_path / 'grid')
  small.search.name = 'halving'
  small.search.epochs = 1
  sweep.run(small, tmp_path / 'halving')
  content = read(tmp_path / 'halving')
  assert content['study']['rounds'][0] == [1e1, 1e-4, 1e-5]
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


def test_a_search_that_was_stopped_between_rounds_goes_on(small, tmp_path, monkeypatch):
  small.search.name = 'middle_out'
  sweep.run(small, tmp_path / 'whole')
  asked = sweep.next_round

  def stop(*arguments):
    planned = asked(*arguments)
    if len({trial.round for trial in planned.trials}) == 2:
      raise KeyboardInterrupt
    return planned

  monkeypatch.setattr(sweep, 'next_round', stop)
  with pytest.raises(KeyboardInterrupt):
    sweep.run(small, tmp_path / 'stopped')
  monkeypatch.undo()
  sweep.run(small, tmp_path / 'stopped')
  assert faults.differences(tmp_path / 'stopped', tmp_path / 'whole') == []
  assert read(tmp_path / 'whole')['study']['rounds'] == [[1e-4], [1e1, 1e-5]]


def test_batch_sizes_and_schedules_are_axes(small, tmp_path):
  small.batch_sizes, small.schedules = (1, 4), ('constant', 'step_decay')
  small.learning_rates, small.epochs, small.schedule.every_epochs = (3e-4, 1e-4), 2, 1.0
  sweep.run(small, tmp_path)
  content = read(tmp_path)
  trials = content['trials']
  assert [(t['batch_size'], t['schedule'], t['learning_rate']) for t in trials] == [
    (size, schedule, rate)
    for size in (1, 4)
    for schedule in ('constant', 'step_decay')
    for rate in (3e-4, 1e-4)
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
  assert content['verdict']['sentence'].startswith('Best with batch size')
  for gain in content['gains']:
    assert (gain['schedule'], gain['over']) == ('step_decay', 'constant')
  assert (tmp_path / 'figures' / 'batch_4_constant' / 'all_rates.png').exists()
  assert (tmp_path / 'tensorboard' / 'batch_1_step_decay' / 'lr_3e-04_seed_0').is_dir()
  summary = (tmp_path / 'summary.md').read_text()
  pictures = re.findall(r'!\[.*\]\((.*)\)', summary)
  assert len(pictures) == 8
  assert all((tmp_path / picture).exists() for picture in pictures)
  # A table of its own for each setting, whose figures are that setting's.
  for verdict in content['settings']:
    head = f'## batch {verdict["batch_size"]} {verdict["schedule"].replace("_", " ")}'
    table = summary.split(head)[1].split('##')[0]
    best = max(
      t['validation_accuracy']
      for t in trials
      if (t['batch_size'], t['schedule']) == (verdict['batch_size'], verdict['schedule'])
    )
    assert f'| {100 * best:.1f} % |' in table


def test_equal_steps_scale_epochs_and_drops(small):
  small.epochs, small.batch_sizes, small.equal = 6, (1, 2, 4), 'steps'
  small.schedule.name, small.schedule.every_epochs = 'step_decay', 2.0
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
