"""A study on several processes and devices: the numbers of one."""

import os
import re
import signal
import socket

import numpy as np
import pytest
from conftest import start, sweep

from lr_study import faults

# In each process, as in all, a device trains one trial: then its program is the same.
ON_DEVICES = ['--config.parallel=pmap', '--config.learning_rates=1e-2,1e-3,1e5,3e-3']
SAVE = 'lr_study.files.checkpoint:Checkpoints.save'


@pytest.fixture(scope='module')
def on_devices(config_file, tmp_path_factory):
  """By one process on four devices."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  done = sweep(config_file, f'--workdir={folder}', *ON_DEVICES, devices=4, draws=False)
  assert done.returncode == 0, done.stderr
  return folder


def start_two(config_file, folder, *options, at=None):
  """Starts the two processes of a study here; flags tell each who it is. `at` is of process 1."""
  with socket.socket() as one:
    one.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{one.getsockname()[1]}'
  options = (f'--workdir={folder}', *options, f'--coordinator_address={address}')
  return [
    start(config_file, *options, '--num_processes=2', f'--process_id={index}', at=own)
    for index, own in enumerate((None, at))
  ]


def results(folder):
  """results.json but for the times and the devices."""
  content = faults.results(folder)
  del content['study']['device']
  return content


def assert_same(folder, whole):
  assert results(folder) == results(whole)
  for file in (whole / 'history').glob('*.npy'):
    assert (folder / 'history' / file.name).read_bytes() == file.read_bytes()


def test_two_processes_give_what_one_gives(config_file, whole, tmp_path):
  folder = tmp_path / 'two'
  first, second = (process.wait() for process in start_two(config_file, folder))
  assert [first.returncode, second.returncode] == [0, 0], first.stderr + second.stderr
  assert 'Use 1e-0' in first.stdout
  assert 'Use 1e-0' not in second.stdout
  assert 'Process 1 is done' in second.stdout
  assert_same(folder, whole[0])
  for again in start_two(config_file, folder):  # finished: read, not trained
    assert again.wait(60).returncode == 0


def test_a_process_that_dies_takes_nobody_with_it(config_file, whole, tmp_path):
  """Process 1 is killed: the other finishes its trials and says so; then one process resumes."""
  folder = tmp_path / 'killed'
  dies = (SAVE, 5, signal.SIGKILL)
  first, second = (process.wait() for process in start_two(config_file, folder, at=dies))
  assert second.returncode == -signal.SIGKILL
  assert first.returncode == 2
  assert first.stderr.startswith('error: process 1 stopped before its trials ended; they are saved')
  assert (folder / 'history' / 'wave_0' / 'finished').exists()
  assert not (folder / 'results.json').exists()
  done = sweep(config_file, f'--workdir={folder}', draws=False)
  assert done.returncode == 0, done.stderr
  assert re.search(r'Resuming from step \d+ of wave 2 of 2\n', done.stdout)
  assert_same(folder, whole[0])


def test_a_study_goes_on_with_other_devices(config_file, on_devices, tmp_path):
  """Four, then two, then one: the same numbers, to rounding: XLA's threads are others then."""
  folder = tmp_path / 'fewer'
  study = (config_file, f'--workdir={folder}', *ON_DEVICES)
  for devices in (4, 2):
    done = sweep(*study, devices=devices, at=(SAVE, 5, signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
  done = sweep(*study, devices=1, draws=False)
  assert done.returncode == 0, done.stderr
  assert 'Resuming from step' in done.stdout
  ours, theirs = (np.load(f / 'history' / 'step_loss.npy') for f in (folder, on_devices))
  np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], rtol=1e-2)
  statuses = [[t['status'] for t in results(f)['trials']] for f in (folder, on_devices)]
  assert statuses[0] == statuses[1]


def test_slurm_tells_the_processes_who_they_are(config_file, on_devices, tmp_path):
  """By the variables that Slurm sets; each process has two devices."""
  folder = tmp_path / 'slurm'
  slurm = {
    'SLURM_JOB_ID': str(os.getpid()), 'SLURM_STEP_NODELIST': '127.0.0.1', 'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_NODES': '1',
  }  # fmt: skip
  options = (f'--workdir={folder}', *ON_DEVICES, '--distributed')
  processes = [
    start(config_file, *options, devices=2, draws=False, **slurm | own)
    for own in ({'SLURM_PROCID': str(k), 'SLURM_LOCALID': str(k)} for k in range(2))
  ]
  found = [process.wait() for process in processes]
  assert [done.returncode for done in found] == [0, 0], found
  assert 'Process 1 is done' in found[1].stdout
  assert_same(folder, on_devices)


def test_a_cluster_that_is_not_there_is_one_line(config_file, tmp_path):
  done = sweep(config_file, f'--workdir={tmp_path / "none"}', '--distributed')
  assert done.returncode == 2
  assert done.stderr.startswith('error: --distributed: ')
  assert '--coordinator_address=HOST:PORT' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
