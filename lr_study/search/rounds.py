"""Which trials a study has: asked for in rounds, trained in waves, on record in one file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lr_study.errors import StudyError
from lr_study.files.workdir import write_text

_FILE = 'trials.json'


class Setting(NamedTuple):
  """What is the same for all rates of a search. A study has one, or several beside each other."""

  batch_size: int
  schedule: str


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

  @property
  def setting(self) -> Setting:
    """Its batch size and its schedule."""
    return Setting(self.batch_size, self.schedule)

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

  The number of epochs is the same for all batch sizes; or, with `equal='steps'`, that of steps.

  Raises:
    StudyError: if a batch size would need a part of an epoch for so many steps.
  """
  found = {}
  for batch_size in config.batch_sizes or (config.batch_size,):
    for schedule in config.schedules or (config.schedule.name,):
      own = config.copy_and_resolve_references().unlock()
      own.batch_size, own.schedule.name = batch_size, schedule
      if config.equal == 'steps':
        _scale_epochs(own, batch_size / config.batch_size)
      found[Setting(batch_size, schedule)] = own.lock()
  return found


def at_once(config: ConfigDict) -> tuple[Planned, ...]:
  """Every rate of a config from every seed in one wave: rate by rate, and in each seed by seed."""
  setting = (config.batch_size, config.schedule.name)
  return tuple(
    Planned(rate, seed, *setting, config.epochs, 0, 0)
    for rate in config.learning_rates
    for seed in config.seeds
  )


def label(setting: Setting, among: Iterable[Setting]) -> str:
  """A folder's name for a setting, by what it differs in from the others; empty if it is alone."""
  sizes, schedules = ({getattr(s, name) for s in among} for name in Setting._fields)
  parts = [f'batch_{setting.batch_size}'] if len(sizes) > 1 else []
  return '_'.join(parts + ([setting.schedule] if len(schedules) > 1 else []))


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
    trials = tuple(Planned(**trial) for trial in content['trials'])
    return Plan(trials, bool(content['ended']))
  except FileNotFoundError:
    return Plan()
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error}); start anew with --overwrite') from error


def write(folder: Path, plan: Plan) -> None:
  """Writes the plan."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = ',\n  '.join(json.dumps(trial._asdict()) for trial in plan.trials)
  write_text(folder / _FILE, f'{{"ended": {json.dumps(plan.ended)}, "trials": [\n  {lines}\n]}}\n')


def _scale_epochs(config: ConfigDict, factor: float) -> None:
  """So many more epochs that there are as many steps, with the drops in the same places."""
  epochs = config.epochs * factor
  if epochs != int(epochs) or epochs < 1:
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} that is {epochs:g} epochs; choose "
      'epochs and batch_sizes that give whole ones'
    )
  config.epochs = int(epochs)
  schedule = config.schedule
  schedule.every_epochs *= factor
  schedule.warmup_epochs *= factor
  from_epochs = [(epoch - 1) * factor + 1 for epoch in schedule.from_epochs]
  if schedule.name == 'piecewise' and any(epoch != int(epoch) for epoch in from_epochs):
    raise StudyError(
      f"equal is 'steps': at batch size {config.batch_size} schedule.from_epochs fall within epochs"
    )
  schedule.from_epochs = tuple(int(epoch) for epoch in from_epochs)
