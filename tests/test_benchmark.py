"""The benchmark's counts and its tables; what it measures is never tested."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lr_study.benchmark import rows
from lr_study.network import model as models

ROOT = Path(__file__).parents[1]


def benchmark(*arguments):
  command = [sys.executable, 'scripts/benchmark.py', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_work_is_what_the_layers_take():
  """Against the real network's kernels: every one is used once a place in its output."""
  model = models.AlexNet(models.PRESETS['digits_tensorflow'], classes=10)
  params = jax.eval_shape(lambda key: models.init_params(model, key, 256), jax.random.key(0))
  kernels = {name: int(np.prod(layer['kernel'].shape)) for name, layer in params.items()}
  convolutions = [name for name in kernels if name.startswith('conv')]
  dense = sum(size for name, size in kernels.items() if name not in convolutions)
  products = {name: 14**2 * kernels[name] for name in ('conv3', 'conv4', 'conv5')}
  # Tiles of 3 x 3 outputs: of 62 x 62 as blocks of 4 x 4 x 3 pixels, and of 30 x 30.
  products |= {'conv1': 21**2 * 25 * 48 * 96, 'conv2': 10**2 * 49 * 96 * 256}
  assert products['conv1'] < 62**2 * kernels['conv1'] / 2
  assert products['conv2'] < 30**2 * kernels['conv2'] / 4
  flops = 2 * (3 * sum(products.values()) - products['conv1']) + 4 * dense
  assert rows.work('digits_tensorflow', 1.0, 256) == (flops, 8 * dense)
  # Too few outputs for tiles: 19 x 19, then 9 x 9 and 4 x 4 with 24, 64, 96, 96 and 64 features.
  plain = 2 * 19**2 * 11**2 * 3 * 24 + 3 * 9**2 * 25 * 24 * 64
  plain += 3 * 4**2 * 9 * (64 * 96 + 96 * 96 + 96 * 64)
  dense = 64 * 1024 + 1024**2 + 1024 * 10
  assert rows.work('digits_tensorflow', 0.25, 84) == (2 * plain + 4 * dense, 8 * dense)


def test_a_row_is_a_table_and_json(tmp_path):
  file = tmp_path / 'figures.json'
  done = benchmark('--rows=tiny', '--rounds=2', f'--json={file}')
  assert done.returncode == 0, done.stderr
  row = json.loads(file.read_text())['rows'][0]
  assert row['sides'].keys() == {'lr_study', 'jax_one', 'jax_vmap'}
  for side in row['sides'].values():
    assert len(side['seconds']) == 2
    assert min(side['seconds']) > 0
    assert side['memory']['peak'] > 0
  ours, one = row['sides']['lr_study'], row['sides']['jax_one']
  assert ours['ours_to_this'] == 1
  ratios = [a / b for a, b in zip(ours['seconds'], one['seconds'], strict=True)]
  assert one['ours_to_this'] == pytest.approx(np.median(ratios))
  assert 0 < row['floor']['share'] < 1
  assert '| jax_vmap |' in done.stdout


def test_a_row_that_is_not_there():
  done = benchmark('--rows=nothing')
  assert done.returncode == 2
  assert done.stderr.startswith("error: --rows: no row 'nothing'")
