"""Compares the speed of trials with PyTorch and plain JAX.

python scripts/benchmark.py --rows=step_quick

With --against=PATH, compares with another checkout of this project, such as an older commit.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli
from lr_study.benchmark import rows
from lr_study.files import provenance
from lr_study.files.workdir import write_text
from lr_study.progress import note

_ROWS = flags.DEFINE_list('rows', ['step_quick'], f'Rows: {", ".join(rows.ROWS)}; or all.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each side runs.', lower_bound=1)
_AGAINST = cli.path_flag('against', 'Another checkout to compare with.')
_JSON = cli.path_flag('json', 'A file for all figures; written after each row.')


def main() -> None:
  cli.check_writable(_JSON)
  names = [name for name in rows.ROWS if name != 'tiny'] if _ROWS.value == ['all'] else _ROWS.value
  found = {'machine': provenance.machine(), 'rows': []}
  note(json.dumps(found['machine']))
  against = _AGAINST.value and _AGAINST.value.resolve()

  def tell(text):
    print(text, file=sys.stderr)

  for name in names:
    found['rows'].append(rows.run(name, _ROUNDS.value, tell, against))
    print('\n' + rows.table(found['rows'][-1]), flush=True)
    if _JSON.value:
      write_text(_JSON.value, json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  cli.run(main)
