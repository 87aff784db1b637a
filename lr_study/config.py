"""Configs: what every study has, and sections that each name a plug and hold its arguments."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from lr_study import plugs
from lr_study.errors import StudyError
from lr_study.plugs import AT_LEAST_0, COUNT, COUNT_OR_0, POSITIVE, REQUIRED, Limit, one_of

# section -> the plug that it names where a config does not say
SECTIONS = {
  'model': 'digits_tensorflow',
  'optimizer': 'sgd',
  'schedule': 'step_decay',
  'loss': 'cross_entropy',
  'input': 'images',
  'data': 'tombstone_letters',
  'search': 'grid',
}


class _Field(NamedTuple):
  default: Any
  kind: Any  # as plugs.convert takes it
  limit: Limit | None = None


# Fields that belong to no plug; configs/alexnet_letters.py says what they are for.
_FIELDS = {
  'learning_rates': _Field(
    REQUIRED,
    tuple[float, ...],
    (
      lambda rates: rates and all(1e-37 < rate < 1e38 for rate in rates),
      'one or more numbers above 0 that float32 can hold',
    ),
  ),
  'seeds': _Field(
    (0,),
    tuple[int, ...],
    (
      lambda seeds: seeds and all(0 <= seed < 2**32 for seed in seeds),
      'one or more whole numbers from 0 to 2^32 - 1',
    ),
  ),
  'epochs': _Field(30, int, (lambda n: 1 <= n <= 100_000, 'a whole number from 1 to 100000')),
  'batch_size': _Field(1, int, COUNT),
  'batch_sizes': _Field(
    (),
    tuple[int, ...],
    (lambda sizes: all(1 <= n < 2**31 for n in sizes), 'whole numbers from 1 to 2^31 - 1'),
  ),
  'schedules': _Field((), tuple[str, ...]),
  'equal': _Field('epochs', str, one_of(('epochs', 'steps'))),
  'image_size': _Field(256, int, (lambda n: 1 <= n <= 65536, 'a whole number from 1 to 65536')),
  'dtype': _Field('float32', str, one_of(('float32', 'bfloat16'))),
  'parallel': _Field('auto', str, one_of(('auto', 'vmap', 'pmap', 'shard_map', 'threads'))),
  'accelerate': _Field('auto', str, one_of(('auto', 'off'))),
  'memory_gb': _Field(0.0, float, AT_LEAST_0),
  'eval_batch_size': _Field(50, int, COUNT),
  'log_every_steps': _Field(100, int, COUNT),
  'checkpoint_minutes': _Field(10.0, float, POSITIVE),
  'checkpoint_steps': _Field(0, int, COUNT_OR_0),
  'sharpness_images': _Field(0, int, COUNT_OR_0),
  'metrics': _Field(('balanced_accuracy',), tuple[str, ...]),
}
_VERDICT = {
  'measure': _Field('', str),
  'epoch': _Field('last', str, one_of(('last', 'best'))),
}
_SWEPT = ('optimizer', 'schedule', 'loss')  # sections whose numbers can be axes


def check(config: ConfigDict) -> ConfigDict:
  """Checks every field, and what fields ask of one another.

  What needs the data, such as whether images are large enough for the network, is for the functions
  that the config names.

  Returns:
    A copy with defaults for all that is not there, locked, with floats where numbers need not be
    whole, fit to be run and saved.

  Raises:
    StudyError: naming the first field that is missing, unknown or out of range.
  """
  try:
    fields = config.copy_and_resolve_references().to_dict()
  except RequiredValueError as error:  # a placeholder that nothing was put into
    raise StudyError(f'config: {error}') from error
  for name in fields:
    if name not in (*_FIELDS, *SECTIONS, 'verdict', 'axes'):
      raise StudyError(no_such_field(str(name), config))
  found = _values(_FIELDS, fields)
  for name in found['schedules']:
    plugs.find('schedule', name, 'an entry of schedules')
  for name in found['metrics']:
    plugs.find('metrics', name)
  for section in SECTIONS:
    found[section] = _section(section, _fields_of(section, fields), found['schedules'])
  found['verdict'] = _values(_VERDICT, _fields_of('verdict', fields), 'verdict.')
  axes = _axes(_fields_of('axes', fields), found)
  _check_measure(found['verdict']['measure'], found['metrics'])
  for name in ('learning_rates', 'seeds', 'batch_sizes', 'schedules', 'metrics'):
    _check_unique(name, found[name])
  _check_unique('data.classes', found['data']['classes'])
  return ConfigDict(found | {'axes': ConfigDict(axes, allow_dotted_keys=True)}).lock()


def complete(config: ConfigDict, overrides: Mapping[str, str]) -> list[str]:
  """Gives a config all its fields, so that the command line can override any of them.

  A section whose name is overridden keeps what all plugs of its kind have in common. For the rest
  it has the defaults of the new one.

  Args:
    config: is changed.
    overrides: what the command line sets, as text, by dotted names.

  Returns:
    A line on each section that lost fields: `model.name is resnet18: width=0.25 of small_cnn is
    dropped`.

  Raises:
    StudyError: a section names no plug that there is.
  """
  notes = []
  with config.unlocked(), config.ignore_type():
    _fill(config, _FIELDS)
    for section in (*SECTIONS, 'verdict', 'axes'):
      if section not in config:
        config[section] = ConfigDict(allow_dotted_keys=section == 'axes')
      elif isinstance(config[section], str) and section in SECTIONS:
        config[section] = ConfigDict({'name': config[section]})
      if not isinstance(config[section], ConfigDict):
        continue  # what it should be, `check` says
      if section == 'verdict':
        _fill(config[section], _VERDICT)
      elif section in SECTIONS:
        notes += _swap(config, section, overrides)
        _fill(config[section], _plug_fields(section, config, overrides))
  return notes


def from_json(fields: dict[str, Any]) -> ConfigDict:
  """The config that JSON holds, checked: there tuples are lists."""
  fields = _tuples(fields)
  if isinstance(fields.get('axes'), dict):
    fields['axes'] = ConfigDict(fields['axes'], allow_dotted_keys=True)
  return check(ConfigDict(fields))


def flatten(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
  """The fields of a config, or of one read from JSON, by their dotted names, as in `data.name`."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict | dict):
      flat |= {f'{name}.{inner}': v for inner, v in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def nearest(name: str, config: ConfigDict | None = None) -> str:
  """A hint at the field, of a config or of any, that was probably meant; or nothing."""
  names = [*_FIELDS, *SECTIONS, *(f'{section}.name' for section in SECTIONS)]
  known = {*names, *(flatten(config) if config else ())} - {name}
  return plugs.nearest(name, sorted(known))


def no_such_field(name: str, config: ConfigDict | None = None) -> str:
  """What is said of a field that the config does not have."""
  section, _, field = name.partition('.')
  if not field or section not in SECTIONS or not config or section not in config:
    return f'config.{name}: no such field{nearest(name, config)}'
  fields = flatten(config[section])
  return (
    f'config.{name}: no such field of {fields["name"]}{plugs.nearest(field, fields, f"{section}.")}'
  )


def _values(table: Mapping[str, _Field], fields: Mapping[str, Any], prefix='') -> dict[str, Any]:
  """All fields of a table: checked, or their defaults."""
  for name in fields:
    if prefix and name not in table:
      raise StudyError(f'config.{prefix}{name}: no such field{plugs.nearest(name, table, prefix)}')
  found = {}
  for name, (default, kind, limit) in table.items():
    value = fields.get(name, default)
    if value is REQUIRED:
      raise StudyError(f'config.{name} is missing; configs/alexnet_letters.py shows every field')
    value = _split_commas(value) if kind == tuple[str, ...] else value
    found[name] = plugs.convert(prefix + name, value, kind, limit)
  return found


def _fields_of(section: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  values = fields.get(section, {})
  if isinstance(values, str) and section in SECTIONS:
    return {'name': values}
  if not isinstance(values, dict):
    raise StudyError(f'{section} is {plugs.shown(values)}; it must be a ConfigDict of fields')
  return values


def _section(section: str, values: dict[str, Any], schedules: tuple[str, ...]) -> dict[str, Any]:
  """All fields of a section, checked against the signature of the function that it names."""
  name = values.get('name', SECTIONS[section])
  factory, found = plugs.find(section, name), {}
  if section == 'data':
    values = values | {'classes': _split_commas(values.get('classes', ()))}
  if section == 'schedule':  # further schedules take their arguments from here too
    for other in map(functools.partial(plugs.find, section), schedules):
      known = plugs.fields(section, other).keys() - plugs.fields(section, factory).keys()
      given = {n: v for n, v in values.items() if n in known}
      checked = plugs.checked(section, other, given) if given else {}
      found |= {n: checked[n] for n in given}
  own = {n: v for n, v in values.items() if n not in found}
  return {'name': name, **plugs.checked(section, factory, own), **found}


def _axes(values: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
  """The axes beside rates and seeds: values of an argument of the optimiser, schedule or loss."""
  numbers = [
    f'{section}.{field}'
    for section in _SWEPT
    for field, value in found[section].items()
    if value is None or plugs.is_number(value)
  ]
  axes = {}
  for name, of in flatten(values).items():
    if name not in numbers:
      raise StudyError(_no_axis(name, numbers, found))
    section, _, field = name.partition('.')
    if not isinstance(of, tuple | list) or not of or not all(map(plugs.is_number, of)):
      raise StudyError(f'axes.{name} is {plugs.shown(of)}; it must be one or more numbers')
    factory = plugs.find(section, found[section]['name'])
    each = [plugs.checked(section, factory, {**found[section], field: value}) for value in of]
    axes[name] = tuple(values[field] for values in each)
    _check_unique(f'axes.{name}', axes[name])
  return axes


def _no_axis(name: str, numbers: list[str], found: Mapping[str, Any]) -> str:
  """Why there cannot be an axis of this name."""
  section, _, field = name.partition('.')
  if section in SECTIONS and section not in _SWEPT and field in found[section]:
    return f'axes has {name!r}; only numbers of {", ".join(_SWEPT)} can be axes'
  if section in SECTIONS and field in found[section]:
    return f'axes has {name!r}; it is {plugs.shown(found[section][field])}, no number'
  return f'axes has {name!r}, no number of this config{plugs.nearest(name, numbers)}'


def _check_measure(measure: str, metrics: tuple[str, ...]) -> None:
  own = [name.rpartition(':')[2] for name in metrics]  # of 'file.py:name', what it is called
  names = dict.fromkeys(('loss', 'accuracy', 'balanced_accuracy', *own))
  if measure not in ('', *names, *metrics):
    raise StudyError(
      f'verdict.measure is {plugs.shown(measure)}; it must be one of {", ".join(names)}, or one '
      'more that config.metrics names'
    )


def _check_unique(name: str, values: tuple[Any, ...]) -> None:
  for i, value in enumerate(values):
    if value in values[:i]:
      raise StudyError(f'{name} holds {value!r} twice')


def _swap(config: ConfigDict, section: str, overrides: Mapping[str, str]) -> list[str]:
  """Makes room for the arguments of another plug; a line on those of the old one."""
  old = config[section].get('name', SECTIONS[section])
  new = overrides.get(f'{section}.name', old)
  if new == old:
    return []
  kept, dropped = plugs.common(section), []
  for name, value in flatten(config[section]).items():
    own = name != 'name' and name.partition('.')[0] not in kept
    if own and f'{section}.{name}' not in overrides:
      dropped.append(f'{name}={value!r}')
  values = {n: v for n, v in config[section].items(preserve_field_references=True) if n in kept}
  config[section] = ConfigDict({'name': new, **values})
  verb = 'are' if len(dropped) > 1 else 'is'
  return [f'{section}.name is {new}: {", ".join(dropped)} of {old} {verb} dropped'] * bool(dropped)


def _plug_fields(
  section: str, config: ConfigDict, overrides: Mapping[str, str]
) -> dict[str, _Field]:
  """The fields of a section, as far as they have to be there to be overridden."""
  name = config[section].get('name', SECTIONS[section])
  table = {'name': _Field(name, str)}
  for field, default in plugs.fields(section, plugs.find(section, name)).items():
    table[field] = _Field(default, Any if default in (None, REQUIRED) else type(default))
  if section == 'schedule':  # of further schedules, those that are overridden
    others = _names(config.schedules) + _names(overrides.get('schedules', ''))
    for other in dict.fromkeys(others):
      factory = plugs.find(section, other, 'an entry of schedules')
      for field, default in plugs.fields(section, factory).items():
        if f'{section}.{field}' in overrides:
          table.setdefault(field, _Field(default, Any))
  return table


def _fill(values: ConfigDict, table: Mapping[str, _Field]) -> None:
  """Adds defaults, None for what has none; what is there gets its type, if it can."""
  given = dict(values.items(preserve_field_references=True))
  for name, (default, kind, _) in table.items():
    if name not in given:
      empty = () if kind == tuple[float, ...] else None
      values[name] = empty if default is REQUIRED else default
    elif not isinstance(given[name], FieldReference):
      with contextlib.suppress(StudyError):  # `check` says so
        values[name] = plugs.convert(name, given[name], kind)


def _names(value: Any) -> tuple[str, ...]:
  """Those in a tuple, or in its text."""
  entries = value.split(',') if isinstance(value, str) else value
  entries = entries if isinstance(entries, tuple | list) else ()
  names = (str(entry).strip('\'"() ') for entry in entries)
  return tuple(name for name in names if name)


def _split_commas(names: Any) -> Any:
  # On the command line `A,B,C` arrives as one string: only numbers make a tuple there.
  if isinstance(names, tuple) and len(names) == 1 and isinstance(names[0], str):
    return tuple(names[0].split(','))
  if isinstance(names, tuple):
    return tuple(str(name) if type(name) is int else name for name in names)
  return names


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value
