"""Intervals and sets hold the truth as often as they say, in accuracies drawn from known models."""

import numpy as np
import pytest

from lr_study.answer import confidence

STUDIES, IMAGES = 500, 1000

# Errors of a trial in percent: of its seed, which all rates share, and of its own. Then the rates'
# accuracies; the first is the best. 'equal' is the case that is hardest to tell.
MODELS = {
  'equal': ([0.8, 0.8, 0.8, 0.6], [2.0] * 4),
  'close': ([0.8, 0.79, 0.785, 0.76, 0.5], [2.0] * 5),
  'edge of stability': ([0.8, 0.79, 0.77, 0.7], [2.0, 1.0, 1.0, 4.0]),
}


def studies(mean, own, seeds, shared=2.0, count=STUDIES):
  """Accuracies of studies, (studies, seeds, rates), measured on images that have no error."""
  draw = np.random.default_rng(seeds)
  of_seed = draw.normal(0, shared / 100, (count, seeds, 1))
  return mean + of_seed + draw.normal(size=(count, seeds, len(mean))) * np.asarray(own) / 100


@pytest.mark.parametrize('seeds', [2, 3, 5])
@pytest.mark.parametrize('model', MODELS)
def test_the_set_holds_the_best_rate(model, seeds):
  # Of 500 draws that hold it with 0.9, a share of less than 0.88 is 1.5 standard errors away.
  found = [confidence.compare(study, IMAGES) for study in studies(*MODELS[model], seeds)]
  assert np.mean([alike[0] for _, alike in found]) >= 0.88
  sizes = [alike.sum() for _, alike in found]
  assert np.mean(sizes) < len(MODELS[model][0]) - 0.5  # it does not just name every rate


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_the_probability_is_how_often_it_is_so(seeds):
  """If nothing but a study is known, the best rate has the stated probability on average."""
  draw = np.random.default_rng(seeds)
  truths = draw.normal(0.7, 0.04, (STUDIES, 4))
  stated, right = [], []
  for truth, noise in zip(truths, studies(np.zeros(4), [2.0] * 4, seeds), strict=True):
    probability, _ = confidence.compare(truth + noise, IMAGES)
    best = probability.argmax()
    stated.append(probability[best])
    right.append(best == truth.argmax())
  # Two standard errors are 0.04; a further 0.03 since the model has errors of images, too.
  assert np.mean(stated) == pytest.approx(np.mean(right), abs=0.07)


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_the_interval_holds_the_mean(seeds):
  """With counting noise too: 300 images, drawn for each study."""
  draw, truth = np.random.default_rng(0), 0.75
  trials = studies([truth], [3.0], seeds)[..., 0]
  of_images = draw.binomial(300, truth, STUDIES)[:, None] / 300 - truth
  ends = np.asarray([confidence.interval(study, 300) for study in trials + of_images])
  held = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
  assert held >= 0.88  # as above
  assert held <= 0.97  # and not by saying everything


def test_one_seed_has_the_interval_of_counting():
  low, high = confidence.interval([0.5], 96)
  assert (low, high) == (pytest.approx(0.5 - 1.645 * 0.05, abs=1e-4), pytest.approx(1 - low))
  assert confidence.interval([1.0], 100)[1] == 1.0
  assert confidence.interval([0.0], 100)[0] == 0.0


def test_images_tell_apart_what_seeds_would_not():
  """Two seeds that agree to the bit: only the number of images limits what can be told."""
  same = np.full((2, 2), [0.80, 0.79])
  assert confidence.compare(same, 100)[1].tolist() == [True, True]
  assert confidence.compare(same, 100_000)[1].tolist() == [True, False]


def test_a_rate_alone_is_the_best():
  probability, alike = confidence.compare(np.asarray([[0.8], [0.7]]), 100)
  assert (probability.tolist(), alike.tolist()) == ([1.0], [True])


def test_what_is_no_share_of_images_has_the_noise_of_seeds_alone():
  losses = np.asarray([[3.1, 2.0], [3.3, 2.1], [3.2, 2.3]])
  low, high = confidence.interval(losses[:, 0], np.inf)
  assert low == pytest.approx(3.2 - 2.92 * 0.1 / np.sqrt(3), abs=1e-4)
  assert high == pytest.approx(6.4 - low)
  probability, alike = confidence.compare(-losses, np.inf)
  assert (probability.argmax(), alike.tolist()) == (1, [False, True])
  probability, alike = confidence.compare(-losses[:1], np.inf)
  assert (probability.tolist(), alike.tolist()) == ([0, 1], [False, True])


def test_the_set_of_losses_holds_the_best_rate():
  noisy = 10 * studies(*MODELS['close'], seeds=3)
  found = [confidence.compare(study, np.inf)[1] for study in noisy]
  assert np.mean([alike[0] for alike in found]) >= 0.88  # as above
