"""--time_limit: a study that saves and reports before its time is up."""

import re
import time

import psutil

from lr_study.errors import StudyError

STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later, with the same command

_UNITS = {'d': 86400, 'h': 3600, 'm': 60, 's': 1}
_FORM = re.compile(r'(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?')
_MARGIN = 1.1  # on what ending took before
_SLACK = 1.0  # seconds: for what nobody measures, such as the end of Python


class TimeIsUp(Exception):
  """The study has stopped before its time limit, and has saved. Its text says how far it came."""


class TimeLimit:
  """How long a command may take, from the start of its process.

  `to_end`: seconds that saving and reporting take from now on, which the study keeps up to date.
  """

  def __init__(self, seconds: float):
    self.seconds, self.to_end = seconds, 0.0
    running = max(0.0, time.time() - psutil.Process().create_time())
    self._started = time.monotonic() - running

  @property
  def passed(self) -> float:
    """Seconds since the process started."""
    return time.monotonic() - self._started

  @property
  def is_up(self) -> bool:
    """True once the study has to begin to end."""
    return self.passed + _MARGIN * self.to_end + _SLACK > self.seconds


def parse(text: str) -> TimeLimit:
  """The limit that a text such as '8m30s', '12h' or '90s' says.

  Raises:
    StudyError: it says none.
  """
  found = _FORM.fullmatch(text)
  units = zip(found.groups(), _UNITS.values(), strict=True) if found else ()
  seconds = sum(int(number) * unit for number, unit in units if number)
  if not seconds:
    raise StudyError(f'--time_limit={text}: give a time such as 8m30s, 12h or 1d6h')
  return TimeLimit(seconds)


def told(seconds: float) -> str:
  """Seconds as `parse` reads them: 8m30s."""
  parts, left = [], round(seconds)
  for name, unit in _UNITS.items():
    number, left = divmod(left, unit)
    parts += [f'{number}{name}'] if number else []
  return ''.join(parts) or '0s'
