"""Why a trial diverged: python scripts/diagnose.py --workdir W --learning_rate 1e-1"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.diagnosis import diagnose
from lr_study.errors import StudyError

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a study, finished or stopped.')
_RATE = flags.DEFINE_float('learning_rate', None, 'Of the trial that diverged.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the trial that diverged.')
_MOVED = cli.moved_flag()


def main() -> None:
  for flag in (_WORKDIR, _RATE):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/letters --learning_rate 1e-1')
  which = (_RATE.value, _SEED.value, _MOVED.value, cli.setting())
  print(diagnose.describe(diagnose.diagnose(_WORKDIR.value, *which)))


if __name__ == '__main__':
  cli.run(main)
