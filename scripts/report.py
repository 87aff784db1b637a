"""A study's page again, or several studies on one: python scripts/report.py --workdir W[,W2,...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.report import compare, page

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'The folder of a finished study; several, by commas or repeated, are compared.'
)
_OUT = cli.path_flag('out', None, 'The file; default: report.html in the one --workdir.')
_MOVED = cli.moved_flag()


def main() -> None:
  workdirs = [
    Path(name).expanduser() for value in _WORKDIR.value for name in value.split(',') if name
  ]
  if not workdirs:
    raise StudyError('no --workdir; try --workdir runs/alexnet_letters_quick')
  if len(workdirs) > 1 and not _OUT.value:
    raise StudyError('no --out, the file for the comparison; try --out comparison.html')
  out = _OUT.value or workdirs[0] / page.NAME
  if len(workdirs) > 1:
    compare.write(workdirs, out, _MOVED.value)
  else:
    page.write(workdirs[0], out, _MOVED.value)
  print(out)


if __name__ == '__main__':
  cli.run(main)
