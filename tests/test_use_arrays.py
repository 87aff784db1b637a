"""Trials on arrays with a user's networks and optimisers: weights, program and layers."""

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
from lr_study.report import report
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
  config.seeds = (0,)
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
  images, labels = rng.integers(0, 200, (120, 24, 24), np.uint8), np.arange(120) % 2
  images[:, :12] += np.uint8(30 * labels)[:, None, None]
  labels[::13] = 1 - labels[::13]  # so that some are predicted wrong
  np.savez(folder / 'grey.npz', x=images, y=np.where(labels, 'up', 'low'))
  config = ConfigDict()
  config.learning_rates, config.epochs = (1e-2, 1e-3), 4
  config.seeds, config.batch_size, config.optimizer = (0,), 1, 'sgd'
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


def test_the_setting_is_that_of_the_verdict_or_the_one_that_is_named(averaged):
  found = evaluate.read_study(averaged)
  trained = evaluate.load(averaged)
  assert trained.result.axes == found.verdict.axes
  (best,) = [r for r in found.results if r.learning_rate == 1e-3 and r.axes == found.verdict.axes]
  assert evaluate.load(averaged, 1e-3).result == best
  for decay in (0.0, 0.5):
    for name in ('weight_decay', 'optimizer.weight_decay'):
      result = evaluate.load(averaged, setting={name: decay}).result
      assert result.axes == {'optimizer.weight_decay': decay}
    own = [v for s, v in report.of_settings(report.read_content(averaged)).items()
           if s.axes == (('optimizer.weight_decay', decay),)]  # fmt: skip
    assert result.learning_rate == own[0].learning_rate
  for setting, message in (
    ({'batch_size': 5}, '--axis batch_size=5 is not in the study, which has 6'),
    ({'schedule': 'cosine'}, '--axis schedule=cosine is not in the study, which has constant'),
    ({'weight_decay': 1e-4}, r'weight_decay=1e-04 is not in the study, which has 0\.?0?, 0\.5'),
    (
      {'momentum': 0.9},
      '--axis momentum is not an axis of the study, which has batch_size, schedule',
    ),
  ):
    with pytest.raises(StudyError, match=message):
      evaluate.load(averaged, setting=setting)
  with pytest.raises(StudyError, match=r'1e-05 is not in the study with .*, which has 1e-03, 3e'):
    evaluate.load(averaged, 1e-5)
  assert set(trained.variables) == {'params', 'batch_stats'}
  assert f'optimizer.weight_decay {best.axes["optimizer.weight_decay"]:g}, seed 0' in (
    classify.describe(trained._replace(result=best))
  )


def test_another_kind_of_device_reads_the_same_checkpoint(factored, monkeypatch):
  """The form of a state depends only on the config."""
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
  np.savez(tmp_path / 'several.npz', np.zeros(3), np.zeros(3))
  (tmp_path / 'notes.npy').write_text('no array')
  found = run(out, 'other.npy', 'several.npz', 'notes.npy', 'one.npy')
  assert (found.returncode, found.stdout.count('\n')) == (1, 1)
  first, *others = found.stderr.splitlines()
  assert first.startswith("'other.npy': it holds float64 (3, 5); the model takes ")
  assert others == [
    "'several.npz': several arrays; the model takes an .npy file, which has one array",
    "'notes.npy': not an .npy file of numbers",
  ]
  text = (out / 'README.md').read_text()
  assert 'pillow' not in text
  assert ('For samples of shape (6, 4)' if name == 'averaged' else '24 x 24 pixels') in text


def run(model, *files):
  """The exported model's command, run next to its folder."""
  command = [sys.executable, str(model / 'predict.py'), *files]
  return subprocess.run(
    command, cwd=model.parent, capture_output=True, text=True, check=False, timeout=120
  )


def test_files_of_arrays_are_classified(factored, averaged, tmp_path):
  """Each sample of each file, by the study's own weights; image files are none."""
  trained, images = evaluate.load(factored), evaluate.read_part(factored, 'validation').images
  files = [tmp_path / 'low' / f'{name}.npy' for name in ('one', 'several')]
  files[0].parent.mkdir()
  np.save(files[0], images[3])
  np.save(files[1], images[:2])
  (tmp_path / 'photo.jpg').write_bytes(b'no array')
  found = classify.answer(trained, [*map(str, files), str(tmp_path / 'photo.jpg')])
  names = [entry['file'] for entry in found.content['files']]
  assert names == [str(files[0]), f'{files[1]}[0]', f'{files[1]}[1]']
  assert found.content['skipped'][0]['reason'] == 'not an .npy file of numbers'
  likeliest = evaluate.predict(trained, images[[3, 0, 1]]).argmax(1)
  shown = [entry['top'][0]['class'] for entry in found.content['files']]
  assert shown == [trained.classes[i] for i in likeliest]
  (tmp_path / 'photo.jpg').unlink()
  labelled = classify.answer(trained, [str(tmp_path)]).content
  assert labelled['images'] == 3
  assert labelled['accuracy'] == pytest.approx(shown.count('low') / 3)
  with pytest.raises(StudyError, match=r'no sample can be read: .* takes float32 \(6, 4\)'):
    classify.answer(evaluate.load(averaged), [str(files[0])])


@pytest.mark.parametrize('name', ['averaged', 'factored'])
def test_a_picture_of_the_layers_of_an_array(request, name, tmp_path):
  trained = evaluate.load(request.getfixturevalue(name))
  samples = evaluate.read_part(request.getfixturevalue(name), 'validation').images
  np.save(tmp_path / 'one.npy', samples[0])
  np.save(tmp_path / 'two.npy', samples[:2])
  explain.draw(trained, [str(tmp_path / 'one.npy')], tmp_path / 'layers')
  figures = json.loads((tmp_path / 'layers' / 'layers.json').read_text())
  assert figures[0]['layer'] == 'input'
  assert figures[-1]['shape'] == [len(trained.classes)]
  assert (tmp_path / 'layers' / 'layers.png').stat().st_size > 10_000
  with pytest.raises(StudyError, match=r'two\.npy holds 2 samples; --explain takes one'):
    explain.draw(trained, [str(tmp_path / 'two.npy')], tmp_path)


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
