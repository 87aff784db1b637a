"""A trial of a finished study: its weights, its images, and wrong arguments."""

import shutil

import numpy as np
import pytest
from conftest import make_small
from helpers import load as load_data
from helpers import train

from lr_study import data
from lr_study.errors import StudyError
from lr_study.use import evaluate


@pytest.fixture
def copy(small_finished, tmp_path):
  """A copy of the finished study, to be damaged."""
  return shutil.copytree(small_finished, tmp_path / 'copy')


def test_the_weights_are_those_that_the_study_judged(small_finished):
  """On the study's own validation images it has the accuracy that results.json states."""
  validation = evaluate.read_part(small_finished, 'validation')
  for rate in (1e-2, 1e-3):
    trained = evaluate.load(small_finished, rate)
    found = evaluate.score(trained, validation)
    assert found.accuracy == pytest.approx(trained.result.validation_accuracy, abs=1e-9)
    balanced = trained.result.validation_balanced_accuracy
    assert found.balanced_accuracy == pytest.approx(balanced, abs=1e-9)
    assert found.confusion.sum() == len(validation.labels) == 3 * 6


def test_the_test_part_is_what_no_trial_saw(small_finished, cache_dir):
  _, data_set = load_data(make_small(cache_dir))
  found = evaluate.read_part(small_finished, 'test')
  assert np.bincount(found.labels).tolist() == [8, 8, 8]  # a quarter of 32
  seen = {image.tobytes() for part in (data_set.train, data_set.validation) for image in part[0]}
  assert len(seen) == 3 * 24
  assert not seen & {image.tobytes() for image in found.images}


def test_parts_that_there_are_not(small_finished, copy, monkeypatch):
  results = copy / 'results.json'
  results.write_text(results.read_text().replace('"test": 24', '"test": 0'))
  with pytest.raises(StudyError, match='has no test images; run a study with'):
    evaluate.read_part(copy, 'test')
  load = data.Opened.load
  monkeypatch.setattr(
    data.Opened, 'load', lambda *arguments: load(*arguments)._replace(fingerprint='another')
  )
  for part in evaluate.PARTS:
    with pytest.raises(StudyError, match='have changed'):
      evaluate.read_part(small_finished, part)


def test_scores():
  found = evaluate.Score(('a', 'b', 'c'), np.array([[8, 2, 0], [1, 1, 0], [0, 0, 0]]))
  assert found.accuracy == 9 / 12
  assert found.balanced_accuracy == pytest.approx((0.8 + 0.5) / 2)


def test_batches_change_no_logits(small_finished):
  """Eleven images in batches of four, with a padded last batch, and in one batch."""
  trained = evaluate.load(small_finished)
  pixels = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3), np.uint8)
  config = trained.config.copy_and_resolve_references()
  config.eval_batch_size = 4
  by_four = evaluate.predict(trained._replace(config=config), pixels)
  # Sums of some hundred float32 products, in an order that may change with the batch.
  np.testing.assert_allclose(by_four, evaluate.predict(trained, pixels), rtol=1e-5, atol=1e-5)


def test_trials_that_there_are_not(small_finished):
  for rate, seed, message in (
    (1e-4, None, '1e-04 is not in the study, which has 1e-03, 1e-02, 1e[+]05'),
    (1e5, None, 'diverged'),
    (1e-2, 7, '--seed 7 is not in the study, which has 0'),
  ):
    with pytest.raises(StudyError, match=message):
      evaluate.load(small_finished, rate, seed)


def test_studies_that_there_are_not(copy, tmp_path):
  with pytest.raises(StudyError, match='is not a folder'):
    evaluate.load(tmp_path / 'nowhere')
  with pytest.raises(StudyError, match='holds no finished study'):
    evaluate.load(tmp_path)
  mean = (copy / 'mean.npy').read_bytes()
  for content in (mean[:-1], b'', np.zeros(3).tobytes()):
    (copy / 'mean.npy').write_bytes(content)
    with pytest.raises(StudyError, match=r'mean\.npy, the mean image, is lost or damaged'):
      evaluate.load(copy)
  np.save(copy / 'mean.npy', np.zeros((63, 64, 3)))
  with pytest.raises(StudyError, match=r'damaged \(its shape is \(63, 64, 3\)\)'):
    evaluate.load(copy)
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(StudyError, match='lost its history/ or checkpoints/'):
    evaluate.load(copy)
  (copy / 'checkpoints').mkdir()
  with pytest.raises(StudyError, match='has lost its final weights'):
    evaluate.load(copy)


def test_trials_of_a_seed_share_the_augmentation(cache_dir):
  """Their first losses are the same, whatever the rate; other ones from another seed."""
  config = make_small(cache_dir)
  config.input.contrast, config.input.brightness, config.input.noise = 0.3, 20.0, 10.0
  config, data_set = load_data(config)
  first, *_ = train(config, data_set, (1e-2, 1e-3, 1e-3), (0, 0, 1), 2)
  assert first['loss'][0, 0] == first['loss'][0, 1] != first['loss'][0, 2]
  alone, *_ = train(config, data_set, (1e-3,), (0,), 2)
  np.testing.assert_allclose(alone['loss'][:, 0], first['loss'][:, 1], rtol=1e-4)
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.input.rotation, plain.input.invert, plain.input.noise = 0.0, False, 0.0
  without, *_ = train(plain, data_set, (1e-3,), (0,), 1)
  assert without['loss'][0, 0] != first['loss'][0, 1]
