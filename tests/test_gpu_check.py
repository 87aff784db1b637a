"""The check for GPUs, shrunk on a CPU: every part runs, and what goes wrong in one is said."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import Command
from conftest import ROOT

from lr_study.errors import StudyError
from lr_study.gpu_check import check, parts, training
from lr_study.gpu_check.parts import PARTS, Part


@pytest.fixture
def run_part(monkeypatch, tmp_path):
  """A function that runs a part, shrunk, and gives what it found; no process imports JAX anew."""

  def child(asked, **environment):
    del environment
    return training.DO[asked['do']](asked)

  def sweep(*arguments, **environment):
    return Command('sweep.py', *arguments, draws=False, devices=1, **environment).wait()

  monkeypatch.setattr(parts, '_child', child)
  monkeypatch.setattr(parts, '_sweep', sweep)

  def run(name, small=True):
    found = {}
    PARTS[name].run({'small': small, 'folder': str(tmp_path)}, lambda **of: found.update(of))
    json.dumps(found, allow_nan=False)
    return found

  return run


def test_the_card(run_part):
  found = run_part('card')
  assert found['ok']
  assert found['platform'] == 'cpu'
  assert found['machine']['jax'] in found['said']
  assert not run_part('card', small=False)['ok']  # a CPU is no GPU


def test_numbers_on_a_cpu_are_those_of_the_cpu(run_part):
  found = run_part('numbers')
  assert found['ok']
  assert found['against_cpu'] == {'early': 0.0, 'all': 0.0}
  assert found['against_alone']['all'] == 0.0
  assert found['diverged_left']
  assert found['resumed_to_the_bit'] == {'with_deterministic_ops': True, 'without': True}


@pytest.mark.parametrize(
  ('off', 'differs'),
  [
    ('cpu', ['against_cpu']),
    ('alone', ['against_alone', 'beside_a_diverged_one']),
    ('beside', ['beside_a_diverged_one']),
    ('resumed', []),
    ('left', []),
  ],
)
def test_numbers_that_differ_are_no_pass(run_part, monkeypatch, off, differs):
  curve = np.random.default_rng(0).uniform(1, 2, (12, 4))

  def child(asked, **environment):
    found = {}
    for name, run in asked['runs'].items():
      whole = curve.copy()
      whole[6:, 0] = 1.0 if off == 'left' else np.nan
      wrong = name.startswith(off) or (off == 'cpu' and 'JAX_PLATFORMS' in environment)
      found[name] = (whole * (1.001 if wrong else 1.0))[:, run['columns']]
    np.savez(asked['out'], **found)

  monkeypatch.setattr(parts, '_child', child)
  found = run_part('numbers')
  assert not found['ok']
  for name in ('against_cpu', 'against_alone', 'beside_a_diverged_one'):
    assert found[name]['early'] == pytest.approx(1e-3 if name in differs else 0.0, rel=0.01)
  assert found['resumed_to_the_bit']['without'] == (off != 'resumed')
  assert found['diverged_left'] == (off != 'left')


@pytest.mark.slow
def test_the_answer_of_the_quick_study(run_part):
  found = run_part('answer')
  assert found['ok'], found
  assert len(found['statuses']) == 7
  assert found['sentence'] in found['said']
  assert found['seconds_of']['steps'] > 0


def test_a_study_moves_between_devices(run_part):
  found = run_part('move')
  assert found['ok'], found
  assert found['shares'] == {'to_cpu': {'early': 0.0, 'all': 0.0}}


@pytest.mark.slow
def test_what_the_plan_says_is_told(run_part):
  found = run_part('memory')
  assert found['ok']
  assert found['found']['tiny']['planned'] > 0
  assert 'a CPU does not tell' in found['said']


def test_no_memory_is_one_line(run_part):
  found = run_part('out_of_memory')
  assert found['ok'], found
  assert found['status'] == 1
  assert found['line'].startswith('error: out of memory: ')


PROCESS = """
import json, sys, time
name = sys.argv[1]
print('RESULT ' + json.dumps({'ok': True, 'said': name}), flush=True)
if name == 'slow':
  time.sleep(60)
if name == 'broken':
  raise ValueError('it broke')
"""


def test_a_part_that_hangs_or_breaks_does_not_stop_the_next(monkeypatch, tmp_path):
  package = tmp_path / 'lr_study' / 'gpu_check'
  package.mkdir(parents=True)
  (package / 'parts.py').write_text(PROCESS)
  monkeypatch.setattr(check, 'ROOT', tmp_path)
  limits = {'slow': 1, 'broken': 20, 'good': 20}
  monkeypatch.setattr(check, 'PARTS', {n: Part(s, None, f'about {n}') for n, s in limits.items()})
  out, told, began = tmp_path / 'out.json', [], time.monotonic()
  found = check.run(limits, 5, True, out, told.append)['parts']
  assert time.monotonic() - began < 30
  assert json.loads(out.read_text())['parts'] == found
  assert [part['ok'] for part in found.values()] == [False, False, True]
  assert check.lines(found['slow']) == ['slow', 'ended after its 1 s']
  assert check.lines(found['broken']) == ['broken', 'status 1: ValueError: it broke']
  assert 'Traceback' in found['broken']['printed']
  assert '| good | yes |' in check.table({'parts': found})
  assert '| slow | **no** |' in check.table({'parts': found})
  short = check.run(limits, 0.1, True, out, told.append)['parts']
  assert {part['said'] for part in short.values()} == {'not run: no time was left'}


def test_a_part_that_is_none_is_named(tmp_path):
  with pytest.raises(StudyError, match="--only: no part 'numbrs'; there are card, numbers"):
    check.run(['card', 'numbrs'], 1, True, tmp_path / 'out.json', print)
  assert not (tmp_path / 'out.json').exists()


def test_rows_are_those_of_the_benchmark(monkeypatch):
  asked = []

  def run(name, rounds, tell, hurry):
    asked.append((name, hurry))
    side = {'median': 1e-3, 'ours_to_this': 1.0, 'trials': 1, 'start_seconds': 1}
    sides = {'lr_study': side | {'memory': {'peak': 1}}, 'torch': {'error': 'no PyTorch'}}
    return {'row': name, 'title': name, 'sides': sides}

  monkeypatch.setattr(parts.rows, 'run', run)
  names = [name for name in PARTS if name in parts.rows.ROWS]
  assert len(names) == 8
  for name in names:
    found = {}
    PARTS[name].run({'small': False}, lambda found=found, **of: found.update(of))
    assert found['said'] == 'lr_study 1 ms a step per trial, torch no PyTorch'
  assert asked == [(name, True) for name in names]


@pytest.mark.slow
def test_the_command_runs_every_part(tmp_path):
  out = tmp_path / 'check.json'
  done = subprocess.run(
    [sys.executable, 'scripts/gpu_check.py', '--small', '--minutes=20', f'--out={out}'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(out.read_text())['parts']
  assert found.keys() == PARTS.keys()
  assert {name for name, part in found.items() if not part['ok']} == set()
  np.testing.assert_array_less(0, [part['seconds'] for part in found.values()])
