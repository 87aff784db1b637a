"""Classify images with the best trial of a study, or measure how often it is right.

usage: lr-study classify --workdir STUDY [FLAGS] IMAGE_OR_FOLDER...

  lr-study classify --workdir runs/photos a.jpg b.png       the five most likely classes of each
  lr-study classify --workdir runs/photos LABELLED          a folder with one sub-folder per class
  lr-study classify --workdir runs/photos --part=test       the images that the sweep never used
"""

import json

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_text
from lr_study.use import classify, evaluate, explain
from lr_study.vectorize import keep_compiled_programs

_WORKDIR = cli.path_flag('workdir', 'The work directory of a finished study.')
_PART = flags.DEFINE_enum(
  'part', None, evaluate.PARTS, "Measure on this part of the study's own images, not on files."
)
_RATE = flags.DEFINE_float(
  'learning_rate', None, 'The rate of the trial to use. The default is the recommended rate.'
)
_SEED = flags.DEFINE_integer(
  'seed', None, 'The seed of the trial to use. The default is the best trial of the rate.'
)
_JSON = cli.path_flag('json', 'Write every number to this file.')
_EXPLAIN = cli.path_flag('explain', 'Draw the output of each layer for the image in this folder.')
cli.finished_flags()


def main(*paths: str) -> None:
  if not _WORKDIR.value:
    raise StudyError('no --workdir; try --workdir runs/alexnet_letters_quick PHOTOGRAPHS')
  if bool(paths) == bool(_PART.value):
    raise StudyError('give either image files, or a folder of them, or --part=test')
  keep_compiled_programs()
  workdir, moved = _WORKDIR.value, cli.moved()
  trained = evaluate.load(workdir, _RATE.value, _SEED.value, moved, cli.setting())
  if _PART.value:
    score = evaluate.score(trained, evaluate.read_part(workdir, _PART.value, moved))
    found = classify.of_part(trained, score, _PART.value)
  else:
    found = classify.answer(trained, paths, evaluate.read_seen(workdir))
  try:
    if _JSON.value:
      write_text(_JSON.value, json.dumps(found.content, indent=1, allow_nan=False) + '\n')
    if _EXPLAIN.value:
      explain.draw(trained, paths, _EXPLAIN.value)
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(f'cannot write {error.filename}: {error.strerror}') from error
  print(found.text)
