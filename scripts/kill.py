"""Kills a small study at random moments and compares its result with an undisturbed one.

python scripts/kill.py --config configs/alexnet_letters.py:quick --config.epochs=1 --kills=20

Kills happen before, during and after training. After some of them, a file of a checkpoint cannot be
read for one run.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli, faults
from lr_study.progress import note

cli.study_flags()
_KILLS = flags.DEFINE_integer('kills', 300, 'How often to kill the study.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the random moments.')


def main() -> None:
  config, _ = cli.study_config()
  with tempfile.TemporaryDirectory() as folder:
    found = faults.kill_often(config, Path(folder), _KILLS.value, _SEED.value, note)
  note(f'Killed in: {found["killed_in"]}; last written before: {found["last_written"]}')
  note(
    f'{_KILLS.value} kills, {found["read_errors"]} read errors, '
    f'{found["finished"]} times at the end, '
    f'{len(found["differences"])} differences: {found["differences"]}'
  )
  sys.exit(1 if found['differences'] else 0)


if __name__ == '__main__':
  cli.run(main)
