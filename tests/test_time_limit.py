"""A study that its time limit stops: what it saves and reports, and that it goes on from there."""

import itertools
import json
import sys

import numpy as np
import pytest
from conftest import make_small

from lr_study import cli, faults, so_far, study, time_limit
from lr_study.errors import StudyError
from lr_study.search.rounds import Planned
from lr_study.so_far import Reached
from lr_study.time_limit import TimeIsUp, TimeLimit


class UpAfter(TimeLimit):
  """A limit that is up when it is asked for the n-th time, whatever the clock says."""

  def __init__(self, count):
    super().__init__(510.0)
    self._asked, self._count = itertools.count(1), count

  @property
  def is_up(self):
    return next(self._asked) >= self._count


def test_times_as_people_write_them():
  for text, seconds in (('8m30s', 510), ('12h', 43200), ('90s', 90), ('1d6h', 108000)):
    assert time_limit.parse(text).seconds == seconds
  assert [time_limit.told(s) for s in (510.4, 43200, 90, 0.2)] == ['8m30s', '12h', '1m30s', '0s']


@pytest.mark.parametrize('text', ['', '0s', '90', '8:30', '-5m', '1.5h', '30s8m', 'm'])
def test_what_is_no_time_is_said(text):
  with pytest.raises(StudyError, match=f'--time_limit={text}: give a time such as 8m30s'):
    time_limit.parse(text)


def test_ending_is_part_of_the_time():
  limit = TimeLimit(1e6)
  assert not limit.is_up
  limit.to_end = 1e6
  assert limit.is_up
  assert TimeLimit(1e-3).is_up  # since its process started


def test_a_stopped_study_reports_and_ends_the_same(small_finished, cache_dir, tmp_path):
  folder, config = tmp_path / 'stopped', make_small(cache_dir)
  with pytest.raises(
    TimeIsUp, match=r'at epoch \d of 8; the same command continues the study'
  ) as stopped:
    study.run(config, folder, limit=UpAfter(12))
  assert str(folder / 'so_far' / 'report.html') in str(stopped.value)
  assert not (folder / 'results.json').exists()
  content = json.loads((folder / 'so_far' / 'results.json').read_text())
  line = content['study']['stopped']
  assert str(stopped.value).startswith(line)
  epochs = int(line.partition('at epoch ')[2][0])
  assert 1 <= epochs < 8
  for name in ('summary.md', 'report.html'):
    text = (folder / 'so_far' / name).read_text()
    assert line.partition('--')[0] in text
    assert 'accuracy at the end' not in text
  whole = np.load(small_finished / 'history' / 'step_loss.npy')
  curve = np.load(folder / 'so_far' / 'history' / 'step_loss.npy')
  np.testing.assert_array_equal(curve, whole[: epochs * (len(whole) // 8)])
  assert content['trials'][0]['status'] == 'diverged'
  assert [trial['epochs'] for trial in content['trials'][1:]] == [epochs] * 2

  (folder / 'so_far' / 'mine.txt').write_text('a note')
  study.run(config, folder)
  assert faults.differences(folder, small_finished) == []
  assert [path.name for path in (folder / 'so_far').iterdir()] == ['mine.txt']


def test_a_limit_in_which_no_step_fits_is_said(cache_dir, tmp_path):
  """Else a job that is queued again on status 75 would be so for ever."""
  with pytest.raises(
    StudyError, match=r'--time_limit=8m30s is too short: .* passed before the first step'
  ):
    study.run(make_small(cache_dir), tmp_path / 'short', limit=UpAfter(1))


def reached(epochs_of, diverged=()):
  """By (rate, seed): how far trials of 30 epochs in one setting are; None has not begun."""
  return {
    Planned(rate, seed, 1, 'constant', 30, 0, 0): None
    if epochs is None
    else Reached(None, 0, epochs, int(rate in diverged))
    for (rate, seed), epochs in epochs_of.items()
  }


@pytest.mark.parametrize(
  ('epochs_of', 'diverged', 'rates', 'epochs'),
  [
    # One wave: all at the last epoch that ended; one that diverged has nothing more to come.
    ({(1.0, 0): 30, (0.1, 0): 12, (0.01, 0): 12}, (1.0,), {1.0, 0.1, 0.01}, 12),
    # A second wave has hardly begun, a third one has not: the first one is told of.
    ({(1.0, 0): 30, (0.1, 0): 30, (0.01, 0): 1, (0.001, 0): None}, (), {1.0, 0.1}, 30),
    # A rate counts once all its seeds have come so far.
    ({(1.0, 0): 5, (1.0, 1): 5, (0.1, 0): 5, (0.1, 1): 0}, (), {1.0}, 5),
    ({(1.0, 0): 0, (0.1, 0): None}, (), set(), None),
    ({(1.0, 0): 30, (0.1, 0): 0}, (1.0,), set(), None),  # one diverged in the first epoch
  ],
)
def test_trials_are_compared_at_the_same_epoch(epochs_of, diverged, rates, epochs):
  chosen = so_far._furthest(reached(epochs_of, diverged))
  assert {trial.learning_rate for trial in chosen} == rates
  assert set(chosen.values()) == ({epochs} if rates else set())


def test_the_command_ends_with_a_status_of_its_own(monkeypatch, capsys):
  def main():
    raise TimeIsUp('Stopped by --time_limit after 8m30s')

  monkeypatch.setattr(sys, 'argv', ['sweep.py'])
  with pytest.raises(SystemExit) as ended:
    cli.run(main)
  assert ended.value.code == 75
  assert capsys.readouterr().err == 'Stopped by --time_limit after 8m30s\n'
