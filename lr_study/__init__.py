"""Which learning rate? One network trained at many rates side by side, by JAX.

`sweep` runs a study of your network and data, and `read` opens a work directory. Both return a
`Study`. Importing this package does not import JAX or touch a device; that happens on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from lr_study.answer.verdict import Result, Verdict
  from lr_study.errors import StudyError
  from lr_study.finished import Best, Study
  from lr_study.library import read, sweep
  from lr_study.parts import Metric

__version__ = '0.1.0'

__all__ = ['Best', 'Metric', 'Result', 'Study', 'StudyError', 'Verdict', 'read', 'sweep']

_WHERE = {
  'Best': 'finished',
  'Metric': 'parts',
  'Result': 'answer.verdict',
  'Study': 'finished',
  'StudyError': 'errors',
  'Verdict': 'answer.verdict',
  'read': 'library',
  'sweep': 'library',
}


def __getattr__(name: str) -> Any:
  if name not in _WHERE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  value = getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
