"""The configs that come with the project, and what a config may not hold."""

import json
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import (
  alexnet_folder,
  alexnet_letters,
  alexnet_letters_caffe,
  calibration,
  letters_to_photos,
)
from lr_study import library, study
from lr_study.config import check, complete, flatten, from_json
from lr_study.errors import StudyError


def test_the_published_experiment():
  config = check(alexnet_letters.get_config())
  assert config.learning_rates == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
  assert (config.epochs, config.batch_size, config.image_size) == (30, 1, 256)
  assert (config.schedule.name, config.schedule.every_epochs) == ('step_decay', 10)
  assert (config.model.name, config.optimizer.name) == ('digits_tensorflow', 'sgd')


def test_caffe_has_the_solver_of_digits():
  optimizer = check(alexnet_letters_caffe.get_config()).optimizer
  assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ('caffe_sgd', 0.9, 0.01)
  assert optimizer.rate_in_velocity
  assert optimizer.decay_per_rate


CONFIGS = [
  alexnet_letters.get_config(),
  alexnet_letters.get_config('quick'),
  alexnet_letters_caffe.get_config(),
  alexnet_folder.get_config(),
  alexnet_folder.get_config('full'),
  letters_to_photos.get_config(),
  calibration.get_config(),
]


@pytest.mark.parametrize('config', CONFIGS)
def test_a_checked_config_stays_as_it_is(config):
  checked = check(config)
  assert check(checked) == checked
  assert from_json(json.loads(json.dumps(checked.to_dict()))) == checked
  with pytest.raises(AttributeError):
    checked.learning_rate = 0.1  # locked


def test_the_letters_show_every_field_of_no_section():
  shown = alexnet_letters.get_config()
  checked = check(shown)
  assert list(shown) == list(checked)
  assert flatten(shown).items() <= flatten(checked).items()


def test_a_config_of_a_line_has_the_defaults_of_python():
  """Not those of the published experiment, whose config names them all."""
  checked = check(ConfigDict({'learning_rates': (0.1,)}))
  assert (checked.batch_size, checked.epochs, checked.seeds) == (32, 10, (0, 1, 2))
  assert (checked.optimizer.name, checked.schedule.name) == ('adamw', 'constant')
  with mock.patch.object(library, '_run', lambda config, *_: config):
    in_python = library.sweep('digits_tensorflow', 'tombstone_letters', [0.1])
  assert in_python == checked


def test_what_a_section_does_not_set_is_the_default_of_what_it_names():
  config = ConfigDict({'learning_rates': (0.1,), 'schedule': 'constant'})
  config.optimizer = {'name': 'adamw', 'b1': 0.8}
  config.data = {'name': 'image_folder', 'dir': 'photos'}
  checked = check(config)
  assert (checked.optimizer.b1, checked.optimizer.b2) == (0.8, 0.999)
  assert 'momentum' not in checked.optimizer
  assert (checked.data.dir, checked.data.resize, checked.data.per_class) == (
    str(Path('photos').absolute()),
    'squash',
    0,
  )
  assert checked.schedule.name == 'constant'
  assert 'every_epochs' not in checked.schedule


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
    ('epochs', (10**5000,), 'epochs is unprintable; it must be'),
    ('data.cache_dir', ('x' * 10**6,), r"data.cache_dir is \('x{198}\.\.\.; it must be"),
    ('learning_rates', (1e-3, 1e-4, 1e-3), r'learning_rates holds 0\.001 twice'),
    ('learning_rates', (0.3, 0.1 + 0.2), r'holds 0\.3 and 0\.30000000000000004, .* written 3e-01'),
    ('seeds', (), 'seeds is'),
    ('seeds', (0, 0), 'seeds holds 0 twice'),
    ('seeds', (-1,), 'seeds is'),
    ('seeds', (2**32,), 'seeds is'),
    ('epochs', 0, 'epochs is 0; it must be a whole number from 1 to 100000'),
    ('batch_size', 0, 'batch_size is 0'),
    ('parallel', 'tmap', "parallel is 'tmap'; it must be one of auto, vmap, pmap"),
    ('input.rotation', 200.0, 'input.rotation is 200.0; it must be degrees from 0 to 180'),
    ('input.shift', 1.0, 'input.shift is'),
    ('input.zoom', -0.1, 'input.zoom is'),
    ('input.noise', float('inf'), 'input.noise is'),
    ('data.split', 'fonts', "data.split is 'fonts'; it must be one of random, unseen"),
    ('input.subtract', 'median', 'input.subtract is'),
    (
      'accelerate',
      True,
      'accelerate is True; it must be one of auto, off, factored, products, all',
    ),
    ('dtype', 'float16', "dtype is 'float16'; it must be one of float32, tensorfloat32, bfloat16"),
    ('metrics', ('f2',), "an entry of metrics is 'f2'; .*top3"),
    ('metrics', ('f1', 'f1'), "metrics holds 'f1' twice"),
    ('verdict.epoch', 'first', "verdict.epoch is 'first'; it must be one of last, best"),
    ('verdict.measure', 'f1', 'verdict.measure is .* one of loss, accuracy, balanced_accuracy'),
    ('verdict', 'best', "verdict is 'best'; it must be a ConfigDict of fields"),
    ('model', 3, 'model is 3; it must be a ConfigDict of fields'),
    ('model.name', 'vgg', "model.name is 'vgg'; .*digits_caffe, torchvision"),
    ('model.name', 'resnet81', r'model.name is .*or file\.py:Name; did you mean resnet18\?'),
    ('model.name', None, 'model.name is None; it must be one of'),
    ('model.width', 0.0, 'model.width is 0.0; it must be a number above 0'),
    ('model.width', 'wide', 'model.width is .wide.; it must be a number above 0'),
    ('model.dropout', 1.0, 'model.dropout is'),
    ('schedule.name', 'sine', "schedule.name is 'sine'; .*step_decay, piecewise"),
    ('search.name', 'gird', "search.name is 'gird'; .*did you mean grid"),
    ('input.bgr', 1, 'input.bgr is 1; it must be True or False'),
    ('schedule.every_epochs', 0.0, 'schedule.every_epochs is'),
    ('optimizer.momentum', 1.0, 'optimizer.momentum is'),
    ('optimizer.weight_decay', float('nan'), 'optimizer.weight_decay is'),
    ('data.train_fraction', 1.0, 'data.train_fraction is'),
    ('data.per_class', 1, 'data.per_class is 1'),
    ('data.name', '', 'data.name is'),
    ('data.cache_dir', 'x/' * 3000, 'data.cache_dir is .*; it must be a path'),
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
  del config.learning_rates
  with pytest.raises(StudyError, match=r'config\.learning_rates is missing'):
    check(config)
  config = alexnet_letters.get_config()
  config.learning_rate = 0.1
  with pytest.raises(StudyError, match=r'no such field; did you mean learning_rates\?'):
    check(config)


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ('model.widht', r'config.model.widht: no such field of digits_tensorflow; .*model\.width\?'),
    (
      'schedule.heights',
      'no such field of step_decay; piecewise has it: try --config.schedule.name=piece',
    ),
    ('optimizer.learning_rate', 'optimizer.learning_rate: a config cannot set this .* of sgd'),
    (
      'data.dir',
      'no such field of tombstone_letters; image_folder, image_list have it: try --',
    ),
    ('verdict.epochs', r'config.verdict.epochs: no such field; did you mean verdict.epoch\?'),
    ('trials_per_call', 'config.trials_per_call: no such field'),
  ],
)
def test_fields_that_what_a_section_names_lacks(field, message):
  config = alexnet_letters.get_config('quick')
  config.update_from_flattened_dict({field: 1})
  with pytest.raises(StudyError, match=message):
    check(config)


def test_further_schedules_take_their_arguments_from_the_section():
  config = alexnet_letters.get_config()
  config.axes['schedule.name'] = ('step_decay', 'piecewise')
  config.schedule.heights = (0.5, 0.25)
  checked = check(config)
  assert (checked.schedule.factor, checked.schedule.heights) == (0.1, (0.5, 0.25))
  config.schedule.height = 1.0
  with pytest.raises(StudyError, match=r'schedule\.height: no such field of step_decay'):
    check(config)
  del config.schedule.height
  config.schedule.heights = (-1.0, 0.25)
  with pytest.raises(StudyError, match=r'schedule\.heights is \(-1\.0, 0\.25\); it must be'):
    check(config)


def test_axes():
  config = alexnet_letters.get_config()
  config.axes['optimizer.weight_decay'] = (0, 1e-4)
  config.axes['schedule.warmup_steps'] = (0, 100)
  checked = check(config)
  assert dict(checked.axes) == {
    'optimizer.weight_decay': (0.0, 1e-4),
    'schedule.warmup_steps': (0, 100),
  }
  assert from_json(checked.to_dict()) == checked
  config.axes = {'optimizer': {'weight_decay': (0, 1e-4)}, 'schedule': {'warmup_steps': [0, 100]}}
  assert check(config) == checked


def test_rates_and_seeds_are_axes_with_fields_of_their_own():
  config = alexnet_letters.get_config()
  config.axes['seed'], config.axes['learning_rate'] = (3, 4), (0.1, 1)
  checked = check(config)
  assert (checked.seeds, checked.learning_rates, len(checked.axes)) == ((3, 4), (0.1, 1.0), 0)


@pytest.mark.parametrize(
  ('name', 'values', 'message'),
  [
    (
      'optimizer.weight_deca',
      (0.1,),
      r'sgd has no such field; did you mean optimizer\.weight_decay',
    ),
    (
      'optimizer.name',
      ('sgd', 'sdg'),
      r'an entry of axes\.optimizer\.name is .*; did you mean sgd',
    ),
    ('model.width', (0.5, -1.0), r'model\.width is -1\.0; it must be a number above 0'),
    ('modle.width', (0.5, 1.0), r'which is not a field of this config; did you mean model\.width'),
    ('batch_size', (1, 0), r'axes\.batch_size is 0; it must be a whole number from 1'),
    ('epochs', (1, 2), 'an axis is learning_rate, seed, batch_size, dtype, or a field of model'),
    ('data.per_class', (1, 2), 'an axis is learning_rate, seed'),
    ('optimizer', ('sgd', 'adam'), 'an axis is learning_rate, seed'),
    ('optimizer.rate_factors', ({}, {}), 'a dict cannot be a value of an axis'),
    (
      'optimizer.momentum',
      (),
      r'axes\.optimizer\.momentum is \(\); it must be one or more values',
    ),
    ('optimizer.momentum', ('a',), r"optimizer\.momentum is 'a'; it must be a number"),
    ('optimizer.momentum', (0.5, 1.0), r'optimizer\.momentum is 1\.0; it must be'),
    ('optimizer.momentum', (0.5, 0.5), r'axes\.optimizer\.momentum holds 0\.5 twice'),
  ],
)
def test_axes_that_cannot_be(name, values, message):
  config = alexnet_letters.get_config()
  config.axes[name] = values
  with pytest.raises(StudyError, match=message):
    check(config)


def test_a_swapped_section_has_its_own_defaults():
  config = alexnet_letters.get_config('quick')
  config.data.cache_dir = '/tmp/x'
  overrides = {
    'model.name': 'resnet18',
    'optimizer.name': 'adamw',
    'optimizer.weight_decay': '0.1',
    'data.name': 'image_folder',
    'loss.name': 'cross_entropy',
  }
  config.optimizer.clip_norm = 1.0  # any optimiser can have it
  assert complete(config, overrides) == [
    'model.name is resnet18: dropout=0.0, width=0.25 of digits_tensorflow are dropped',
    'optimizer.name is adamw: momentum=0.0 of sgd is dropped',
    "data.name is image_folder: cache_dir='/tmp/x' of tombstone_letters is dropped",
  ]
  checked = check(config)
  assert (checked.model.width, checked.optimizer.weight_decay) == (1.0, 1e-4)
  assert checked.optimizer.clip_norm == 1.0
  assert (checked.data.per_class, checked.data.cache_dir) == (500, '')


def test_a_completed_config_is_the_same_study():
  config, completed = alexnet_letters.get_config(), alexnet_letters.get_config()
  assert complete(completed, {}) == []
  assert check(completed) == check(config)
  assert flatten(completed).keys() == flatten(check(config)).keys()


def test_references_between_fields_last():
  config = ConfigDict({'learning_rates': (0.1,), 'epochs': 6})
  config.schedule = {'name': 'step_decay', 'every_epochs': config.get_oneway_ref('epochs') / 3}
  complete(config, {})
  config.epochs = 9
  assert check(config).schedule.every_epochs == 3


def test_command_line_classes_are_split_at_commas():
  config = alexnet_letters.get_config()
  config.data.classes, config.metrics = ('A,B,C',), ('f1,top3',)
  checked = check(config)
  assert checked.data.classes == ('A', 'B', 'C')
  assert checked.metrics == ('f1', 'top3')


def test_numbers_of_any_kind_become_floats():
  config = alexnet_letters.get_config()
  config.learning_rates = (1, 0.1)
  with config.ignore_type():
    config.model.width, config.input.zoom = Fraction(1, 4), np.float32(0.5)
    config.schedule = {'name': 'piecewise', 'from_epochs': [2, 3], 'heights': (1, np.float32(0.25))}
  checked = check(config)
  assert checked.learning_rates == (1.0, 0.1)
  assert (checked.model.width, checked.input.zoom) == (0.25, 0.5)
  assert checked.schedule.heights == (1.0, 0.25)
  json.dumps(checked.to_dict())  # as it is saved


DOTTED = {'allow_dotted_keys': True}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'model.widht': 0.5}, 'config.model.widht: no such field.*model.width'),
    ({'optimizer.momentum': 2.0}, 'optimizer.momentum is 2.0'),
    ({'verdict.measure': 'f1'}, "verdict.measure is 'f1'"),
    ({'input.size': 32, 'input.crop': 40}, 'input.crop is 40, more than input.size 32'),
    ({'schedule.every_epochs': 1e-4}, 'more than 1000 drops'),
    ({'axes': ConfigDict({'model.name': ('lenet', 'lenett')}, **DOTTED)}, 'did you mean lenet'),
    ({'optimizer.name': 'lbfgs'}, 'optimizer'),
  ],
)
def test_a_wrong_config_is_refused_before_images_are_read(
  tiny, tmp_path, monkeypatch, fields, message
):
  monkeypatch.setattr(study.datasets, 'opened', lambda *_: pytest.fail('images were read'))
  with tiny.unlocked(), tiny.ignore_type():
    for name, value in fields.items():
      section, _, field = name.rpartition('.')
      (tiny[section] if section else tiny)[field] = value
  with pytest.raises(StudyError, match=message):
    study.run(tiny, tmp_path / 'workdir')
  assert not (tmp_path / 'workdir' / 'results.json').exists()
