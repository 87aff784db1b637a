"""Data sets by name and by list."""

import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from configs import alexnet_letters
from lr_study import data
from lr_study.errors import StudyError


@pytest.fixture
def config(tmp_path):
  config = alexnet_letters.get_config().data
  config.cache_dir = str(tmp_path / 'cache')
  return config


@pytest.fixture
def lists(config, tmp_path):
  """Images of grey level 10 x class + i; class 2 is in another folder, with absolute paths."""
  config.name, config.dir = 'image_list', str(tmp_path / 'lists')
  root = tmp_path / 'lists'
  (root / 'some photos').mkdir(parents=True)
  (tmp_path / 'apart').mkdir()
  lines = []
  for label in range(3):
    for i in range(5):
      parent = root / 'some photos' if label < 2 else tmp_path / 'apart'
      Image.new('RGB', (9, 9), (10 * label + i,) * 3).save(parent / f'{label} {i}.png')
      lines.append(f'{parent if label == 2 else "some photos"}/{label} {i}.png {label}')
  (root / 'train.txt').write_text('\n'.join(lines) + '\n\n')
  (root / 'labels.txt').write_text('ant\nbee\ncat\n')
  return root


def test_lists(config, lists):
  found = data.load(config, 8)
  assert found.classes == ('ant', 'bee', 'cat')
  for part, count in ((found.train, 4), (found.validation, 1)):
    assert np.bincount(part.labels).tolist() == [count] * 3
    assert (part.images[:, 0, 0, 0] // 10 == part.labels).all()
  lines = (lists / 'train.txt').read_text().splitlines()
  (lists / 'train.txt').write_text('\n'.join(lines[0:3] + lines[5:8] + lines[10:13]))
  (lists / 'val.txt').write_text('\n'.join(lines[3::5]))
  (lists / 'test.txt').write_text('\r\n'.join(lines[4::5]))
  found = data.load(config, 8)
  assert sorted(found.train.images[:, 0, 0, 0] % 10) == [0] * 3 + [1] * 3 + [2] * 3
  assert (found.validation.images[:, 0, 0, 0] % 10 == 3).all()
  assert (data.opened(config, 8).test().images[:, 0, 0, 0] % 10 == 4).all()
  config.classes = ('cat', 'ant')
  found = data.load(config, 8)
  assert found.validation.images[:, 0, 0, 0].tolist() == [23, 3]


def test_bad_lists(config, lists):
  def fails(match):
    with pytest.raises(StudyError, match=match):
      data.load(config, 8)

  with (lists / 'train.txt').open('a') as stream:
    stream.write('some photos/0 0.png\n')
  fails(r"train\.txt, line 17: 'some photos/0 0\.png' is not a path and the number")
  (lists / 'train.txt').write_text('nowhere.png 0\nsome photos/0 0.png 1')
  fails(r'1 unreadable .*nowhere\.png \(No such file')
  (lists / 'train.txt').write_text('a.png 3')
  fails('names 3 classes')
  (lists / 'train.txt').write_text('')
  fails('lists no images')
  (lists / 'train.txt').unlink()
  fails(r'holds no train\.txt')


def prepared(tmp_path, name, version, classes, pixels, splits):
  """A TFDS set in the form in which TFDS prepares it, made without TensorFlow."""
  config = tfds.core.BuilderConfig(name=name.partition('/')[2]) if '/' in name else None

  def info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(28, 28, 1)),
          'label': tfds.features.ClassLabel(num_classes=classes),
        }
      ),
      disable_shuffling=True,
    )

  def generate(count):
    for i in range(count):
      yield i, {'image': Image.fromarray(pixels(i)), 'label': 1 + i % 3}

  members = {
    '__module__': __name__,
    'VERSION': tfds.core.Version(version),
    'BUILDER_CONFIGS': [config] if config else [],
    'name': name.partition('/')[0],
    '_info': info,
    '_split_generators': lambda self, _: {s: generate(n) for s, n in splits.items()},
    '_generate_examples': None,
  }
  with registered.skip_registration():
    kind = type('Made', (tfds.core.GeneratorBasedBuilder,), members)
  builder = kind(data_dir=str(tmp_path), config=config)
  builder.download_and_prepare(file_format='array_record')


def corner(i):
  pixels = np.zeros((28, 28), np.uint8)
  pixels[:14, 14:] = 100 + i  # above, on the right
  return pixels


def test_a_set_of_tfds(config):
  prepared(config.cache_dir, 'mnist', '3.0.1', 10, corner, {'train': 24, 'test': 6})
  config.name = 'mnist'
  found = data.load(config, 28)
  assert found.classes == ('1', '2', '3')  # those that it has images of
  assert np.bincount(found.train.labels).tolist() == [6] * 3
  assert found.test == 6
  for part in (found.train, found.validation, data.opened(config, 28).test()):
    for image, label in zip(*part, strict=True):
      assert image.shape == (28, 28, 3)
      assert (image[0, -1] == image[0, -1, 0]).all()
      assert (image[0, -1, 0] - 100) % 3 == label
  config.classes = ('3', '1')
  assert data.load(config, 28).classes == ('3', '1')
  config.classes = ('3', '11')
  with pytest.raises(StudyError, match="no class '11'"):
    data.load(config, 28)


def test_a_set_of_tfds_in_its_own_shapes(config, monkeypatch):
  """TFDS's mock: random images in the form of cifar10, 60 in each split."""
  prepared(config.cache_dir, 'cifar10', '3.0.2', 10, corner, {'train': 3, 'test': 3})
  encode = tfds.features.Image.encode_example  # of an array it needs TensorFlow
  monkeypatch.setattr(
    tfds.features.Image, 'encode_example', lambda self, x: encode(self, Image.fromarray(x))
  )
  config.name = 'cifar10'
  with tfds.testing.mock_data(num_examples=60, data_dir=config.cache_dir):
    found = data.load(config, 32)
    test = data.opened(config, 32).test()
  assert len(found.train.labels) + len(found.validation.labels) == len(test.labels) == 60
  assert set(found.train.labels) == set(range(len(found.classes)))
  assert found.train.images.shape[1:] == (32, 32, 3)
  assert (found.train.images[..., 0] != found.train.images[..., 2]).any()  # in colour


def test_letters_of_emnist_are_upright(config):
  prepared(config.cache_dir, 'emnist/letters', '3.1.0', 37, corner, {'train': 12})
  config.name, config.classes = 'emnist/letters', ('A', 'C')
  found = data.load(config, 28)
  assert found.classes == ('A', 'C')
  assert (found.train.images[:, -1, 0, 0] >= 100).all()  # below, on the left


@pytest.mark.parametrize('name', ['mnist', 'cifar10', 'emnist/letters', 'imagenet2012'])
def test_what_is_not_prepared_is_said_at_once(config, name):
  config.name = name
  started = time.monotonic()
  with pytest.raises(
    StudyError, match=rf"tfds\.builder\('{name}', data_dir=.*\)\.download_and_prepare"
  ):
    data.load(config, 28)
  assert time.monotonic() - started < 5


@pytest.mark.parametrize('name', ['mnits', 'emnist/nope', '../x', 'mnist:9.9.9'])
def test_sets_that_do_not_exist(config, name):
  config.name = name
  with pytest.raises(StudyError, match='It must be tombstone_letters, image_folder'):
    data.load(config, 28)


def test_a_name_that_is_nearly_one(config):
  config.name = 'image_foldr'
  with pytest.raises(StudyError, match=r'did you mean image_folder\?$'):
    data.load(config, 28)


@pytest.mark.parametrize(
  ('name', 'field', 'value', 'message'),
  [
    (
      'tombstone_letters',
      'dir',
      'photos',
      r'config\.data\.dir: no such field of tombstone_letters',
    ),
    ('tombstone_letters', 'resize', 'crop', 'no such field'),  # they are rendered at their size
    ('image_list', 'validation_dir', 'photos', 'no such field of image_list'),
    ('mnist', 'skip_unreadable', True, 'no such field of mnist'),
    ('image_folder', 'clases', ('A',), r'did you mean data\.classes\?'),
    ('image_folder', 'resize', 'cut', 'must be one of squash, crop, fill, half_crop'),
    ('image_folder', 'dir', 'a\0b', 'must be a path that this system can have'),
    ('image_folder', 'dir', 3, 'data.dir is 3; it must be a path'),
    ('tombstone_letters', 'per_class', 1, r'data.per_class is 1; it must be 0 \(all\) or a whole'),
    ('mnist', 'train_fraction', 1.0, 'must be a number between 0 and 1'),
    ('mnist', 'split', 'odd', 'must be one of random, unseen'),
    ('image_list', 'seed', -1, 'must be a whole number from 0'),
  ],
)
def test_each_source_has_fields_of_its_own(config, name, field, value, message):
  """Unknown fields and values that do not fit are errors."""
  config.name = name
  config[field] = value
  with pytest.raises(StudyError, match=message):
    data.load(config, 64)


def test_a_set_without_images(config):
  config.name = 'ag_news_subset'
  with pytest.raises(StudyError, match='not an image classification set'):
    data.load(config, 28)
