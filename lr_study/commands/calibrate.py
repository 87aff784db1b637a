"""Measure how often the verdict is right, with many small studies.

usage: lr-study calibrate --config CONFIG [FLAGS]

  lr-study calibrate --config calibration
  lr-study calibrate --config calibration --studies 10 --json calibration.json
"""

import json

from absl import flags

from lr_study import cli
from lr_study.answer import calibration
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.progress import note
from lr_study.vectorize import keep_compiled_programs

cli.study_flags()
_TRUTH = flags.DEFINE_integer('truth_seeds', 48, 'How many seeds define the truth.', lower_bound=2)
_STUDIES = flags.DEFINE_integer('studies', 40, 'How many small studies to run.', lower_bound=2)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'How many seeds each small study has.', lower_bound=2)
_LONGER = flags.DEFINE_integer(
  'longer_seeds', 8, 'How many seeds train for longer, to check statuses.', lower_bound=1
)
_JSON = cli.path_flag('json', 'Write every number to this file.')


def main() -> None:
  config, _ = cli.study_config()
  cli.check_writable(_JSON)
  keep_compiled_programs()
  counts = _TRUTH.value, _STUDIES.value, _SEEDS.value, _LONGER.value
  found = calibration.calibrate(config, *counts, note)
  print(calibration.table(found))
  if _JSON.value:
    try:
      write_text(_JSON.value, json.dumps(found, indent=1, allow_nan=False) + '\n')
    except OSError as error:
      raise StudyError(f'cannot write --json {_JSON.value}: {error.strerror}') from error
