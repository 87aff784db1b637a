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


AUGMENTATION = (
  ('rotation', 30.0),
  ('shift', 0.3),
  ('zoom', 0.5),
  ('stretch', 0.5),
  ('shear', 0.5),
  ('brightness', 50.0),
  ('contrast', 0.5),
  ('invert', True),
  ('noise', 20.0),
)


@pytest.mark.parametrize(('name', 'amount'), AUGMENTATION)
def test_augmentation_is_random_in_training_and_absent_in_evaluation(images, name, amount):
  """Off by default; on, each image of a batch has a draw of its own, the same from one key."""
  zero, keys = np.zeros(3, np.float32), jax.random.split(jax.random.key(0), 4)
  plain = make()(images, zero, keys[0])
  assert (plain == images).all()
  preprocess = jax.jit(make(**{name: amount}))
  assert (preprocess(images, zero, None) == images).all()
  found = np.stack([preprocess(images, zero, key) for key in keys])
  assert found.shape == (4, *images.shape)
  assert np.isfinite(found).all()
  assert (preprocess(images, zero, keys[2]) == found[2]).all()
  changed = (found != images).any((2, 3, 4))
  assert changed.any(1).all()
  twins = np.repeat(images[:1], 5, 0)
  assert len(np.unique(np.asarray(preprocess(twins, zero, keys[0])), axis=0)) > 1


def test_moves_are_where_they_should_be():
  """A bright spot turns about the centre, moves by shares of the side, and grows with zoom."""
  spot = np.zeros((64, 40, 40, 3), np.uint8)
  spot[:, 18:22, 28:32] = 255  # right of the centre by a quarter of the side
  zero, key = np.zeros(3, np.float32), jax.random.key(1)

  def places(**changes):
    found = np.asarray(make(**changes)(spot, zero, key))[..., 0]
    weights = found / found.sum((1, 2), keepdims=True)
    steps = (np.arange(40) + 0.5) / 40 - 0.5
    return weights.sum(2) @ steps, weights.sum(1) @ steps

  down, right = places(rotation=30.0)
  np.testing.assert_allclose(np.hypot(down, right), 0.25, atol=0.01)
  angles = np.degrees(np.arctan2(down, right))
  assert 24 < np.abs(angles).max() < 31
  down, right = places(shift=0.1)
  assert 0.08 < np.abs(down).max() < 0.105
  assert 0.08 < np.abs(right - 0.25).max() < 0.105
  down, right = places(zoom=0.25)
  np.testing.assert_allclose(down, 0, atol=0.01)
  assert 0.19 < right.min() < 0.22
  assert 0.28 < right.max() < 0.32


def test_inverts_about_half_about_the_mean(images):
  found = np.asarray(make(invert=True)(np.repeat(images, 40, 0), np.zeros(3), jax.random.key(0)))
  same = (np.abs(found - np.repeat(images, 40, 0)) < 1e-3).all((1, 2, 3))
  assert 65 < same.sum() < 135  # of 200
  mean = images[0].mean()
  turned = found[:40][~same[:40]][0]
  np.testing.assert_allclose(turned, 2 * mean - images[0], atol=1e-2)


def test_grey_standardised_inputs_of_another_size(images):
  large = np.repeat(np.repeat(images, 2, 1), 2, 2)
  preprocess = make(grey=True, size=8, standardise=True, subtract='none')
  found = np.asarray(preprocess(large, np.zeros(3, np.float32), None))
  assert found.shape == (5, 8, 8, 1)
  np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(found.std((1, 2, 3)), 1, atol=1e-4)
  darker = preprocess(large // 2, np.zeros(3, np.float32), None)
  np.testing.assert_allclose(darker, found, atol=0.05)
  flat = preprocess(np.full_like(large, 7), np.zeros(3, np.float32), None)
  assert np.abs(np.asarray(flat)).max() < 1e-3
