"""Add a finished study to an Optuna database.

usage: lr-study optuna-store --workdir STUDY --storage URL [FLAGS]

  lr-study optuna-store --workdir runs/photos --storage sqlite:///studies.db

Each rate becomes one Optuna trial, with the measure that the verdict uses as its value, so that
Optuna's best trial is the recommended rate.
"""

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.search import optuna_search
from lr_study.use import evaluate

_WORKDIR = cli.path_flag('workdir', 'The work directory of a finished study.')
_STORAGE = flags.DEFINE_string('storage', None, "The URL of the database, in Optuna's form.")
_NAME = flags.DEFINE_string(
  'study_name', 'lr_study', 'The name of the study in the database; created if missing.'
)
cli.moved_flag()


def main() -> None:
  for flag in (_WORKDIR, _STORAGE):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/W --storage sqlite:///lr.db')
  _, _, results, verdict = evaluate.read_study(_WORKDIR.value, cli.moved())
  added, count = optuna_search.store(_STORAGE.value, _NAME.value, results, verdict)
  note(
    f'{added} of {count} rates are new in {_NAME.value}, each with the mean '
    f'{verdict.leads.name} over its seeds'
  )
