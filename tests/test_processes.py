"""A study on several processes and devices: the numbers of one."""

import os
import re
import socket
import subprocess
import time

import numpy as np
import pytest
from conftest import START, steps_saved, sweep

from lr_study import faults

# One trial a call: then a trial's program is the same, whatever the number of processes.
OPTIONS = [
  '--config.parallel=pmap',
  '--config.learning_rates=1e-4,1e-5,10.0,3e-5',
  '--config.trials_per_call=1',
]


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory):
  """By one process on two devices."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  done = sweep(config_file, f'--workdir={folder}', *OPTIONS, devices=2)
  assert done.returncode == 0, done.stderr
  return folder


def start(config_file, folder, identities):
  """Starts the processes of a study on this machine: flags and variables tell each who it is."""
  return [
    subprocess.Popen(
      [*START, f'--config={config_file}', f'--workdir={folder}', *OPTIONS, *flags],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {'JAX_NUM_CPU_DEVICES': '2'} | variables,
    )
    for flags, variables in identities
  ]  # fmt: skip


def by_flags():
  with socket.socket() as one:
    one.bind(('127.0.0.1', 0))
    address = f'--coordinator_address=127.0.0.1:{one.getsockname()[1]}'
  return [([address, '--num_processes=2', f'--process_id={index}'], {}) for index in range(2)]


def results(folder):
  """results.json but for the times and the devices."""
  content = faults.results(folder)
  del content['study']['device']
  return content


def assert_same(folder, whole):
  assert results(folder) == results(whole)
  for file in (whole / 'history').glob('*.npy'):
    assert (folder / 'history' / file.name).read_bytes() == file.read_bytes()


def test_two_processes_give_what_one_gives(config_file, finished, tmp_path):
  folder = tmp_path / 'two'
  processes = start(config_file, folder, by_flags())
  (out, err), (other, other_err) = (process.communicate(timeout=200) for process in processes)
  assert [process.returncode for process in processes] == [0, 0], err + other_err
  assert 'Use 1e-04' in out
  assert 'Use 1e-04' not in other
  assert 'Process 1 is done' in other
  assert_same(folder, finished)
  again = start(config_file, folder, by_flags())  # finished: read, not trained
  for process in again:
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_process_that_dies_takes_nobody_with_it(config_file, finished, tmp_path):
  """Process 1 is killed: the other one ends its trials and says so; then one goes on alone."""
  folder = tmp_path / 'killed'
  processes = start(config_file, folder, by_flags())
  deadline = time.monotonic() + 120
  while not steps_saved(folder / 'checkpoints', wave=1) and time.monotonic() < deadline:
    time.sleep(0.01)
  processes[1].kill()
  _, err = processes[0].communicate(timeout=200)
  processes[1].communicate()
  assert processes[0].returncode == 2
  assert err.startswith('error: process 1 has ended before its trials did; they are saved')
  assert (folder / 'history' / 'wave_0' / 'finished').exists()
  assert not (folder / 'results.json').exists()
  done = sweep(config_file, f'--workdir={folder}', *OPTIONS, devices=2)
  assert done.returncode == 0, done.stderr
  assert re.search(r'Going on from step \d+ of wave 2 of 2\n', done.stdout)
  assert_same(folder, finished)


def test_a_study_goes_on_with_other_devices(config_file, finished, tmp_path):
  """Four, then two, then one: the same numbers, to rounding: XLA's threads are others then."""
  folder = tmp_path / 'fewer'
  for devices in (4, 2):
    process = subprocess.Popen(
      [*START, f'--config={config_file}', f'--workdir={folder}', *OPTIONS],
      stdout=subprocess.DEVNULL, env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)},
    )  # fmt: skip
    wanted, deadline = (30 if devices == 4 else 150), time.monotonic() + 120
    while steps_saved(folder / 'checkpoints') < wanted and time.monotonic() < deadline:
      time.sleep(0.01)
    process.kill()
    process.wait()
  assert not (folder / 'results.json').exists(), 'it was killed too late'
  done = sweep(config_file, f'--workdir={folder}', *OPTIONS, devices=1)
  assert done.returncode == 0, done.stderr
  assert 'Going on from step' in done.stdout
  ours, theirs = (np.load(f / 'history' / 'step_loss.npy') for f in (folder, finished))
  # Rounding may move a maximum of a pooling, and the loss by parts in a thousand.
  np.testing.assert_allclose(ours[:, 1], theirs[:, 1], rtol=1e-2)
  statuses = [[t['status'] for t in results(f)['trials']] for f in (folder, finished)]
  assert statuses[0] == statuses[1]


def test_slurm_tells_the_processes_who_they_are(config_file, finished, tmp_path):
  """By the variables that Slurm sets."""
  folder = tmp_path / 'slurm'
  slurm = {
    'SLURM_JOB_ID': str(os.getpid()), 'SLURM_STEP_NODELIST': '127.0.0.1', 'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_NODES': '1',
  }  # fmt: skip
  identities = [
    (['--distributed'], slurm | {'SLURM_PROCID': str(index), 'SLURM_LOCALID': str(index)})
    for index in range(2)
  ]
  processes = start(config_file, folder, identities)
  found = [process.communicate(timeout=200) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], found
  assert 'Process 1 is done' in found[1][0]
  assert_same(folder, finished)


def test_a_cluster_that_is_not_there_is_one_line(config_file, tmp_path):
  done = sweep(config_file, f'--workdir={tmp_path / "none"}', '--distributed')
  assert done.returncode == 2
  assert done.stderr.startswith('error: --distributed: ')
  assert '--coordinator_address=HOST:PORT' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
