"""Measures how long each phase of a study takes."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
  """Adds up the seconds of each phase: `with clock('evaluation'): ...`. Phases do not nest."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    started = time.monotonic()
    try:
      yield
    finally:
      self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started
