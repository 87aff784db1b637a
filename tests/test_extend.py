"""Studies that take more rates, seeds, values on axes or epochs."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from lr_study import extension, faults, loop, study, trials
from lr_study.errors import StudyError
from lr_study.files import events, workdir
from lr_study.search import rounds
from lr_study.use import evaluate

RESNET = {'name': 'tests/own/my_resnet.py:MyResNet', 'features': 4, 'depth': 1}


@pytest.fixture
def small(tiny):
  """60 training images; two rates that learn something, one that diverges."""
  tiny.model = {'name': 'mlp', 'hidden': (16,)}
  tiny.input.size, tiny.input.grey, tiny.input.standardise = 16, True, True
  tiny.input.subtract = 'pixel'
  tiny.parallel = tiny.accelerate = 'auto'
  tiny.learning_rates, tiny.seeds, tiny.epochs = (1e5, 1e-2), (1, 0), 2
  tiny.schedule, tiny.batch_size = ConfigDict({'name': 'constant'}), 4
  return tiny


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
  """Drawing takes most of the time of such studies, and is done again in any case."""
  monkeypatch.setattr(study, '_show', lambda *arguments: None)


@pytest.fixture
def trained(monkeypatch):
  """The steps of trials that were trained since the fixture was asked for."""
  counted, train_steps = [], trials.train_steps

  def count(sweep, now, state_T, epoch, first, last, interrupt=None):
    counted.append((last - first) * len(now.columns))
    return train_steps(sweep, now, state_T, epoch, first, last, interrupt)

  monkeypatch.setattr(trials, 'train_steps', count)
  return counted


def with_axes(config, **axes):
  config.axes = ConfigDict(
    {n.replace('__', '.'): x for n, x in axes.items()}, allow_dotted_keys=True
  )
  return config


def differences(folder, whole):
  """Like faults.differences, but waves may hold other trials."""
  found = [] if faults.results(folder) == faults.results(whole) else ['results.json']
  for kind in ('history', 'tensorboard'):
    files = [
      {path.relative_to(of / kind) for path in (of / kind).rglob('*') if not is_of_wave(path)}
      for of in (folder, whole)
    ]
    names = [{p for p in of if 'tfevents' not in p.name} for of in files]
    found += [kind] if names[0] != names[1] else []
  for file in (whole / 'history').rglob('*.npy'):
    ours = folder / 'history' / file.relative_to(whole / 'history')
    if not is_of_wave(file) and ours.read_bytes() != file.read_bytes():
      found.append(str(ours))
  for run in (path.parent for path in (whole / 'tensorboard').rglob('*tfevents*')):
    ours = folder / 'tensorboard' / run.relative_to(whole / 'tensorboard')
    if run.name.startswith('lr_') and events.read(ours) != events.read(run):
      found.append(str(ours))
  return found


def is_of_wave(path):
  return any(part.startswith(('wave_', 'trials.json')) for part in path.parts)


@pytest.mark.parametrize('network', ['mlp', pytest.param('resnet', marks=pytest.mark.slow)])
def test_rates_seeds_and_values_are_added(small, tmp_path, trained, capsys, network):
  """To a network with BatchNorm by AdamW as to any other."""
  if network == 'resnet':
    small.model = ConfigDict(RESNET)
    small.optimizer = ConfigDict({'name': 'adamw'})
  with_axes(small, optimizer__weight_decay=(0.0, 0.1))
  study.run(small, tmp_path / 'more')
  small.learning_rates, small.seeds = (3e-2, 1e5, 1e-2, 1e-3), (2, 1, 0)
  with_axes(small, optimizer__weight_decay=(0.0, 1e-3, 0.1))
  with pytest.raises(StudyError, match=r'another config: .*; add --extend to keep'):
    study.run(small, tmp_path / 'more')
  before = sum(trained)
  capsys.readouterr()
  study.run(small, tmp_path / 'more', extend=True)
  assert 'Kept: 8 trials' in capsys.readouterr().out
  again = sum(trained) - before
  study.run(small, tmp_path / 'whole')
  assert again < sum(trained) - before - again
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []
  count = len(trained)
  study.run(small, tmp_path / 'more', extend=True)  # there is nothing to add
  assert len(trained) == count


def test_epochs_are_added_where_the_schedule_allows(small, tmp_path, trained):
  study.run(small, tmp_path / 'more')
  small.epochs, small.seeds = 5, (1, 0, 2)
  before = sum(trained)
  study.run(small, tmp_path / 'more', extend=True)
  again = sum(trained) - before
  study.run(small, tmp_path / 'whole')
  assert sum(trained) - before - again == again + before  # no step twice
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


def test_a_schedule_that_depends_on_the_epochs_starts_anew(small, tmp_path, capsys):
  small.schedule = ConfigDict({'name': 'cosine'})
  study.run(small, tmp_path / 'more')
  small.epochs = 3
  capsys.readouterr()
  study.run(small, tmp_path / 'more', extend=True)
  said = capsys.readouterr().out
  assert 'Kept: 0 trials' in said
  assert 'Trained again: 4 trials, because cosine depends on the number of epochs' in said
  study.run(small, tmp_path / 'whole')
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


def test_a_batch_size_beside_the_one_it_had(small, tmp_path, capsys):
  """The labels of the first one's curves change with it."""
  study.run(small, tmp_path / 'more')
  with_axes(small, batch_size=(4, 20))
  study.run(small, tmp_path / 'more', extend=True)
  assert 'Kept: 4 trials' in capsys.readouterr().out
  study.run(small, tmp_path / 'whole')
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


def test_a_number_that_becomes_an_argument_starts_anew(small, tmp_path, capsys):
  study.run(small, tmp_path / 'more')
  with_axes(small, optimizer__momentum=(0.0, 0.9))
  study.run(small, tmp_path / 'more', extend=True)
  said = capsys.readouterr().out
  assert 'Trained again: 4 trials, because numbers that were fixed are now arguments' in said
  study.run(small, tmp_path / 'whole')
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


@pytest.mark.parametrize('number', range(5))
def test_stopped_before_and_while_it_is_extended(small, tmp_path, monkeypatch, number):
  """Kills in the first training, while clearing, before the new config, and in the second."""
  places = [
    (trials, 'evaluate'), (extension, '_clear'), (workdir, 'write_text'), (trials, 'evaluate'),
    (study.report, 'write'),
  ]  # fmt: skip
  if number:
    study.run(small, tmp_path / 'more')
  else:
    stop_in(monkeypatch, *places[0], lambda: study.run(small, tmp_path / 'more'))
  small.learning_rates = (1e5, 1e-2, 1e-3)
  if number:
    where = places[number]
    stop_in(monkeypatch, *where, lambda: study.run(small, tmp_path / 'more', extend=True))
  study.run(small, tmp_path / 'more', extend=True)
  study.run(small, tmp_path / 'whole')
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


def stop_in(monkeypatch, module, name, run):
  def stop(*arguments, **named):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(module, name, stop)
    with pytest.raises(KeyboardInterrupt):
      run()


def test_a_search_is_asked_again(small, tmp_path, trained):
  small.search = ConfigDict({'name': 'halving', 'epochs': 1})
  small.epochs = 4
  study.run(small, tmp_path / 'more')
  small.learning_rates = (1e5, 1e-2, 1e-3, 1e-4)
  study.run(small, tmp_path / 'more', extend=True)
  study.run(small, tmp_path / 'whole')
  assert differences(tmp_path / 'more', tmp_path / 'whole') == []


@pytest.mark.parametrize(
  ('fields', 'changed'),
  [
    ({'learning_rates': (1e-2, 1e-3)}, 'learning_rates'),
    ({'seeds': (0,)}, 'seeds'),
    ({'epochs': 1}, 'epochs'),
    ({'batch_size': 5}, 'batch_size'),
  ],
)
def test_what_is_no_larger_study_is_refused(small, tmp_path, fields, changed):
  study.run(small, tmp_path)
  kept = (tmp_path / 'results.json').read_bytes()
  small.update(fields)
  with pytest.raises(StudyError, match=f'holds a study with another config: .*{changed}') as error:
    study.run(small, tmp_path, extend=True)
  assert '--extend' not in str(error.value)
  assert (tmp_path / 'results.json').read_bytes() == kept


def test_weights_of_kept_trials_are_found(small, tmp_path):
  """Their columns in the checkpoint are those of the wave that they trained in."""
  study.run(small, tmp_path / 'more')
  small.learning_rates = (1e5, 3e-2, 1e-2)
  study.run(small, tmp_path / 'more', extend=True)
  study.run(small, tmp_path / 'whole')
  for rate in (3e-2, 1e-2):
    for seed in (0, 1):
      ours, theirs = (
        evaluate.load(tmp_path / name, rate, seed).variables for name in ('more', 'whole')
      )
      jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_plan_that_was_extended_is_read_as_it_was_written(tmp_path):
  earlier = rounds.Planned(1e-3, 0, 1, 'constant', 2, -1, 0)
  plan = rounds.Plan((earlier._replace(round=0),), True, (earlier,), 3)
  rounds.write(tmp_path, plan)
  assert rounds.read(tmp_path) == plan
  assert plan.waves == 3
  assert plan.of_wave(0) == plan.trials
  assert json.loads((tmp_path / rounds.FILE).read_text())['taken'] == 3
  assert loop.place(tmp_path, 3).name == 'wave_3'
