"""Loads the images of a study again, from their current location."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lr_study import accelerate, paths
from lr_study import data as datasets
from lr_study.errors import StudyError

MOVED = 'if it was moved, add --moved=OLD=NEW with the old and the new path'


def load(config: ConfigDict, record: dict[str, Any], workdir: Path) -> datasets.Dataset:
  """Loads the images that the study in `workdir` trained and validated on.

  Args:
    config: the study's.
    record: the entry "data" in its results.json.
    workdir: the study's.

  Raises:
    StudyError: the images are gone, or have changed.
  """
  return _load(config, record, workdir)[1]


def load_test(config: ConfigDict, record: dict[str, Any], workdir: Path) -> datasets.Part:
  """Loads the images that no trial ever saw, if the others are unchanged; raises like `load`."""
  return _load(config, record, workdir)[0].test()


def _load(
  config: ConfigDict, record: dict[str, Any], workdir: Path
) -> tuple[datasets.Opened, datasets.Dataset]:
  _, name, _ = paths.split(config.data.name)
  places = {'name': name} | {f: config.data.get(f) for f in ('dir', 'validation_dir')}
  for field, place in places.items():
    if place and not os.path.exists(place):
      raise StudyError(f'data.{field}: {place}, of the study in {workdir}, is missing; {MOVED}')
  opened = datasets.opened(config.data, config.image_size)
  data = opened.load(accelerate.room_for_images(config.parallel))
  if data.fingerprint != record['fingerprint']:
    raise StudyError(
      f'the images that {workdir} was trained on have changed, so it is not known which of them '
      'it has seen; run the study again'
    )
  return opened, data
