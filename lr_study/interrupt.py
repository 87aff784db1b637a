"""Ctrl-C and SIGTERM: lets a study save before it stops."""

import signal
import threading
from types import FrameType

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

  def __init__(self):
    self.signum: int | None = None

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
