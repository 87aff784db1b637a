"""Shows what a study trains on: python scripts/show_data.py --config configs/alexnet_folder.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed


from lr_study import cli
from lr_study.config import check
from lr_study.report import show

_OUT = cli.path_flag('out', None, 'Where the pictures go; default: runs/<config name>_data.')


def main() -> None:
  config, name = cli.study_config()
  show.show(check(config), _OUT.value or Path('runs', f'{name}_data'))


if __name__ == '__main__':
  cli.run(main)
