"""The main command, as its users run it."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, start, steps_saved, sweep

from lr_study import faults
from lr_study.files import events, provenance

SAVE = 'lr_study.files.checkpoint:Checkpoints.save'


def results(folder):
  """results.json without what may differ between two runs: the times."""
  content = json.loads((folder / 'results.json').read_text())
  seconds_of = content['study'].pop('seconds_of')
  assert content['study'].pop('seconds') >= sum(seconds_of.values()) - 0.5
  return content


def test_a_study_from_letters_to_verdict(whole):
  folder, done = whole
  content = results(folder)
  assert json.loads((folder / 'results.json').read_text())['study']['seconds_of']['figures'] > 0
  assert [trial['learning_rate'] for trial in content['trials']] == [1e5, 1e-2, 1e-3]
  broken, learned, _ = content['trials']
  assert broken['status'] == 'diverged'
  assert broken['validation_loss'] is None
  assert learned['status'] in ('still_improving', 'plateaued')
  assert learned['accuracy_low'] > learned['chance'] == 1 / 3
  assert learned['train_loss_at_end'] < 0.95 * np.log(3)
  assert 0 <= learned['validation_accuracy'] <= 1
  assert (learned['steps'], learned['epochs']) == (360, 4)
  assert content['study']['trial_steps'] == {'planned': 1080, 'run': 760}  # it left at step 40
  study = content['study']
  assert study['data']['train'] == 90
  assert study['data']['validation'] == 30
  assert study['config']['model']['hidden'] == [192]
  assert study['versions'].keys() >= {'jax', 'flax', 'optax', 'python'}
  lines = done.stdout.strip().splitlines()
  assert lines[-2] == content['verdict']['sentence']
  assert lines[-2].startswith('Use 1e-0')
  assert done.stderr == ''
  names = {path.name for path in folder.iterdir()}
  assert names == {
    'config.json', 'checkpoints', 'tensorboard', 'history', 'figures', 'results.json',
    'results.csv', 'summary.md', 'mean.npy', 'seen.npz', 'report.html', 'written',
  }  # fmt: skip
  drawn = {'all_rates', 'accuracy_by_rate', 'rate_by_rate', 'schedule', 'confusion'}
  for kind in ('png', 'pdf', 'svg'):
    assert {file.stem for file in (folder / 'figures').glob(f'*.{kind}')} == drawn


def test_the_best_trial_is_looked_at(whole):
  """Its confusion matrix and its mistakes are those of the weights that were judged."""
  content = results(whole[0])
  rate, best = content['verdict']['learning_rate'], content['best_trial']
  (judged,) = (trial for trial in content['trials'] if trial['learning_rate'] == rate)
  assert (best['learning_rate'], best['seed']) == (rate, 0)
  confusion = np.asarray(best['confusion'])
  assert confusion.sum(1).tolist() == [10] * 3
  assert np.trace(confusion) / 30 == pytest.approx(judged['validation_accuracy'])
  np.testing.assert_allclose(best['recall'], np.diag(confusion) / 10)
  classes = content['study']['data']['classes']
  assert len(best['mistakes']) == min(24, 30 - np.trace(confusion))
  for mistake in best['mistakes']:
    assert mistake['true'] != mistake['predicted']
    assert confusion[classes.index(mistake['true']), classes.index(mistake['predicted'])]
    assert 0.1 <= mistake['probability'] <= 1
    assert (whole[0] / mistake['file']).is_file()


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='needs a git checkout')
def test_the_commit_is_on_record(monkeypatch):
  """Elsewhere tests hide it, as it may change while they run."""
  monkeypatch.delenv('GIT_DIR')
  head = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=ROOT, text=True).strip()
  assert provenance.machine()['commit'].rstrip('+') == head


def test_a_page_that_is_missing_is_written_again(config_file, whole, tmp_path):
  folder = tmp_path / whole[0].name  # which is in its title
  shutil.copytree(whole[0], folder)
  (folder / 'report.html').unlink()
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  of_copy, of_whole = ((of / 'report.html').read_text() for of in (folder, whole[0]))
  assert of_copy.replace(str(folder), str(whole[0])) == of_whole  # commands name the folder


def test_the_curves_are_whole(whole):
  folder, _ = whole
  for name in ('loss', 'accuracy', 'gradient_norm'):
    curve = np.load(folder / 'history' / f'step_{name}.npy')
    assert curve.shape == (360, 3)
    assert np.isfinite(curve[:, 1:]).all()
  accuracy = np.load(folder / 'history' / 'epoch_train_accuracy.npy')[:, 1]
  np.testing.assert_allclose(accuracy * 90, np.round(accuracy * 90), atol=1e-9)


def test_a_finished_study_is_read_not_trained(config_file, whole):
  folder, first = whole
  written = {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}
  again = sweep(config_file, f'--workdir={folder}')
  assert again.returncode == 0
  assert again.stdout.splitlines()[-2] == first.stdout.splitlines()[-2]
  assert 'Compiling' not in again.stdout
  assert written == {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


def test_a_killed_study_goes_on_and_ends_the_same(config_file, whole, tmp_path):
  folder = tmp_path / 'killed'
  done = sweep(config_file, f'--workdir={folder}', at=(SAVE, 5, signal.SIGKILL))
  assert done.returncode == -signal.SIGKILL
  assert not (folder / 'results.json').exists()
  done = sweep(config_file, f'--workdir={folder}', draws=False)
  assert done.returncode == 0, done.stderr
  assert 'Resuming from step' in done.stdout
  assert faults.differences(folder, whole[0]) == []


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_study_ends_the_same(config_file, whole, tmp_path, number, status):
  """In the middle of a chunk of steps, while a second process asks for the same folder."""
  folder = tmp_path / 'stopped'
  second_chunk = ('lr_study.trials:train_steps', 2, signal.SIGSTOP)
  command = start(config_file, f'--workdir={folder}', at=second_chunk)
  command.wait_until_stopped()
  second = sweep(config_file, f'--workdir={folder}')
  assert second.returncode == 2
  assert f'is in use by process {command.pid} on ' in second.stderr
  command.send_signal(number)
  command.send_signal(signal.SIGCONT)
  done = command.wait()
  assert done.returncode == status, done.stderr
  assert done.stderr.strip() == 'saved; run the same command again to resume'
  saved = steps_saved(folder / 'checkpoints')
  assert 40 < saved < 80
  done = sweep(config_file, f'--workdir={folder}', draws=False)
  assert done.returncode == 0, done.stderr
  assert f'Resuming from step {saved}\n' in done.stdout
  assert faults.differences(folder, whole[0]) == []


def test_a_lock_left_by_a_dead_process_is_no_obstacle(config_file, whole, tmp_path):
  folder = tmp_path / 'locked'
  shutil.copytree(whole[0], folder)
  (folder / 'lock').write_text('process 1 on elsewhere, one of 1\n')
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert not (folder / 'lock').exists()


def losses(folder):
  return np.load(folder / 'history' / 'step_loss.npy')


def test_pmap_tells_the_same(config_file, whole, tmp_path):
  """Three trials on four devices, then two."""
  folder = tmp_path / 'pmap'
  option = '--config.parallel=pmap'
  done = sweep(config_file, f'--workdir={folder}', option, devices=4, draws=False)
  assert done.returncode == 0, done.stderr
  ours, theirs = losses(folder), losses(whole[0])
  assert ours.shape == (360, 3)
  # Near the start, before rounding has had time to grow.
  np.testing.assert_allclose(ours[:25, 1:], theirs[:25, 1:], rtol=1e-5)
  np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], rtol=1e-2)
  assert results(folder)['trials'][0]['status'] == 'diverged'
  assert results(folder)['study']['device'] == '4 x cpu'


def test_survivors_are_what_they_are_without_the_diverged(config_file, whole, tmp_path):
  """Bitwise: a trial that diverges and is dropped does not affect the others."""
  folder = tmp_path / 'without'
  option = '--config.learning_rates=1e-2,1e-3'
  done = sweep(config_file, f'--workdir={folder}', option, draws=False)
  assert done.returncode == 0, done.stderr
  np.testing.assert_array_equal(losses(folder), losses(whole[0])[:, 1:])
  assert np.isnan(losses(whole[0])[40:, 0]).all()


def test_more_trials_than_memory_run_in_waves(config_file, whole, tmp_path):
  """Two waves; killed in the second, and resumed."""
  folder = tmp_path / 'waves'
  line = next(line for line in whole[1].stdout.splitlines() if line.startswith('A trial needs'))
  trial, call = map(float, re.findall(r'([\d.e-]+) GB', line)[:2])
  option = f'--config.memory_gb={2.5 * trial + call}'  # for two of three
  done = sweep(config_file, f'--workdir={folder}', option, at=(SAVE, 12 + 5, signal.SIGKILL))
  assert done.returncode == -signal.SIGKILL
  assert 90 <= steps_saved(folder / 'checkpoints', wave=1) <= 130
  done = sweep(config_file, f'--workdir={folder}', option, draws=False)
  assert done.returncode == 0, done.stderr
  assert re.search(r'Resuming from step \d+ of wave 2 of 2\n', done.stdout)
  assert results(folder)['trials'] == results(whole[0])['trials']
  for file in sorted((whole[0] / 'history').glob('*.npy')):
    assert (folder / 'history' / file.name).read_bytes() == file.read_bytes()
  trials = json.loads((folder / 'history' / 'trials.json').read_text())['trials']
  assert [trial['wave'] for trial in trials] == [0, 1, 0]
  for run in ('lr_1e-02_seed_0', 'lr_1e-03_seed_0'):
    points = events.read(folder / 'tensorboard' / run)['validation/loss']
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
    done = sweep(config_file, f'--workdir={folder}', '--config.learning_rates=1e5,1e6')
    assert done.returncode == 0, done.stderr
    assert 'No rate works: all diverged. Add smaller ones, such as 1e+04.' in done.stdout
  assert results(folder)['study']['trial_steps']['run'] == 80
  assert results(folder)['verdict']['learning_rate'] is None


def test_another_config_in_the_work_directory(config_file, whole):
  folder, _ = whole
  done = sweep(config_file, f'--workdir={folder}', '--config.epochs=5')
  assert done.returncode == 2
  assert 'epochs 4 -> 5' in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.learning_rats=1e-3'], 'config.learning_rats: no such field; did you mean lear'),
    (
      ['--config.data.name=image_folder', '--config.data.dirr=x'],
      'config.data.dirr: no such field of image_folder; did you mean data.dir?',
    ),
    (['--config.epochs=0'], 'epochs is 0; it must be a whole number from 1 to'),
    (['--config.epochs=two'], 'epochs'),
    (['--config.learning_rates=(1e-3,-1)'], 'learning_rates is (0.001, -1)'),
    (['--config.learning_rates=(1e-3,1e-3)'], 'learning_rates holds 0.001 twice'),
    (['--config.learning_rates=1e-3,x'], 'learning_rates'),
    (['--config.model.name=vgg'], "model.name is 'vgg'"),
    (['--config.data.classes=A'], "there is only one class, 'A'"),
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
  assert '--config alexnet_letters:quick' in done.stderr
