"""Trackers get each point of each trial once, and cost a study nothing when they are away."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import planned
from test_library import sweep

from lr_study import tracking
from lr_study.answer.verdict import Verdict
from lr_study.errors import StudyError
from lr_study.files import events
from lr_study.files.points import Point
from lr_study.search import rounds
from lr_study.tracking import Run, Tracker

ROOT = Path(__file__).parents[1]
CONFIG = """
from ml_collections import ConfigDict

from configs import alexnet_letters


def get_config():
  config = alexnet_letters.get_config('quick')
  config.image_size = 64
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 20
  config.data.cache_dir = {cache!r}
  config.input.size, config.input.grey = 16, True
  config.model = ConfigDict({{'name': 'mlp', 'hidden': (8,)}})
  config.epochs, config.seeds = {epochs}, {seeds}
  config.learning_rates = (1e30, 1e-4)
  config.log_every_steps = 15
  config.schedule = ConfigDict({{'name': 'constant'}})
  return config
"""


class Server:
  """A tracker: what it has stays from study to study."""

  def __init__(self, remembers):
    self.points, self.ended, self.runs, self.studies, self.endings = {}, {}, {}, [], []
    self.remembers, self.calls, self.fails = remembers, 0, lambda calls: False

  def made(self, folder):
    del folder
    return self

  def _called(self):
    self.calls += 1
    if self.fails(self.calls):
      raise ConnectionError('away\nsince noon')

  def begin(self, study, name, fields):
    self._called()
    self.studies.append((study, name, fields))

  def steps(self, run, sent):
    self._called()
    return max((v[1] for v in self.points.get(run.key, [])), default=0) if self.remembers else sent

  def log(self, run, points):
    self._called()
    self.runs[run.key] = run
    self.points.setdefault(run.key, []).extend(points)

  def end(self, run, failed, fields):
    self._called()
    self.runs[run.key] = run
    self.ended.setdefault(run.key, []).append((failed, fields['status']))

  def finish(self, ending):
    self._called()
    self.endings.append(ending)

  def close(self):
    pass


@pytest.fixture(params=[True, False], ids=['asked', 'on_record'])
def server(request, monkeypatch):
  found = Server(request.param)
  module = types.SimpleNamespace(Sender=found.made)
  monkeypatch.setitem(sys.modules, 'lr_study.tracking.of_mlflow', module)
  monkeypatch.setitem(sys.modules, 'lr_study.tracking.of_wandb', module)
  monkeypatch.setattr(tracking, 'check', lambda name: None)
  return found


def curves_of(folder):
  """The finite points in TensorBoard, as a tracker has them, by the names of the trials' runs."""
  found = {}
  for run in sorted((folder / 'tensorboard').glob('**/lr_*')):
    curves = events.read(run).items()
    found[str(run.relative_to(folder / 'tensorboard'))] = {
      (name, step)
      for name, points in curves
      for step, x in points
      if x is not None and abs(x) < np.inf
    } - {('train/diverged_at_step', step) for step in range(1000)}
  return found


def check_whole(server, folder):
  """Each point that TensorBoard has, the tracker has once."""
  have = {server.runs[key].name: points for key, points in server.points.items()}
  assert len(have) == len(server.points)  # a trial has one run
  for name, points in curves_of(folder).items():
    names = [(name, step) for name, step, _ in have.get(name, [])]
    assert len(names) == len(set(names))
    assert set(names) == points


def test_a_study_is_sent_once(server, tmp_path, without_figures):
  fields = {'learning_rates': [1e30, 1e-2], 'optimizer': 'sgd', 'workdir': tmp_path / 'a'}
  study = sweep(**fields, track='mlflow')
  check_whole(server, tmp_path / 'a')
  ended = {server.runs[key].name: found for key, found in server.ended.items()}
  statuses = [r.status for r in study.trials]
  assert ended == {
    'lr_1e+30_seed_0': [(True, 'diverged')], 'lr_1e-02_seed_0': [(False, statuses[1])],
  }  # fmt: skip
  (run,) = (run for run in server.runs.values() if run.name == 'lr_1e-02_seed_0')
  assert (run.group, run.fields['learning_rate'], run.fields['seed']) == ('1e-02', 1e-2, 0)
  (ending,) = server.endings
  assert ending.sentence == study.verdict.sentence
  assert {'results.json', 'summary.md'} <= {file.name for file in ending.files}
  (of_study,) = server.studies
  assert of_study[1] == 'a'
  assert of_study[2]['optimizer.name'] == 'sgd'
  # Once more it has all, whether it is asked or the record says so.
  calls = server.calls
  sweep(**fields, track='mlflow')
  assert len(server.ended[run.key]) == len(server.endings) == 1
  assert server.calls - calls <= 3
  check_whole(server, tmp_path / 'a')
  # More seeds, epochs and values of an axis go on with the same runs.
  axes = {'optimizer.momentum': [0.0, 0.9]}
  sweep(**fields, track='mlflow', extend=True, seeds=2, epochs=3, axes=axes)
  check_whole(server, tmp_path / 'a')


def test_a_tracker_that_is_away_costs_a_line(server, tmp_path, capsys, without_figures):
  """It fails in the middle, or all the time; the same call sends later what is missing."""
  fields = {'workdir': tmp_path / 'a', 'track': 'wandb', 'progress': True}
  server.fails = lambda calls: calls > 3
  study = sweep(**fields)
  said = capsys.readouterr().out
  assert said.count('Sending to W&B failed (away). The study continues') == 1
  assert study.verdict.learning_rate
  server.fails = lambda calls: False
  sweep(**fields)
  check_whole(server, tmp_path / 'a')
  assert len(server.endings) == 1


def run_of(key):
  return Run(key, f'lr_{key}', '1e-02', {})


def chunk(first):
  steps = range(first, first + 30, 10)
  points = [Point('train', 'loss', step, np.asarray([0.5, np.nan])) for step in steps]
  return [(points, np.asarray([0, 1]))]


def test_training_does_not_wait_for_a_tracker(server, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(tracking, '_PATIENCE', 0.3)
  blocked = threading.Event()
  server.fails = lambda calls: blocked.wait(20)
  started = time.monotonic()
  tracker = Tracker('mlflow', tmp_path, {})
  for first in range(0, 300, 30):
    tracker.reach([run_of('0:0'), run_of('0:1')], chunk(first))
  assert time.monotonic() - started < 0.3
  tracker.finish('', Verdict(None, 1, 'constant', '', '', (), None, {}, None, False))
  assert 0.3 <= time.monotonic() - started < 5
  tracker.close()
  assert capsys.readouterr().out.count('Sending to MLflow failed (it does not answer)') == 1
  blocked.set()
  tracker._thread.join(20)


def test_points_that_are_not_finite_are_left_out(server, tmp_path):
  tracker = Tracker('mlflow', tmp_path, {})
  tracker.reach([run_of('0:0'), run_of('0:1')], chunk(10))
  tracker._join(20)
  assert server.points == {'0:0': [('train/loss', step, 0.5) for step in (10, 20, 30)]}


def test_a_client_that_is_missing_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(tracking, 'find_spec', lambda name: None)
  with pytest.raises(StudyError, match='mlflow is not installed; pip install -r requirements-ml'):
    sweep(workdir=tmp_path / 'a', track='mlflow')
  with pytest.raises(StudyError, match='track=wanda is not one of mlflow, wandb'):
    sweep(workdir=tmp_path / 'a', track='wanda')
  assert not (tmp_path / 'a').exists()


def test_a_trial_is_the_same_after_it_went_on():
  first = planned([1e-2, 1e-3], [0, 0], epochs=2)
  later = [trial._replace(epochs=4, round=1, wave=1) for trial in first[1:]]
  plan = rounds.Plan((*first, *later))
  assert [rounds.origin(plan, trial) for trial in plan.trials] == ['0:0', '0:1', '0:1']


# With real trackers.


def command(config, folder, *arguments, **variables):
  """A process of the command, whose environment has these variables too."""
  argv = [sys.executable, ROOT / 'scripts' / 'sweep.py', '--config', config, '--workdir', folder]
  return subprocess.Popen(
    [*map(str, argv), *arguments], env=os.environ | variables, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def written(tmp_path, cache_dir, epochs=2, seeds=(0,)):
  file = tmp_path / f'config_{epochs}_{len(seeds)}.py'
  file.write_text(CONFIG.format(cache=cache_dir, epochs=epochs, seeds=seeds))
  return file


def ended(process, status=0):
  out, error = process.communicate(timeout=300)
  assert process.returncode == status, out + error
  return out


@pytest.fixture
def mlflow(tmp_path):
  """Calls of a real MLflow server on the loopback address: (path, **fields) -> answer."""
  if find_spec('mlflow') is None:
    pytest.skip('mlflow is not installed: pip install -r requirements-mlflow.txt')
  # The client's package has no server: one may be in an environment of its own.
  program = os.environ.get('MLFLOW_SERVER', '' if find_spec('flask') is None else 'mlflow')
  if not shutil.which(program):
    pytest.skip(
      'there is no MLflow server: pip install mlflow, elsewhere, MLFLOW_SERVER=.../mlflow'
    )
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  store = [
    f'--backend-store-uri=sqlite:///{tmp_path}/mlflow.db',
    f'--artifacts-destination={tmp_path}/kept',
  ]
  server = subprocess.Popen(
    [program, 'server', '--host=127.0.0.1', f'--port={port}', '--workers=1', *store],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
  )  # fmt: skip
  url = f'http://127.0.0.1:{port}'

  def call(path, **fields):
    data = json.dumps(fields).encode() if fields else None
    request = urllib.request.Request(
      f'{url}/api/2.0/mlflow/{path}', data, {'Content-Type': 'application/json'}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
      return json.load(answer)

  call.url = url
  for _ in range(600):
    try:
      urllib.request.urlopen(f'{url}/health', timeout=5).close()
      break
    except OSError:
      time.sleep(0.1)
  yield call
  os.killpg(server.pid, 15)
  server.wait()


@pytest.mark.slow
def test_mlflow_has_each_point_once(mlflow, tmp_path, cache_dir):
  """After a kill in the middle, and after it was extended; figures and the report are there."""
  folder, uri = tmp_path / 'a', {'MLFLOW_TRACKING_URI': mlflow.url}
  process = command(written(tmp_path, cache_dir, 40), folder, '--track=mlflow', **uri)
  for _ in range(600):
    if (
      '"0:1"' in (folder / 'tracking.json').read_text()
      if (folder / 'tracking.json').exists()
      else ''
    ):
      break
    time.sleep(0.1)
  process.kill()
  process.communicate()
  ended(command(written(tmp_path, cache_dir, 40), folder, '--track=mlflow', **uri))
  more = written(tmp_path, cache_dir, 40, (0, 1))
  ended(command(more, folder, '--track=mlflow', '--extend', **uri))
  ids = [x['experiment_id'] for x in mlflow('experiments/search', max_results=9)['experiments']]
  runs = mlflow('runs/search', experiment_ids=ids)['runs']
  by_name = {run['info']['run_name']: run for run in runs}
  assert len(by_name) == len(runs) == 5
  for name, points in curves_of(folder).items():
    curves = {metric['key'] for metric in by_name[name]['data'].get('metrics', ())}
    found = []
    for curve in curves:
      own = f'metrics/get-history?run_id={by_name[name]["info"]["run_id"]}&metric_key={curve}'
      found += [(curve, int(metric.get('step', 0))) for metric in mlflow(own)['metrics']]
    assert len(found) == len(set(found))
    assert set(found) == points
  status = {name: run['info']['status'] for name, run in by_name.items()}
  assert status['lr_1e+30_seed_1'] == 'FAILED'
  assert status['lr_1e-04_seed_1'] == status['a'] == 'FINISHED'
  tags = {tag['key']: tag['value'] for tag in by_name['a']['data']['tags']}
  assert tags['verdict'].startswith(('Use 1e-04', 'No rate'))
  parents = {
    tag['value']
    for run in runs
    for tag in run['data']['tags']
    if tag['key'] == 'mlflow.parentRunId'
  }
  assert parents == {by_name['a']['info']['run_id']}
  assert list((tmp_path / 'kept').rglob('report.html'))
  assert list((tmp_path / 'kept').rglob('figures/accuracy_by_rate.png'))


def test_no_server_costs_a_line(tmp_path, cache_dir):
  if find_spec('mlflow') is None:
    pytest.skip('mlflow is not installed: pip install -r requirements-mlflow.txt')
  started = time.monotonic()
  out = ended(
    command(
      written(tmp_path, cache_dir), tmp_path / 'a', '--track=mlflow',
      MLFLOW_TRACKING_URI='http://127.0.0.1:9',
    )
  )  # fmt: skip
  assert re.search(r'^Sending to MLflow failed \(.*\)\. The study continues', out, re.M)
  assert time.monotonic() - started < 120


# What W&B writes offline: a header of 7 bytes, then blocks of 32 KiB with parts of records: a sum,
# the length, and whether it is whole (1), the first (2), a middle (3) or the last part (4).
_READ = """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2
data, place, part, found = Path(sys.argv[1]).read_bytes(), 7, b'', []
while place + 7 <= len(data):
  if 32768 - place % 32768 < 7:
    place += 32768 - place % 32768
  _, length, kind = struct.unpack_from('<IHB', data, place)
  own, place = data[place + 7 : place + 7 + length], place + 7 + length
  part = own if kind in (1, 2) else part + own
  if kind in (1, 4):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(part)
    if record.WhichOneof('record_type') == 'history':
      names = {i.key or '/'.join(i.nested_key): i.value_json for i in record.history.item}
      found.append({name: json.loads(value) for name, value in names.items()})
print(json.dumps(found))
"""


def test_wandb_has_each_point_once_offline(tmp_path, cache_dir):
  if find_spec('wandb') is None:
    pytest.skip('wandb is not installed: pip install -r requirements-wandb.txt')
  folder, config = tmp_path / 'a', written(tmp_path, cache_dir)
  for _ in range(2):
    ended(command(config, folder, '--track=wandb', WANDB_MODE='offline'))
  points = {}
  files = sorted((folder / 'wandb').glob('offline-run-*/*.wandb'))
  assert len(files) == 3  # two trials and the answer; the second time there was nothing to send
  for file in files[:2]:
    done = subprocess.run(
      [sys.executable, '-c', _READ, file], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)
    key = file.stem.rpartition('-')[2]
    points[key] = [(n, row['_step']) for row in rows for n in row if '/' in n]
  for key, own in zip('01', curves_of(folder).values(), strict=True):
    assert len(points[key]) == len(set(points[key]))
    assert set(points[key]) == own
