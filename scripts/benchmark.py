"""Times a training step beside its peers: python scripts/benchmark.py --rows quick"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags
from rich.console import Console
from rich.table import Table

from configs import alexnet_letters
from lr_study import benchmark, cli

_ROWS = flags.DEFINE_string('rows', '', 'Only rows whose title starts with this: full, quick.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each side; medians are over them.')
_TRIALS = flags.DEFINE_integer('trials', 7, 'Learning rates trained at once.')
_JSON = flags.DEFINE_string('json', None, 'Write all figures to this file too.')


def main() -> None:
  found = {'machine': benchmark.machine(), 'rows': {}}
  print(', '.join(f'{name} {value}' for name, value in found['machine'].items()))
  for title, sides in benchmark.rows(alexnet_letters.get_config, _TRIALS.value, _ROWS.value):
    result = benchmark.compare(sides, _ROUNDS.value)
    found['rows'][title] = result
    table = Table('', 'ms a trial-step', 'min to max', 'times as long', title=title)
    for name, figures in result.items():
      spread = f'{figures["min"]:.3g} to {figures["max"]:.3g}'
      table.add_row(name, f'{figures["median"]:.3g}', spread, f'{figures["ratio"]:.2f}')
    Console().print(table)
  if _JSON.value:
    Path(_JSON.value).write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  cli.run(main)
