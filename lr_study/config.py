"""Configs: fields that every study has, and sections, each with a plug's name and arguments."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from lr_study import formats, paths, plugs
from lr_study.errors import StudyError
from lr_study.plugs import AT_LEAST_0, COUNT, COUNT_OR_0, POSITIVE, REQUIRED, Limit, one_of

# section -> the plug that it names by default
SECTIONS = {
  'model': 'digits_tensorflow',
  'optimizer': 'adamw',
  'schedule': 'constant',
  'loss': 'cross_entropy',
  'input': 'images',
  'data': 'tombstone_letters',
  'search': 'grid',
}


class _Field(NamedTuple):
  default: Any
  kind: Any  # an argument of plugs.convert
  limit: Limit | None = None
  about: str = ''  # what it is for, and the reason for its default
  counts: bool = True  # False: no result depends on it, so it may change when a study resumes


# Fields that belong to no plug.
FIELDS = {
  'learning_rates': _Field(
    REQUIRED,
    tuple[float, ...],
    (
      lambda rates: rates and all(1e-37 < rate < 1e38 for rate in rates),
      'one or more numbers above 0 that float32 can hold',
    ),
    'The rates to try. Each trains once with each seed and each value on the axes.',
  ),
  'seeds': _Field(
    (0, 1, 2),
    tuple[int, ...],
    (
      lambda seeds: seeds and all(0 <= seed < 2**32 for seed in seeds),
      'one or more whole numbers from 0 to 2^32 - 1',
    ),
    'Seeds of all randomness. All trials of a seed share initial weights, the order of images, '
    'dropout and augmentation. Three by default, as one cannot tell how sure the answer is.',
  ),
  'epochs': _Field(
    10,
    int,
    (lambda n: 1 <= n <= 100_000, 'a whole number from 1 to 100000'),
    'How often a trial sees all training images. Ten show which rates learn; for the best result, '
    'train for longer.',
  ),
  'batch_size': _Field(
    32,
    int,
    COUNT,
    'Samples per step. 32 suits most networks, BatchNorm included; the published experiment has 1.',
  ),
  'equal': _Field(
    'epochs',
    str,
    one_of(('epochs', 'steps')),
    'What is the same for all batch sizes if batch_size is an axis: epochs or steps. With steps, '
    '`epochs` is the number for `batch_size`.',
  ),
  'image_size': _Field(
    256,
    int,
    (lambda n: 1 <= n <= 65536, 'a whole number from 1 to 65536'),
    'Height and width of images in pixels, as they are stored. The default is that of DIGITS for '
    'AlexNet.',
  ),
  'dtype': _Field(
    'float32',
    str,
    one_of(('float32', 'tensorfloat32', 'bfloat16')),
    'The type of activations and products. Weights and optimiser state are float32 either way. '
    'tensorfloat32 is float32 with the faster, coarser products that NVIDIA GPUs have.',
  ),
  'parallel': _Field(
    'auto',
    str,
    one_of(('auto', 'vmap', 'pmap', 'shard_map', 'threads')),
    'How trials run side by side: vmap, all in one program (auto, except on CPUs); threads, the '
    'same program once per trial (auto on CPUs); pmap or shard_map, spread over all devices.',
  ),
  'accelerate': _Field(
    'auto',
    str,
    one_of(('auto', 'off', 'factored', 'products', 'all')),
    'Compute the same numbers faster where possible (lr_study/accelerate/); or off; or only with '
    'dense kernels as factors, only with convolutions as products, or with all.',
  ),
  'memory_gb': _Field(
    0.0,
    float,
    AT_LEAST_0,
    'Gigabytes that the trials on a device may use together; 0: all that is free. If they need '
    'more, they train in waves, one after another.',
    counts=False,
  ),
  'eval_batch_size': _Field(
    50, int, COUNT, 'Images per batch of an evaluation. It affects only speed and memory.'
  ),
  'log_every_steps': _Field(
    100,
    int,
    COUNT,
    'Steps between two points of the training curves, each the mean over these steps.',
    counts=False,
  ),
  'checkpoint_minutes': _Field(
    10.0,
    float,
    POSITIVE,
    'Minutes between checkpoints, in addition to those at the ends of epochs.',
    counts=False,
  ),
  'checkpoint_steps': _Field(
    0, int, COUNT_OR_0, 'Steps between additional checkpoints; 0: none.', counts=False
  ),
  'sharpness_images': _Field(
    0,
    int,
    COUNT_OR_0,
    'Images on which sharpness is measured after each epoch, for comparison with the edge of '
    'stability, 2 (1 + momentum) / rate; 0: none. It takes 20 products with the Hessian.',
  ),
  'critical_sharpness_images': _Field(
    0,
    int,
    COUNT_OR_0,
    'Images on which critical sharpness is measured after each epoch: 2 / the smallest rate at '
    'which the next update would raise the loss. It works for any optimiser and takes about ten '
    'forward passes. 0: not measured.',
  ),
  'metrics': _Field(
    ('balanced_accuracy',),
    tuple[str, ...],
    None,
    'What is measured besides loss and accuracy: names of lr_study/metrics.py, or file.py:name.',
  ),
  'figure_style': _Field(
    (),
    tuple[str, ...],
    None,
    'Styles of Matplotlib for the figures, by name or file, each over the one before: ggplot, '
    'my.mplstyle.',
    counts=False,
  ),
}
VERDICT = {
  'measure': _Field(
    '',
    str,
    None,
    "The metric that decides which rate is best, or 'loss'. '': accuracy, or balanced accuracy "
    'if classes have different numbers of images.',
  ),
  'epoch': _Field(
    'last',
    str,
    one_of(('last', 'best')),
    'The epoch at which trials are compared: last or best.',
  ),
}
# Other possible axes. Not the data, which all trials share, nor how trials are computed.
_AXES = (
  'batch_size',
  'dtype',
  *(section for section in SECTIONS if section not in ('data', 'search')),
)
# The subtracted mean is on the devices with the images; a study keeps one copy of the weights.
_NO_AXES = ('input.subtract', 'model.weights')
# Followed by a regular expression, an axis: the factor on the rate of matching parameters.
RATE_FACTOR = 'optimizer.rate_factors.'
GROW = ('learning_rates', 'seeds')  # extending a study may add values to these
# Axes that are set by a field of their own.
_PLURAL = {'seed': 'seeds', 'learning_rate': 'learning_rates'}


def check(config: ConfigDict) -> ConfigDict:
  """Checks every field, and that fields fit one another.

  Checks that need the data, such as whether images are large enough for the network, are left to
  the functions that the config names.

  Returns:
    A locked copy with defaults for missing fields and with floats for fields that hold floats,
    ready to be run and saved.

  Raises:
    StudyError: naming the first field that is missing, unknown or out of range.
  """
  try:
    fields = config.copy_and_resolve_references().to_dict()
  except RequiredValueError as error:  # a placeholder that nothing was put into
    raise StudyError(f'config: {error}') from error
  for name in fields:
    if name not in (*FIELDS, *SECTIONS, 'verdict', 'axes'):
      raise StudyError(no_such_field(str(name), config))
  axes = {name: _several(name, of) for name, of in flatten(_fields_of('axes', fields)).items()}
  for name in _PLURAL.keys() & axes.keys():
    fields[_PLURAL[name]] = axes.pop(name)
  found = _values(FIELDS, fields)
  for name in found['metrics']:
    plugs.find('metrics', name)
  found['metrics'] = tuple(map(paths.absolute_name, found['metrics']))
  found['figure_style'] = tuple(map(_style, found['figure_style']))
  for section in SECTIONS:
    others = axes.get(f'{section}.name', ())
    found[section] = _section(section, _fields_of(section, fields), others)
  found['verdict'] = _values(VERDICT, _fields_of('verdict', fields), 'verdict.')
  found['verdict']['measure'] = paths.absolute_name(found['verdict']['measure'])
  axes = {name: _axis(name, of, found, axes) for name, of in axes.items()}
  _check_measure(found['verdict']['measure'], found['metrics'])
  for name in ('learning_rates', 'seeds', 'metrics'):
    _check_unique(name, found[name])
  _check_written_apart(found['learning_rates'])
  _check_unique('data.classes', found['data']['classes'])
  return ConfigDict(found | {'axes': ConfigDict(axes, allow_dotted_keys=True)}).lock()


def float_type(config: ConfigDict) -> str:
  """The type of arrays of activations: TensorFloat-32 is a way to multiply float32."""
  return 'float32' if config.dtype == 'tensorfloat32' else config.dtype


def complete(
  config: ConfigDict, overrides: Mapping[str, str], axes: Mapping[str, Any] | None = None
) -> list[str]:
  """Gives a config all its fields, so that the command line can override any of them.

  A section whose name is overridden keeps the fields that all plugs of its kind share. Its other
  fields get the defaults of the new plug.

  Args:
    config: modified in place.
    overrides: the values that the command line sets, as text, by dotted name.
    axes: the values of each axis that the command line adds, by name.

  Returns:
    A line for each section that lost fields: `model.name is resnet18: width=0.25 of small_cnn is
    dropped`.

  Raises:
    StudyError: a section names an unknown plug.
  """
  notes = []
  given = config.get('axes')
  all_axes = {**(flatten(given) if isinstance(given, ConfigDict) else {}), **(axes or {})}
  with config.unlocked(), config.ignore_type():
    _fill(config, FIELDS)
    for section in (*SECTIONS, 'verdict', 'axes'):
      if section not in config:
        config[section] = ConfigDict(allow_dotted_keys=section == 'axes')
      elif isinstance(config[section], str) and section in SECTIONS:
        config[section] = ConfigDict({'name': config[section]})
      if not isinstance(config[section], ConfigDict):
        continue  # `check` reports it
      if section == 'verdict':
        _fill(config[section], VERDICT)
      elif section in SECTIONS:
        notes += _swap(config, section, overrides)
        _fill(config[section], _plug_fields(section, config, overrides, all_axes))
  return notes


def from_json(fields: dict[str, Any]) -> ConfigDict:
  """The config in JSON, checked. JSON has lists in place of tuples."""
  fields = _tuples(fields)
  if isinstance(fields.get('axes'), dict):
    fields['axes'] = ConfigDict(fields['axes'], allow_dotted_keys=True)
  return check(ConfigDict(fields))


def flatten(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
  """The fields of a config, or of one read from JSON, by dotted name, such as `data.name`."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict | dict):
      flat |= {f'{name}.{inner}': v for inner, v in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def changed(config: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """The fields whose values are not the defaults, by their dotted names: value and default.

  The default of an argument is that of the function that its section names, REQUIRED where it has
  none. Every field of a function that cannot be found counts.
  """
  defaults = {name: field.default for name, field in FIELDS.items()}
  defaults |= {f'verdict.{name}': field.default for name, field in VERDICT.items()}
  for section, usual in SECTIONS.items():
    defaults[f'{section}.name'] = usual
    with contextlib.suppress(StudyError):  # the user's own file has gone, say
      of = plugs.fields(section, plugs.find(section, config[section].name))
      defaults |= {f'{section}.{name}': value for name, value in of.items()}
  return {
    name: (value, defaults.get(name, REQUIRED))
    for name, value in flatten(config).items()
    if name not in defaults or not _alike(_listed(value), _listed(defaults[name]))
  }


def _listed(value: Any) -> Any:
  """As JSON has it: a list for a tuple."""
  return list(value) if isinstance(value, tuple) else value


def adds(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
  """True if `now` has all that `before` has, and may have more rates, seeds, axis values or epochs.

  If there are more epochs, the schedule may change too. Both configs are as read from JSON. Like
  `differences`, this compares `essential` fields only.
  """
  before, now = essential(before), essential(now)
  longer = now.get('epochs', 0) > before.get('epochs', 0)
  for name in before.keys() | now.keys():
    old, new = before.get(name), now.get(name)
    if name in GROW or name.startswith('axes.'):
      fits = all(any(_alike(value, other) for other in new or []) for value in old or [])
    else:
      fits = _alike(old, new) or (longer and (name == 'epochs' or name.startswith('schedule.')))
    if not fits:
      return False
  return True


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """The differences that make two configs different studies: 'epochs 3 -> 4'.

  Only `essential` fields are compared, and the location of a user's file does not matter. Both
  configs are as read from JSON.
  """
  was, are = essential(before), essential(now)
  return [
    f'{name} {was.get(name)!r} -> {are.get(name)!r}'
    for name in sorted(was.keys() | are.keys())
    if not _alike(was.get(name), are.get(name))
  ]


def essential(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that the results of a study may depend on, by dotted name.

  Of `data`, only the fields that every data set has. The fingerprint of the data covers the images
  and how they are processed, whatever their location and name.
  """
  of_every_set = {f'data.{name}' for name in plugs.common('data')}

  def counts(name):
    if name.startswith('data.'):
      return name in of_every_set
    return name not in FIELDS or FIELDS[name].counts

  flat = {name: value for name, value in flatten(config).items() if counts(name)}
  place = flat.get('model.weights')
  if place == '' or (isinstance(place, str) and os.path.isabs(place)):
    del flat['model.weights']  # the weights have a fingerprint too
  return flat


def _alike(was: Any, now: Any) -> bool:
  if isinstance(was, list) and isinstance(now, list):
    return len(was) == len(now) and all(map(_alike, was, now))
  if isinstance(was, str) and isinstance(now, str):
    return paths.is_same(was, now)
  return was == now


def nearest(name: str, config: ConfigDict | None = None) -> str:
  """A hint at the field that was probably meant, in this config or in any; '' if none is close."""
  names = [*FIELDS, *SECTIONS, *(f'{section}.name' for section in SECTIONS)]
  known = {*names, *(flatten(config) if config else ())} - {name}
  return plugs.nearest(name, sorted(known))


def no_such_field(name: str, config: ConfigDict | None = None) -> str:
  """The message for a field that the config does not have."""
  section, _, field = name.partition('.')
  if not field or section not in SECTIONS or not config or section not in config:
    return f'config.{name}: no such field{nearest(name, config)}'
  fields = flatten(config[section])
  hint = plugs.has_it(section, field) or plugs.nearest(field, fields, f'{section}.')
  return f'config.{name}: no such field of {fields["name"]}{hint}'


def _values(table: Mapping[str, _Field], fields: Mapping[str, Any], prefix='') -> dict[str, Any]:
  """All fields of a table, checked, with defaults for missing ones."""
  for name in fields:
    if prefix and name not in table:
      raise StudyError(f'config.{prefix}{name}: no such field{plugs.nearest(name, table, prefix)}')
  found = {}
  for name, (default, kind, limit, *_) in table.items():
    value = fields.get(name, default)
    if value is REQUIRED:
      asked = f'; it must be {limit[1]}' if limit else ''
      raise StudyError(f'config.{name} is missing{asked}')
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


def _section(section: str, values: dict[str, Any], others: tuple[str, ...]) -> dict[str, Any]:
  """All fields of a section, checked against the signature of the function that it names.

  `others`: the functions on the axis `section.name`; their arguments are fields of the section too.
  """
  name = values.get('name', SECTIONS[section])
  factory, found = plugs.find(section, name), {}
  if section == 'data':
    values = values | {'classes': _split_commas(values.get('classes', ()))}
  for other in others:
    factory_of_other = plugs.find(section, other, f'an entry of axes.{section}.name')
    known = plugs.fields(section, factory_of_other).keys() - plugs.fields(section, factory).keys()
    given = {n: v for n, v in values.items() if n in known}
    checked = plugs.checked(section, factory_of_other, given) if given else {}
    found |= {n: checked[n] for n in given}
  own = {n: v for n, v in values.items() if n not in found}
  checked = plugs.checked(section, factory, own)
  if section == 'model' and checked['weights'] and not plugs.takes(factory, 'weights'):
    checked['weights'] = plugs.convert('model.weights', checked['weights'], str, paths.PATH)
  return {'name': paths.absolute_name(name), **checked, **found}


def own_section(section: str, values: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The section under another name: those of its fields that `name` takes, and defaults."""
  factory = plugs.find(section, name)
  known = plugs.fields(section, factory)
  own = {n: v for n, v in values.items() if n in known}
  return {'name': paths.absolute_name(name), **plugs.checked(section, factory, own)}


def _several(name: str, values: Any) -> tuple[Any, ...]:
  """The values of an axis as a tuple, with lists as tuples."""
  if not isinstance(values, tuple | list) or not values:
    raise StudyError(f'axes.{name} is {plugs.shown(values)}; it must be one or more values')
  if any(isinstance(value, Mapping) for value in values):
    raise StudyError(f'axes.{name} is {plugs.shown(values)}; a dict cannot be a value of an axis')
  return tuple(_tuples(value) for value in values)


def _axis(
  name: str, of: tuple[Any, ...], found: Mapping[str, Any], axes: Mapping[str, Any]
) -> tuple[Any, ...]:
  """The values of an axis, converted to the type of its field.

  Raises:
    StudyError: the field cannot be an axis, or a value does not fit it.
  """
  section, _, field = name.partition('.')
  if section not in _AXES or bool(field) != (section in SECTIONS) or name in _NO_AXES:
    raise StudyError(_no_axis(name, found))
  if not field:
    _, kind, limit, *_ = FIELDS[name]
    values = tuple(plugs.convert(f'axes.{name}', value, kind, limit) for value in of)
  elif field == 'name':
    values = tuple(map(paths.absolute_name, of))  # `_section` has looked them all up
  else:
    for other in axes.get(f'{section}.name', (found[section]['name'],)):
      factory = plugs.find(section, other)
      own = own_section(section, found[section], other)
      if name.startswith(RATE_FACTOR):
        each = [_factor(factory, own, name, value) for value in of]
        continue
      if field not in plugs.fields(section, factory):
        raise StudyError(_no_axis(name, found, factory))
      each = [plugs.checked(section, factory, {**own, field: value})[field] for value in of]
    values = tuple(each)
  _check_unique(f'axes.{name}', values)
  return values


def _factor(factory: Callable, own: Mapping[str, Any], name: str, value: Any) -> float:
  """A value on the axis of one expression of rate_factors; `own`: the optimiser's section."""
  own = {**own, 'rate_factors': ((name.removeprefix(RATE_FACTOR), value),)}
  ((_, factor),) = plugs.checked('optimizer', factory, own)['rate_factors']
  return float(factor)


def _no_axis(name: str, found: Mapping[str, Any], factory: Callable | None = None) -> str:
  """Why this cannot be an axis. `factory`, if given, has no such field."""
  section = name.partition('.')[0]
  if factory:
    names = [f'{section}.{n}' for n in plugs.fields(section, factory)]
    title = plugs.title(section, factory)
    return f'axes has {name!r}; {title} has no such field{plugs.nearest(name, names)}'
  known = [f'{s}.{n}' for s in SECTIONS for n in found[s] if s in _AXES]
  if section in found or section in SECTIONS:
    return (
      f'axes has {name!r}; an axis is learning_rate, seed, batch_size, dtype, or a field of '
      f'{", ".join(s for s in SECTIONS if s in _AXES)}'
    )
  hint = plugs.nearest(name, [*_AXES, *known])
  return f'axes has {name!r}, which is not a field of this config{hint}'


def _style(name: str) -> str:
  """A style of Matplotlib; as a file, from the root on."""
  if name.endswith('.mplstyle') or os.sep in name:
    return plugs.convert('figure_style', name, str, paths.PATH)
  return name


def _check_measure(measure: str, metrics: tuple[str, ...]) -> None:
  own = [name.rpartition(':')[2] for name in metrics]  # 'file.py:name' is called `name`
  names = dict.fromkeys(('loss', 'accuracy', 'balanced_accuracy', *own))
  if measure not in ('', *names, *metrics):
    raise StudyError(
      f'verdict.measure is {plugs.shown(measure)}; it must be one of {", ".join(names)}, or be '
      'added to config.metrics'
    )


def _check_unique(name: str, values: tuple[Any, ...]) -> None:
  for i, value in enumerate(values):
    if value in values[:i]:
      raise StudyError(f'{name} holds {value!r} twice')


def _check_written_apart(rates: tuple[float, ...]) -> None:
  seen: dict[str, float] = {}
  for rate in rates:  # files, runs and tables identify a rate by its written form
    if (other := seen.setdefault(formats.rate(rate), rate)) != rate:
      raise StudyError(
        f'learning_rates holds {other!r} and {rate!r}, which are both written '
        f'{formats.rate(rate)}; keep one'
      )


def _swap(config: ConfigDict, section: str, overrides: Mapping[str, str]) -> list[str]:
  """Removes the arguments of a plug that another one replaces; returns a line that says which."""
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
  section: str, config: ConfigDict, overrides: Mapping[str, str], axes: Mapping[str, Any]
) -> dict[str, _Field]:
  """The fields of a section that must exist so that they can be overridden."""
  name = config[section].get('name', SECTIONS[section])
  table = {'name': _Field(name, str)}
  for field, default in plugs.fields(section, plugs.find(section, name)).items():
    table[field] = _Field(default, Any if default in (None, REQUIRED) else type(default))
  # And overridden arguments of the other functions on the axis `section.name`.
  for other in axes.get(f'{section}.name', ()):
    factory = plugs.find(section, other, f'an entry of axes.{section}.name')
    for field, default in plugs.fields(section, factory).items():
      if f'{section}.{field}' in overrides:
        table.setdefault(field, _Field(default, Any))
  return table


def _fill(values: ConfigDict, table: Mapping[str, _Field]) -> None:
  """Adds missing fields, None where there is no default, and converts the others where it can."""
  given = dict(values.items(preserve_field_references=True))
  for name, (default, kind, *_) in table.items():
    if name not in given:
      empty = () if kind == tuple[float, ...] else None
      values[name] = empty if default is REQUIRED else default
    elif not isinstance(given[name], FieldReference):
      with contextlib.suppress(StudyError):  # `check` reports it
        values[name] = plugs.convert(name, given[name], kind)


def _split_commas(names: Any) -> Any:
  # On the command line `A,B,C` arrives as one string: only numbers become a tuple there.
  if isinstance(names, tuple) and len(names) == 1 and isinstance(names[0], str):
    return tuple(names[0].split(','))
  if isinstance(names, tuple):
    return tuple(str(name) if type(name) is int else name for name in names)
  return names


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value
