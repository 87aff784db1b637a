"""Preprocessing of stored arrays into the network's inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lr_study import inputs
from lr_study.errors import StudyError
from lr_study.trial import Batch


@pytest.fixture
def images():
  return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def make(classes=3, **options):
  """A function (images, mean, key) -> inputs."""
  function = inputs.build({'name': 'images', **options}, classes)
  return lambda images, mean, key: function(labelled(images, mean), key)[0]


def labelled(images, mean=0.0):
  return Batch(jnp.asarray(images), jnp.arange(len(images)) % 3, jnp.float32(mean))


def test_subtracts_the_mean_and_scales(images):
  mean = images.mean(0).astype(np.float32)
  found = make(scale=0.5)(images, mean, None)
  np.testing.assert_allclose(found, (images - mean) / 2, atol=1e-4)


def test_evaluation_crops_the_centre_and_its_mean(images):
  mean = images.mean(0).astype(np.float32)
  found = make(crop=4, mirror=True)(images, mean, None)
  np.testing.assert_allclose(found, (images - mean)[:, 2:6, 2:6], atol=1e-4)
  config = {'name': 'images', 'crop': 4, 'mirror': True}
  assert (inputs.evaluation(config, 3)(mean, images) == found).all()


def test_what_is_subtracted(images):
  mean = images.mean(0).astype(np.float32)
  assert (inputs.subtracted({'subtract': 'image'}, mean) == mean).all()
  assert (inputs.subtracted({'subtract': 'none'}, mean) == np.zeros(3)).all()
  np.testing.assert_allclose(
    inputs.subtracted({'subtract': 'pixel'}, mean), images.mean((0, 1, 2)), rtol=1e-5
  )
  assert (inputs.subtracted({}, mean[0, 0]) == mean[0, 0]).all()
  with pytest.raises(StudyError, match=r'^input\.subtract .* are \(3,\)$'):
    inputs.subtracted({'subtract': 'pixel'}, mean[0, 0])


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
  """Off by default; if on, each image of a batch has its own draw, determined by the key."""
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

  def places(**options):
    found = np.asarray(make(**options)(spot, zero, key))[..., 0]
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
  options = {'grey': True, 'size': 8, 'standardise': True, 'subtract': 'none'}
  preprocess = make(**options)
  found = np.asarray(preprocess(large, np.zeros(3, np.float32), None))
  assert found.shape == (5, 8, 8, 1)
  assert inputs.shape({'name': 'images', **options}, (16, 16, 3)) == (8, 8, 1)
  np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(found.std((1, 2, 3)), 1, atol=1e-4)
  darker = preprocess(large // 2, np.zeros(3, np.float32), None)
  np.testing.assert_allclose(darker, found, atol=0.05)
  flat = preprocess(np.full_like(large, 7), np.zeros(3, np.float32), None)
  assert np.abs(np.asarray(flat)).max() < 1e-3
  fractions = preprocess(np.float32(large) / 255, np.zeros(3, np.float32), None)
  np.testing.assert_allclose(fractions, found, atol=1e-4)


@pytest.mark.parametrize('stored', [(6,), (6, 5), (7, 9, 2), (4, 4, 4, 1)])
def test_takes_arrays_of_any_shape(stored):
  """Float tables, or images with other sides and channels, in training and in evaluation."""
  x = np.random.default_rng(0).normal(size=(5, *stored)).astype(np.float32)
  options = {'scale': 2.0, 'standardise': True, 'noise': 0.1}
  if len(stored) == 1:
    options['mixup'] = 0.3
  assert inputs.shape({'name': 'images'}, stored) == stored
  plain = make(scale=2.0)(x, x.mean(0), None)
  np.testing.assert_allclose(plain, 2 * (x - x.mean(0)), atol=1e-5)
  function = jax.jit(inputs.build({'name': 'images', **options}, 3, stored, 'float32'))
  found, targets = function(labelled(x, x.mean(0)), jax.random.key(0))
  assert found.shape == x.shape
  assert found.dtype == np.float32
  assert targets.shape == ((5, 3) if 'mixup' in options else (5,))
  assert np.isfinite(found).all()


@pytest.mark.parametrize(
  ('option', 'value', 'stored', 'words'),
  [
    ('mirror', True, (6,), r'input.mirror needs images, \(height, width, channels\); those of'),
    ('crop', 4, (8, 8), r'those of this study are \(8, 8\)'),
    ('subtract', 'pixel', (6,), 'input.subtract needs images, '),
    ('brightness', 1.0, (6,), 'input.brightness needs images, '),
    ('grey', True, (8, 8, 1), r'input.grey needs images of 3 channels; .* \(8, 8, 1\)'),
    ('bgr', True, (8, 8, 4), 'input.bgr needs images of 3 channels'),
    ('rotation', 5.0, (8, 6, 3), r'input.rotation needs square images; .* \(8, 6, 3\)'),
    ('cutmix', 1.0, (8, 6, 3), 'input.cutmix needs square images'),
    ('crop', 9, (8, 8, 3), 'input.crop is 9, more than image_size 8'),
  ],
)
def test_an_option_that_does_not_work_on_the_arrays_is_one_line(option, value, stored, words):
  with pytest.raises(StudyError, match=words) as error:
    inputs.build({'name': 'images', option: value}, 3, stored)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'crop': 8, 'size': 7}, 'input.crop is 8, more than input.size 7'),
    (
      {'grey': True, 'bgr': True},
      'input.bgr is True, but input.grey leaves one channel; set one to False',
    ),
    ({'shift': 1.0}, 'input.shift is 1.0; it must be a number from 0 to below 1'),
    ({'rotation': 181.0}, 'input.rotation is 181.0; it must be degrees from 0 to 180'),
    ({'mixup': -0.1}, 'input.mixup is -0.1; it must be a number from 0 up'),
    ({'subtract': 'median'}, 'it must be one of image, pixel, none'),
    ({'mirrored': True}, 'did you mean input.mirror?'),
  ],
)
def test_wrong_options_are_one_line(options, words):
  with pytest.raises(StudyError) as error:
    inputs.build({'name': 'images', **options}, 3)
  assert words in str(error.value)


@pytest.mark.parametrize(
  'options', [{'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 1.0, 'cutmix': 1.0}]
)
def test_mixed_images_have_targets_in_the_same_shares(options):
  """Image i is i everywhere and of class i, so that what is left of it can be counted."""
  count = 60
  images = np.zeros((count, 20, 20, 1), np.float32)
  images += np.arange(count)[:, None, None, None]
  batch = Batch(jnp.asarray(images), jnp.arange(count), jnp.zeros(1))
  function = jax.jit(inputs.build({'name': 'images', **options}, count))
  x, targets = function(batch, jax.random.key(0))
  x, targets = np.asarray(x), np.asarray(targets)
  assert targets.shape == (count, count)
  np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(x.mean((1, 2, 3)), targets @ np.arange(count), rtol=1e-4, atol=1e-4)
  assert (x != images).any((1, 2, 3)).mean() > 0.5
  assert ((targets > 0).sum(1) <= 2).all()
  whole = np.isclose(x, np.round(x), atol=1e-5).all((1, 2, 3))  # pixels of two images, not mixed
  assert whole.all() == ('mixup' not in options)
  assert (whole & (np.ptp(x, (1, 2, 3)) > 0)).any() == ('cutmix' in options)
  again, others = (function(batch, jax.random.key(key))[1] for key in (0, 1))
  assert (again == targets).all()
  assert (others != targets).any()
  found, labels = function(batch, None)
  assert (found == images).all()
  assert (labels == np.arange(count)).all()


def test_a_box_of_cutmix_is_one_rectangle():
  images = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((16, 16, 1), np.float32)
  function = jax.jit(inputs.build({'name': 'images', 'cutmix': 1.0}, 3))
  for key in jax.random.split(jax.random.key(0), 5):
    changed = np.asarray(function(labelled(images), key)[0] != images)[..., 0]
    for inside in changed:
      box = inside.any(1)[:, None] & inside.any(0)
      assert (box == inside).all()
      for line in (inside.any(0), inside.any(1)):
        assert np.abs(np.diff(line.astype(int))).sum() <= 2


def test_one_image_cannot_be_mixed(images):
  with pytest.raises(StudyError, match='mixup mixes the images of a batch, but batch_size is 1'):
    make(mixup=0.2)(images[:1], 0.0, jax.random.key(0))
  make(mixup=0.2)(images[:1], 0.0, None)


OWN = """
import jax, jax.numpy as jnp

def noisy(batch, key, amount=1.0):
  x = batch.images - batch.mean
  return (x if key is None else x + amount * jax.random.normal(key, x.shape)), batch.labels

def factory(classes, half=False):
  def inputs(batch, key):
    shares = jax.nn.one_hot(batch.labels, classes)
    return batch.images * (0.5 if half else 1.0), batch.labels if key is None else shares
  return inputs

def only_inputs(batch, key):
  return batch.images

def breaks(batch, key):
  return batch.pictures, batch.labels
"""


def test_functions_of_the_users_own(tmp_path, images):
  file = tmp_path / 'own.py'
  file.write_text(OWN)

  def own(name, **options):
    return inputs.build({'name': f'{file}:{name}', **options}, 3, (8, 8, 3))

  batch, key = labelled(images, images.mean(0)), jax.random.key(0)
  near, far = (own('noisy', amount=amount)(batch, key)[0] for amount in (0.1, 10.0))
  plain = own('noisy')(batch, None)[0]
  assert 50 < np.abs(far - plain).mean() / np.abs(near - plain).mean() < 200
  assert (own('factory', half=True)(batch, None)[0] == images / 2).all()
  assert own('factory')(batch, key)[1].shape == (5, 3)
  assert inputs.shape({'name': f'{file}:factory'}, (8, 8, 3)) == (8, 8, 3)
  with pytest.raises(StudyError, match=r'^only_inputs .*own.py:14\) gave uint8 \(3, 8, 8, 3\) for'):
    own('only_inputs')
  with pytest.raises(StudyError, match=r"own.py:18.*no attribute 'pictures'"):
    own('breaks')
