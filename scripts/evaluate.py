"""A finished study's best trial on photographs: python scripts/evaluate.py --workdir W --dir D"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli, evaluate, formats
from lr_study.errors import StudyError
from lr_study.workdir import write_text

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of a finished study.')
_DIR = flags.DEFINE_string('dir', None, 'The images: one sub-folder a class.')
_RATE = flags.DEFINE_float('learning_rate', None, 'Which trial; default: the recommended one.')
_SEED = flags.DEFINE_integer('seed', None, 'Which trial; default: the best one of the rate.')
_JSON = flags.DEFINE_string('json', None, 'A file for every figure.')


def main() -> None:
  for flag in (_WORKDIR, _DIR):
    if not flag.value:
      raise StudyError(f'no --{flag.name}; try --workdir runs/letters_to_photos --dir PHOTOGRAPHS')
  root = Path(_DIR.value)
  trained = evaluate.load(Path(_WORKDIR.value), _RATE.value, _SEED.value)
  found = evaluate.score(trained, evaluate.read_images(root, trained))
  if _JSON.value:
    try:
      write_text(Path(_JSON.value), evaluate.as_json(trained, found, root))
    except OSError as error:
      raise StudyError(f'cannot write --json {_JSON.value}: {error.strerror}') from error
  print(evaluate.table(found))
  print(
    f'\nlearning rate {formats.rate(trained.result.learning_rate)}, seed {trained.result.seed}, on '
    f'{found.confusion.sum()} images: accuracy {formats.percent(found.accuracy)}, '
    f'balanced accuracy {formats.percent(found.balanced_accuracy)}'
  )


if __name__ == '__main__':
  cli.run(main)
