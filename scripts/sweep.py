"""Runs a study: python scripts/sweep.py --config configs/alexnet_letters.py:quick"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

from absl import flags

from lr_study import cli, study

_WORKDIR = cli.path_flag('workdir', None, 'Where results go; default: runs/<config name>.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Delete the study that --workdir holds first.')
_EXTEND = flags.DEFINE_bool(
  'extend', False, 'Keep the trials that --workdir holds, and train what the config has besides.'
)


def main() -> None:
  config, name = cli.study_config()
  workdir = _WORKDIR.value or Path('runs', name)
  study.run(config, workdir, _OVERWRITE.value, cli.process(), _EXTEND.value)


if __name__ == '__main__':
  cli.run(main)
