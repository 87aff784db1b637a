"""Kills, damaged files, full disks and too little memory, each for real, on the main command."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, START, steps_saved, sweep
from PIL import Image

from lr_study import faults

# Starts a command whose work directory is a file system of so many bytes.
TMPFS = 'mount -t tmpfs -o size={size} tmpfs "{folder}" && cp -a "{saved}/." "{folder}"; '
TMPFS += '"$@"; status=$?; rm -f "{folder}/filler"; cp -a "{folder}/." "{saved}"; exit $status'


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  return folder


def test_fifty_kills_change_nothing(config_file):
  """scripts/kill.py kills as often as one likes."""
  done = subprocess.run(
    [sys.executable, 'scripts/kill.py', f'--config={config_file}', '--kills=50'],
    capture_output=True, text=True, check=False, cwd=ROOT, timeout=1500,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'killed 50 times' in done.stdout
  assert '0 differences: []' in done.stdout
  assert "'checkpoints':" in done.stdout  # some came while one was being written


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


@pytest.fixture
def unfinished(finished, tmp_path):
  """As if it had been killed at step 350 of 360, or right after its last checkpoint."""
  folder = tmp_path / 'damaged'
  shutil.copytree(finished, folder)
  (folder / 'results.json').unlink()
  shutil.rmtree(newest(folder))
  assert newest(folder).name == '350'
  return folder


@pytest.mark.parametrize('damage', [cut, remove, flip, remove_all])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  config_file, finished, tmp_path, damage
):
  folder = tmp_path / 'damaged'
  shutil.copytree(finished, folder)
  (folder / 'results.json').unlink()
  damaged = newest(folder)
  damage(damaged)
  done = sweep(config_file, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert f'{damaged} is damaged (' in done.stdout
  assert 'Going on from step 350\n' in done.stdout
  assert faults.differences(folder, finished) == []


def test_without_any_whole_checkpoint_it_starts_anew(config_file, finished, unfinished):
  flip(newest(unfinished))
  done = sweep(config_file, f'--workdir={unfinished}')
  assert done.returncode == 0, done.stderr
  assert 'Going on' not in done.stdout
  assert faults.differences(unfinished, finished) == []


LIMITED = (
  'import os, resource, sys; size = int(sys.argv[1]); '
  'resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); os.execv(sys.argv[2], sys.argv[2:])'
)


@pytest.mark.parametrize(
  ('size', 'cached'), [(3_000, True), (20_000, False), (60_000, True)],
  ids=['curves', 'data', 'checkpoint'],
)  # fmt: skip
def test_a_file_that_may_not_grow_is_one_line_and_status_1(
  config_file, finished, tmp_path, size, cached
):
  """A limit on the size of files stands for a full disk."""
  folder = tmp_path / 'full'
  options = [] if cached else [f'--config.data.cache_dir={tmp_path / "cache"}']
  done = subprocess.run(
    [sys.executable, '-c', LIMITED, str(size), *START, f'--config={config_file}',
     f'--workdir={folder}', *options],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 1, done.stdout
  if size == 60_000:
    # TensorStore's threads say things of their own: before it, after it, or in the same line.
    assert done.stderr.count('error: no room: ') == 1, done.stderr
  else:
    assert done.stderr.startswith('error: no room: '), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
  done = sweep(config_file, f'--workdir={folder}', *options)
  assert done.returncode == 0, done.stderr
  if cached:
    assert faults.differences(folder, finished) == []


@pytest.mark.skipif(
  subprocess.run(['unshare', '-rm', 'true'], capture_output=True, check=False).returncode != 0,
  reason='needs the right to mount a file system (unshare -rm)',
)
@pytest.mark.parametrize('free', [0, 8, 24, 64, 160], ids=lambda free: f'{free}k')
def test_a_full_disk_is_one_line_and_status_1(config_file, finished, unfinished, tmp_path, free):
  """On a file system with so many free kB: events, checkpoint, figures or tables do not fit."""
  mount = tmp_path / 'mount'
  mount.mkdir()
  size = 16 * 2**20
  filler = f'python3 -c "{FILL}" "{mount}" {free * 1024}; '
  script = TMPFS.format(size=size, folder=mount, saved=unfinished).replace('"$@"', filler + '"$@"')
  done = subprocess.run(
    ['unshare', '-rm', 'sh', '-c', script, 'sh', *START, f'--config={config_file}',
     f'--workdir={mount}'],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 1, done.stdout
  assert done.stderr.startswith('error: no room: '), done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  done = sweep(config_file, f'--workdir={unfinished}')
  assert done.returncode == 0, done.stderr
  assert faults.differences(unfinished, finished) == []


FILL = (
  'import os, sys; folder, free = sys.argv[1], int(sys.argv[2]); v = os.statvfs(folder); '
  "open(folder + '/filler', 'wb').write(bytes(max(0, v.f_bavail * v.f_frsize - free)))"
)


def test_out_of_memory_is_one_line_and_status_1(config_file, tmp_path):
  """Where the prediction was overruled by hand: evaluation of 10^8 images at once."""
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
  options += [f'--config.data.dir={tmp_path / "data"}', '--config.learning_rates=1e-6,1e-7']
  done = sweep(config_file, f'--workdir={folder}', *options)
  assert done.returncode == 0, done.stderr
  results = (folder / 'results.json').read_bytes()
  Image.new('RGB', (20, 20), (1, 2, 3)).save(file)
  done = sweep(config_file, f'--workdir={folder}', *options)
  assert done.returncode == 2
  assert 'holds a study of other images: their fingerprint was' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert (folder / 'results.json').read_bytes() == results
