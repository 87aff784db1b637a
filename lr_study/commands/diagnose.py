"""Replay a trial that diverged and say what broke first.

usage: lr-study diagnose --workdir STUDY --learning_rate RATE [FLAGS]

  lr-study diagnose --workdir runs/photos --learning_rate 1e-1
  lr-study diagnose --workdir runs/photos --learning_rate 1e-1 --seed 2
"""

from absl import flags

from lr_study import cli
from lr_study.diagnosis import diagnose
from lr_study.errors import StudyError

_WORKDIR = cli.path_flag('workdir', 'The work directory of a study, finished or stopped.')
_RATE = flags.DEFINE_float('learning_rate', None, 'The rate of the trial that diverged.')
_SEED = flags.DEFINE_integer('seed', 0, 'The seed of the trial that diverged.')
cli.finished_flags()


def main() -> None:
  for flag in (_WORKDIR, _RATE):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/letters --learning_rate 1e-1')
  which = (_RATE.value, _SEED.value, cli.moved(), cli.setting())
  print(diagnose.describe(diagnose.diagnose(_WORKDIR.value, *which)))
