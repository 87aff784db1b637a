"""Ctrl-C, SIGTERM and a time limit: lets a study save before it stops."""

import signal
import threading
from types import FrameType

from lr_study.time_limit import TimeLimit

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
  """The study was asked to stop, and has saved. `signum` is the signal that it received."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


class Interrupt:
  """While entered, the first signal only sets `signum`.

  A second one ends the program at once, as Ctrl-C usually does. Outside the main thread, where
  Python does not handle signals, this does nothing.
  """

  def __init__(self, limit: TimeLimit | None = None):
    self.signum: int | None = None
    self._limit = limit

  @property
  def asked(self) -> bool:
    """True once the study has to stop: after a signal, or as its time is up."""
    return self.signum is not None or (self._limit is not None and self._limit.is_up)

  def __enter__(self) -> 'Interrupt':
    in_main = threading.current_thread() is threading.main_thread()
    handled = _SIGNALS if in_main else ()
    self._before = {number: signal.signal(number, self._ask) for number in handled}
    return self

  def __exit__(self, *exception) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, signum: int, frame: FrameType | None) -> None:
    del frame
    if self.signum is not None:
      raise KeyboardInterrupt
    self.signum = signum
