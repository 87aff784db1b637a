"""A user's parts, tests/own/, in small studies from the data to the answer."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import load, train
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import faults, loop, study, trial, trials
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.interrupt import Stopped
from lr_study.search import rounds, strategies
from lr_study.search.strategies import Told
from lr_study.use import evaluate

CHANCE = 0.1  # ten digits, as many of each


@pytest.fixture(scope='module', autouse=True)
def away(tmp_path_factory):
  """Tests work where a user would: in a folder outside the repository that holds the parts."""
  folder = tmp_path_factory.mktemp('away')
  for file in (Path(__file__).parent / 'own').glob('*.py'):
    shutil.copy(file, folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    yield folder


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  """Drawing takes longer than these studies train; tests/test_page.py looks at the pictures."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(study.pictures, 'build', lambda *of: {})
    patch.setattr(study.page, 'write', lambda folder: None)
    yield


def config_of(axes=(), **changes):
  """A study of digits as arrays; `changes` are whole sections and fields."""
  fields = {
    'learning_rates': (1e-2, 1e-3),
    'seeds': (0,),
    'epochs': 4,
    'batch_size': 12,
    'log_every_steps': 6,
    'data': {'name': 'my_data.py:digits'},
    'input': {'name': 'images', 'scale': 0.01},
    'model': {'name': 'mlp', 'hidden': (16,)},
    'optimizer': {'name': 'adamw'},
    'schedule': {'name': 'constant'},
    'axes': ConfigDict(dict(axes), allow_dotted_keys=True),
  }
  return ConfigDict(fields | changes)


def run(folder, **changes):
  """Runs such a study to its end, and gives its results.json."""
  study.run(config_of(**changes), folder)
  return json.loads((folder / 'results.json').read_text())


def best_accuracy(folder, content):
  """The best trial's value, as recorded and as computed from the saved weights."""
  named = content['verdict']['learning_rate']
  known = next(t['validation_accuracy'] for t in content['trials'] if t['learning_rate'] == named)
  trained = evaluate.load(folder)
  score = evaluate.score(trained, evaluate.read_part(folder, 'validation'))
  assert score.accuracy == pytest.approx(known)
  return known


# A rate that diverges, a good one, and one that learns little.
RESNET = {
  'learning_rates': (1e37, 3e-2, 1e-4),
  'epochs': 8,
  'model': {'name': 'my_resnet.py:MyResNet', 'features': 6, 'depth': 1},
  'optimizer': {'name': 'adamw', 'clip_norm': 1.0, 'no_decay': ('bias', 'scale')},
  'schedule': {'name': 'cosine', 'warmup_steps': 4},
  'dtype': 'bfloat16',
}


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
  """The study of a network with BatchNorm, finished."""
  folder = tmp_path_factory.mktemp('studies') / 'resnet'
  run(folder, **RESNET)
  return folder


def test_resnet_with_batch_norm_by_adamw(resnet):
  content = json.loads((resnet / 'results.json').read_text())
  assert content['trials'][0]['status'] == 'diverged'
  assert content['verdict']['learning_rate'] == 3e-2
  assert best_accuracy(resnet, content) > 3 * CHANCE
  statistics = evaluate.load(resnet).variables['batch_stats']
  means = [of['mean'] for of in statistics.values()]
  assert all(np.abs(mean).max() > 0 for mean in means)  # they start at 0
  assert {x.dtype.name for x in jax.tree.leaves(evaluate.load(resnet).variables)} == {'float32'}


def test_a_study_that_is_stopped_goes_on_to_the_same_bytes(resnet, tmp_path, monkeypatch):
  """By SIGTERM after the second epoch, and again after the fourth."""
  folder, evaluated = tmp_path / 'stopped', []

  def evaluate_and_stop(*of):
    evaluated.append(of)
    if len(evaluated) in (2, 4):
      os.kill(os.getpid(), signal.SIGTERM)
    return found(*of)

  found = trials.evaluate
  monkeypatch.setattr(trials, 'evaluate', evaluate_and_stop)
  for _ in range(2):
    with pytest.raises(Stopped):
      study.run(config_of(**RESNET), folder)
  study.run(config_of(**RESNET), folder)
  assert len(evaluated) == 8  # each epoch once
  assert faults.differences(folder, resnet) == []


def test_vit_by_muon(tmp_path):
  model = {'name': 'vit_tiny', 'depth': 1, 'width': 0.1}
  optimizer = {'name': 'muon', 'weight_decay': 1e-2, 'ns_steps': 2}  # it compiles faster
  rates = {'learning_rates': (0.03, 1e-5), 'epochs': 8}
  content = run(tmp_path, model=model, optimizer=optimizer, **rates)
  assert content['verdict']['learning_rate'] == 0.03
  assert best_accuracy(tmp_path, content) > 3 * CHANCE


def test_nnx_module_with_batch_norm_and_dropout(tmp_path):
  """By an optimiser that gives averages of the weights to evaluate."""
  model, rates = {'name': 'my_nnx.py:MyNNX', 'features': 16}, (0.03, 1e-6)
  optimizer = {'name': 'my_optimizer.py:averaged'}
  content = run(tmp_path, model=model, optimizer=optimizer, learning_rates=rates, epochs=12)
  assert content['verdict']['learning_rate'] == 0.03
  assert best_accuracy(tmp_path, content) > 3 * CHANCE
  variables = evaluate.load(tmp_path).variables
  assert np.abs(variables['batch_stats']['norm']['mean']).max() > 0
  assert variables['params']['conv']['kernel'].shape == (3, 3, 1, 16)


def test_a_table_by_a_loss_and_metrics_of_ones_own(tmp_path):
  """By an optimiser that finds its rate: the study's is a factor. The largest margin is best."""
  content = run(
    tmp_path,
    epochs=8,
    learning_rates=(1.0, 0.1),
    optimizer={'name': 'prodigy'},
    input={'name': 'images', 'scale': 1.0},
    data={'name': 'my_data.py:table'},
    loss={'name': 'my_loss.py:poly_loss', 'epsilon': 2.0},
    metrics=('my_loss.py:margin', 'my_loss.py:worst_class'),
    verdict={'measure': 'margin'},
  )
  assert content['study']['data']['classes'] == ['setosa', 'versicolor', 'virginica']
  assert content['verdict']['measure'] == 'validation_margin'
  margins = {t['learning_rate']: t['metrics']['validation_margin'] for t in content['trials']}
  assert max(margins, key=margins.get) == content['verdict']['learning_rate']
  assert f'margin {max(margins.values()):.3g}.' in content['verdict']['sentence']
  for of in content['trials']:
    assert of['metrics']['validation_worst_class'] <= of['validation_balanced_accuracy']
  # What guessing costs is log 3, and in this loss two times the share of the others more.
  assert content['study']['guessing_loss'] == pytest.approx(np.log(3) + 2 * 2 / 3, rel=0.02)
  assert best_accuracy(tmp_path, content) > 0.8


def test_input_schedule_search_and_optimizer_of_ones_own(tmp_path):
  content = run(
    tmp_path,
    learning_rates=(4.0, 1.0),
    epochs=3,
    input={'name': 'my_parts.py:rolled', 'pixels': 2},
    schedule={'name': 'my_parts.py:sawtooth', 'low': 0.5, 'warmup_steps': 2},
    search={'name': 'my_parts.py:halves', 'rounds': 1},
    optimizer={'name': 'my_optimizer.py:normalised', 'momentum': 0.5, 'clip_value': 10.0},
  )
  assert content['study']['rounds'] == [[4.0, 1.0], [0.5]]
  assert len(content['trials']) == 3
  assert content['verdict']['learning_rate'] in (1.0, 0.5)


def test_schedule_free_evaluates_averages_of_the_weights(tmp_path):
  """In evaluations, in the answer and in what is kept for export and classifying."""
  changes = {'optimizer': {'name': 'schedule_free_adamw'}, 'learning_rates': (1e-2,)}
  content = run(tmp_path, **changes)
  assert best_accuracy(tmp_path, content) > 3 * CHANCE
  config = check(config_of(**changes))
  sweep = trials.prepare(config, datasets.load(config.data, config.image_size))
  planned = rounds.read(tmp_path / 'history')
  _, state_T = loop.restore(tmp_path, planned, 0, sweep._replace(trials=planned.trials))
  state = sweep.engine.plain(jax.tree.map(lambda x: x[0], state_T))
  averages = sweep.task.optimizer.eval_params(state.opt_state, state.params)
  kept = evaluate.load(tmp_path).variables['params']
  for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(averages), strict=True):
    np.testing.assert_array_equal(a, b)
  recorded = content['trials'][0]['validation_loss']
  assert loss_of(sweep, averages) == pytest.approx(recorded, rel=1e-4)
  assert loss_of(sweep, state.params) != pytest.approx(recorded, rel=1e-2)


def loss_of(sweep, params):
  """Of these weights on the validation images."""
  window = next(sweep.validation.windows(len(sweep.validation.labels)))
  images, labels = sweep.task.inputs(window.data, None)
  logits = trial.apply(sweep.task, params, {}, images[window.index])[0]
  return float(sweep.task.loss(logits, labels[window.index]).mean())


AXES = {
  'optimizer.weight_decay': (0, 0.5), 'schedule.warmup_steps': (0, 20),
  'loss.smoothing': (0, 0.3),
}  # fmt: skip


def test_all_values_of_all_axes_share_one_program(tmp_path, request):
  """And each trial is what it would be in a study without axes."""
  compiled = []

  def note(event, seconds, fun_name='', **_):
    compiled.extend([fun_name] if event == '/jax/core/compile/backend_compile_duration' else [])

  jax.monitoring.register_event_duration_secs_listener(note)
  request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(note))
  rate = {'learning_rates': (1e-2,)}
  content = run(tmp_path / 'axes', axes=AXES, **rate)
  assert len(content['trials']) == len(content['settings']) == 8
  for name in ('train', 'measured', 'evaluate'):
    assert compiled.count(f'jit({name})') == 1
  losses = [t['train_loss'] for t in content['trials']]
  assert len(set(losses)) == 8
  alone = run(
    tmp_path / 'alone',
    optimizer={'name': 'adamw', 'weight_decay': 0.5},
    schedule={'name': 'constant', 'warmup_steps': 20},
    loss={'name': 'cross_entropy', 'smoothing': 0.3},
    **rate,
  )
  assert content['trials'][-1]['axes'] == {name: values[1] for name, values in AXES.items()}
  assert losses[-1] == pytest.approx(alone['trials'][0]['train_loss'], rel=1e-5)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    (
      {'model': {'name': 'wrong.py:PerPixel'}},
      'wrong.py:PerPixel: it returns logits of shape (2, 8, 8, 10) on inputs of shape (2, 8, 8, 1)',
    ),
    (
      {'model': {'name': 'wrong.py:NoClasses', 'features': 3}},
      'wrong.py:NoClasses: it returns logits of shape (2, 3) on inputs of shape (2, 8, 8, 1); 10 '
      'classes need (2, 10)',
    ),
    (
      {'optimizer': {'name': 'wrong.py:no_transform'}},
      'no_transform (wrong.py:26) gave float32 (); it must return an optax transform',
    ),
    (
      {'loss': {'name': 'wrong.py:scalar_loss'}},
      'scalar_loss (wrong.py:31) gave float32 () for logits (3, 10) and labels (3,); a loss gives '
      'one number per image, (3,)',
    ),
    (
      {'data': {'name': 'wrong.py:failing_data'}},
      "wrong.py:38: in failing_data, a data function: KeyError: 'column label'",
    ),
    (
      {'metrics': ('wrong.py:no_transform',)},
      'in no_transform, a metric: TypeError: no_transform() missing 1 required',
    ),
    ({'model': {'name': 'my_nnx.py:MyNNX', 'featurs': 3}}, 'did you mean model.features?'),
  ],
)
def test_parts_that_do_not_fit_are_told_in_one_line(tmp_path, changes, says):
  """The line names the function, its result and what is expected; nothing is written."""
  with pytest.raises(StudyError) as raised:
    study.run(config_of(**changes), tmp_path / 'study')
  message = str(raised.value)
  assert says in message
  assert '\n' not in message
  assert not (tmp_path / 'study').exists()


def test_a_study_is_not_overwritten_by_one_that_cannot_start(resnet):
  before = sorted(resnet.rglob('*'))
  with pytest.raises(StudyError, match=r'wrong\.py'):
    study.run(config_of(model={'name': 'wrong.py:PerPixel'}), resnet, overwrite=True)
  assert sorted(resnet.rglob('*')) == before


def test_a_search_that_asks_for_what_it_was_told_of(tmp_path):
  config = check(config_of(epochs=2, search={'name': 'wrong.py:again'}))
  told = [Told(rate, 1, False, True, 0.5, False) for rate in (1e-2, 1e-3)]
  with pytest.raises(
    StudyError, match=r'again \(wrong\.py:\d+\) asked for the rate 0\.01 to epoch'
  ):
    strategies.ask(config, told)
  longer = check(config_of(epochs=2, search={'name': 'wrong.py:again', 'epochs': 2}))
  assert [ask[:2] for ask in strategies.ask(longer, told)] == [(1e-2, 2)]


@pytest.mark.parametrize(
  ('model', 'side', 'how'),
  [
    ({'name': 'my_resnet.py:MyResNet', 'features': 4, 'depth': 1}, 8, 'products'),
    ({'name': 'vit_tiny', 'depth': 1, 'width': 0.1}, 8, 'products'),
    ({'name': 'mlp', 'hidden': (128,)}, 16, 'factors'),
    ({'name': 'lenet'}, 16, 'products'),
  ],
)
def test_accelerated_curves_are_those_of_plain_ones(model, side, how):
  """At batch size 1 by SGD, where most is accelerated."""
  data, found = {'name': 'my_data.py:digits', 'side': side}, {}
  for accelerate in ('auto', 'off'):
    changes = {'optimizer': {'name': 'sgd'}, 'batch_size': 1, 'accelerate': accelerate}
    config, data_set = load(config_of(model=model, data=data, **changes))
    curves, _, sweep = train(config, data_set, [1e-2, 1e-3], [0, 0], 60)
    found[accelerate] = curves['loss']
    assert (how in sweep.engine.about) == (accelerate == 'auto')
  np.testing.assert_allclose(found['auto'], found['off'], rtol=1e-4, atol=1e-4)
