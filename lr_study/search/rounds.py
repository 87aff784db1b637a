"""Which trials a study has: asked for in rounds, trained in waves, on record in one file."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lr_study import formats, plugs
from lr_study.config import flatten
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text

_FILE = 'trials.json'
# In the names of a schedule's arguments that count epochs; those of a tuple count from 1.
_EPOCHS = 'epochs'

Axes = tuple[tuple[str, Any], ...]  # (name, value) of each further axis, in the config's order
Program = tuple[int, str]  # batch size and schedule


class Setting(NamedTuple):
  """What is the same for all rates of a search. A study has one, or several beside each other."""

  batch_size: int
  schedule: str
  axes: Axes = ()


class Planned(NamedTuple):
  """A trial as far as a round asks for it: to the end of epoch `epochs`, in wave `wave`.

  A later round may ask for the same trial again, to go on from there.
  """

  learning_rate: float
  seed: int
  batch_size: int
  schedule: str
  epochs: int
  round: int
  wave: int
  axes: Axes = ()

  @property
  def setting(self) -> Setting:
    """Its batch size, its schedule, and its value on each further axis."""
    return Setting(self.batch_size, self.schedule, self.axes)

  @property
  def trial(self) -> tuple[Any, ...]:
    """What it is, however far it trains."""
    return (*self.setting, self.learning_rate, self.seed)


class Plan(NamedTuple):
  """All that was asked for so far; `ended` once nothing more will be."""

  trials: tuple[Planned, ...] = ()
  ended: bool = False

  def of_round(self, number: int) -> tuple[Planned, ...]:
    """What round `number` asks for."""
    return tuple(t for t in self.trials if t.round == number)

  def of_wave(self, number: int) -> tuple[Planned, ...]:
    """The trials that train together in wave `number`, in the order of their columns."""
    return tuple(t for t in self.trials if t.wave == number)

  @property
  def waves(self) -> int:
    """How many waves there are so far."""
    return 1 + max((t.wave for t in self.trials), default=-1)

  def column(self, planned: Planned) -> int:
    """Where it is among the trials of its wave."""
    return self.of_wave(planned.wave).index(planned)


def settings(config: ConfigDict) -> dict[Setting, ConfigDict]:
  """The settings of a study, each with the config that its trials train by.

  The values on further axes are no part of that config: its program takes them as arguments.
  The number of epochs is the same for all batch sizes; or, with `equal='steps'`, that of steps.

  Raises:
    StudyError: if a batch size would need a part of an epoch for so many steps.
  """
  found = {}
  for batch_size in config.batch_sizes or (config.batch_size,):
    for schedule in config.schedules or (config.schedule.name,):
      own = config.copy_and_resolve_references().unlock()
      own.batch_size = batch_size
      if config.schedules:
        _set_schedule(own, schedule)
      if config.equal == 'steps':
        _scale_epochs(own, batch_size / config.batch_size)
      own.lock()
      found |= {Setting(batch_size, schedule, axes): own for axes in _product(config)}
  return found


def program_of(setting: Setting) -> Program:
  """What the trials of one compiled program share; they may train together."""
  return setting.batch_size, setting.schedule


def axes_of(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
  """The values of each further axis of a study, by its name, as 'optimizer.weight_decay'."""
  return flatten(config.get('axes', {}))


def at_once(config: ConfigDict) -> tuple[Planned, ...]:
  """Every rate of a config from every seed in one wave: rate by rate, and in each seed by seed.

  Where there are further axes, so for each combination of their values.
  """
  setting = (config.batch_size, config.schedule.name)
  return tuple(
    Planned(rate, seed, *setting, config.epochs, 0, 0, axes)
    for axes in _product(config)
    for rate in config.learning_rates
    for seed in config.seeds
  )


def label(setting: Setting, among: Iterable[Setting]) -> str:
  """A folder's name for a setting, by what it differs in from the others; empty if it is alone."""
  return '_'.join(_differences(setting, list(among)))


def title(setting: Setting, among: Iterable[Setting]) -> str:
  """The same for people: 'batch 4, step decay, momentum 0.9'."""
  return ', '.join(part.replace('_', ' ') for part in _differences(setting, list(among)))


def _differences(setting: Setting, among: Sequence[Setting]) -> list[str]:
  """What a setting differs in from the others, each fit for a folder's name."""
  parts = []
  if len({other.batch_size for other in among}) > 1:
    parts.append(f'batch_{setting.batch_size}')
  names = {other.schedule: other.schedule.rpartition(':')[2] for other in among}
  if len(names) > 1:
    # Of 'path/to/file.py:name' what it is called; with its number where two are called the same.
    alike = [full for full, name in names.items() if name == names[setting.schedule]]
    number = f'_{alike.index(setting.schedule) + 1}' if len(alike) > 1 else ''
    parts.append(names[setting.schedule] + number)
  for name, value in varied(setting, among).items():
    own = name.rpartition('.')[2]
    if sum(other.rpartition('.')[2] == own for other, _ in setting.axes) > 1:
      own = name.replace('.', '_')
    parts.append(f'{own}_{value_text(value)}')
  return parts


def varied(setting: Setting, among: Iterable[Setting]) -> dict[str, Any]:
  """The setting's value on each further axis that has several values among these settings."""
  others = [dict(other.axes) for other in among]
  return {
    name: value for name, value in setting.axes if any(other.get(name) != value for other in others)
  }


def value_text(value: Any) -> str:
  """A value of an axis for people, and for folders: 0.9, 1e-04, 16."""
  if not isinstance(value, float):
    return str(value)
  text = formats.rate(value) if 0 < abs(value) < 1e-2 else f'{value:g}'
  return text if float(text) == value else repr(value)


def last(plan: Plan, order: Iterable[Setting]) -> list[Planned]:
  """Each trial once, as the latest round asks for it.

  Args:
    plan: the study's.
    order: of the settings; within one, the largest rate comes first, its seeds as they were asked.
  """
  latest = {t.trial: t for t in plan.trials}
  place = {setting: i for i, setting in enumerate(order)}
  return sorted(latest.values(), key=lambda t: (place[t.setting], -t.learning_rate))


def before(plan: Plan, planned: Planned) -> Planned | None:
  """The same trial in an earlier round; None if it starts with this one."""
  return next(
    (t for t in reversed(plan.trials) if t.trial == planned.trial and t.round < planned.round), None
  )


def read(folder: Path) -> Plan:
  """The plan of the study whose history is in `folder`; an empty one if there is none yet.

  Raises:
    StudyError: if its file is damaged.
  """
  file = folder / _FILE
  try:
    content = json.loads(file.read_text())
    trials = tuple(map(_planned, content['trials']))
    return Plan(trials, bool(content['ended']))
  except FileNotFoundError:
    return Plan()
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error}); start again with --overwrite') from error


def write(folder: Path, plan: Plan) -> None:
  """Writes the plan."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = ',\n  '.join(json.dumps(trial._asdict()) for trial in plan.trials)
  write_text(folder / _FILE, f'{{"ended": {json.dumps(plan.ended)}, "trials": [\n  {lines}\n]}}\n')


def _planned(fields: dict[str, Any]) -> Planned:
  axes = tuple((name, value) for name, value in fields.get('axes', ()))
  return Planned(**{**fields, 'axes': axes})


def _product(config: ConfigDict) -> list[Axes]:
  """Every combination of values of the further axes; one of none if there are none."""
  axes = axes_of(config)
  return [tuple(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _set_schedule(config: ConfigDict, name: str) -> None:
  """One of the schedules, with what the config has of its arguments, and defaults for the rest."""
  factory = plugs.find('schedule', name)
  own = {
    field: value
    for field, value in config.schedule.items()
    if field in plugs.fields('schedule', factory)
  }
  config.schedule = ConfigDict({'name': name, **plugs.checked('schedule', factory, own)})


def _scale_epochs(config: ConfigDict, factor: float) -> None:
  """So many more epochs that there are as many steps, with the drops in the same places."""
  epochs = config.epochs * factor
  if epochs != int(epochs) or epochs < 1:
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} that is {epochs:g} epochs; choose "
      'epochs and batch_sizes that give whole ones'
    )
  config.epochs = int(epochs)
  for name in axes_of(config):
    if factor != 1 and name.startswith('schedule.') and name.endswith(_EPOCHS):
      raise StudyError(f"equal is 'steps': {name} cannot be an axis beside batch_sizes")
  for name, value in list(config.schedule.items()):
    if name.endswith(_EPOCHS) and value is not None:
      with config.schedule.ignore_type():  # a whole number may become a fraction
        config.schedule[name] = _scaled(name, value, factor, config)


def _scaled(name: str, value: Any, factor: float, config: ConfigDict) -> Any:
  """An argument in epochs, as a number; or as epochs from 1 at whose starts something happens."""
  if not isinstance(value, tuple):
    return value * factor
  found = [(epoch - 1) * factor + 1 for epoch in value]
  if any(epoch != int(epoch) for epoch in found):
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} schedule.{name} fall within epochs"
    )
  return tuple(int(epoch) for epoch in found)
