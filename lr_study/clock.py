"""Measures how long each phase of a study takes."""

import contextlib
import time
from collections.abc import Iterator

from lr_study.time_limit import TimeLimit


class Clock:
  """Adds up the seconds of each phase: `with clock('evaluation'): ...`. Phases do not nest.

  `longest`: seconds of the longest time that each phase took at once. `limit`: of all, if any.
  """

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self.longest: dict[str, float] = {}
    self.limit: TimeLimit | None = None

  @contextlib.contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    started = time.monotonic()
    try:
      yield
    finally:
      took = time.monotonic() - started
      self.seconds[phase] = self.seconds.get(phase, 0.0) + took
      self.longest[phase] = max(self.longest.get(phase, 0.0), took)

  def rounded(self) -> dict[str, float]:
    """The seconds of each phase, to a tenth, as results.json has them."""
    return {phase: round(seconds, 1) for phase, seconds in self.seconds.items()}
