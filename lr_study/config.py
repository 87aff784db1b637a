"""What a config must hold: each field's type and range, checked before anything is done."""

import difflib
import errno
import itertools
import math
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lr_study import parallel, schedule
from lr_study.data import RESIZE_MODES, SOURCES, SPLITS
from lr_study.errors import StudyError
from lr_study.network import model
from lr_study.search import strategies as search

_LONGEST = 200  # characters of a wrong value that are shown

# field -> (type, a test of its value, what the test asks for); the configs say what it is for
Check = tuple[type, Callable[[Any], bool], str]


def _one_of(names) -> Check:
  return str, lambda name: name in names, f'one of {", ".join(names)}'


def _can_be_path(text: str) -> bool:
  """False for ~ of no user, too long a name, a null byte or half a character."""
  try:
    os.stat(Path(text).expanduser().absolute())
  except OSError as error:
    return error.errno != errno.ENAMETOOLONG  # whether it is there, its reader says
  except (RuntimeError, ValueError):
    return False
  return True


_PATH = (str, _can_be_path, 'a path that this system can have')
_SWITCH = (bool, lambda _: True, 'True or False')
_COUNT = (int, lambda n: 1 <= n < 2**31, 'a whole number from 1 to 2^31 - 1')
_COUNT_OR_0 = (int, lambda n: 0 <= n < 2**31, 'a whole number from 0 to 2^31 - 1')
_POSITIVE = (float, lambda x: x > 0, 'a number above 0')
_AT_LEAST_0 = (float, lambda x: x >= 0, 'a number from 0 up')
_BELOW_1 = (float, lambda x: 0 <= x < 1, 'a number from 0 to below 1')
_FACTOR = (float, lambda x: 0 < x <= 1, 'a number above 0, at most 1')

FIELDS: dict[str, Check] = {
  'learning_rates': (
    tuple,
    lambda rates: rates and all(_is_number(r) and 1e-37 < r < 1e38 for r in rates),
    'one or more numbers above 0 that float32 can hold',
  ),
  'seeds': (
    tuple,
    lambda seeds: seeds and all(type(s) is int and 0 <= s < 2**32 for s in seeds),
    'one or more whole numbers from 0 to 2^32 - 1',
  ),
  'epochs': (int, lambda n: 1 <= n <= 100_000, 'a whole number from 1 to 100000'),
  'batch_size': _COUNT,
  'batch_sizes': (
    tuple,
    lambda sizes: all(type(n) is int and 1 <= n < 2**31 for n in sizes),
    'whole numbers from 1 to 2^31 - 1',
  ),
  'schedules': (
    tuple,
    lambda names: all(isinstance(n, str) and n in schedule.SCHEDULES for n in names),
    f'some of {", ".join(schedule.SCHEDULES)}',
  ),
  'equal': _one_of(('epochs', 'steps')),
  'image_size': (int, lambda n: 1 <= n <= 65536, 'a whole number from 1 to 65536'),
  'parallel': _one_of(parallel.HOW),
  'trials_per_call': _COUNT_OR_0,
  'memory_gb': _AT_LEAST_0,
  'eval_batch_size': _COUNT,
  'log_every_steps': _COUNT,
  'checkpoint_minutes': _POSITIVE,
  'checkpoint_steps': _COUNT_OR_0,
  'search.name': _one_of(tuple(search.STRATEGIES)),
  'search.epochs': _COUNT,
  'search.factor': (float, lambda x: x > 1.01, 'a number above 1.01'),
  'search.keep': (int, lambda n: 2 <= n < 2**31, 'a whole number from 2 up'),
  'search.trials': _COUNT,
  'sharpness_images': _COUNT_OR_0,
  'data.name': (str, bool, f'{", ".join(SOURCES)} or the name of a TFDS set'),
  'data.dir': _PATH,
  'data.validation_dir': _PATH,
  'data.classes': (
    tuple,
    lambda names: all(isinstance(n, str) and n for n in names),
    'names of classes',
  ),
  'data.per_class': (int, lambda n: n == 0 or n >= 2, '0 (all) or a whole number from 2 up'),
  'data.train_fraction': (float, lambda x: 0 < x < 1, 'a number between 0 and 1'),
  'data.split': _one_of(SPLITS),
  'data.test_fraction': _BELOW_1,
  'data.seed': _COUNT_OR_0,
  'data.resize': _one_of(RESIZE_MODES),
  'data.reshuffle': _SWITCH,
  'data.resident': _SWITCH,
  'data.skip_unreadable': _SWITCH,
  'data.cache_dir': _PATH,
  'input.subtract': _one_of(('image', 'pixel', 'none')),
  'input.scale': _POSITIVE,
  'input.crop': _COUNT_OR_0,
  'input.mirror': _SWITCH,
  'input.bgr': _SWITCH,
  'input.grey': _SWITCH,
  'input.size': (int, lambda n: 0 <= n <= 65536, 'a whole number from 0 to 65536'),
  'input.standardise': _SWITCH,
  'input.rotation': (float, lambda x: 0 <= x <= 180, 'degrees from 0 to 180'),
  'input.shift': _BELOW_1,
  'input.zoom': _AT_LEAST_0,
  'input.stretch': _AT_LEAST_0,
  'input.shear': _AT_LEAST_0,
  'input.brightness': _AT_LEAST_0,
  'input.contrast': _AT_LEAST_0,
  'input.invert': _SWITCH,
  'input.noise': _AT_LEAST_0,
  'model.preset': _one_of(model.NETWORKS),
  'model.width': _POSITIVE,
  'model.dropout': _BELOW_1,
  'model.convolution': _one_of(('auto', 'grouped', 'matmul')),
  'model.dense': _one_of(('auto', 'plain', 'factored')),
  'schedule.name': _one_of(tuple(schedule.SCHEDULES)),
  'schedule.every_epochs': _POSITIVE,
  'schedule.factor': _FACTOR,
  'schedule.from_epochs': (
    tuple,
    lambda epochs: all(type(e) is int and e >= 2 for e in epochs) and _rises(epochs),
    'epochs in rising order, from 2 on',
  ),
  'schedule.heights': (
    tuple,
    lambda h: all(_is_number(x) and x > 0 for x in h),
    'numbers above 0',
  ),
  'schedule.warmup_epochs': _AT_LEAST_0,
  'schedule.start_height': _FACTOR,
  'optimizer.momentum': _BELOW_1,
  'optimizer.rate_in_velocity': _SWITCH,
  'optimizer.weight_decay': _AT_LEAST_0,
  'optimizer.decay_per_rate': _SWITCH,
  'optimizer.bias_rate': _AT_LEAST_0,
  'optimizer.bias_decay': _AT_LEAST_0,
}


def check(config: ConfigDict) -> ConfigDict:
  """Checks every field and what they ask of one another.

  Returns:
    A copy, locked, with floats where numbers need not be whole, fit to be run and saved.

  Raises:
    StudyError: naming the first field that is missing, unknown or out of range.
  """
  config = config.copy_and_resolve_references()
  config.unlock()
  if isinstance(config.get('data'), ConfigDict):
    config.data.classes = _split_commas(config.data.get('classes', ()))
  config.schedules = _split_commas(config.get('schedules', ()))
  _check_names(config)
  for name, (kind, test, asks) in FIELDS.items():
    value = _value(config, name)
    if kind is float and _is_number(value):
      value = float(value)
      with config.ignore_type():  # where a NumPy number or a fraction was
        config.update_from_flattened_dict({name: value})
    if type(value) is not kind or (kind is float and not math.isfinite(value)) or not test(value):
      raise StudyError(f'{name} is {_shown(value)}; it must be {asks}')
  config.learning_rates = tuple(map(float, config.learning_rates))
  config.schedule.heights = tuple(map(float, config.schedule.heights))
  for name in ('learning_rates', 'seeds', 'batch_sizes', 'schedules', 'data.classes'):
    _check_unique(name, _value(config, name))
  if len(config.schedule.from_epochs) != len(config.schedule.heights):
    raise StudyError(
      f'schedule.from_epochs has {len(config.schedule.from_epochs)} entries and '
      f'schedule.heights {len(config.schedule.heights)}; give one height an epoch'
    )
  if config.epochs / config.schedule.every_epochs > 1000:
    raise StudyError(
      f'schedule.every_epochs is {config.schedule.every_epochs}; with {config.epochs} epochs that '
      'is more than 1000 drops'
    )
  _check_image_size(config)
  return config.lock()


def from_json(fields: dict[str, Any]) -> ConfigDict:
  """The config that JSON holds, checked: there tuples are lists."""
  return check(ConfigDict(_tuples(fields)))


def flatten(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
  """The fields of a config, or of one read from JSON, by their dotted names, as in `data.name`."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict | dict):
      flat |= {f'{name}.{inner}': v for inner, v in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def nearest(name: str) -> str:
  """A hint at the field that was probably meant, or at nothing."""
  close = difflib.get_close_matches(name, FIELDS, n=1)
  return f'; did you mean {close[0]}?' if close else ''


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


def _check_names(config: ConfigDict) -> None:
  names = flatten(config)
  for name in names:
    if name not in FIELDS:
      raise StudyError(f'config.{name}: no such field{nearest(name)}')
  for name in FIELDS:
    if name not in names:
      raise StudyError(f'config.{name} is missing; configs/alexnet_letters.py shows every field')


def _check_unique(name: str, values: tuple[Any, ...]) -> None:
  for i, value in enumerate(values):
    if value in values[:i]:
      raise StudyError(f'{name} holds {value!r} twice')


def _check_image_size(config: ConfigDict) -> None:
  crop, before = config.input.crop, config.input.size or config.image_size
  if crop > before:
    name = 'input.size' if config.input.size else 'image_size'
    raise StudyError(f'input.crop is {crop}, more than {name} {before}')
  name = 'input.crop' if crop else 'input.size' if config.input.size else 'image_size'
  smallest = model.smallest_input(config.model.preset)
  if (crop or before) < smallest:
    raise StudyError(
      f'{name} is {crop or before}, too small for {config.model.preset}; the smallest that works '
      f'is {smallest}'
    )
  if config.input.grey and config.input.bgr:
    raise StudyError('input.bgr is True, but input.grey leaves one channel; set one to False')


def _split_commas(classes: Any) -> Any:
  # On the command line `A,B,C` arrives as one string: only numbers make a tuple there.
  if isinstance(classes, tuple) and len(classes) == 1 and isinstance(classes[0], str):
    return tuple(classes[0].split(','))
  if isinstance(classes, tuple):
    return tuple(str(name) if type(name) is int else name for name in classes)
  return classes


def _is_number(value: Any) -> bool:
  """True if it is one that a float can hold."""
  try:
    return isinstance(value, numbers.Real) and type(value) is not bool and math.isfinite(value)
  except OverflowError:  # a whole number beyond all floats
    return False


def _shown(value: Any) -> str:
  try:
    text = repr(value)
  except Exception:  # Python writes no whole number of more than 4300 digits
    return 'unprintable'
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def _rises(values: tuple[int, ...]) -> bool:
  return all(a < b for a, b in itertools.pairwise(values))


def _value(config: ConfigDict, name: str) -> Any:
  for part in name.split('.'):
    config = config[part]
  return config
