"""Write a study's page again, or compare several studies on one page.

usage: lr-study report --workdir STUDY[,STUDY...] [FLAGS]

  lr-study report --workdir runs/photos
  lr-study report --workdir runs/sgd,runs/adamw --out comparison.html
"""

from pathlib import Path

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.report import compare, page

_WORKDIR = flags.DEFINE_multi_string(
  'workdir',
  [],
  'The work directory of a finished study. Several, separated by commas or each with its own '
  '--workdir, are compared.',
)
_OUT = cli.path_flag(
  'out', 'The file to write. The default is report.html in --workdir, if there is only one.'
)
cli.moved_flag()


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
    compare.write(workdirs, out, cli.moved())
  else:
    page.write(workdirs[0], out, cli.moved())
  print(out)
