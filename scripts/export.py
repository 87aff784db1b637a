"""A finished study's best trial as a folder that runs without lr_study.

python scripts/export.py --workdir W --out model
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.use import classify, evaluate, export

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a finished study.')
_OUT = cli.path_flag('out', None, 'The folder to make.')
_RATE = flags.DEFINE_float('learning_rate', None, 'Which trial; default: the recommended one.')
_SEED = flags.DEFINE_integer('seed', None, 'Which trial; default: the best one of the rate.')
_MOVED = cli.moved_flag()


def main() -> None:
  for flag in (_WORKDIR, _OUT):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/alexnet_letters_quick --out model')
  workdir, out, moved = _WORKDIR.value, _OUT.value, _MOVED.value
  trained = evaluate.load(workdir, _RATE.value, _SEED.value, moved, cli.setting())
  difference = export.save(evaluate.read_study(workdir, moved), trained, out)
  for line in classify.of_another_epoch(trained):
    note(line)
  note(
    f'{out}: {classify.describe(trained)}; a process without lr_study found the same logits, to '
    f'{difference:.1e} of the largest. {out}/README.md says how to run it'
  )


if __name__ == '__main__':
  cli.run(main)
