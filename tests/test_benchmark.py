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
  """Against sums over the real network's kernels: every one is used once a place in its output."""
  model = models.AlexNet(models.PRESETS['digits_tensorflow'], classes=10)
  params = jax.eval_shape(lambda key: models.init_params(model, key, 256), jax.random.key(0))
  sizes = {'conv1': 62, 'conv2': 30, 'conv3': 14, 'conv4': 14, 'conv5': 14}
  kernels = {name: int(np.prod(layer['kernel'].shape)) for name, layer in params.items()}
  dense = sum(size for name, size in kernels.items() if name not in sizes)
  flops = sum(2 * 3 * sizes[name] ** 2 * kernels[name] for name in sizes)
  flops += 2 * 2 * dense - 2 * 62**2 * kernels['conv1']
  assert rows.work('digits_tensorflow', 1.0, 256) == (flops, 8 * dense)


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
