"""Draw what a config trains on: images, augmentation and the size of each class.

usage: lr-study show-data --config CONFIG [FLAGS]

  lr-study show-data --config alexnet_letters:quick
  lr-study show-data --config alexnet_folder --config.data.dir=PHOTOS --out pictures
"""

from pathlib import Path

from lr_study import cli
from lr_study.config import check
from lr_study.report import show

cli.study_flags()
_OUT = cli.path_flag(
  'out', 'The folder for the pictures. The default is runs/ and the name of the config and _data.'
)


def main() -> None:
  config, name = cli.study_config()
  show.show(check(config), _OUT.value or Path('runs', f'{name}_data'))
