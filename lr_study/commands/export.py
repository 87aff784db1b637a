"""Save the best trial as a folder that runs without lr_study.

usage: lr-study export --workdir STUDY --out FOLDER [FLAGS]

  lr-study export --workdir runs/photos --out model
  lr-study export --workdir runs/photos --out model --learning_rate 1e-3 --seed 0

The README.md in that folder says how to run it.
"""

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.use import classify, evaluate, export

_WORKDIR = cli.path_flag('workdir', 'The work directory of a finished study.')
_OUT = cli.path_flag('out', 'The folder to create.')
_RATE = flags.DEFINE_float(
  'learning_rate', None, 'The rate of the trial to use. The default is the recommended rate.'
)
_SEED = flags.DEFINE_integer(
  'seed', None, 'The seed of the trial to use. The default is the best trial of the rate.'
)
cli.finished_flags()


def main() -> None:
  for flag in (_WORKDIR, _OUT):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/alexnet_letters_quick --out model')
  workdir, out, moved = _WORKDIR.value, _OUT.value, cli.moved()
  trained = evaluate.load(workdir, _RATE.value, _SEED.value, moved, cli.setting())
  difference = export.save(evaluate.read_study(workdir, moved), trained, out)
  for line in classify.of_another_epoch(trained):
    note(line)
  note(
    f'{out}: {classify.describe(trained)}; a process without lr_study computed the same logits, to '
    f'within {difference:.1e} of the largest. {out}/README.md says how to run it'
  )
