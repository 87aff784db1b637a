"""The main command, as its users run it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, START, small_study, steps_saved, sweep

from lr_study import faults
from lr_study.files import events


@pytest.fixture(scope='module')
def config_file(tmp_path_factory, cache_dir):
  return small_study(tmp_path_factory.mktemp('configs'), cache_dir)


def start(config_file, *arguments, **options):
  return subprocess.Popen(
    [*START, f'--config={config_file}', *arguments],
    text=True,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1', 'PYTHONUNBUFFERED': '1'},
    **options,
  )


def kill_at(checkpoint, config_file, folder, *arguments):
  """Runs the study until this checkpoint, a pattern, is there."""
  process = start(config_file, f'--workdir={folder}', *arguments, stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  while not list(folder.glob(f'checkpoints/{checkpoint}')) and time.monotonic() < deadline:
    time.sleep(0.01)
  process.kill()
  process.wait()
  assert not (folder / 'results.json').exists(), 'it was killed too late'


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory):
  """An uninterrupted study: its work directory and what it printed."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  return folder, done


def results(folder):
  """results.json but for what may differ between two runs of a study: the time it took."""
  content = json.loads((folder / 'results.json').read_text())
  seconds_of = content['study'].pop('seconds_of')
  assert seconds_of['figures'] > 0
  assert content['study'].pop('seconds') >= sum(seconds_of.values()) - 0.5
  return content


def test_a_study_from_letters_to_verdict(finished):
  folder, done = finished
  content = results(folder)
  assert [trial['learning_rate'] for trial in content['trials']] == [1e1, 1e-4, 1e-5]
  broken, learned, _ = content['trials']
  assert broken['status'] == 'diverged'
  assert broken['validation_loss'] is None
  assert learned['status'] == 'converged'
  assert learned['train_loss'] < 0.95 * np.log(10)
  assert 0 <= learned['validation_accuracy'] <= 1
  assert (learned['steps'], learned['epochs']) == (360, 4)
  assert content['study']['trial_steps'] == {'planned': 1080, 'run': 760}  # it left at step 40
  study = content['study']
  assert study['data']['train'] == 90
  assert study['data']['validation'] == 30
  assert study['config']['model']['width'] == 1 / 16
  assert study['versions'].keys() >= {'jax', 'flax', 'optax', 'python'}
  lines = done.stdout.strip().splitlines()
  assert lines[-2] == content['verdict']['sentence']
  assert lines[-2].startswith('Use 1e-0')
  assert done.stderr == ''
  names = {path.name for path in folder.iterdir()}
  assert names == {
    'config.json', 'checkpoints', 'tensorboard', 'history', 'figures', 'results.json',
    'results.csv', 'summary.md', 'mean.npy', 'report.html',
  }  # fmt: skip
  assert len(list((folder / 'figures').glob('*.png'))) == 7


def test_the_best_trial_is_looked_at(finished):
  """Its confusion matrix and its mistakes are those of the weights that were judged."""
  content = results(finished[0])
  rate, best = content['verdict']['learning_rate'], content['best_trial']
  (judged,) = (trial for trial in content['trials'] if trial['learning_rate'] == rate)
  assert (best['learning_rate'], best['seed']) == (rate, 0)
  confusion = np.asarray(best['confusion'])
  assert confusion.sum(1).tolist() == [3] * 10
  assert np.trace(confusion) / 30 == pytest.approx(judged['validation_accuracy'])
  np.testing.assert_allclose(best['recall'], np.diag(confusion) / 3)
  classes = content['study']['data']['classes']
  assert len(best['mistakes']) == min(24, 30 - np.trace(confusion))
  for mistake in best['mistakes']:
    assert mistake['true'] != mistake['predicted']
    assert confusion[classes.index(mistake['true']), classes.index(mistake['predicted'])]
    assert 0.1 <= mistake['probability'] <= 1
    assert (finished[0] / mistake['file']).is_file()


def test_a_page_that_is_missing_is_written_again(config_file, finished, tmp_path):
  folder = tmp_path / finished[0].name  # which is in its title
  shutil.copytree(finished[0], folder)
  (folder / 'report.html').unlink()
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert (folder / 'report.html').read_bytes() == (finished[0] / 'report.html').read_bytes()


def test_the_curves_are_whole(finished):
  folder, _ = finished
  for name in ('loss', 'accuracy', 'gradient_norm'):
    curve = np.load(folder / 'history' / f'step_{name}.npy')
    assert curve.shape == (360, 3)
    assert np.isfinite(curve[:, 1:]).all()
  accuracy = np.load(folder / 'history' / 'epoch_train_accuracy.npy')[:, 1]
  np.testing.assert_allclose(accuracy * 90, np.round(accuracy * 90), atol=1e-9)


def test_a_finished_study_is_read_not_trained(config_file, finished):
  folder, first = finished
  written = {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}
  again = sweep(config_file, f'--workdir={folder}')
  assert again.returncode == 0
  assert again.stdout.splitlines()[-2] == first.stdout.splitlines()[-2]
  assert 'Compiling' not in again.stdout
  assert written == {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


def test_a_killed_study_goes_on_and_ends_the_same(config_file, finished, tmp_path):
  folder = tmp_path / 'killed'
  kill_at('wave_0/[0-9]*[0-9]', config_file, folder)
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert 'Going on from step' in done.stdout
  assert faults.differences(folder, finished[0]) == []


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_study_ends_the_same(
  config_file, finished, tmp_path, number, status
):
  """In the middle of a chunk of steps, while a second process asks for the same folder."""
  folder = tmp_path / 'stopped'
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  process = start(config_file, f'--workdir={folder}', **pipes)
  for line in process.stdout:
    if line.startswith('step '):
      break
  process.send_signal(signal.SIGSTOP)
  second = sweep(config_file, f'--workdir={folder}')
  assert second.returncode == 2
  assert f'is in use by process {process.pid} on ' in second.stderr
  process.send_signal(signal.SIGCONT)
  process.send_signal(number)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == status, stderr
  assert stderr.strip() == 'saved; the same command goes on from here'
  saved = steps_saved(folder / 'checkpoints')
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert f'Going on from step {saved}\n' in done.stdout
  assert faults.differences(folder, finished[0]) == []


def test_a_lock_left_by_a_dead_process_is_no_obstacle(config_file, finished, tmp_path):
  folder = tmp_path / 'locked'
  shutil.copytree(finished[0], folder)
  (folder / 'lock').write_text('process 1 on elsewhere, one of 1\n')
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert not (folder / 'lock').exists()


def test_pmap_tells_the_same(config_file, finished, tmp_path):
  """Three trials on four devices; near the start, before rounding has had time to grow."""
  folder = tmp_path / 'pmap'
  done = sweep(config_file, f'--workdir={folder}', '--config.parallel=pmap', devices=4)
  assert done.returncode == 0, done.stderr
  ours, theirs = (np.load(f / 'history' / 'step_loss.npy') for f in (folder, finished[0]))
  assert ours.shape == (360, 3)
  np.testing.assert_allclose(ours[:25, 2], theirs[:25, 2], rtol=1e-5)
  assert results(folder)['trials'][0]['status'] == 'diverged'
  assert results(folder)['study']['device'] == '4 x cpu'


def test_survivors_are_what_they_are_without_the_diverged(config_file, finished, tmp_path):
  """The curves before and after the diverged trial left, beside those of a study without it."""
  folder = tmp_path / 'without'
  done = sweep(config_file, f'--workdir={folder}', '--config.learning_rates=1e-4,1e-5')
  assert done.returncode == 0, done.stderr
  ours, theirs = (np.load(f / 'history' / 'step_loss.npy') for f in (folder, finished[0]))
  np.testing.assert_allclose(ours[:25, 1], theirs[:25, 2], rtol=1e-5)
  # Later rounding may move a maximum of a pooling, and the loss by parts in a thousand.
  np.testing.assert_allclose(ours[:, 1], theirs[:, 2], rtol=1e-2)
  assert np.isnan(theirs[2:, 0]).all()


def test_more_trials_than_memory_run_in_waves(config_file, tmp_path):
  """Two waves, one trial a call; killed in the second, and gone on with."""
  whole, folder = tmp_path / 'whole', tmp_path / 'waves'
  options = ['--config.trials_per_call=1', '--config.learning_rates=1e-5,1e-4,10.0']
  done = sweep(config_file, f'--workdir={whole}', *options)
  line = next(line for line in done.stdout.splitlines() if line.startswith('A trial needs'))
  trial, call = re.findall(r'([\d.e-]+) GB', line)[:2]
  options.append(f'--config.memory_gb={2.5 * float(trial) + float(call)}')  # for two of three
  kill_at('wave_1/180', config_file, folder, *options)
  done = sweep(config_file, f'--workdir={folder}', *options)
  assert done.returncode == 0, done.stderr
  assert 'of wave 2 of 2' in done.stdout
  assert results(folder)['trials'] == results(whole)['trials']
  for file in sorted((whole / 'history').glob('*.npy')):
    assert (folder / 'history' / file.name).read_bytes() == file.read_bytes()
  trials = json.loads((folder / 'history' / 'trials.json').read_text())['trials']
  assert [trial['wave'] for trial in trials] == [0, 1, 0]
  for run in ('lr_1e-04_seed_0', 'lr_1e-05_seed_0'):
    points = events.read(folder / 'tensorboard' / run)['epoch/train_loss']
    assert [step for step, _ in points] == [90, 180, 270, 360]


def test_a_trial_that_does_not_fit_is_refused(config_file, tmp_path):
  folder = tmp_path / 'small'
  done = sweep(config_file, f'--workdir={folder}', '--config.memory_gb=1e-5')
  assert done.returncode == 2
  assert 'one trial needs' in done.stderr
  assert 'lower model.width' in done.stderr


def test_a_study_in_which_all_diverge_ends_early(config_file, tmp_path):
  folder = tmp_path / 'broken'
  for _ in range(2):
    done = sweep(config_file, f'--workdir={folder}', '--config.learning_rates=10,100')
    assert done.returncode == 0, done.stderr
    assert 'No rate works: all diverged. Add smaller ones, such as 1e+00.' in done.stdout
  assert results(folder)['study']['trial_steps']['run'] == 80
  assert results(folder)['verdict']['learning_rate'] is None


def test_another_config_in_the_work_directory(config_file, finished):
  folder, _ = finished
  done = sweep(config_file, f'--workdir={folder}', '--config.epochs=5')
  assert done.returncode == 2
  assert 'epochs 4 -> 5' in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.learning_rats=1e-3'], 'config.learning_rats: no such field; did you mean lear'),
    (['--config.data.dirr=x'], 'config.data.dirr: no such field; did you mean data.dir?'),
    (['--config.epochs=0'], 'epochs is 0; it must be a whole number from 1 to'),
    (['--config.epochs=two'], 'epochs'),
    (['--config.learning_rates=(1e-3,-1)'], 'learning_rates is (0.001, -1)'),
    (['--config.learning_rates=(1e-3,1e-3)'], 'learning_rates holds 0.001 twice'),
    (['--config.learning_rates=1e-3,x'], 'learning_rates'),
    (['--config.model.preset=vgg'], "model.preset is 'vgg'"),
    (['--config.data.classes=A'], "a single class, 'A'"),
    (['--config.data.classes=A,b'], 'single capital letters'),
    (['--config.batch_size=91'], 'batch_size is 91, but there are 90 training images'),
    (['--config.data.name=image_folder', '--config.data.dir=/nowhere'], '/nowhere is not a folder'),
    (['--config=nowhere.py'], '--config nowhere.py: no such file'),
    (['--config=configs/alexnet_letters.py:qick'], "no variant 'qick' of this config, only quick"),
    (['--confg=x'], 'confg'),
    (['quick'], "'quick': not a flag"),
    (['--config.epochs=2', '--config.epochs=3'], '--config.epochs is given twice'),
    (['--config.data.cache_dir=/proc/nowhere'], 'name another --config.data.cache_dir'),
  ],
)
def test_bad_input_is_one_line_and_status_2(config_file, tmp_path, arguments, message):
  folder = tmp_path / 'never'
  done = sweep(config_file, f'--workdir={folder}', *arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.startswith('error: ')
  assert len(done.stderr.strip().splitlines()) == 1
  assert not folder.exists()


def test_no_config():
  done = subprocess.run(
    [sys.executable, str(ROOT / 'scripts' / 'sweep.py')],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert 'configs/alexnet_letters.py:quick' in done.stderr
