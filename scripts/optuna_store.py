"""Adds a finished study's trials to an Optuna database: --workdir W --storage sqlite:///lr.db"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.report import report
from lr_study.search import optuna_search

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a finished study.')
_STORAGE = flags.DEFINE_string('storage', None, 'The URL of the database, as Optuna takes it.')
_NAME = flags.DEFINE_string('study_name', 'lr_study', "Optuna's study; made if it is missing.")


def main() -> None:
  for flag in (_WORKDIR, _STORAGE):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/W --storage sqlite:///lr.db')
  workdir = _WORKDIR.value
  if report.read(workdir) is None:
    raise StudyError(f'--workdir {workdir} holds no finished study: it has no results.json')
  trials = json.loads((workdir / 'results.json').read_text())['trials']
  added = optuna_search.store(_STORAGE.value, _NAME.value, trials)
  note(f'{added} of {len(trials)} trials are new in {_NAME.value}')


if __name__ == '__main__':
  cli.run(main)
