"""The configs that come with lr_study: `lr_study.configs.alexnet_letters` and the others.

In a checkout they are the files in configs/. An installed package has them in lr_study/configs/.
"""

import os
from pathlib import Path

from lr_study.errors import StudyError
from lr_study.plugs import nearest

_INSTALLED = Path(__file__).parent / 'configs'
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / 'configs'
__path__ = [str(FOLDER)]  # makes this module a package, whose modules are the files there


def names() -> list[str]:
  """The names of the configs, such as 'alexnet_letters' and 'studies/batch_size'."""
  found = [path.relative_to(FOLDER) for path in FOLDER.rglob('[!_]*.py')]
  return sorted(path.with_suffix('').as_posix() for path in found)


def find(name: str) -> str:
  """The file of a config, given as FILE or NAME, optionally with `:VARIANT`. Files take precedence.

  Raises:
    StudyError: there is neither a file nor a config of this name.
  """
  file, colon, variant = name.partition(':')
  path = os.path.expanduser(file)
  if not os.path.isfile(path):
    known = names()
    if file not in known:
      hint = nearest(file, known) or f'; the configs of lr_study: {", ".join(known)}'
      raise StudyError(f'--config {file}: no such file{hint}')
    path = str(FOLDER / f'{file}.py')
  return f'{path}{colon}{variant}'
