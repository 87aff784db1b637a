"""The images of a study once more, from where they lie now."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lr_study import accelerate, paths
from lr_study import data as datasets
from lr_study.errors import StudyError

MOVED = 'if it was moved, add --moved=OLD=NEW, the old place and the new one'


def load(config: ConfigDict, record: dict[str, Any], workdir: Path) -> datasets.Dataset:
  """Loads what the study in `workdir` trained and validated on.

  Args:
    config: the study's.
    record: what is under "data" in its results.json.
    workdir: the study's.

  Raises:
    StudyError: if the images have gone, or are not the same any more.
  """
  return _load(config, record, workdir)[1]


def load_test(config: ConfigDict, record: dict[str, Any], workdir: Path) -> datasets.Part:
  """Loads the images that no trial ever saw, if all others are as they were; raises as `load`."""
  return _load(config, record, workdir)[0].test()


def _load(
  config: ConfigDict, record: dict[str, Any], workdir: Path
) -> tuple[datasets.Opened, datasets.Dataset]:
  _, name, _ = paths.split(config.data.name)
  places = {'name': name} | {f: config.data.get(f) for f in ('dir', 'validation_dir')}
  for field, place in places.items():
    if place and not os.path.exists(place):
      raise StudyError(f'data.{field}: {place}, of the study in {workdir}, is not there; {MOVED}')
  opened = datasets.opened(config.data, config.image_size)
  data = opened.load(accelerate.room_for_images(config.parallel))
  if data.fingerprint != record['fingerprint']:
    raise StudyError(
      f'the images that {workdir} was trained on have changed, so nobody knows which of them it '
      'has seen; run the study again'
    )
  return opened, data
