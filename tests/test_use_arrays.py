"""Trials on arrays, of networks and optimisers of one's own: their weights, program and layers."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import log_softmax

from lr_study import study
from lr_study.errors import StudyError
from lr_study.use import card, classify, evaluate, explain, export

# A network with batch statistics that asks for the number of images, on (tokens, features).
PARTS = """
import flax.linen as nn
import numpy as np


def load():
  rng = np.random.default_rng(0)
  labels = np.arange(72) % 3
  return rng.normal(size=(72, 6, 4)).astype(np.float32) + labels[:, None, None], labels


class Net(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.DenseGeneral((2, 8), name='heads')(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name='norm')(x)
    return nn.Dense(self.classes, name='last')(nn.relu(x).reshape(len(x), -1))
"""


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
  """A finished study of schedule-free weights, with two values of weight decay, by its loss."""
  folder = tmp_path_factory.mktemp('averaged')
  file = folder / 'parts.py'
  file.write_text(PARTS)
  config = ConfigDict()
  config.learning_rates, config.epochs, config.batch_size = (3e-2, 1e-3), 3, 6
  config.data = ConfigDict({'name': f'{file}:load', 'test_fraction': 0.25})
  config.model = ConfigDict({'name': f'{file}:Net'})
  config.optimizer = ConfigDict({'name': 'schedule_free_adamw'})
  config.schedule = ConfigDict({'name': 'constant'})
  config.input = ConfigDict({'name': 'images', 'subtract': 'none'})
  config.axes = ConfigDict({'optimizer.weight_decay': (0.0, 0.5)}, allow_dotted_keys=True)
  config.verdict = ConfigDict({'measure': 'loss'})
  study.run(config, folder / 'run')
  return folder / 'run'


@pytest.fixture(scope='module')
def factored(tmp_path_factory):
  """A finished study whose checkpoint holds a dense kernel as factors; of grey images."""
  folder = tmp_path_factory.mktemp('factored')
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 24, 24), np.uint8)
  np.savez(
    folder / 'grey.npz', x=images, y=np.where(images[:, :12].mean((1, 2)) > 127, 'up', 'low')
  )
  config = ConfigDict()
  config.learning_rates, config.epochs = (1e-2, 1e-3), 2
  config.data = ConfigDict({'name': f'npz:{folder / "grey.npz"}'})
  config.model = ConfigDict({'name': 'mlp', 'hidden': (128,)})
  config.schedule = ConfigDict({'name': 'constant'})
  config.input = ConfigDict({'name': 'images', 'scale': 1 / 255})
  study.run(config, folder / 'run')
  return folder / 'run'


def loss_of(trained, part):
  """Mean cross-entropy."""
  logits = evaluate.predict(trained, part.images).astype(np.float64)
  return -log_softmax(logits, 1)[np.arange(len(part.labels)), part.labels].mean()


@pytest.mark.parametrize('name', ['averaged', 'factored'])
def test_the_weights_are_those_that_the_study_judged(request, name):
  workdir = request.getfixturevalue(name)
  validation = evaluate.read_part(workdir, 'validation')
  for rate in {result.learning_rate for result in evaluate.read_study(workdir).results}:
    trained = evaluate.load(workdir, rate)
    # Sums of some hundred float32 products, in another order.
    assert loss_of(trained, validation) == pytest.approx(trained.result.validation_loss, rel=1e-5)
    found = evaluate.score(trained, validation)
    assert found.accuracy == pytest.approx(trained.result.validation_accuracy, abs=1e-9)


def test_the_best_setting_is_that_of_the_verdict(averaged):
  """By the loss, and not by the accuracy, which is the same for several."""
  found = evaluate.read_study(averaged)
  trained = evaluate.load(averaged)
  assert trained.result.axes == found.verdict.axes
  of_rate = [r for r in found.results if r.learning_rate == 1e-3]
  best = min(of_rate, key=lambda r: r.validation_loss)
  assert evaluate.load(averaged, 1e-3).result == best
  assert set(trained.variables) == {'params', 'batch_stats'}
  assert f'optimizer.weight_decay {best.axes["optimizer.weight_decay"]:g}, seed 0' in (
    classify.describe(trained._replace(result=best))
  )


def test_another_kind_of_device_reads_the_same_checkpoint(factored, monkeypatch):
  """How a state is written depends on the config alone."""
  here = evaluate.load(factored)
  assert here.variables['params']['dense1']['kernel'].shape == (576, 128)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  there = evaluate.load(factored)
  jax.tree.map(np.testing.assert_array_equal, here.variables, there.variables)


def test_pictures_of_mistakes_are_of_images_alone(averaged, factored):
  for workdir, drawn in ((averaged, False), (factored, True)):
    best = json.loads((workdir / 'results.json').read_text())['best_trial']
    wrong = np.sum(best['confusion']) - np.trace(best['confusion'])
    assert len(best['mistakes']) == (min(wrong, 24) if drawn else 0)
    assert all((workdir / mistake['file']).is_file() for mistake in best['mistakes'])


@pytest.mark.parametrize('name', ['averaged', 'factored'])
def test_the_exported_folder_takes_arrays(request, name, tmp_path):
  workdir = request.getfixturevalue(name)
  trained, validation = evaluate.load(workdir), evaluate.read_part(workdir, 'validation')
  out = tmp_path / 'model'
  export.save(evaluate.read_study(workdir), trained, out)
  assert sorted(path.name for path in out.iterdir()) == sorted(
    [*card._FILES_OF_ARRAYS, 'README.md']
  )
  np.save(tmp_path / 'samples.npy', validation.images[:3])
  np.save(tmp_path / 'one.npy', validation.images[1])
  found = run(out, 'samples.npy', 'one.npy')
  assert found.stderr == ''
  lines = [line.split('  ') for line in found.stdout.splitlines()]
  assert [line[0] for line in lines] == [
    'samples.npy[0]',
    'samples.npy[1]',
    'samples.npy[2]',
    'one.npy',
  ]
  labels = evaluate.predict(trained, validation.images[:3]).argmax(1)
  assert [line[1].split()[0] for line in lines[:3]] == [trained.classes[i] for i in labels]
  assert lines[3][1:] == lines[1][1:]
  np.save(tmp_path / 'other.npy', np.zeros((3, 5)))
  assert (
    'ValueError: other.npy holds float64 (3, 5); the model takes' in run(out, 'other.npy').stderr
  )
  text = (out / 'README.md').read_text()
  assert 'pillow' not in text
  assert ('For samples of shape (6, 4)' if name == 'averaged' else '24 x 24 pixels') in text


def run(model, *files):
  """The exported model's command, beside its folder."""
  command = [sys.executable, str(model / 'predict.py'), *files]
  return subprocess.run(
    command, cwd=model.parent, capture_output=True, text=True, check=False, timeout=120
  )


def test_image_files_are_refused(averaged, tmp_path):
  trained = evaluate.load(averaged)
  for look in (classify.answer, lambda *given: explain.draw(*given, tmp_path)):
    with pytest.raises(StudyError, match=r'trained on arrays, .*parts\.py:load, and not on image'):
      look(trained, ['a.jpg'])


def test_layers_of_tokens(averaged):
  trained = evaluate.load(averaged)
  sample = evaluate.read_part(averaged, 'test').images[0]
  shown, layers, logits = explain.look_inside(trained, sample)
  np.testing.assert_array_equal(shown, sample)
  shapes = {layer.name: layer.values.shape for layer in layers}
  assert list(shapes.items()) == [('heads', (6, 16)), ('norm', (6, 2, 8)), ('logits', (3,))]
  explain.picture(trained, 'a sample', sample, shown, layers, logits).canvas.draw()


def test_a_study_whose_network_has_gone(averaged, tmp_path):
  copy = shutil.copytree(averaged, tmp_path / 'copy')
  results = copy / 'results.json'
  results.write_text(results.read_text().replace('parts.py:Net', 'lost.py:Net'))
  with pytest.raises(StudyError, match=r'the study in .*copy cannot be read: .*lost\.py'):
    evaluate.load(copy)
