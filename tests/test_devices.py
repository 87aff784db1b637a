"""A study that continues with other devices: the same numbers."""

import signal

import numpy as np
from conftest import sweep

from lr_study import faults

# Each device trains one trial.
ON_DEVICES = ['--config.parallel=pmap', '--config.learning_rates=1e-2,1e-3,1e5,3e-3']
SAVE = 'lr_study.files.checkpoint:Checkpoints.save'


def test_a_study_goes_on_with_other_devices(config_file, tmp_path):
  """Four, then two, then one: the same numbers, to rounding: XLA's threads are others then."""
  whole, folder = tmp_path / 'whole', tmp_path / 'fewer'
  done = sweep(config_file, f'--workdir={whole}', *ON_DEVICES, devices=4, draws=False)
  assert done.returncode == 0, done.stderr
  study = (config_file, f'--workdir={folder}', *ON_DEVICES)
  for devices in (4, 2):
    done = sweep(*study, devices=devices, at=(SAVE, 5, signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
  done = sweep(*study, devices=1, draws=False)
  assert done.returncode == 0, done.stderr
  assert 'Resuming from step' in done.stdout
  ours, theirs = (np.load(f / 'history' / 'step_loss.npy') for f in (folder, whole))
  np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], rtol=1e-2)
  statuses = [[t['status'] for t in faults.results(f)['trials']] for f in (folder, whole)]
  assert statuses[0] == statuses[1]
