"""Which trials a study has: asked for in rounds, trained in waves, on record in one file."""

import itertools
import json
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lr_study import formats, paths, plugs
from lr_study.config import RATE_FACTOR, check, flatten, own_section
from lr_study.errors import StudyError
from lr_study.files import record
from lr_study.files.workdir import write_text

FILE = 'trials.json'
_UNFIT = re.compile(r'[^\w.+-]+')  # for a folder's name
# Axes that every trial has a field for.
_OF_ALL = ('batch_size', 'schedule.name')
# In the names of a schedule's arguments that count epochs; those of a tuple count from 1.
_EPOCHS = 'epochs'

Axes = tuple[tuple[str, Any], ...]  # (name, value) of each further axis, in the config's order

ANY: Mapping[str, Any] = types.MappingProxyType({})  # for `matching`: no value is asked for


class Setting(NamedTuple):
  """What is the same for all rates of a search. A study has one, or several beside each other."""

  batch_size: int
  schedule: str
  axes: Axes = ()

  @classmethod
  def of(cls, record: Any) -> 'Setting':
    """That of a result, a verdict or another record: its `axes` is a dict there."""
    return cls(record.batch_size, record.schedule, tuple(record.axes.items()))


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
  """All that was asked for so far; `ended` once nothing more will be.

  earlier: what the study had before it was extended: who asks for one of these again gets the
  trial of that wave. taken: numbers of waves that are not given again.
  """

  trials: tuple[Planned, ...] = ()
  ended: bool = False
  earlier: tuple[Planned, ...] = ()
  taken: int = 0

  def of_round(self, number: int) -> tuple[Planned, ...]:
    """What round `number` asks for."""
    return tuple(t for t in self.trials if t.round == number)

  def of_wave(self, number: int) -> tuple[Planned, ...]:
    """The trials that train together in wave `number`, in the order of their columns."""
    of_now = {t.trial: t for t in self.trials if t.wave == number}
    before = [of_now.pop(t.trial, t) for t in self.earlier if t.wave == number]
    return (*before, *of_now.values())

  @property
  def waves(self) -> int:
    """How many waves there are so far."""
    return max(self.taken, 1 + max((t.wave for t in self.trials), default=-1))

  def column(self, planned: Planned) -> int:
    """Where it is among the trials of its wave."""
    return self.of_wave(planned.wave).index(planned)


def settings(config: ConfigDict) -> dict[Setting, ConfigDict]:
  """The settings of a study, each with the config that its trials train by.

  Settings that differ in numbers that a program takes as arguments share one config: its `axes` are
  those numbers. Every other value has its place in a config of its own. The number of epochs is the
  same for all batch sizes; or, with `equal='steps'`, that of steps.

  Raises:
    StudyError: if values do not go together, or files of the user's own are called the same; or if
      a batch size would need a part of an epoch for so many steps.
  """
  axes = flatten(config.get('axes', {}))
  traced, found, programs = traced_axes(config), {}, {}
  order = [n for n in _OF_ALL if n in axes] + [n for n in axes if n not in _OF_ALL]
  for values in itertools.product(*(axes[name] for name in order)):
    chosen = dict(zip(order, values, strict=True))
    fixed = tuple((n, x) for n, x in chosen.items() if n not in traced)
    if fixed not in programs:
      programs[fixed] = _config_with(config, dict(fixed), {n: axes[n] for n in traced})
    own = programs[fixed]
    further = tuple((n, placeless(n, x)) for n, x in chosen.items() if n not in _OF_ALL)
    setting = Setting(own.batch_size, paths.short(own.schedule.name), further)
    if setting in found:
      names = [paths.short(x) for n, x in chosen.items() if n.endswith('.name')]
      raise StudyError(f'axes holds two files of the same names, {", ".join(names)}; rename one')
    found[setting] = own
  return found


def traced_axes(config: ConfigDict) -> tuple[str, ...]:
  """The axes whose values one program takes: numbers that its parts can use as arrays."""
  return tuple(
    name
    for name, values in flatten(config.get('axes', {})).items()
    if all(map(plugs.is_number, values)) and plugs.may_sweep(config, name)
  )


def axes_of(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
  """The values of each axis besides rate, seed, batch size and schedule, by its name."""
  return {n: x for n, x in flatten(config.get('axes', {})).items() if n not in _OF_ALL}


def numbers_of(config: ConfigDict, of: 'Planned | Setting') -> dict[str, float]:
  """Its values on the axes of its program's config, which are arguments of the program."""
  return {name: value for name, value in of.axes if name in config.axes}


def at_once(config: ConfigDict) -> tuple[Planned, ...]:
  """Every rate of a config from every seed in one wave: rate by rate, and in each seed by seed.

  Where there are further axes, so for each combination of their values.

  Args:
    config: of a setting: its axes are numbers that one program takes.
  """
  setting, axes = (config.batch_size, paths.short(config.schedule.name)), axes_of(config)
  return tuple(
    Planned(rate, seed, *setting, config.epochs, 0, 0, tuple(zip(axes, values, strict=True)))
    for values in itertools.product(*axes.values())
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
  if len({other.schedule for other in among}) > 1:
    parts.append(_short(setting.schedule, [other.schedule for other in among]))
  for name, value in varied(setting, among).items():
    text = _short(value, [dict(other.axes).get(name) for other in among])
    section, _, own = name.rpartition('.')
    if name.startswith(RATE_FACTOR):  # an expression may hold what no folder's name can
      own = '_'.join(['rate_factor', *re.findall(r'\w+', name.removeprefix(RATE_FACTOR))])
    elif sum(other.rpartition('.')[2] == own for other, _ in setting.axes) > 1:
      own = f'{section}_{own}'
    parts.append(text if own == 'name' else f'{own}_{text}'.removeprefix('_'))
  return parts


def _short(value: Any, values: Iterable[Any]) -> str:
  """A value fit for a folder's name; with its number where several of `values` look the same."""
  names = {other: _UNFIT.sub('_', value_text(other).rpartition('/')[2]) for other in values}
  alike = [other for other, name in names.items() if name == names[value]]
  return names[value] + (f'_{alike.index(value) + 1}' if len(alike) > 1 else '')


def varied(setting: Setting, among: Iterable[Setting]) -> dict[str, Any]:
  """The setting's value on each further axis that has several values among these settings."""
  others = [dict(other.axes) for other in among]
  return {
    name: value for name, value in setting.axes if any(other.get(name) != value for other in others)
  }


def frozen(value: Any) -> Any:
  """A value that JSON held, with tuples for lists."""
  return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def record_of(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a record of results.json, with tuples for lists among its values on axes."""
  return {**fields, 'axes': {name: frozen(value) for name, value in fields['axes'].items()}}


def placeless(name: str, value: Any) -> Any:
  """The value of an axis; a name of the user's own without folders: its file may be moved."""
  return paths.short(value) if name.endswith('.name') and isinstance(value, str) else value


def matching(settings: Iterable[Setting], wanted: Mapping[str, Any]) -> list[Setting]:
  """Those of the settings that have the wanted values.

  Args:
    settings: of a study.
    wanted: values by the names of axes, as 'batch_size' and 'optimizer.weight_decay'; where no
      other axis ends so, 'weight_decay' will do, and 'schedule' for 'schedule.name'.

  Raises:
    StudyError: naming the first value that none of them has.
  """
  found = [(setting, on_axes(setting)) for setting in settings]
  for given, value in wanted.items():
    name = _axis_named(given, found[0][1])
    fits = [(setting, own) for setting, own in found if _is_same(own[name], value)]
    if not fits:
      others = ', '.join(dict.fromkeys(value_text(own[name]) for _, own in found))
      raise StudyError(
        f'--axis {given}={value_text(value)} is not in the study, which has {others}'
      )
    found = fits
  return [setting for setting, _ in found]


def without(setting: Setting, axis: str) -> Setting:
  """The setting with nothing said of one axis."""
  if axis in _OF_ALL:
    blank = {'batch_size': 0} if axis == 'batch_size' else {'schedule': ''}
    return setting._replace(**blank)
  return setting._replace(axes=tuple((n, x) for n, x in setting.axes if n != axis))


def on_axes(setting: Setting) -> dict[str, Any]:
  """Its value on each axis but rate and seed, by the axis's name."""
  return {'batch_size': setting.batch_size, 'schedule.name': setting.schedule, **dict(setting.axes)}


def _axis_named(name: str, axes: Iterable[str]) -> str:
  fits = [x for x in axes if name in (x, x.rpartition('.')[2], x.removesuffix('.name'))]
  exact = [axis for axis in fits if axis == name] or fits
  if len(exact) != 1:
    raise StudyError(f'--axis {name} is not an axis of the study, which has {", ".join(axes)}')
  return exact[0]


def _is_same(own: Any, wanted: Any) -> bool:
  """True for numbers that are the same to five digits, and for 'name' of 'my_file.py:name'."""
  if plugs.is_number(own) and plugs.is_number(wanted):
    return math.isclose(own, wanted, rel_tol=1e-5)
  if isinstance(own, str):
    return wanted in (own, own.rpartition(':')[2])
  return own == wanted


def value_text(value: Any) -> str:
  """A value of an axis for people: 0.9, 1e-04, 16, MyNet of 'my_models.py:MyNet'."""
  if isinstance(value, tuple | list):
    return ' '.join(map(value_text, value))
  if isinstance(value, str):
    return value.rpartition(':')[2] if plugs.names_own(value) else value
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
  """The same trial as far as it was trained before; None if it starts with this one."""
  return max(
    (
      t
      for t in (*plan.earlier, *plan.trials)
      if t.trial == planned.trial and t.round < planned.round and t.epochs < planned.epochs
    ),
    key=lambda t: t.epochs,
    default=None,
  )


def read(folder: Path) -> Plan:
  """The plan of the study whose history is in `folder`; an empty one if there is none yet.

  Raises:
    StudyError: if its file is damaged.
  """
  file = folder / FILE
  try:
    content = json.loads(file.read_text())
    trials, earlier = (
      tuple(map(_planned, content.get(name, ()))) for name in ('trials', 'earlier')
    )
    return Plan(trials, bool(content['ended']), earlier, content.get('taken', 0))
  except FileNotFoundError:
    return Plan()
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error}); {record.start_again(file)}') from error


def write(folder: Path, plan: Plan) -> None:
  """Writes the plan."""
  folder.mkdir(parents=True, exist_ok=True)
  parts = [f'"ended": {json.dumps(plan.ended)}', _lines('trials', plan.trials)]
  if plan.earlier:
    parts += [f'"taken": {plan.taken}', _lines('earlier', plan.earlier)]
  write_text(folder / FILE, f'{{{", ".join(parts)}}}\n')


def _lines(name: str, trials: Iterable[Planned]) -> str:
  lines = ',\n  '.join(json.dumps(trial._asdict()) for trial in trials)
  return f'"{name}": [\n  {lines}\n]'


def _planned(fields: dict[str, Any]) -> Planned:
  axes = tuple((name, placeless(name, value)) for name, value in frozen(fields.get('axes', ())))
  return Planned(**{**fields, 'axes': axes, 'schedule': paths.short(fields['schedule'])})


def _config_with(
  config: ConfigDict, fixed: dict[str, Any], traced: dict[str, tuple[Any, ...]]
) -> ConfigDict:
  """A config with these values in their places, and these axes."""
  own = config.copy_and_resolve_references().unlock()
  with own.ignore_type():
    # Names first: each takes what there is of its own arguments.
    for name, value in sorted(fixed.items(), key=lambda of: not of[0].endswith('.name')):
      section, _, field = name.partition('.')
      if field == 'name':
        own[section] = ConfigDict(own_section(section, own[section], value))
      elif field:
        own[section][field] = value
      else:
        own[name] = value
  own.axes = ConfigDict(traced, allow_dotted_keys=True)
  if config.equal == 'steps':
    _scale_epochs(own, own.batch_size / config.batch_size)
  return check(own)


def _scale_epochs(config: ConfigDict, factor: float) -> None:
  """So many more epochs that there are as many steps, with the drops in the same places."""
  epochs = config.epochs * factor
  if epochs != int(epochs) or epochs < 1:
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} that is {epochs:g} epochs; choose "
      'epochs and values of batch_size that give whole ones'
    )
  config.epochs = int(epochs)
  for name in axes_of(config):
    if factor != 1 and name.startswith('schedule.') and name.endswith(_EPOCHS):
      raise StudyError(f"equal is 'steps': {name} cannot be an axis beside batch_size")
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
