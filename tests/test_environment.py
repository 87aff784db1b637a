"""A user's settings of JAX and Matplotlib do not change studies."""

import io
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib
import pytest
from commands import ROOT
from conftest import sweep

from lr_study import environment, faults, vectorize
from lr_study.errors import StudyError
from lr_study.report import drawing, figures

# Each changes numbers, or ends a study in which a trial diverges, with JAX's default.
HOSTILE = {
  'JAX_ENABLE_X64': 'True',
  'JAX_DEBUG_NANS': 'True',
  'JAX_DEBUG_INFS': 'True',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
  'JAX_DISABLE_JIT': 'True',
  'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16',
  'JAX_CHECK_TRACER_LEAKS': 'True',
  'JAX_DEFAULT_PRNG_IMPL': 'rbg',
  'JAX_THREEFRY_PARTITIONABLE': 'False',
  'JAX_RANDOM_SEED_OFFSET': '5',
  'JAX_LEGACY_PRNG_KEY': 'error',
  'JAX_TRANSFER_GUARD': 'disallow',
  'JAX_OPTIMIZATION_LEVEL': 'O0',
}

# What the other settings of JAX are about; none of them changes a number or ends a study.
HARMLESS = (
  # Devices and processes.
  'platform', 'backend', 'visible_devices', 'num_cpu_devices', 'mock', 'distributed', 'topology',
  'cross_host', 'collectives', 'preemption', 'recoverability', 'pjrt', 'binary_between_hosts',
  'mtls', 'async_dispatch', 'sort_devices', 'leaked_clients', 'proxy_envs',
  # Logs, tracebacks, dumps, and keeping what was compiled.
  'log', 'traceback', 'dump', 'explain', 'pprint', 'canonicalization', 'source_url',
  'report_frames', 'warn_bytes', 'cache_dir', 'cache_max_size', 'include_metadata',
  'persistent_cache',  'enable_compilation_cache', 'pgle_', 'partitioning_ptr', 'xla_profile',
  'unsafe_xla_runtime_errors',
  # What code is written for: its own types, other ways to the same program, export, Pallas.
  'custom_jvp3', 'remat_barrier', 'rgv3', 'cpp_shard_args', 'raise_on_ppermute_sort_diff',
  'explicit_x64', 'check_vma', 'auto_pcast', 'mutable_array', 'custom_vjp3', 'remat3', 'scan3',
  'refs_to_pins', 'size_one_mesh', 'bwd_checks', 'vmap_shmap_error', 'simplified_jaxpr',
  'embedded_constants', 'constant_folding', 'export', 'serialization', 'jax2tf', 'pallas', 'mosaic',
  'emit_pipeline', 'ragged_dot', 'bcoo', 'magma',
)  # fmt: skip


def test_every_setting_of_jax_is_ours_or_harmless():
  """A new version of JAX may have new ones."""
  unknown = [
    name
    for name in jax.config.values
    if name not in environment.OURS and not any(part in name for part in HARMLESS)
  ]
  assert unknown == []
  gone = {'jax_exec_time_optimization_effort', 'jax_memory_fitting_effort'}  # from JAX 0.11
  assert {name for name in environment.OURS if name not in jax.config.values} <= gone


def test_ours_are_the_defaults_and_hold_for_a_while(capsys):
  program = 'import jax; from lr_study import environment\nwith environment.ours(): pass'
  bare = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
  told = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT, env=bare
  )
  assert told.stdout == ''  # nothing differs
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  try:
    with environment.ours():
      assert (jnp.ones((2, 3)) + jnp.ones(3)).shape == (2, 3)
    assert 'jax_numpy_rank_promotion is allow, not raise' in capsys.readouterr().out
    assert jax.config.jax_numpy_rank_promotion == 'raise'
  finally:
    jax.config.update('jax_numpy_rank_promotion', 'allow')
  before = jax.config.values['jax_enable_x64']
  ours, refused = environment.ours(), pytest.raises(StudyError, match='jax_enable_x64 is True')
  with jax.enable_x64(True), refused, ours:
    pass
  assert jax.config.values['jax_enable_x64'] == before


def test_a_study_does_not_depend_on_settings_of_jax(config_file, whole, tmp_path):
  """A study in which a trial diverges and the best one is examined."""
  folder = tmp_path / 'hostile'
  done = sweep(config_file, f'--workdir={folder}', draws=False, **HOSTILE)
  assert done.returncode == 0, done.stderr
  assert faults.differences(folder, whole[0]) == []
  told = [line for line in done.stdout.splitlines() if line.startswith('JAX settings changed')]
  assert len(told) == 1
  assert all(name.lower() in told[0] for name in HOSTILE)


@pytest.mark.parametrize(
  ('variable', 'says'),
  [
    ('JAX_PLATFORMS=cuda', 'JAX finds no device of JAX_PLATFORMS=cuda'),
    pytest.param(
      'JAX_PLATFORMS=nonsense',
      "JAX_PLATFORMS=nonsense: Unable to initialize backend 'nonsense'",
      marks=pytest.mark.slow,
    ),
    ('JAX_ENABLE_X64=maybe', "JAX or Matplotlib cannot start: invalid truth value 'maybe'"),
  ],
)
def test_an_environment_in_which_jax_cannot_start_is_one_line(
  config_file, tmp_path, variable, says
):
  name, _, value = variable.partition('=')
  done = subprocess.run(
    [sys.executable, 'scripts/sweep.py', f'--config={config_file}', f'--workdir={tmp_path / "w"}'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env=os.environ | {name: value, 'MPLBACKEND': 'nonsense'},
  )
  assert done.returncode == 2
  assert says in done.stderr
  assert done.stderr.startswith('error: ')
  assert len(done.stderr.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


def picture():
  with drawing.style():
    figure = figures.Figure(figsize=(2, 1))
    figure.add_subplot(title='x').plot([1, 2])
  stream = io.BytesIO()
  figures.save(figure, stream)
  return stream.getvalue()


@pytest.mark.filterwarnings('ignore:findfont')
def test_pictures_do_not_depend_on_a_matplotlibrc():
  expected, theirs = picture(), {
    'text.usetex': True, 'savefig.format': 'pdf', 'font.family': 'serif', 'figure.dpi': 30,
    'axes.facecolor': 'black', 'axes.titlesize': 30, 'savefig.transparent': True,
    'axes.formatter.use_locale': True, 'path.simplify': False, 'lines.linewidth': 9,
  }  # fmt: skip
  with matplotlib.rc_context(theirs):
    assert picture() == expected
    assert matplotlib.rcParams['text.usetex']  # as it was


@pytest.mark.parametrize('home', ['file', 'locked', 'none'])
def test_a_home_that_cannot_be_written_keeps_no_programs(tmp_path, monkeypatch, home):
  """JAX would warn of every program."""
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  (tmp_path / 'file').touch()
  monkeypatch.setenv('HOME', str(tmp_path / 'file'))
  if home == 'locked':
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setattr(os, 'access', lambda *_: False)
  if home == 'none':
    monkeypatch.setattr(vectorize.Path, 'home', _no_home)
  jax.config.update('jax_compilation_cache_dir', None)
  try:
    vectorize.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update('jax_compilation_cache_dir', before)


def _no_home():
  raise RuntimeError('Could not determine home directory.')
