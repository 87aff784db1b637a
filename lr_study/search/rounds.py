"""The plan of a study's trials: requested in rounds, trained in waves, stored in one file."""

import dataclasses
import functools
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
_UNFIT = re.compile(r'[^\w.+-]+')  # characters that a folder's name should not have
# Axes for which every trial has a field.
_OF_ALL = ('batch_size', 'schedule.name')
# The end of names of schedule arguments that are in epochs; entries of tuples count from 1.
_EPOCHS = 'epochs'

Axes = tuple[tuple[str, Any], ...]  # (name, value) of each other axis, in the config's order

ANY: Mapping[str, Any] = types.MappingProxyType({})  # for `matching`: any value


class Setting(NamedTuple):
  """What is the same for all rates of a search. A study has one or several settings."""

  batch_size: int
  schedule: str
  axes: Axes = ()

  @classmethod
  def of(cls, record: Any) -> 'Setting':
    """The setting of a result, a verdict or another record, whose `axes` is a dict."""
    return cls(record.batch_size, record.schedule, tuple(record.axes.items()))


class Planned(NamedTuple):
  """A trial that a round asks for: to the end of epoch `epochs`, in wave `wave`.

  A later round may ask for the same trial with more epochs.
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
    """Its batch size, its schedule, and its value on each other axis."""
    return Setting(self.batch_size, self.schedule, self.axes)

  @property
  def trial(self) -> tuple[Any, ...]:
    """What identifies the trial, regardless of its epochs."""
    return (*self.setting, self.learning_rate, self.seed)


@dataclasses.dataclass(frozen=True)
class Plan:
  """All trials that were asked for so far; `ended` once the search has ended.

  earlier: the trials that the study had before it was extended; if the search asks for one of them
  again, the trial in that wave is reused. taken: wave numbers below this are not used again.
  """

  trials: tuple[Planned, ...] = ()
  ended: bool = False
  earlier: tuple[Planned, ...] = ()
  taken: int = 0

  def of_round(self, number: int) -> tuple[Planned, ...]:
    """The trials that round `number` asks for."""
    return tuple(t for t in self.trials if t.round == number)

  def of_wave(self, number: int) -> tuple[Planned, ...]:
    """The trials that train together in wave `number`, in the order of their columns."""
    return tuple(self._columns.get(number, ()))

  @property
  def waves(self) -> int:
    """How many waves there are so far."""
    return max(self.taken, 1 + max((t.wave for t in self.trials), default=-1))

  def column(self, planned: Planned) -> int:
    """The column of a trial in its wave."""
    return self._columns[planned.wave][planned]

  def requests(self, planned: Planned) -> list[Planned]:
    """All requests for the same trial, those before the study was extended first."""
    return self._requests.get(planned.trial, [])

  # A study may have tens of thousands of trials, so none of these is searched trial by trial.

  @functools.cached_property
  def _columns(self) -> dict[int, dict[Planned, int]]:
    """The column of each trial of each wave."""
    found: dict[int, dict[tuple[Any, ...], Planned]] = {}
    # A later request takes the column of an earlier one of its trial.
    for t in (*self.earlier, *self.trials):
      found.setdefault(t.wave, {})[t.trial] = t
    return {wave: {t: i for i, t in enumerate(of.values())} for wave, of in found.items()}

  @functools.cached_property
  def _requests(self) -> dict[tuple[Any, ...], list[Planned]]:
    found: dict[tuple[Any, ...], list[Planned]] = {}
    for t in (*self.earlier, *self.trials):
      found.setdefault(t.trial, []).append(t)
    return found


def settings(config: ConfigDict) -> dict[Setting, ConfigDict]:
  """The settings of a study, each with the config that its trials train by.

  Settings that differ only in numbers that a program takes as arguments share one config, whose
  `axes` are those numbers. Any other combination of values has a separate config. The number of
  epochs is the same for all batch sizes, or the number of steps with `equal='steps'`.

  Raises:
    StudyError: values do not fit together, two files of the user have the same name, or a batch
      size would need a fraction of an epoch for the same number of steps.
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
  """The axes whose values share one program: numbers that its parts can use as arrays."""
  return tuple(
    name
    for name, values in flatten(config.get('axes', {})).items()
    if all(map(plugs.is_number, values)) and plugs.may_sweep(config, name)
  )


def axes_of(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
  """The values of each axis other than rate, seed, batch size and schedule, by name."""
  return {n: x for n, x in flatten(config.get('axes', {})).items() if n not in _OF_ALL}


def numbers_of(config: ConfigDict, of: 'Planned | Setting') -> dict[str, float]:
  """The values on the axes of the program's config, which are arguments of the program."""
  return {name: value for name, value in of.axes if name in config.axes}


def at_once(config: ConfigDict) -> tuple[Planned, ...]:
  """Every combination of a config's axes, rates and seeds, in one wave.

  Seeds vary fastest, then rates, then the other axes.

  Args:
    config: of a setting; its axes are numbers that one program takes.
  """
  setting, axes = (config.batch_size, paths.short(config.schedule.name)), axes_of(config)
  return tuple(
    Planned(rate, seed, *setting, config.epochs, 0, 0, tuple(zip(axes, values, strict=True)))
    for values in itertools.product(*axes.values())
    for rate in config.learning_rates
    for seed in config.seeds
  )


def label(setting: Setting, among: Iterable[Setting]) -> str:
  """A folder name for a setting, from its differences to the others; '' if it is the only one."""
  return '_'.join(_differences(setting, list(among)))


def title(setting: Setting, among: Iterable[Setting]) -> str:
  """A label of a setting for people: 'batch 4, step decay, momentum 0.9'."""
  return ', '.join(part.replace('_', ' ') for part in _differences(setting, list(among)))


def _differences(setting: Setting, among: Sequence[Setting]) -> list[str]:
  """The values in which a setting differs from the others, each fit for a folder name."""
  parts = []
  if len({other.batch_size for other in among}) > 1:
    parts.append(f'batch_{setting.batch_size}')
  if len({other.schedule for other in among}) > 1:
    parts.append(_short(setting.schedule, [other.schedule for other in among]))
  for name, value in varied(setting, among).items():
    text = _short(value, [dict(other.axes).get(name) for other in among])
    section, _, own = name.rpartition('.')
    if name.startswith(RATE_FACTOR):  # an expression may hold characters that a name cannot
      own = '_'.join(['rate_factor', *re.findall(r'\w+', name.removeprefix(RATE_FACTOR))])
    elif sum(other.rpartition('.')[2] == own for other, _ in setting.axes) > 1:
      own = f'{section}_{own}'
    parts.append(text if own == 'name' else f'{own}_{text}'.removeprefix('_'))
  return parts


def _short(value: Any, values: Iterable[Any]) -> str:
  """A value fit for a folder name; numbered if several of `values` look the same."""
  names = {other: _UNFIT.sub('_', value_text(other).rpartition('/')[2]) for other in values}
  alike = [other for other, name in names.items() if name == names[value]]
  return names[value] + (f'_{alike.index(value) + 1}' if len(alike) > 1 else '')


def varied(setting: Setting, among: Iterable[Setting]) -> dict[str, Any]:
  """The setting's value on each axis in `axes` that varies among these settings."""
  others = [dict(other.axes) for other in among]
  return {
    name: value for name, value in setting.axes if any(other.get(name) != value for other in others)
  }


def frozen(value: Any) -> Any:
  """A value from JSON, with tuples in place of lists."""
  return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def record_of(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a record in results.json, with tuples in place of lists in its `axes`."""
  return {**fields, 'axes': {name: frozen(value) for name, value in fields['axes'].items()}}


def placeless(name: str, value: Any) -> Any:
  """The value of an axis; a user's name has its folders removed, because files may be moved."""
  return paths.short(value) if name.endswith('.name') and isinstance(value, str) else value


def matching(settings: Iterable[Setting], wanted: Mapping[str, Any]) -> list[Setting]:
  """The settings that have the wanted values.

  Args:
    settings: of a study.
    wanted: values by the names of axes, such as 'batch_size' and 'optimizer.weight_decay', or
      'weight_decay' if no other axis ends in that; 'schedule' means 'schedule.name'.

  Raises:
    StudyError: names the first value that none of them has.
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
  """The setting with one axis left blank."""
  if axis in _OF_ALL:
    blank = {'batch_size': 0} if axis == 'batch_size' else {'schedule': ''}
    return setting._replace(**blank)
  return setting._replace(axes=tuple((n, x) for n, x in setting.axes if n != axis))


def on_axes(setting: Setting) -> dict[str, Any]:
  """The value on each axis except rate and seed, by name."""
  return {'batch_size': setting.batch_size, 'schedule.name': setting.schedule, **dict(setting.axes)}


def _axis_named(name: str, axes: Iterable[str]) -> str:
  fits = [x for x in axes if name in (x, x.rpartition('.')[2], x.removesuffix('.name'))]
  exact = [axis for axis in fits if axis == name] or fits
  if len(exact) != 1:
    raise StudyError(f'--axis {name} is not an axis of the study, which has {", ".join(axes)}')
  return exact[0]


def _is_same(own: Any, wanted: Any) -> bool:
  """True for numbers that agree to five digits, and for 'name' and 'my_file.py:name'."""
  if plugs.is_number(own) and plugs.is_number(wanted):
    return math.isclose(own, wanted, rel_tol=1e-5)
  if isinstance(own, str):
    return wanted in (own, own.rpartition(':')[2])
  return own == wanted


def value_text(value: Any) -> str:
  """A value of an axis for people: 0.9, 1e-04, 16, MyNet for 'my_models.py:MyNet'."""
  if isinstance(value, tuple | list):
    return ' '.join(map(value_text, value))
  if isinstance(value, str):
    return value.rpartition(':')[2] if plugs.names_own(value) else value
  if not isinstance(value, float):
    return str(value)
  text = formats.rate(value) if 0 < abs(value) < 1e-2 else f'{value:g}'
  return text if float(text) == value else repr(value)


def last(plan: Plan, order: Iterable[Setting]) -> list[Planned]:
  """Each trial once, as requested by the latest round.

  Args:
    plan: the study's.
    order: of the settings; within a setting, the largest rate comes first, with its seeds in the
      order of the request.
  """
  latest = {t.trial: t for t in plan.trials}
  place = {setting: i for i, setting in enumerate(order)}
  return sorted(latest.values(), key=lambda t: (place[t.setting], -t.learning_rate))


def before(plan: Plan, planned: Planned) -> Planned | None:
  """The same trial with the most epochs that it was trained to before; None if it is new."""
  return max(
    (t for t in plan.requests(planned) if t.round < planned.round and t.epochs < planned.epochs),
    key=lambda t: t.epochs,
    default=None,
  )


def origin(plan: Plan, planned: Planned) -> str:
  """What stays the same of a trial when it goes on or the study is extended: where it began."""
  while (earlier := before(plan, planned)) is not None:
    planned = earlier
  return f'{planned.wave}:{plan.column(planned)}'


def read(folder: Path) -> Plan:
  """The plan of the study whose history is in `folder`; an empty one if there is none yet.

  Raises:
    StudyError: the file is damaged.
  """
  file = folder / FILE
  try:
    return from_text(file.read_text())
  except FileNotFoundError:
    return Plan()
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error}); {record.start_again(file)}') from error


def write(folder: Path, plan: Plan) -> None:
  """Writes the plan."""
  folder.mkdir(parents=True, exist_ok=True)
  write_text(folder / FILE, as_text(plan))


def as_text(plan: Plan) -> str:
  """A plan as JSON, with a line per trial."""
  parts = [f'"ended": {json.dumps(plan.ended)}', _lines('trials', plan.trials)]
  if plan.taken:
    parts += [f'"taken": {plan.taken}', _lines('earlier', plan.earlier)]
  return f'{{{", ".join(parts)}}}\n'


def from_text(text: str) -> Plan:
  """The plan that `as_text` returned; KeyError, TypeError or ValueError if the text is damaged."""
  content = json.loads(text)
  trials, earlier = (tuple(map(_planned, content.get(name, ()))) for name in ('trials', 'earlier'))
  return Plan(trials, bool(content['ended']), earlier, content.get('taken', 0))


def _lines(name: str, trials: Iterable[Planned]) -> str:
  lines = ',\n  '.join(json.dumps(trial._asdict()) for trial in trials)
  return f'"{name}": [\n  {lines}\n]'


def _planned(fields: dict[str, Any]) -> Planned:
  axes = tuple((name, placeless(name, value)) for name, value in frozen(fields.get('axes', ())))
  return Planned(**{**fields, 'axes': axes, 'schedule': paths.short(fields['schedule'])})


def _config_with(
  config: ConfigDict, fixed: dict[str, Any], traced: dict[str, tuple[Any, ...]]
) -> ConfigDict:
  """A config with these values set, and with these axes."""
  own = config.copy_and_resolve_references().unlock()
  with own.ignore_type():
    # Names first: each keeps the section's fields that are among its arguments.
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
  """Multiplies the epochs, and schedule arguments in epochs, so that the steps stay the same."""
  epochs = config.epochs * factor
  if epochs != int(epochs) or epochs < 1:
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} that is {epochs:g} epochs; choose "
      'epochs and values of batch_size that give whole numbers'
    )
  config.epochs = int(epochs)
  for name in axes_of(config):
    if factor != 1 and name.startswith('schedule.') and name.endswith(_EPOCHS):
      raise StudyError(f"equal is 'steps': {name} cannot be an axis together with batch_size")
  for name, value in list(config.schedule.items()):
    if name.endswith(_EPOCHS) and value is not None:
      with config.schedule.ignore_type():  # a whole number may become a fraction
        config.schedule[name] = _scaled(name, value, factor, config)


def _scaled(name: str, value: Any, factor: float, config: ConfigDict) -> Any:
  """Scales an argument in epochs: a number, or epochs (from 1) at whose start something happens."""
  if not isinstance(value, tuple):
    return value * factor
  found = [(epoch - 1) * factor + 1 for epoch in value]
  if any(epoch != int(epoch) for epoch in found):
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size}, schedule.{name} would not be whole "
      'epochs'
    )
  return tuple(int(epoch) for epoch in found)
