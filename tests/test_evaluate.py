"""A finished study's trial on a folder of images, and what a user can get wrong about it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import load as load_data
from helpers import train
from PIL import Image

from configs import alexnet_letters
from lr_study import evaluate, sweep
from lr_study.data.letters import render
from lr_study.errors import StudyError

SCRIPT = Path(__file__).parents[1] / 'scripts' / 'evaluate.py'


def small(cache_dir):
  """A study of seconds with the small network, on three letters."""
  config = alexnet_letters.get_config('quick')
  config.learning_rates = (1e5, 1e-2, 1e-3)
  config.epochs, config.batch_size, config.image_size = 6, 8, 64
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 32
  config.data.cache_dir = cache_dir
  config.input.grey = config.input.standardise = config.input.invert = True
  config.input.size, config.input.rotation, config.input.subtract = 20, 10.0, 'pixel'
  config.model.preset, config.model.width = 'small_cnn', 0.25
  config.model.convolution = 'grouped'
  config.schedule.name = 'constant'
  return config


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  cache = str(tmp_path_factory.mktemp('data_sets'))
  workdir = tmp_path_factory.mktemp('studies') / 'small'
  sweep.run(small(cache), workdir)
  return workdir


@pytest.fixture
def letters(tmp_path):
  """A folder of letters that the study has not seen."""
  for letter, count in (('E', 6), ('O', 4), ('T', 10)):
    (tmp_path / 'letters' / letter).mkdir(parents=True)
    for i in range(count):
      pixels = render.render(9, letter, i, 64)
      Image.fromarray(pixels).save(tmp_path / 'letters' / letter / f'{i}.png')
  return tmp_path / 'letters'


def test_the_weights_are_those_that_the_study_judged(study):
  """On the study's own validation images it has the accuracy that results.json states."""
  config, data_set = load_data(
    small(json.loads((study / 'config.json').read_text())['config']['data']['cache_dir'])
  )
  del config
  for rate in (1e-2, 1e-3):
    trained = evaluate.load(study, rate)
    found = evaluate.score(trained, data_set.validation)
    assert found.accuracy == pytest.approx(trained.result.validation_accuracy, abs=1e-9)
    balanced = trained.result.validation_balanced_accuracy
    assert found.balanced_accuracy == pytest.approx(balanced, abs=1e-9)
    assert found.confusion.sum() == len(data_set.validation.labels)


def test_scores():
  found = evaluate.Score(('a', 'b', 'c'), np.array([[8, 2, 0], [1, 1, 0], [0, 0, 0]]))
  assert found.accuracy == 9 / 12
  assert found.balanced_accuracy == pytest.approx((0.8 + 0.5) / 2)
  lines = evaluate.table(found).splitlines()
  assert lines[0].split() == ['true', 'a', 'b', 'c', 'images', 'right']
  assert lines[1].split() == ['a', '8', '2', '0', '10', '80.0', '%']
  assert lines[3].split() == ['c', '0', '0', '0', '0', '–']


def test_the_command(study, letters, tmp_path):
  out = tmp_path / 'found.json'
  command = [sys.executable, str(SCRIPT), '--workdir', str(study), '--dir', str(letters)]
  ran = subprocess.run([*command, '--json', str(out)], capture_output=True, text=True, check=False)
  assert ran.returncode == 0, ran.stderr
  found = json.loads(out.read_text())
  assert found['images'] == 20
  assert [sum(row) for row in found['confusion']] == [4, 10, 6]  # classes in the study's order
  right = np.trace(found['confusion'])
  assert found['accuracy'] == right / 20
  assert f'accuracy {100 * right / 20:.1f} %' in ran.stdout
  assert 'balanced accuracy' in ran.stdout
  best = json.loads((study / 'results.json').read_text())['verdict']['learning_rate']
  assert found['learning_rate'] == best
  for missing in (command[:2], command[:4]):
    ran = subprocess.run(missing, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith('error: no --')
    assert ran.stderr.count('\n') == 1


def test_trials_that_there_are_not(study):
  for rate, seed, message in (
    (1e-4, None, '1e-04 is not in the study, which has 1e-03, 1e-02, 1e[+]05'),
    (1e5, None, 'diverged'),
    (1e-2, 7, '--seed 7 is not in the study, which has 0'),
  ):
    with pytest.raises(StudyError, match=message):
      evaluate.load(study, rate, seed)


def test_studies_that_there_are_not(study, tmp_path):
  with pytest.raises(StudyError, match='is not a folder'):
    evaluate.load(tmp_path / 'nowhere')
  with pytest.raises(StudyError, match='holds no finished study'):
    evaluate.load(tmp_path)
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(StudyError, match='lost its history/ or checkpoints/'):
    evaluate.load(copy)
  (copy / 'checkpoints').mkdir()
  with pytest.raises(StudyError, match='has lost the weights of the end'):
    evaluate.load(copy)


def test_folders_that_do_not_fit(study, letters, tmp_path):
  trained = evaluate.load(study)

  def fails(root, message):
    with pytest.raises(StudyError, match=message):
      evaluate.read_images(root, trained)

  fails(tmp_path / 'nowhere', 'is not a folder')
  (letters / 'O' / 'notes.txt').write_text('no image')
  fails(letters, r'notes\.txt is unreadable \(not an image\)')
  (letters / 'Q').mkdir()
  fails(letters, "has the class 'Q', which the study does not know; it knows O, T, E")
  (tmp_path / 'empty' / 'O').mkdir(parents=True)
  fails(tmp_path / 'empty', 'has no files')


def test_trials_of_a_seed_share_the_augmentation(cache_dir):
  """Their first losses are the same, whatever the rate; other ones from another seed."""
  config = small(cache_dir)
  config.input.contrast, config.input.brightness, config.input.noise = 0.3, 20.0, 10.0
  config, data_set = load_data(config)
  first, *_ = train(config, data_set, (1e-2, 1e-3, 1e-3), (0, 0, 1), 2)
  assert first.loss[0, 0] == first.loss[0, 1] != first.loss[0, 2]
  alone, *_ = train(config, data_set, (1e-3,), (0,), 2)
  np.testing.assert_allclose(alone.loss[:, 0], first.loss[:, 1], rtol=1e-4)
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.input.rotation, plain.input.invert, plain.input.noise = 0.0, False, 0.0
  without, *_ = train(plain, data_set, (1e-3,), (0,), 1)
  assert without.loss[0, 0] != first.loss[0, 1]


def test_the_photographs_of_letters(study):
  """The real ones, where they are: read, and told from nothing by so small a study."""
  root = Path(os.environ.get('LR_STUDY_PHOTOS', '../shared/letter_photos'))
  if not root.is_dir():
    pytest.skip(f'no {root}: the Chars74K photographs are not part of the project')
  trained = evaluate.load(study)
  with pytest.raises(StudyError, match="has the class 'A'"):
    evaluate.read_images(root, trained)
