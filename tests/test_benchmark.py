"""The benchmark's counts and tables; its measurements are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lr_study.benchmark import rows
from lr_study.errors import StudyError
from lr_study.models import KNOWN

ROOT = Path(__file__).parents[1]


def benchmark(*arguments):
  command = [sys.executable, 'scripts/benchmark.py', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_work_is_what_the_layers_take():
  """Compared with the network's kernels: each is used once for each place in its output."""
  model = KNOWN['digits_tensorflow'](10)
  x = np.zeros((1, 256, 256, 3), np.float32)
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))['params']
  kernels = {name: int(np.prod(layer['kernel'].shape)) for name, layer in params.items()}
  convolutions = [name for name in kernels if name.startswith('conv')]
  dense = sum(size for name, size in kernels.items() if name not in convolutions)
  products = {name: 14**2 * kernels[name] for name in ('conv3', 'conv4', 'conv5')}
  # Tiles of 3 x 3 outputs: of 62 x 62 as blocks of 4 x 4 x 3 pixels, and of 30 x 30.
  products |= {'conv1': 21**2 * 25 * 48 * 96, 'conv2': 10**2 * 49 * 96 * 256}
  assert products['conv1'] < 62**2 * kernels['conv1'] / 2
  assert products['conv2'] < 30**2 * kernels['conv2'] / 4
  flops = 2 * (3 * sum(products.values()) - products['conv1']) + 4 * dense
  assert rows.work(model, 256) == (flops, 8 * dense)
  # Too few outputs for tiles: 19 x 19, then 9 x 9 and 4 x 4 with 24, 64, 96, 96 and 64 features.
  plain = 2 * 19**2 * 11**2 * 3 * 24 + 3 * 9**2 * 25 * 24 * 64
  plain += 3 * 4**2 * 9 * (64 * 96 + 96 * 96 + 96 * 64)
  dense = 64 * 1024 + 1024**2 + 1024 * 10
  assert rows.work(KNOWN['digits_tensorflow'](10, 0.25), 84) == (2 * plain + 4 * dense, 8 * dense)


def test_a_row_is_a_table_and_json(tmp_path):
  file = tmp_path / 'figures.json'
  done = benchmark('--rows=tiny', '--rounds=2', f'--json={file}')
  assert done.returncode == 0, done.stderr
  row = json.loads(file.read_text())['rows'][0]
  assert row['sides'].keys() == {'lr_study', 'jax_vmap'}
  for side in row['sides'].values():
    assert len(side['seconds']) == 2
    assert min(side['seconds']) > 0
    assert side['memory']['peak'] > 0
  ours, theirs = row['sides']['lr_study'], row['sides']['jax_vmap']
  assert ours['ours_to_this'] == 1
  ratios = [a / b for a, b in zip(ours['seconds'], theirs['seconds'], strict=True)]
  assert theirs['ours_to_this'] == pytest.approx(np.median(ratios))
  assert 0 < row['floor']['share'] < 1
  assert '| jax_vmap |' in done.stdout


SIDE = """
import json, os, sys

print(json.dumps({'trials': json.loads(sys.argv[1])['trials'], 'start_seconds': 1}), flush=True)
for line in sys.stdin:
  seconds = 6.0 if os.getcwd().endswith('older') else 3.0
  print(json.dumps({'seconds': seconds, 'peak': 1}), flush=True)
"""


def test_another_checkout(tmp_path, monkeypatch):
  for name in ('newer', 'older'):
    folder = tmp_path / name / 'lr_study' / 'benchmark'
    folder.mkdir(parents=True)
    (folder / 'side.py').write_text(SIDE)
  monkeypatch.setattr(rows, 'ROOT', tmp_path / 'newer')
  found = rows.run('trials_quick', 2, print, tmp_path / 'older')
  assert found['sides'].keys() == {'trials 4', 'before'}
  assert found['sides']['before']['ours_to_this'] == 0.5
  assert '| before | 5.86 | 0.50 |' in rows.table(found)  # 6 s for 256 steps of 4 trials


def test_what_is_not_there_is_one_line(tmp_path):
  done = benchmark('--rows=nothing')
  assert done.returncode == 2
  assert done.stderr.startswith("error: --rows: there is no row 'nothing'")
  with pytest.raises(StudyError, match='not a checkout of lr_study'):
    rows.run('tiny', 1, print, tmp_path)


GPU_SIDE = """
import json, sys

options = json.loads(sys.argv[1])
if options['kind'] == 'torch':
  raise ModuleNotFoundError('no torch')
print(json.dumps({'trials': 1, 'start_seconds': 1, 'device': 'DEVICE'}), flush=True)
for line in sys.stdin:
  if options['kind'] == 'jax_vmap' and 'run' in line:
    raise MemoryError('no room')
  answer = {'seconds': 0.001 * int(line.split()[1])} if 'run' in line else {'peak': 1}
  print(json.dumps(answer | {'joules': 0.5}), flush=True)
"""


@pytest.mark.parametrize('device', ['cpu', 'gpu'])
def test_sides_that_fail_cost_only_themselves_in_a_hurry(tmp_path, monkeypatch, device):
  folder = tmp_path / 'lr_study' / 'benchmark'
  folder.mkdir(parents=True)
  (folder / 'side.py').write_text(GPU_SIDE.replace('DEVICE', device))
  monkeypatch.setattr(rows, 'ROOT', tmp_path)
  kinds = {'lr_study': False, 'torch': False, 'jax_vmap': False, 'torch_graph': True}
  sides = {kind: {'kind': kind, 'on_gpu': on_gpu} for kind, on_gpu in kinds.items()}
  monkeypatch.setitem(rows.ROWS, 'some', rows.Row('some', 5, sides))
  found = rows.run('some', 2, print, hurry=True)['sides']
  assert found.keys() == ({*kinds} if device == 'gpu' else {*kinds} - {'torch_graph'})
  assert 'no torch; pip install' in found['torch']['error']
  assert 'no room' in found['jax_vmap']['error']
  ours = found['lr_study']
  assert ours['median'] == pytest.approx(1e-3)
  # As many steps as fit in half a second, where a card takes them in no time.
  assert ours['joules'] == pytest.approx(0.5 / (500 if device == 'gpu' else 5))
  table = rows.table({'row': 'some', 'title': 'some', 'sides': found})
  assert '| torch | – |' in table
  assert 'Millijoules a step per trial, by the meter of the card: lr_study' in table
  with pytest.raises(StudyError, match='no torch'):
    rows.run('some', 2, print)
