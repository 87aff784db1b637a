"""Kills, damaged files, full disks and too little memory, each for real, on the main command."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import CAN_MOUNT
from conftest import steps_saved, sweep
from PIL import Image

from lr_study import config as configs
from lr_study import data, faults, optimizers, trials
from lr_study.files.checkpoint import Checkpoints

SAVE = 'lr_study.files.checkpoint:Checkpoints.save'
# Where a study is killed, run after run, and what it has then.
STAGES = {
  'nothing is planned': ('lr_study.search.rounds:write', 1, signal.SIGKILL),
  'curves and no checkpoint': (SAVE, 1, signal.SIGKILL),
  'a third checkpoint that is half written': ('os:rename', 8, signal.SIGKILL),
  'steps of a part of a chunk': ('lr_study.trials:train_steps', 2, signal.SIGTERM),
  'an epoch that is not evaluated': ('lr_study.trials:evaluate', 2, signal.SIGKILL),
  'all steps': ('lr_study.study:_join', 1, signal.SIGKILL),
  'no results': ('lr_study.report.report:write_text', 3, signal.SIGKILL),
  'results alone': ('lr_study.use.best:examine', 1, signal.SIGKILL),
  'no figures': ('lr_study.report.figures:draw', 1, signal.SIGKILL),
  'some figures': ('lr_study.report.figures:save', 3, signal.SIGKILL),
  'figures that are not noted': ('lr_study.report.report:write_content', 1, signal.SIGKILL),
  'no page': ('lr_study.report.page:write', 1, signal.SIGKILL),
}
IN_TRAINING = list(STAGES)[1:5]


@pytest.fixture(scope='module')
def finished(whole):
  """By SGD, without a stop."""
  return whole[0]


@pytest.fixture(scope='module')
def resnet(config_file):
  """The config of the same by AdamW with BatchNorm."""
  return f'{config_file}:resnet'


@pytest.fixture(scope='module')
def finished_resnet(resnet, tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'resnet'
  done = sweep(resnet, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  return folder


def kill_at(stages, config, folder):
  """Starts the study repeatedly, and kills it at the given stages."""
  for name in stages:
    done = sweep(config, f'--workdir={folder}', at=STAGES[name])
    stopped = {signal.SIGKILL: -9, signal.SIGTERM: 143}[STAGES[name][2]]
    assert done.returncode == stopped, (name, done.stdout, done.stderr)
  done = sweep(config, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr


def test_kills_at_every_stage_change_nothing(config_file, finished, tmp_path):
  kill_at(STAGES, config_file, tmp_path / 'killed')
  assert faults.differences(tmp_path / 'killed', finished) == []


@pytest.mark.slow
def test_kills_in_training_change_nothing_with_batchnorm_and_adamw(
  resnet, finished_resnet, tmp_path
):
  kill_at(IN_TRAINING, resnet, tmp_path / 'killed')
  assert faults.differences(tmp_path / 'killed', finished_resnet) == []


@pytest.mark.parametrize(
  ('variant', 'kills'),
  [
    pytest.param('', 3, marks=pytest.mark.slow),
    pytest.param('resnet', 3, marks=pytest.mark.slow),
    pytest.param('', 50, marks=pytest.mark.slow),
    pytest.param('resnet18', 20, marks=pytest.mark.slow),
    pytest.param('resnet_grid', 10, marks=pytest.mark.slow),
  ],
)
def test_kills_at_random_moments_change_nothing(command, config_file, variant, kills):
  """scripts/kill.py kills as often as one likes."""
  config = f'{config_file}:{variant}' if variant else config_file
  status, out, err = command('kill.py', f'--config={config}', f'--kills={kills}', seconds=3000)
  assert status == 0, out + err
  assert f'killed {kills} times' in out
  assert '0 differences: []' in out
  if kills == 50:
    assert "'checkpoints':" in out  # some came while one was being written


def test_a_checkpoint_holds_what_batchnorm_and_adamw_remember(finished_resnet, tmp_path):
  """Of the two trials that have not diverged, after 60 steps."""
  config = configs.from_json(json.loads((finished_resnet / 'config.json').read_text())['config'])
  study = trials.prepare(config, data.load(config.data, config.image_size))
  shutil.copytree(finished_resnet / 'checkpoints' / 'wave_0', tmp_path / 'copy')
  checkpoints = Checkpoints(tmp_path / 'copy')
  done, state = checkpoints.newest(lambda _: trials.state_like(study, 2))
  checkpoints.close()
  assert done == 60
  params, model_state, (adam, *_) = state
  assert params.keys() == {'Conv_0', 'BatchNorm_0', 'Conv_1', 'BatchNorm_1', 'Conv_2',
                           'BatchNorm_2', 'Dense_0'}  # fmt: skip
  assert model_state.keys() == {'batch_stats'}
  assert adam.count.tolist() == [60, 60]
  for tree in (params, model_state, adam.mu, adam.nu):
    for name, leaf in jax.tree.leaves_with_path(tree):
      assert leaf.shape[0] == 2
      assert (leaf[0] != leaf[1]).any(), name


def test_a_checkpoint_holds_the_state_of_any_optimizer(tmp_path):
  """Including empty nodes, scalars and whole numbers."""
  weights = {'dense': {'kernel': jnp.ones((3, 4)), 'bias': jnp.ones(4)}, 'scale': jnp.ones(3)}
  names = ('sgd', 'adamw', 'adafactor', 'muon', 'prodigy', 'schedule_free_adamw', 'lamb')
  sections = [{'name': name, 'clip_norm': 1.0} for name in names]
  sections.append({'name': 'adamw', 'no_decay': ('bias', 'scale')})
  random, states = np.random.default_rng(0), []
  for section in sections:
    states.append(optimizers.build(section).make(1e-3, 1e-3).init(weights))
  states = jax.tree.map(lambda x: (9 * random.random((2, *x.shape))).astype(x.dtype), states)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(7, states)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  done, found = checkpoints.newest(lambda _: jax.tree.map(np.zeros_like, states))
  checkpoints.close()
  assert done == 7
  assert jax.tree.structure(found) == jax.tree.structure(states)
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(states), strict=True):
    np.testing.assert_array_equal(ours, theirs, strict=True)


def newest(folder):
  return folder / 'checkpoints' / 'wave_0' / str(steps_saved(folder / 'checkpoints'))


def largest_file(folder):
  return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def cut(folder):
  os.truncate(largest_file(folder), 100)


def remove(folder):
  largest_file(folder).unlink()


def flip(folder):
  file = largest_file(folder)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def remove_all(folder):
  for file in list(folder.rglob('*')):
    if file.is_file():
      file.unlink()


def without(folder, *names):
  """Deletes these files and folders of a work directory, as if they had not been written yet."""
  for name in names:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


RESULTS = ('results.json', 'results.csv', 'summary.md', 'report.html', 'figures')


@pytest.fixture
def unfinished(finished, tmp_path):
  """As if it had been killed at step 350 of 360, or right after its last checkpoint."""
  folder = tmp_path / 'damaged'
  shutil.copytree(finished, folder)
  without(folder, *RESULTS)
  shutil.rmtree(newest(folder))
  assert newest(folder).name == '350'
  return folder


@pytest.mark.parametrize('damage', [cut, remove, flip, remove_all])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  config_file, finished, tmp_path, damage
):
  check_damaged(config_file, finished, tmp_path / 'damaged', damage, 350)


@pytest.mark.parametrize(
  'damage', [flip, *(pytest.param(of, marks=pytest.mark.slow) for of in (cut, remove, remove_all))]
)
def test_a_damaged_checkpoint_of_batchnorm_and_adamw(resnet, finished_resnet, tmp_path, damage):
  check_damaged(resnet, finished_resnet, tmp_path / 'damaged', damage, 57)


def check_damaged(config, finished, folder, damage, before):
  shutil.copytree(finished, folder)
  without(folder, 'results.json')
  damaged = newest(folder)
  damage(damaged)
  done = sweep(config, f'--workdir={folder}', draws=False)
  assert done.returncode == 0, done.stderr
  assert f'{damaged} is damaged (' in done.stdout
  assert f'Resuming from step {before}\n' in done.stdout
  assert faults.differences(folder, finished) == []


def test_without_any_whole_checkpoint_it_starts_again(config_file, finished, unfinished):
  flip(newest(unfinished))
  done = sweep(config_file, f'--workdir={unfinished}', draws=False)
  assert done.returncode == 0, done.stderr
  assert 'Resuming' not in done.stdout
  assert faults.differences(unfinished, finished) == []


@pytest.mark.parametrize(
  ('size', 'cached'), [(4_200, True), (20_000, False), (60_000, True)],
  ids=['curves', 'data', 'checkpoint'],
)  # fmt: skip
def test_a_file_that_may_not_grow_is_one_line_and_status_1(
  config_file, finished, tmp_path, size, cached
):
  """A limit on the size of files simulates a full disk."""
  folder = tmp_path / 'full'
  options = [] if cached else [f'--config.data.cache_dir={tmp_path / "cache"}']
  done = sweep(config_file, f'--workdir={folder}', *options, largest_file=size)
  assert done.returncode == 1, done.stdout
  if size == 60_000:
    # TensorStore's threads say things of their own: before it, after it, or in the same line.
    assert done.stderr.count('error: no room: ') == 1, done.stderr
  else:
    assert done.stderr.startswith('error: no room: '), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
  done = sweep(config_file, f'--workdir={folder}', *options, draws=False)
  assert done.returncode == 0, done.stderr
  if cached:
    assert faults.differences(folder, finished) == []


@pytest.mark.skipif(not CAN_MOUNT, reason='needs the right to mount a file system (unshare -rm)')
@pytest.mark.parametrize(
  ('trained', 'share'),
  [(False, 0), (False, 0.5), (True, 0), (True, 0.3), (True, 0.95)],
  ids=['events', 'checkpoint', 'curves', 'figures', 'tables'],
)
def test_a_full_disk_is_one_line_and_status_1(config_file, finished, unfinished, trained, share):
  """On a file system with a share of the room that all figures and tables need."""
  folder = unfinished
  needed = sum(blocks(finished / name) for name in RESULTS)
  if trained:
    shutil.rmtree(folder)
    shutil.copytree(finished, folder)
    without(folder, *RESULTS)
  done = sweep(config_file, f'--workdir={folder}', disk=(folder, int(share * needed)))
  assert done.returncode == 1, done.stdout
  assert done.stderr.startswith('error: no room: '), done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  done = sweep(config_file, f'--workdir={folder}', draws=False)
  assert done.returncode == 0, done.stderr
  assert faults.differences(folder, finished) == []


def blocks(path):
  """The room that a file, or a folder's files, take; without the formats drawn by `whole` alone."""
  of_all = (file for file in (path, *path.rglob('*')) if file.is_file())
  files = [file for file in of_all if file.suffix not in ('.pdf', '.svg')]
  return sum(-(-file.stat().st_size // 4096) * 4096 for file in files)


@pytest.mark.skipif(not CAN_MOUNT, reason='needs the right to mount a file system (unshare -rm)')
def test_a_finished_study_tells_its_answer_from_a_disk_that_cannot_be_written(
  config_file, finished, whole, tmp_path
):
  shutil.copytree(finished, tmp_path / 'copy')
  (tmp_path / 'copy' / 'report.html').unlink()
  done = sweep(config_file, f'--workdir={tmp_path / "copy"}', read_only=tmp_path / 'copy')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.splitlines()[-2] == whole[1].stdout.splitlines()[-2]


def test_out_of_memory_is_one_line_and_status_1(config_file, tmp_path):
  """If the user overrides the estimate: evaluation of 10^8 images at once."""
  options = ['--config.memory_gb=1e9', '--config.eval_batch_size=100000000']
  done = sweep(config_file, f'--workdir={tmp_path / "big"}', *options)
  assert done.returncode == 1, done.stdout
  assert done.stderr.startswith('error: out of memory: ')
  assert 'eval_batch_size' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def test_a_data_folder_that_changes_is_refused(config_file, tmp_path):
  for k in range(8):
    file = tmp_path / 'data' / 'AB'[k % 2] / f'{k}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 20), (30 * k, 0, 90)).save(file)
  folder, options = tmp_path / 'study', ['--config.data.name=image_folder', '--config.epochs=1']
  options.append('--config.data.classes=()')
  options += [f'--config.data.dir={tmp_path / "data"}', '--config.accelerate=off']
  done = sweep(config_file, f'--workdir={folder}', *options, draws=False)
  assert done.returncode == 0, done.stderr
  results = (folder / 'results.json').read_bytes()
  Image.new('RGB', (20, 20), (1, 2, 3)).save(file)
  done = sweep(config_file, f'--workdir={folder}', *options)
  assert done.returncode == 2
  assert 'holds a study with other images: their fingerprint was' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert (folder / 'results.json').read_bytes() == results
