"""What the best trial of a finished study takes images for.

python scripts/classify.py --workdir W a.jpg b.png FOLDER   the five likeliest classes of each
python scripts/classify.py --workdir W LABELLED             a sub-folder a class: how often rightly
python scripts/classify.py --workdir W --part=test          the part that the sweep never touched
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_text
from lr_study.use import classify, evaluate, explain
from lr_study.vectorize import keep_compiled_programs

_WORKDIR = cli.path_flag('workdir', None, 'The folder of a finished study.')
_PART = flags.DEFINE_enum('part', None, evaluate.PARTS, "The study's own images, instead of files.")
_RATE = flags.DEFINE_float('learning_rate', None, 'Which trial; default: the recommended one.')
_SEED = flags.DEFINE_integer('seed', None, 'Which trial; default: the best one of the rate.')
_JSON = cli.path_flag('json', None, 'A file for every figure.')
_EXPLAIN = cli.path_flag('explain', None, 'A folder for pictures of all layers, of one image.')
_MOVED = cli.moved_flag()


def main(*paths: str) -> None:
  if not _WORKDIR.value:
    raise StudyError('no --workdir; try --workdir runs/alexnet_letters_quick PHOTOGRAPHS')
  if bool(paths) == bool(_PART.value):
    raise StudyError('name image files, or a folder of them, or --part=test: one of these')
  keep_compiled_programs()
  workdir, moved = _WORKDIR.value, _MOVED.value
  trained = evaluate.load(workdir, _RATE.value, _SEED.value, moved, cli.setting())
  if _PART.value:
    score = evaluate.score(trained, evaluate.read_part(workdir, _PART.value, moved))
    found = classify.scored(trained, score, {'part': _PART.value})
  else:
    found = classify.answer(trained, paths)
  try:
    if _JSON.value:
      write_text(_JSON.value, json.dumps(found.content, indent=1, allow_nan=False) + '\n')
    if _EXPLAIN.value:
      explain.draw(trained, paths, _EXPLAIN.value)
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(f'cannot write {error.filename}: {error.strerror}') from error
  print(found.text)


if __name__ == '__main__':
  cli.run(main, takes_arguments=True)
