"""Run a learning rate range test and compare it with a finished study.

usage: lr-study range-test --workdir STUDY

  lr-study range-test --workdir runs/photos

One trial trains for an epoch while its rate rises from the smallest of the study to the largest.
The table has the rates that fastai and Lightning would choose from it, and the study's result at
its nearest rate.
"""

import json

from lr_study import cli, weights
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_text
from lr_study.progress import note
from lr_study.search import climb
from lr_study.use import again, evaluate
from lr_study.vectorize import keep_compiled_programs

_WORKDIR = cli.path_flag('workdir', 'The work directory of a finished study.')
cli.moved_flag()


def main() -> None:
  if not _WORKDIR.value:
    raise StudyError('no --workdir; try --workdir runs/alexnet_letters_quick')
  workdir = _WORKDIR.value
  study = evaluate.read_study(workdir, cli.moved())
  if len(set(study.config.learning_rates)) == 1:
    raise StudyError(f'{workdir} has only one rate; a range test needs a range of rates')
  keep_compiled_programs()
  config = weights.kept(study.config, workdir)
  found = climb.climb(config, again.load(config, study.record['data'], workdir))
  print(climb.table(found, study.results, study.verdict))
  try:
    content = json.dumps(climb.as_json(found), allow_nan=False)
    write_text(workdir / 'range_test.json', content + '\n')
    climb.save(found, study.verdict, workdir / 'figures' / 'range_test.png')
  except OSError as error:
    if is_full(error):
      raise
    note(f'{error.filename} is not written: {error.strerror}')
