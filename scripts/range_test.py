"""A range test beside what a finished sweep found: python scripts/range_test.py --workdir W"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed


from lr_study import cli, weights
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_text
from lr_study.progress import note
from lr_study.search import climb
from lr_study.use import again, evaluate
from lr_study.vectorize import keep_compiled_programs

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a finished study.')
_MOVED = cli.moved_flag()


def main() -> None:
  if not _WORKDIR.value:
    raise StudyError('no --workdir; try --workdir runs/alexnet_letters_quick')
  workdir = _WORKDIR.value
  study = evaluate.read_study(workdir, _MOVED.value)
  if len(set(study.config.learning_rates)) == 1:
    raise StudyError(f'{workdir} has a single rate, so there is nothing to climb through')
  keep_compiled_programs()
  config = weights.kept(study.config, workdir)
  found = climb.climb(config, again.load(config, study.record['data'], workdir))
  print(climb.table(found, study.results, study.verdict))
  try:
    content = json.dumps(climb.as_json(found), allow_nan=False)
    write_text(workdir / 'range_test.json', content + '\n')
    climb.save(found, study.verdict, workdir / 'figures' / 'range_test.png')
  except OSError as error:
    if is_full(error):
      raise
    note(f'{error.filename} is not written: {error.strerror}')


if __name__ == '__main__':
  cli.run(main)
