"""Checks lr_study on a GPU, in minutes, for a report: python scripts/gpu_check.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.gpu_check import check
from lr_study.gpu_check.parts import PARTS
from lr_study.progress import note

_ONLY = flags.DEFINE_list('only', list(PARTS), f'Which parts: {", ".join(PARTS)}.')
_MINUTES = flags.DEFINE_float('minutes', 8.0, 'For all parts together.', lower_bound=0.1)
_SMALL = flags.DEFINE_bool('small', False, 'Shrink all of it, to run on a CPU.')
_OUT = cli.path_flag('out', 'A JSON file for all that is found; gpu_check.json by default.')


def main() -> None:
  cli.check_writable(_OUT)
  out = _OUT.value or Path('gpu_check.json')
  found = check.run(_ONLY.value, _MINUTES.value, _SMALL.value, out, note)
  print('\n' + check.table(found))
  note(f'All of it is in {out}')


if __name__ == '__main__':
  cli.run(main)
