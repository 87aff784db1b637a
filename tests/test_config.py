"""The configs that come with the project, and what a config may not hold."""

import json
from fractions import Fraction

import numpy as np
import pytest

from configs import alexnet_folder, alexnet_letters, alexnet_letters_caffe, letters_to_photos
from lr_study.config import check, flatten
from lr_study.errors import StudyError


def test_the_published_experiment():
  config = check(alexnet_letters.get_config())
  assert config.learning_rates == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
  assert (config.epochs, config.batch_size, config.image_size) == (30, 1, 256)
  assert (config.schedule.name, config.schedule.every_epochs) == ('step_decay', 10)
  assert config.model.preset == 'digits_tensorflow'


@pytest.mark.parametrize(
  'config',
  [
    alexnet_letters.get_config('quick'),
    alexnet_letters_caffe.get_config(),
    alexnet_folder.get_config(),
    alexnet_folder.get_config('full'),
    letters_to_photos.get_config(),
  ],
)
def test_variants_are_whole(config):
  assert flatten(check(config)).keys() == flatten(alexnet_letters.get_config()).keys()


@pytest.mark.parametrize('module', [alexnet_letters, alexnet_folder])
def test_unknown_variants(module):
  with pytest.raises(ValueError, match="no variant 'qick'"):
    module.get_config('qick')


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('learning_rates', (), 'learning_rates is .*one or more numbers above 0'),
    ('learning_rates', (1e-3, 0.0), 'learning_rates is'),
    ('learning_rates', (-1e-3,), 'learning_rates is'),
    ('learning_rates', (float('nan'),), 'learning_rates is'),
    ('learning_rates', (float('inf'),), 'learning_rates is'),
    ('learning_rates', (1e-3, 'x'), 'learning_rates is'),
    ('learning_rates', (1e-50,), 'learning_rates is'),
    ('learning_rates', (10**400,), 'learning_rates is'),
    ('epochs', 10**12, 'epochs is'),
    ('image_size', 10**6, 'image_size is 1000000; it must be a whole number from 1 to 65536'),
    ('trials_per_call', 2**31, 'trials_per_call is'),
    ('epochs', (10**5000,), 'epochs is unprintable; it must be'),
    ('data.dir', ('x' * 10**6,), r"data.dir is \('x{198}\.\.\.; it must be"),
    ('schedule.every_epochs', 1e-3, 'more than 1000 drops'),
    ('learning_rates', (1e-3, 1e-4, 1e-3), r'learning_rates holds 0\.001 twice'),
    ('seeds', (), 'seeds is'),
    ('seeds', (0, 0), 'seeds holds 0 twice'),
    ('seeds', (-1,), 'seeds is'),
    ('seeds', (2**32,), 'seeds is'),
    ('epochs', 0, 'epochs is 0; it must be a whole number from 1 to 100000'),
    ('batch_size', 0, 'batch_size is 0'),
    ('parallel', 'tmap', "parallel is 'tmap'; it must be one of vmap, pmap"),
    ('image_size', 66, 'image_size is 66, too small for digits_tensorflow; .* works is 67'),
    ('input.crop', 60, 'input.crop is 60, too small .* works is 67'),
    ('input.crop', 100, 'input.crop is 100, more than image_size 84'),
    ('input.size', 66, 'input.size is 66, too small .* works is 67'),
    ('input.rotation', 200.0, 'input.rotation is 200.0; it must be degrees from 0 to 180'),
    ('input.shift', 1.0, 'input.shift is'),
    ('input.zoom', -0.1, 'input.zoom is'),
    ('input.noise', float('inf'), 'input.noise is'),
    ('data.split', 'fonts', "data.split is 'fonts'; it must be one of random, unseen"),
    ('input.subtract', 'median', 'input.subtract is'),
    ('model.preset', 'vgg', "model.preset is 'vgg'; .*digits_caffe, torchvision"),
    ('model.width', 0.0, 'model.width is'),
    ('model.dropout', 1.0, 'model.dropout is'),
    ('schedule.name', 'cosine', "schedule.name is 'cosine'; .*step_decay, piecewise"),
    ('schedule.every_epochs', 0.0, 'schedule.every_epochs is'),
    ('schedule.from_epochs', (20, 11), 'schedule.from_epochs is'),
    ('schedule.heights', (0.1,), 'give one height an epoch'),
    ('optimizer.momentum', 1.0, 'optimizer.momentum is'),
    ('optimizer.weight_decay', float('nan'), 'optimizer.weight_decay is'),
    ('data.train_fraction', 1.0, 'data.train_fraction is'),
    ('data.per_class', 1, 'data.per_class is 1'),
    ('data.resize', 'stretch', 'data.resize is'),
    ('data.name', '', 'data.name is'),
    ('data.dir', '~nobody_of_this_name/x', 'data.dir is .*; it must be a path'),
    ('data.validation_dir', 'x' * 256, 'data.validation_dir is .*; it must be a path'),
    ('data.cache_dir', 'x/' * 3000, 'data.cache_dir is .*; it must be a path'),
    ('data.dir', 'a\0b', 'data.dir is .*; it must be a path'),
    ('data.dir', '\ud800', 'data.dir is .*; it must be a path'),
    ('data.classes', ('A', 'A'), "data.classes holds 'A' twice"),
  ],
)
def test_bad_values(field, value, message):
  config = alexnet_letters.get_config('quick')
  with config.ignore_type():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(StudyError, match=message):
    check(config)


def test_missing_and_unknown_fields():
  config = alexnet_letters.get_config()
  del config.schedule.factor
  with pytest.raises(StudyError, match=r'config\.schedule\.factor is missing'):
    check(config)
  config = alexnet_letters.get_config()
  config.learning_rate = 0.1
  with pytest.raises(StudyError, match=r'no such field; did you mean learning_rates\?'):
    check(config)


def test_command_line_classes_are_split_at_commas():
  config = alexnet_letters.get_config()
  config.data.classes = ('A,B,C',)
  assert check(config).data.classes == ('A', 'B', 'C')


def test_numbers_of_any_kind_become_floats():
  config = alexnet_letters.get_config()
  config.learning_rates = (1, 0.1)
  with config.ignore_type():
    config.model.width, config.input.zoom = Fraction(1, 4), np.float32(0.5)
    config.schedule.heights, config.schedule.from_epochs = (1, np.float32(0.25)), (2, 3)
  checked = check(config)
  assert checked.learning_rates == (1.0, 0.1)
  assert (checked.model.width, checked.input.zoom) == (0.25, 0.5)
  assert checked.schedule.heights == (1.0, 0.25)
  json.dumps(checked.to_dict())  # as it is saved
