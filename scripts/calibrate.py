"""Is the verdict as sure as it says? python scripts/calibrate.py --config configs/calibration.py"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.answer import calibration
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.progress import note
from lr_study.vectorize import keep_compiled_programs

_TRUTH = flags.DEFINE_integer('truth_seeds', 48, 'Of the study that is the truth.', lower_bound=2)
_STUDIES = flags.DEFINE_integer('studies', 40, 'How many are judged.', lower_bound=2)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Of each of them.', lower_bound=2)
_LONGER = flags.DEFINE_integer('longer_seeds', 8, 'Of trials that train on.', lower_bound=1)
_JSON = cli.path_flag('json', None, 'A file for every figure.')


def main() -> None:
  config, _ = cli.study_config()
  cli.check_writable(_JSON)
  keep_compiled_programs()
  counts = (flag.value for flag in (_TRUTH, _STUDIES, _SEEDS, _LONGER))
  found = calibration.calibrate(config, *counts, note)
  print(calibration.table(found))
  if _JSON.value:
    try:
      write_text(_JSON.value, json.dumps(found, indent=1, allow_nan=False) + '\n')
    except OSError as error:
      raise StudyError(f'cannot write --json {_JSON.value}: {error.strerror}') from error


if __name__ == '__main__':
  cli.run(main)
