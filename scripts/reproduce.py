"""`lr-study reproduce` from a checkout, without an installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lr_study import commands

if __name__ == '__main__':
  commands.run('reproduce')
