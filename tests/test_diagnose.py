"""Why a trial diverged, and the sizes of updates and sharpness that a study records."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerated import CLASSES, batches, task_of
from conftest import ROOT
from ml_collections import ConfigDict

from configs import alexnet_letters
from lr_study import study as studies
from lr_study import trial
from lr_study.diagnosis import diagnose
from lr_study.errors import StudyError
from lr_study.files import events
from lr_study.models.resnet import ResNet

SCRIPT = [sys.executable, str(ROOT / 'scripts' / 'diagnose.py')]
EARLY, LATE, STABLE = 1e5, 1e-2, 1e-9


def small(cache_dir):
  """Two epochs of 9 steps; in the second the rates are 10 million times as large."""
  config = alexnet_letters.get_config('quick')
  config.learning_rates = (EARLY, LATE, STABLE)
  config.epochs, config.batch_size, config.image_size = 2, 8, 64
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 32
  config.data.cache_dir = cache_dir
  config.input.grey = config.input.standardise = True
  config.input.size, config.input.subtract = 20, 'pixel'
  config.model = ConfigDict({'name': 'mlp', 'hidden': (200, 200)})  # so large that it is factored
  config.schedule = ConfigDict({'name': 'piecewise', 'from_epochs': (2,), 'heights': (1e7,)})
  return config


@pytest.fixture(scope='module')
def study(tmp_path_factory, cache_dir):
  """With a round for each epoch."""
  config = small(cache_dir)
  config.sharpness_images = config.critical_sharpness_images = 12
  config.search = ConfigDict({'name': 'halving', 'epochs': 1})
  folder = tmp_path_factory.mktemp('studies') / 'small'
  studies.run(config, folder)
  return folder


def test_the_study_keeps_updates_and_sharpness(study):
  curves = {
    name: np.load(study / 'history' / f'epoch_{name}.npy')
    for name in ('update_ratio', 'sharpness', 'sharpness_edge', 'critical_sharpness')
  }
  for curve in curves.values():
    assert np.isfinite(curve).tolist() == [[False, True, True], [False, False, True]]
  np.testing.assert_allclose(curves['sharpness_edge'][0, 1:], [200, 2e9], rtol=1e-6)
  np.testing.assert_allclose(curves['sharpness_edge'][1, 2], 200, rtol=1e-6)
  # The gradients of two trials of a seed are much the same at first, so that updates go with the
  # rate; this one float32 weights cannot show.
  assert 1e-11 < curves['update_ratio'][0, 2] < 1e-8
  assert curves['update_ratio'][0, 1] > 1e4 * curves['update_ratio'][0, 2]
  trials = json.loads((study / 'results.json').read_text())['trials']
  assert [trial['status'] for trial in trials[:2]] == ['diverged', 'diverged']
  assert trials[0]['sharpness'] is trials[1]['update_ratio'] is None
  assert trials[2]['sharpness'] == curves['sharpness'][1, 2] > 0
  assert trials[2]['update_ratio'] == curves['update_ratio'][1, 2]
  assert '| below 200 |' in (study / 'summary.md').read_text()
  assert (study / 'figures' / 'sharpness.png').stat().st_size > 10_000
  found = events.read(study / 'tensorboard' / 'lr_1e-02_seed_0')
  assert len(found['train/update_ratio']) == len(found['train/sharpness']) == 1


def check(found, study):
  """Checks that hold for every diagnosis."""
  assert abs(found.first_bad_step - found.recorded) <= 2
  steps = found.first_bad_step - found.replayed_from
  assert len(found.losses) == len(found.gradient_norms) == steps
  assert np.isfinite(found.losses[:-1]).all()
  assert not np.isfinite([found.losses[-1], found.gradient_norms[-1]]).all()
  assert all(np.isfinite(norm) for norm in found.weight_norms.values())
  saved = {path.name for path in found.saved.iterdir()}
  assert saved >= {str(max(found.replayed_from, found.first_bad_step - 2))}
  assert found.saved.parent == study / 'diverged'


def test_a_trial_that_broke_at_once_is_replayed_from_the_start(study):
  found = diagnose.diagnose(study, EARLY, 0)
  check(found, study)
  assert found.replayed_from == 0
  first = np.load(study / 'history' / 'step_loss.npy')[0, 0]
  np.testing.assert_allclose(found.losses[0], first, rtol=1e-5)  # rounding aside
  assert 'dense' in found.broke
  assert list(found.weight_norms) == ['dense1', 'dense2', 'dense3']
  assert found.sharpness > found.sharpness_edge == pytest.approx(2e-5)


def test_a_trial_that_broke_late_is_replayed_from_a_checkpoint(study):
  """The checkpoint of the previous round, because this round has none yet."""
  done = subprocess.run(
    [*SCRIPT, f'--workdir={study}', f'--learning_rate={LATE}'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert 'replayed alone from step 9, it was 1' in done.stdout
  assert 'what broke first: ' in done.stdout
  assert re.search(r'sharpness at step 9: .*, (below|at|above) the edge of stability, 2e-05',
                   done.stdout)  # fmt: skip
  assert f'the last finite state: {study}/diverged/lr_1e-02_seed_0' in done.stdout
  check(diagnose.diagnose(study, LATE, 0), study)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--learning_rate=1e-9',), '1e-09 with seed 0 has not diverged'),
    (
      ('--learning_rate=7',),
      '7e+00 with --seed 0 is not in the study, which has 1e+05 with seed 0',
    ),
    ((), 'no --learning_rate'),
  ],
)
def test_what_cannot_be_told_is_one_line(study, arguments, message):
  done = subprocess.run(
    [*SCRIPT, f'--workdir={study}', *arguments], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_a_folder_without_a_study(tmp_path):
  with pytest.raises(StudyError, match='holds no study'):
    diagnose.diagnose(tmp_path, 1e-1, 0)


NET = """
import flax.linen as nn


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(8, name='zoom')(x)
    return nn.relu(nn.BatchNorm(not train, name='norm')(x))


class Net(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x, train):
    x = Block(name='second')(Block(name='first')(x.reshape(len(x), -1), train), train)
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return nn.Dense(self.classes, name='an_end')(x)
"""


def test_a_network_of_ones_own_and_an_edge_that_is_not_known(tmp_path, cache_dir):
  """Layers are named by their paths, in the order of the calls."""
  (tmp_path / 'net.py').write_text(NET)
  config = small(cache_dir)
  config.learning_rates = (1e30, 1e-3)
  config.model = ConfigDict({'name': f'{tmp_path}/net.py:Net'})
  config.optimizer = ConfigDict({'name': 'adam'})  # whose preconditioner is not known at step 0
  studies.run(config, tmp_path / 'study')
  found = diagnose.diagnose(tmp_path / 'study', 1e30, 0)
  check(found, tmp_path / 'study')
  assert found.first_bad_step == found.recorded
  layers = ['first/zoom', 'first/norm', 'second/zoom', 'second/norm', 'an_end']
  assert list(found.weight_norms) == layers
  assert re.search('first/|second/|an_end', found.broke)
  assert np.isnan(found.sharpness_edge)
  assert np.isfinite(found.sharpness)
  lines = diagnose.describe(found)
  assert 'the edge of stability is not known' in lines
  assert 'first/zoom ' in lines


def test_what_is_shown_of_a_deep_network():
  norms = {f'block{i}/conv': float(i) for i in range(20)}
  line = diagnose._norms_line(norms)
  assert line.startswith('norms of the weights at that step, the 12 largest of 20: block8/conv 8, ')
  assert line.endswith('block19/conv 19')


def test_what_is_not_finite_is_named():
  weights = {'block': {'conv': {'kernel': np.ones(3), 'bias': np.float32([1, np.nan])}}}
  state = trial.State(weights | {'cls': np.float32([np.inf])}, {}, None)
  assert diagnose._not_finite(state) == 'the weights of block/conv, cls'
  state = trial.State({'a': np.ones(2)}, {'batch_stats': {'norm': {'var': np.inf}}}, None)
  assert diagnose._not_finite(state) == 'the batch_stats of norm'
  state = trial.State({'a': np.ones(2)}, {'constants': {'mask': -np.inf}}, None)
  assert diagnose._not_finite(state) == ''


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_outputs_are_those_of_the_step(dtype):
  """With its dropout and its batch statistics, in the dtype that the step computes in."""
  model = ResNet((1,), False, CLASSES, 1 / 32, dtype=dtype)
  task = task_of(model, (8, 8, 3))
  hyper, key, step = {'learning_rate': jnp.float32(0.1)}, jax.random.key(1), jnp.int32(5)
  state = trial.init(task, hyper, jax.random.key(0))
  batch = jax.tree.map(lambda x: x[0], batches(task.shape, 4))
  outputs = diagnose.layer_outputs(task, state, batch, key, step)
  assert list(outputs)[:3] == ['stem', 'stem_norm', 'block0_0/conv1']
  assert {x.dtype for x in outputs.values()} == {jnp.dtype(dtype)}
  loss = trial.loss_fn(task, state.model_state, hyper, batch, key, step)
  _, (logits, *_) = loss(state.params)
  np.testing.assert_array_equal(np.float32(outputs['head']), logits)
