"""Gets a study ready to train: its data, and what the trials of each setting share."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from lr_study import accelerate, inputs, models, progress, trials
from lr_study import data as datasets
from lr_study.data import samples
from lr_study.errors import StudyError
from lr_study.search.rounds import Setting
from lr_study.trials import Sweep


def load(config: ConfigDict, of_study: Iterable[Setting]) -> datasets.Dataset:
  """Reads the data of a study with these settings, and says what its checks found.

  Raises:
    StudyError: it cannot be read, or a batch has more images than there are.
  """
  room = accelerate.room_for_images(config.parallel)
  opened = datasets.opened(config.data, config.image_size)
  with progress.working('Reading and checking the data', keep=False):
    data = inputs.check_range(config.input, opened.load(room))
  _tell_checks(data)
  largest = max(setting.batch_size for setting in of_study)
  if largest > len(data.train.labels):
    raise StudyError(
      f'batch_size is {largest}, but there are {len(data.train.labels)} training '
      f'{samples.noun(data.mean.shape)}'
    )
  return data


def sweeps(
  config: ConfigDict, settings: dict[Setting, ConfigDict], data: datasets.Dataset
) -> dict[Setting, Sweep]:
  """What the trials of each setting share; settings of the same program share one Sweep."""
  shared = trials.prepare(config, data)
  programs = {id(own): own for own in settings.values()}
  programs = {program: trials.in_setting(shared, own) for program, own in programs.items()}
  for sweep in programs.values():
    models.check_batch(sweep.task, sweep.config.batch_size, sweep.config.model.name)
  return {setting: programs[id(own)] for setting, own in settings.items()}


def _tell_checks(data: datasets.Dataset) -> None:
  found = [finding.line for finding in data.checks.values() if finding.count]
  for line in found:
    progress.note(f'Check: {line}')
  if not found:
    progress.note(f'Checks of the data: all {len(data.checks)} passed')
