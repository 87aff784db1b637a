"""What a GPU will be asked for, as far as it can be known without one: nothing is run there."""

import types

import jax
import numpy as np
import pytest
from accelerated import engine_of, task_of, train
from conftest import make_small

from configs import alexnet_letters
from lr_study import accelerate, faults, study, trials
from lr_study.accelerate import factored
from lr_study.config import check
from lr_study.data import Dataset, Part
from lr_study.errors import MoreWaves
from lr_study.models import KNOWN
from lr_study.models.mlp import MLP
from lr_study.search import rounds


@pytest.fixture
def as_on_a_gpu(monkeypatch):
  """lr_study chooses what it would choose on a GPU."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')


def noise(size, images=20):
  pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)
  part = Part(pixels, np.arange(images, dtype=np.int32) % 10)
  mean = np.full((size, size, 3), 127.5, np.float32)
  return Dataset('noise', tuple('ABCDEFGHIJ'), part, part, mean, 0, '', (), {})


def lowered(config):
  """The modules for CUDA of all programs of a study of seven rates, by name."""
  sweep = trials.prepare(check(config), noise(config.image_size))
  now = trials.running(sweep, np.arange(7))
  spread, found = sweep.spread, {}
  chunk = next(trials.chunks(sweep, now.seeds, 0, 0, 1))
  window = next(sweep.validation.windows(10))
  index = np.zeros((sweep.engine.steps_per_call, config.batch_size), np.int32)
  hyper_T, seeds = now.hyper_T, np.zeros(7, np.uint32)
  state_T = jax.eval_shape(spread.programs['init'], hyper_T, seeds, spread.shared)
  steps = (state_T, hyper_T, np.uint32(0), index, chunk.data, spread.shared, np.int32(0))
  needed = {
    'init': (hyper_T, seeds, spread.shared),
    'train_one_seed': (*steps, np.int32(1)),
    'measured_one_seed': steps,
    'evaluate': (state_T, spread.shared, *window),
    'settle': (state_T,),
  }
  for name, arguments in needed.items():
    if spread.programs[name] is not None:
      traced = spread.programs[name].trace(*arguments)
      found[name] = traced.lower(lowering_platforms=('cuda',)).as_text()
  return sweep, found


@pytest.mark.parametrize(
  ('variant', 'how', 'dtype', 'grouped'),
  [('', 'auto', 'float32', True), ('quick', 'all', 'tensorfloat32', False)],
)
def test_all_programs_lower_for_cuda(as_on_a_gpu, variant, how, dtype, grouped):
  """The published study and the quick one: shapes alone, no array of the network's size is made."""
  config = alexnet_letters.get_config(variant)
  config.accelerate, config.dtype = how, dtype
  sweep, found = lowered(config)
  assert sweep.spread.devices == 1
  assert sweep.task.dtype == 'float32'
  assert found.keys() == {'init', 'train_one_seed', 'measured_one_seed', 'evaluate', 'settle'}
  for text in found.values():
    assert 'lapack' not in text  # a CPU's library
  for name in ('train_one_seed', 'evaluate', 'settle'):
    # TensorFloat-32 is what JAX gives a GPU by default.
    assert ('precision = [HIGHEST, HIGHEST]' in found[name]) == (dtype == 'float32')
  # vmap over kernels makes of a convolution one of seven groups.
  assert ('feature_group_count = 7' in found['train_one_seed']) == grouped


def test_what_accelerates_can_be_chosen():
  task = task_of(KNOWN['digits_tensorflow'](3, 0.05, 0.0), (84, 84, 3))
  dense, convolutions = 'as factors', 'as matrix products'
  for how, expected in (
    ('off', []),
    ('products', [convolutions]),
    ('factored', [dense]),
    ('all', [dense, convolutions]),
    ('auto', [dense, convolutions]),  # on a CPU
  ):
    about = engine_of(task, how).about
    assert [word for word in (dense, convolutions) if word in about] == expected


def test_products_are_there_for_the_asking_on_a_gpu(as_on_a_gpu):
  task = task_of(KNOWN['digits_tensorflow'](3, 0.05, 0.0), (84, 84, 3))
  assert 'products' not in engine_of(task, 'auto').about
  assert 'products' in engine_of(task, 'products').about
  assert engine_of(task, 'auto').steps_per_call == 64
  assert accelerate.choose_spread('auto') == 'vmap'


def test_factors_on_a_gpu_are_the_same_numbers(monkeypatch):
  """Products and folds are not in blocks there; 70 steps are a fold and some."""
  task = task_of(MLP(3, hidden=(256,)), (8, 8, 3))
  monkeypatch.setattr(factored, 'pays', lambda *_: True)
  on_cpu = train(engine_of(task, 'factored'), task, 1e-3, 70)
  calls = types.SimpleNamespace(count=0)

  def backend():
    calls.count += 1
    return 'gpu'

  with monkeypatch.context() as patch:
    patch.setattr(jax, 'default_backend', backend)
    on_gpu = train(engine_of(task, 'factored'), task, 1e-3, 70)
  assert calls.count > 3
  np.testing.assert_allclose(on_gpu.losses, on_cpu.losses, rtol=1e-4, atol=1e-6)


def test_trials_that_do_not_fit_go_on_in_two_waves(
  small_finished, cache_dir, tmp_path, monkeypatch
):
  """Whatever the plan said: a device runs out of memory, and the same command ends the study."""
  folder, steps, counts = tmp_path / 'halved', trials.train_steps, []

  def train_steps(sweep, now, *arguments):
    counts.append(len(now.columns))
    if len(now.columns) > 2:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7 bytes.')
    return steps(sweep, now, *arguments)

  monkeypatch.setattr(trials, 'train_steps', train_steps)
  with pytest.raises(MoreWaves, match=r'Out of memory .* trains these 3 trials in two waves'):
    study.run(make_small(cache_dir), folder)
  study.run(make_small(cache_dir), folder)
  assert counts[0] == 3
  assert max(counts[1:]) == 2
  waves = [trial.wave for trial in rounds.read(folder / 'history').trials]
  assert waves == [0, 1, 0]
  assert faults.results(folder) == faults.results(small_finished)
  for file in (small_finished / 'history').glob('*.npy'):
    assert (folder / 'history' / file.name).read_bytes() == file.read_bytes()


def test_one_trial_that_does_not_fit_is_an_error(cache_dir, tmp_path, monkeypatch):
  def train_steps(*_):
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(trials, 'train_steps', train_steps)
  config = make_small(cache_dir)
  config.learning_rates = (1e-2,)
  with pytest.raises(RuntimeError, match='RESOURCE_EXHAUSTED'):
    study.run(config, tmp_path / 'one')
