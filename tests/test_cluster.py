"""Studies on a cluster: the driver and its tasks, which run in this process instead of by Ray."""

import errno
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
from commands import ROOT
from conftest import make_small
from test_time_limit import UpAfter
from test_tracking import Server, check_whole

from lr_study import errors, faults, loop, study, tracking
from lr_study.cluster import connection, driver, tasks, worker
from lr_study.cluster.connection import Workers
from lr_study.errors import StudyError
from lr_study.files import record, workdir
from lr_study.files.checkpoint import steps_in
from lr_study.interrupt import Stopped
from lr_study.time_limit import TimeIsUp


class Inline:
  """Stands in for `connection.Connection`: runs a task when its end is waited for."""

  def __init__(self, workers=1, before=None):
    """`before`: called with each task's name and arguments; what it returns is the outcome."""
    self.apart, self.names, self.stops = set(), [], False
    self._tasks = {}
    self._workers, self._before = Workers(False, os.cpu_count(), workers, 1, ('a', 'b')), before

  def workers(self):
    return self._workers

  def put(self, value):
    return value

  def start(self, function, name, workers, *arguments):
    self.names.append(name)
    self._tasks[len(self.names)] = name, function, pickle.loads(pickle.dumps(arguments))
    return len(self.names)

  def result(self, task):
    return self.ended([task], 0)[0][1]

  def ended(self, started, seconds):
    del seconds
    task = started[0]
    name, function, arguments = self._tasks[task]
    if self.stops:
      return [(task, None)]
    kept = dict(record._open)  # a worker is another process
    outcome = (self._before and self._before(name, arguments)) or function(*arguments)
    record._open.update(kept)
    return [(task, pickle.loads(pickle.dumps(outcome)))]

  def cancel(self, started):
    self.stops = self.stops or bool(started)

  def blind(self, job, workers):
    assert len(workers.nodes) == 2
    return [name for name in [tasks.look(job)] if name]


@pytest.fixture(autouse=True)
def here(monkeypatch):
  """Tasks set the environment of their process, and Ray tells its node."""
  for name in ('NPROC', 'JAX_PLATFORMS'):
    monkeypatch.setenv(name, '')
  monkeypatch.setattr(tasks, '_node_id', lambda: 'id_of_a')
  monkeypatch.setattr(tasks.platform, 'node', lambda: 'machine_a')
  monkeypatch.setattr(tasks, '_SEE_SECONDS', 0.0)
  worker._sweeps.cache_clear()


@pytest.fixture
def config(cache_dir):
  return make_small(cache_dir)


def run(config, folder, connection, **options):
  return study.run(config, folder, trainer=driver.Cluster(connection), **options)


def test_the_bytes_of_one_machine(config, small_finished, tmp_path, capsys):
  """Of one worker, whose wave holds the same trials; nothing of the cluster stays."""
  folder = tmp_path / 'study'
  connection = Inline()
  run(config, folder, connection)
  assert faults.differences(folder, small_finished) == []
  names = {path.name for path in small_finished.iterdir()}
  assert {path.name for path in folder.iterdir()} == names
  assert connection.names == ['device', 'plan', 'study: all trials']
  assert 'all trials: done on machine_a; 1 of 1 wave done' in capsys.readouterr().out
  with workdir.held(folder):  # all that the worker wrote is on record
    assert record.delete(folder, keep=lambda name: False) == []
  assert sorted(path.name for path in folder.iterdir()) == ['written']


@pytest.mark.usefixtures('without_figures')
@pytest.mark.parametrize('kind', ['rounds', 'more seeds'])
def test_rounds_of_a_search_and_an_extension(config, tmp_path, kind):
  """Each trains in waves of its own, from what there was."""
  config.learning_rates, config.epochs = (1e-2, 1e-3), 2
  if kind == 'rounds':
    config.search.name = 'halving'
  else:
    run(config, tmp_path / 'cluster', Inline())
    config.seeds = (0, 1)
  run(config, tmp_path / 'cluster', Inline(workers=2), extend=kind != 'rounds')
  study.run(config, tmp_path / 'alone')
  found = [faults.results(tmp_path / name) for name in ('alone', 'cluster')]
  assert len(found[0]['study']['rounds']) == (2 if kind == 'rounds' else 1)
  assert found[0] == found[1]


@pytest.mark.usefixtures('without_figures')
def test_a_wave_that_comes_back_is_trained_again(config, tmp_path, capsys):
  """Whatever the reason; a machine without the disk gets no more tasks."""
  config.epochs = 1
  kinds = iter(['stopped', 'lost', 'apart', None])

  def comes_back(name, arguments):
    kind = next(kinds) if name.startswith('study') else None
    return kind and tasks.Outcome(kind, 'machine_b', 'id_of_b')

  connection = Inline(before=comes_back)
  run(config, tmp_path / 'study', connection)
  assert connection.names.count('study: all trials') == 4
  assert connection.apart == {'id_of_b'}
  assert 'machine_b does not see the work directory' in capsys.readouterr().out
  assert (tmp_path / 'study' / 'results.json').exists()


@pytest.mark.usefixtures('without_figures')
def test_a_wave_whose_worker_is_lost_again_and_again(config, tmp_path, capsys):
  """It is trained again, but not for ever: only while something is saved between two losses."""
  folder, config.epochs, saved = tmp_path / 'study', 1, iter(range(1, 8))

  def crashes(name, arguments):
    if not name.startswith('study'):
      return None
    if (step := next(saved, None)) is not None:
      (folder / 'checkpoints' / 'wave_0' / str(step)).mkdir(parents=True)
    return tasks.Outcome('crashed', '', '', lines=('out of memory',))

  connection = Inline(before=crashes)
  with pytest.raises(StudyError, match=r'all trials: 5 workers .* \(out of memory\)'):
    run(config, folder, connection)
  assert connection.names.count('study: all trials') == 7 + 4
  assert 'all trials: its worker was lost (out of memory)' in capsys.readouterr().out


@pytest.mark.usefixtures('without_figures')
def test_workers_that_are_lost_before_they_say_what_they_have(config, tmp_path):
  lost = tasks.Outcome('crashed', '', '', lines=('killed',))
  connection = Inline(before=lambda name, arguments: lost)
  with pytest.raises(StudyError, match='5 workers were lost before they answered: killed'):
    run(config, tmp_path / 'study', connection)
  assert not (tmp_path / 'study').exists()


@pytest.mark.usefixtures('without_figures')
@pytest.mark.parametrize(
  ('raised', 'error', 'words'),
  [
    (StudyError('no such optimizer'), StudyError, r'^no such optimizer \(on machine_a\)$'),
    (OSError(errno.ENOSPC, 'No space left'), OSError, r'No space left.* \(on machine_a\)'),
    (OSError(errno.EIO, 'Input/output error'), OSError, r'Input/output error \(on machine_a\)'),
    (MemoryError('out'), errors.MoreWaves, r'out \(on machine_a\).* the same command'),
    (ZeroDivisionError('a bug'), RuntimeError, r'(?s)machine_a failed:.*Traceback.*a bug'),
  ],
)
def test_an_error_of_a_worker_names_its_machine(
  config, tmp_path, monkeypatch, raised, error, words
):
  def fail(*arguments, **options):
    raise raised

  config.epochs = 1
  with monkeypatch.context() as patch:
    patch.setattr(loop, 'train', fail)
    with pytest.raises(error, match=words) as found:
      run(config, tmp_path / 'study', Inline())
  if isinstance(raised, OSError):
    assert found.value.errno == raised.errno
  if error is errors.MoreWaves:
    run(config, tmp_path / 'study', Inline())  # the same command
    assert {trial['wave'] for trial in plan_of(tmp_path / 'study')['trials']} == {0, 1}


def plan_of(folder):
  return json.loads((folder / 'history' / 'trials.json').read_text())


def test_a_machine_without_the_disk_is_said_before_anything_trains(config, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, '_sees', lambda job: False)
  with pytest.raises(StudyError, match='study is not there on machine_a, or is another folder'):
    run(config, tmp_path / 'study', Inline())
  assert not (tmp_path / 'study').exists()


def test_other_images_on_a_worker_are_said(config, tmp_path):
  def change(name, arguments):
    if name == 'plan':
      job = arguments[0]._replace(fingerprint='another')
      return tasks.waves_of(job, *arguments[1:])
    return None

  with pytest.raises(StudyError, match=r'are not those of the study.* \(on machine_a\)'):
    run(config, tmp_path / 'study', Inline(before=change))


@pytest.mark.usefixtures('without_figures')
def test_two_commands_do_not_train_one_study(config, tmp_path, monkeypatch):
  """Where the file system has no locks, the lease tells the second one."""
  folder, config.epochs = tmp_path / 'study', 1

  def second(name, arguments):
    if name == 'plan':
      monkeypatch.setattr(driver.lease, '_LOOK_SECONDS', 0.01)
      with (
        pytest.raises(StudyError, match=r'is in use by process \d+ on'),
        driver.Cluster(Inline(), lapses=0.5).opened(folder),
      ):
        pass

  study.run(config, folder, trainer=driver.Cluster(Inline(before=second), lapses=0.5))


def stop(name, arguments):
  """A signal comes while a wave trains, which saves and ends."""
  if name.startswith('study'):
    os.kill(os.getpid(), signal.SIGTERM)
    return tasks.Outcome('stopped', 'machine_a', 'id_of_a')
  return None


@pytest.mark.usefixtures('without_figures')
def test_a_signal_or_the_time_limit_stops_the_waves(config, tmp_path):
  """They are told to stop; the same command goes on."""
  folder, config.epochs = tmp_path / 'study', 1

  connection = Inline(before=stop)
  with pytest.raises(Stopped):
    run(config, folder, connection)
  assert connection.stops
  with pytest.raises((TimeIsUp, StudyError), match='--time_limit'):
    run(config, folder, Inline(), limit=UpAfter(1))
  run(config, folder, Inline(), limit=UpAfter(10**6))
  assert (folder / 'results.json').exists()


@pytest.mark.usefixtures('without_figures')
def test_without_the_cluster_its_workers_are_heeded(config, tmp_path):
  """One that was cut off holds a lease on another machine: it has to lapse, and is lost then."""
  folder, config.epochs = tmp_path / 'study', 1

  with pytest.raises(Stopped):
    run(config, folder, Inline(before=stop))
  held = worker.lease.Lease(folder / 'leases', 'wave_0', 0.5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(worker.lease, '_machine', lambda: 'another')
    assert held.take(lambda: False)
  held.check(surely=True)
  trained = []

  def train(*arguments, inner=loop.train, **options):
    with pytest.raises(worker.lease.Lost):
      held.check(surely=True)
    trained.append(inner(*arguments, **options))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, 'train', train)
    study.run(config, folder)
  assert len(trained) == 1
  assert (folder / 'results.json').exists()
  assert not (folder / 'leases').exists()


@pytest.mark.usefixtures('without_figures')
def test_a_worker_stops_writing_once_its_lease_is_lost(config, tmp_path, monkeypatch):
  """Somebody takes the wave over in the middle: it ends, and what it would write is not there."""
  folder, calls = tmp_path / 'study', itertools.count(1)
  taken = []

  def lose(name, arguments):
    if not name.startswith('study') or taken:
      return None
    inner = worker.lease.Lease.check

    def check(held, surely=False):
      if held._name == 'wave_0' and next(calls) == 5:
        held._file(held._number + 1).write_text((held._file(held._number)).read_text())
      return inner(held, surely=True)

    with monkeypatch.context() as patch:
      patch.setattr(worker.lease.Lease, 'check', check)
      outcome = tasks.train(*arguments)
    taken.append(outcome.kind)
    steps = np.load(folder / 'history' / 'wave_0' / 'step_loss.npy')
    assert np.isnan(steps[-1]).all()
    (folder / 'leases' / 'wave_0.2').unlink()
    return outcome

  run(config, folder, Inline(before=lose))
  assert taken == ['lost']


@pytest.mark.usefixtures('without_figures')
def test_a_tracker_gets_what_is_saved_while_a_wave_trains(config, tmp_path, monkeypatch):
  """Its worker is lost between two checkpoints; no point comes twice, and none is missing."""
  server, folder, config.log_every_steps = Server(remembers=True), tmp_path / 'study', 5
  module = types.SimpleNamespace(Sender=server.made)
  monkeypatch.setitem(sys.modules, 'lr_study.tracking.of_mlflow', module)
  monkeypatch.setattr(tracking, 'check', lambda name: None)
  saved, sent, calls = [], [], itertools.count(1)
  reach = tracking.Tracker.reach

  def reached(self, runs, points):
    points = list(points)
    sent.append(max((point.step for of_chunk, _ in points for point in of_chunk), default=0))
    reach(self, runs, points)

  def lose(name, arguments):
    if not name.startswith('study'):
      return None
    if saved:  # the wave comes back
      assert sent == saved
      return None
    inner = worker.lease.Lease.check

    def check(held, surely=False):
      inner(held, surely)
      if steps_in(folder / 'checkpoints' / 'wave_0') and next(calls) == 3:
        raise worker.lease.Lost

    with monkeypatch.context() as patch:
      patch.setattr(worker.lease.Lease, 'check', check)
      outcome = tasks.train(*arguments)
    saved.append(steps_in(folder / 'checkpoints' / 'wave_0')[0])
    loss = np.load(folder / 'history' / 'wave_0' / 'step_loss.npy')
    assert np.isfinite(loss[saved[0] :]).any()
    return outcome

  monkeypatch.setattr(tracking.Tracker, 'reach', reached)
  run(config, folder, Inline(before=lose), track='mlflow')
  check_whole(server, folder)


def test_without_ray_the_command_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with (
    pytest.raises(StudyError, match=r'pip install -r requirements-ray\.txt'),
    connection.connected('auto', None),
  ):
    pass


def test_a_head_that_does_not_answer_is_said_at_once(monkeypatch):
  """Ray itself would wait for two minutes."""
  ray = types.ModuleType('ray')
  ray.init = lambda *_, **__: pytest.fail('Ray was asked')
  monkeypatch.setitem(sys.modules, 'ray', ray)
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{unused.getsockname()[1]}'
    for kind in ('', 'ray://'):
      with (
        pytest.raises(StudyError, match=f'--ray={kind}{address}: no cluster there .*refused'),
        connection.connected(kind + address, None),
      ):
        pass


@pytest.mark.slow
def test_a_real_cluster(cache_dir):
  """A worker is killed while it trains, and the study ends with the same bytes."""
  pytest.importorskip('ray', reason='Ray is optional: requirements-ray.txt')
  options = ['--config.model.name=mlp', '--config.epochs=3', f'--config.data.cache_dir={cache_dir}']
  done = subprocess.run(
    [
      *(sys.executable, 'scripts/kill_cluster.py', '--times=1', '--events=worker'),
      *('--config=configs/alexnet_letters.py:quick', *options),
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert '1 events, 0 that went wrong' in done.stdout
