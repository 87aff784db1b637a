"""What was run, for people: the parts that a config names, with arguments that say something."""

from collections.abc import Iterable, Mapping
from typing import Any

from lr_study import formats, plugs
from lr_study.data import samples
from lr_study.errors import StudyError
from lr_study.search.rounds import axes_of, value_text


def run(config: Mapping[str, Any], schedules: Iterable[str] = ()) -> str:
  """'small_cnn (width 0.25), sgd (momentum 0.9), schedule constant'; see `training`."""
  return f'{part(config, "model")}, {training(config, schedules)}'


def training(config: Mapping[str, Any], schedules: Iterable[str] = ()) -> str:
  """How a network is trained: 'sgd (momentum 0.9), schedule constant'.

  Args:
    config: a study's, or as results.json has it.
    schedules: those of its settings, if there may be several.
  """
  names = list(dict.fromkeys(schedules))
  own = f'schedule {part(config, "schedule")}'
  if len(names) > 1:
    own = f'schedules {" and ".join(map(formats.printable, names))}'
  parts = [part(config, 'optimizer'), own]
  loss = part(config, 'loss')
  parts += [] if loss == 'cross_entropy' else [f'loss {loss}']
  parts += [] if config['dtype'] == 'float32' else [config['dtype']]
  return ', '.join(parts)


def evaluation(config: Mapping[str, Any]) -> str:
  """By which loss trials are validated, if something of it is swept; else nothing.

  Trials of one program are validated by one loss, or they could not be compared; each trains by its
  own. Where a setting has another loss altogether, it is validated by that.
  """
  swept = {name: values for name, values in axes_of(config).items() if name.startswith('loss.')}
  numbers = [n for n, values in swept.items() if all(map(plugs.is_number, values))]
  said = []
  if numbers:
    own = ', '.join(f'{name} {value_text(config["loss"][name[5:]])}' for name in numbers)
    said.append(
      'Validation losses are by one loss for all trials, so that they can be compared: with '
      f'{own}, as the config has it. Training losses are by the value of each trial.'
    )
  if others := [name for name in swept if name not in numbers]:
    said.append(
      f'Settings that differ in {", ".join(others)} have losses of different kinds, which cannot '
      'be compared with one another.'
    )
  return ' '.join(said)


def data(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
  """'3750 training and 1250 validation images of 10 classes of tombstone_letters, 84 px'.

  Args:
    config: a study's, or as results.json has it.
    record: what is under "data" in results.json.
  """
  name = config['data']['name']
  arrays = name.startswith('npz:') or plugs.names_own(name)  # they keep the shape that they come in
  return (
    f'{record["train"]} training and {record["validation"]} validation '
    f'{noun(record)} of {len(record["classes"])} classes of {plugs.short(record["name"])}'
    + ('' if arrays else f', {config["image_size"]} px')
  )


def noun(record: Mapping[str, Any]) -> str:
  """What several of a data set's samples are called: 'images', say; `record` as in `data`."""
  return samples.noun(record['shape']) if 'shape' in record else 'images'


def part(config: Mapping[str, Any], section: str) -> str:
  """The name in a section, and its arguments: 'digits_tensorflow (width 0.25, dropout 0)'.

  Those that are the defaults are left out, unless the function is no longer to be found. Of an axis
  all values are named; of several functions, their names alone.
  """
  values, axes = dict(config[section]), axes_of(config)
  name = values.pop('name')
  names = axes.get(f'{section}.name', ())
  if len(names) > 1:  # the arguments of each, nobody would read
    return formats.printable('/'.join(map(value_text, names)))
  try:
    defaults = plugs.fields(section, plugs.find(section, name))
  except StudyError:
    defaults = {}  # the user's own file has gone, say
  told = []
  for argument, value in values.items():
    swept = axes.get(f'{section}.{argument}')
    if swept:
      told.append(f'{argument} {"/".join(map(value_text, swept))}')
    elif _says_something(argument, value, defaults):
      told.append(f'{argument} {_text(value)}')
  for axis, of in axes.items():  # as optimizer.rate_factors.head
    own, _, argument = axis.partition('.')
    if own == section and '.' in argument:
      told.append(f'{argument} {"/".join(map(value_text, of))}')
  name = plugs.short(name)
  text = f'{name} ({", ".join(told)})' if told else name
  return formats.printable(text)


def _says_something(argument: str, value: Any, defaults: Mapping[str, Any]) -> bool:
  if defaults:
    # One that is not among them belongs to another function of the section.
    return argument in defaults and _plain(value) != _plain(defaults[argument])
  return isinstance(value, int | float | str)


def _plain(value: Any) -> Any:
  """As JSON has it."""
  return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
  if isinstance(value, tuple | list):
    return ' '.join(map(_text, value))
  return f'{value:g}' if isinstance(value, float) else str(value)
