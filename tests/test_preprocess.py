"""From stored pixels to the network's input."""

import jax
import numpy as np
import pytest

from configs import alexnet_letters
from lr_study.preprocess import make_preprocess


@pytest.fixture
def images():
  return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def make(**changes):
  config = alexnet_letters.get_config().input
  config.update(changes)
  return make_preprocess(config)


def test_subtracts_the_mean_and_scales(images):
  mean = images.mean(0).astype(np.float32)
  found = make(scale=0.5)(images, mean, None)
  np.testing.assert_allclose(found, (images - mean) / 2, atol=1e-4)


def test_evaluation_crops_the_centre_and_its_mean(images):
  mean = images.mean(0).astype(np.float32)
  found = make(crop=4, mirror=True)(images, mean, None)
  np.testing.assert_allclose(found, (images - mean)[:, 2:6, 2:6], atol=1e-4)


def test_bgr(images):
  found = make(bgr=True)(images, np.zeros(3, np.float32), None)
  assert (found == images[..., ::-1]).all()


def test_training_crops_everywhere(images):
  """Each crop is a window of the image, and over many keys all nine places come up."""
  preprocess = jax.jit(make(crop=6))
  zero, seen = np.zeros(3, np.float32), set()
  for key in jax.random.split(jax.random.key(0), 40):
    for image, crop in zip(images, np.asarray(preprocess(images, zero, key)), strict=True):
      places = [
        (y, x) for y in range(3) for x in range(3) if (crop == image[y : y + 6, x : x + 6]).all()
      ]
      assert len(places) == 1
      seen.add(places[0])
  assert len(seen) == 9


def test_training_mirrors_about_half(images):
  preprocess = jax.jit(make(mirror=True))
  mirrored = 0
  for key in jax.random.split(jax.random.key(0), 40):
    for image, found in zip(images, preprocess(images, np.zeros(3, np.float32), key), strict=True):
      straight, flipped = (found == image).all(), (found == image[:, ::-1]).all()
      assert straight != flipped
      mirrored += int(flipped)
  assert 70 < mirrored < 130  # of 200: three standard deviations are 21
