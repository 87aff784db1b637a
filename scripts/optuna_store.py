"""Adds a finished study to an Optuna database: --workdir W --storage sqlite:///lr.db

One trial a rate, by the measure that the verdict goes by: Optuna's best trial is the rate it names.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.search import optuna_search
from lr_study.use import evaluate

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a finished study.')
_STORAGE = flags.DEFINE_string('storage', None, 'The URL of the database, as Optuna takes it.')
_NAME = flags.DEFINE_string('study_name', 'lr_study', "Optuna's study; made if it is missing.")
_MOVED = cli.moved_flag()


def main() -> None:
  for flag in (_WORKDIR, _STORAGE):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/W --storage sqlite:///lr.db')
  _, _, results, verdict = evaluate.read_study(_WORKDIR.value, _MOVED.value)
  added, count = optuna_search.store(_STORAGE.value, _NAME.value, results, verdict)
  note(
    f'{added} of {count} rates are new in {_NAME.value}, each with the mean '
    f'{verdict.leads.name} over its seeds'
  )


if __name__ == '__main__':
  cli.run(main)
