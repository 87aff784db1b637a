"""Small studies against a large one: a small training, and arithmetic on made-up accuracies."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import calibration as calibration_config
from lr_study import data
from lr_study.answer import calibration, status, statuses, verdict
from lr_study.answer.measure import ACCURACY
from lr_study.errors import StudyError


@pytest.fixture
def config(cache_dir):
  """On 80 letters, 40 of them to validate, for one epoch."""
  config = calibration_config.get_config()
  config.learning_rates = (1e30, 1e-2, 1e-3)  # the first diverges
  config.epochs = 1
  config.eval_batch_size = 20
  config.data.per_class = 8
  config.data.train_fraction = 0.5
  config.data.cache_dir = cache_dir
  config.model = ConfigDict({'name': 'mlp', 'hidden': (32,)})  # compiles faster
  return config


def test_every_study_has_seeds_and_images_of_its_own(config):
  told = []
  found = calibration.calibrate(config, 3, studies=2, seeds=3, longer_seeds=2, tell=told.append)
  assert told == ['8 of 9 seeds', '9 of 9 seeds', '2 of 2 seeds that train for longer']
  truth, own = (np.asarray(found[f'accuracy_of_{name}'], float) for name in ('truth', 'studies'))
  assert truth.shape == (3, 3)
  assert own.shape == (2, 3, 3)
  assert np.isnan(own[:, 0]).all()
  np.testing.assert_array_equal(truth[0], 0.1)  # diverged: a guess among ten
  # Shares of 20 images, and of all 40; not the same in each study.
  np.testing.assert_allclose(own[:, 1:] * 20, np.round(own[:, 1:] * 20), atol=1e-9)
  np.testing.assert_allclose(truth[1:] * 40, np.round(truth[1:] * 40), atol=1e-9)
  assert (own[0, 1:] != own[1, 1:]).any()
  assert [v['intervals']['1e+30'] for v in found['verdicts']] == [None, None]
  assert json.loads(json.dumps(found, allow_nan=False))['studies'] == 2
  of_statuses = found['statuses']
  assert of_statuses['at_chance']['called'] + of_statuses['learned']['called'] == 6
  assert of_statuses['trained_on'] == 2 * 2 * 3  # rates that did not diverge, seeds, lengths
  assert '| 1e+30 | 10.0 % | 0.0 % | 0 | 0 | – of 0 |' in calibration.table(found)


def test_fresh_images_judge_what_few_images_call():
  """Three runs of 100 images: each trial gets its status from one and is checked by the others."""
  labels = np.arange(300) % 10
  of_trials = np.full((3, 1, 6), 0.1)
  of_trials[:, 0, 1] = 0.9, 0.9, 0.9
  of_trials[:, 0, 2] = 0.9, 0.9, 0.1  # the third trial is called by the third run
  of_trials[:, 0, 3] = 0.3, 0.1, 0.1
  of_trials[2, 0, 4] = np.nan
  found = statuses.by_fresh_images(of_trials, labels, 100)
  chance, learned = found['at_chance'], found['learned']
  assert (chance['called'], chance['were'], chance['images']) == (3, 2, 200)
  assert chance['accuracy'] == pytest.approx((0.1 + 0.1 + 0.9) / 3)
  assert (learned['called'], learned['were']) == (2, 1)
  # Clopper and Pearson's for one of two.
  assert learned['interval'] == pytest.approx([0.0126, 0.9874], abs=1e-4)


def test_trials_that_go_on_show_what_they_were():
  draw = np.random.default_rng(0)
  chance = status.chance_of(np.arange(200) % 10, ACCURACY)

  def went(end, later, accuracy=0.5):
    """100 steps an epoch for three, from 2 to `end` in the last 100, then 100 steps of `later`."""
    curve = np.concatenate([np.full(200, 2.0), np.linspace(2, end, 100), np.full(100, later)])
    return statuses.went_on(curve + draw.normal(0, 0.05, 400), 3, 100, accuracy, chance)

  assert went(2, 2).status == went(2, 1).status == 'plateaued'
  assert went(1, 1).status == 'still_improving'
  assert went(1, 1, accuracy=0.12).status == 'at_chance'
  assert went(1, 0.5).fell
  assert went(1, 0.5).change == pytest.approx(-2 / 3, abs=0.02)
  assert not went(1, 1.6).fell
  assert not went(2, 2).fell
  assert went(2, np.nan) == ('plateaued', np.inf, False)


def test_too_few_images_are_one_line(config):
  with pytest.raises(StudyError, match='3 studies of 20 validation images need 60; there are 40'):
    calibration.calibrate(config, 2, 3, 2, 1, print)


def test_any_run_of_images_has_as_many_of_each_class():
  labels = np.repeat(np.arange(3), 4)
  part = data.Part(labels.astype(np.uint8), labels)
  mixed = calibration._interleaved(data.Dataset('', (), part, part, labels, 0, '', (), {}))
  assert mixed.validation.labels.tolist() == [0, 1, 2] * 4
  np.testing.assert_array_equal(mixed.validation.images, mixed.validation.labels)


def answer(best, alike):
  probability = {'1e-02': 0.7, '1e-03': 0.3}
  intervals = {'1e-02': (0.75, 0.85), '1e-03': (0.4, 0.6)}
  return verdict.Verdict(
    best, 16, 'constant', '', 'validation_accuracy', alike, probability, intervals, 1e-2, True
  )


def test_how_often_the_answers_were_right(config):
  config.learning_rates = (1e-2, 1e-3)
  config.seeds = tuple(range(8 + 6))
  draw = np.random.default_rng(0)
  of_truth = np.asarray([0.8, 0.7])[:, None] + draw.normal(0, 0.01, (3, 2, 8))
  answers = [answer(1e-2, (1e-2,)), answer(1e-3, (1e-3, 1e-2)), answer(1e-3, (1e-3,))]
  found = calibration._summary(config, of_truth, answers, 100)
  assert found['best'] == 1e-2
  assert found['margin'] == pytest.approx(0.1, abs=0.02)
  assert found['set_holds_best'] == pytest.approx(2 / 3)
  assert found['named_is_best'] == pytest.approx(1 / 3)
  assert found['mean_size'] == pytest.approx(4 / 3)
  assert found['mean_stated'] == pytest.approx((0.7 + 0.3 + 0.3) / 3)
  assert [row['interval_holds'] for row in found['rates']] == [1.0, 0.0]
  assert [row['in_set'] for row in found['rates']] == [2, 2]


def test_the_share_of_the_images():
  """Groups of images that shift the difference by 1 % add just that variance, whatever the seeds.

  With 400 groups the variance of their means has a relative standard error of 7 %: twice that.
  """
  draw = np.random.default_rng(0)
  groups, seeds, images = 400, 16, 100
  first = 0.6 + draw.normal(0, 0.01, (groups, 1)) + draw.normal(0, 0.02, (groups, seeds))
  second = 0.5 + draw.normal(0, 0.03, (1, seeds)) + np.zeros((groups, 1))
  expected = 0.01**2 / ((0.6 * 0.4 + 0.5 * 0.5) / images)
  share = calibration._share_of_images(first, second, images)
  assert share == pytest.approx(expected, rel=0.14)
