"""A data set for people: what a study would train on, as pictures and in lines."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lr_study import accelerate, inputs
from lr_study import data as datasets
from lr_study.data import samples
from lr_study.errors import StudyError, is_full
from lr_study.files.events import write_images
from lr_study.progress import note
from lr_study.report import data_figures, drawing


def show(config: ConfigDict, folder: Path) -> None:
  """Builds the data set of a checked config, tells what is in it, and draws it into `folder`.

  contact_sheet.png, counts.png, sizes.png and mean.png; tensorboard/ has the same pictures. Of
  arrays there are no sizes of files; of samples that are no images, the counts alone are drawn.

  Raises:
    StudyError: for what the user can mend in the config, in the files or in the folder's name.
  """
  datasets.check_apart(config.data, folder, '--out')
  room = accelerate.room_for_images(config.parallel)
  opened = datasets.opened(config.data, config.image_size)
  data, (counts, sizes) = opened.load(room), opened.files()
  data = inputs.check_range(config.input, data)
  _tell(data, counts, sizes)
  with drawing.using(config.figure_style):
    pictures = data_figures.draw(data, counts, sizes)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoded in pictures.items():
      (folder / f'{name}.png').write_bytes(encoded)
    write_images(folder / 'tensorboard', pictures)
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(f'cannot write --out {folder}: {error.strerror or error}') from error
  note(f'{folder}: {", ".join(f"{name}.png" for name in pictures)}')
  note(f'tensorboard --logdir {folder}/tensorboard')


def _tell(data: datasets.Dataset, counts: np.ndarray, sizes: np.ndarray) -> None:
  train, validation, test = counts.sum(1)
  shape = data.mean.shape
  note(
    f'{data.name}: {len(data.classes)} classes; {train} training, {validation} validation and '
    f'{test} test {samples.noun(shape)}; fingerprint {data.fingerprint}'
  )
  if len(sizes):
    low, middle, high = (sizes.min(0), np.median(sizes, 0).astype(int), sizes.max(0))
    note(
      f'Files from {low[0]} x {low[1]} to {high[0]} x {high[1]} pixels, median '
      f'{middle[0]} x {middle[1]}'
    )
  else:
    note(f'Arrays of {data.train.images.dtype}, {" x ".join(map(str, shape))} a sample')
  if not samples.is_image(shape):
    note('These are no images, so there is no contact sheet and no mean image')
  for finding in data.checks.values():
    note(f'Check: {finding.line}')
  if data.left_out:
    note(f'{len(data.left_out)} unreadable files were left out')
