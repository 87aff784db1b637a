"""What is shown while a cluster trains: how far all waves are, above a row per rate."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, Group

from lr_study import formats, loop, progress, waves
from lr_study.files.history import History
from lr_study.search.rounds import Plan, Setting
from lr_study.tracking import Tracker
from lr_study.training_view import Board, bar, table
from lr_study.trials import Sweep

_SHARE = 0.02  # of the time, at most, goes into reading curves
_PLAIN_SECONDS = 300  # between lines, where no wave ends and there is no terminal


class View:
  """Reads the curves that workers write. Use it as a context manager."""

  def __init__(
    self,
    sweeps: Mapping[Setting, Sweep],
    folder: Path,
    planned: Plan,
    numbers: Sequence[int],
    board: Board,
    is_stopping: Callable[[], bool],
    tracker: Tracker | None = None,
  ):
    """Shows nothing yet.

    Args:
      sweeps: of each setting.
      folder: the work directory.
      planned: the study's trials.
      numbers: of the waves of the round.
      board: what is known of the study's trials.
      is_stopping: True once the user has asked for the end.
      tracker: what curves are sent to, as far as they are saved.
    """
    self._sweeps, self._folder, self._planned = sweeps, folder, planned
    self._board, self._is_stopping, self._tracker = board, is_stopping, tracker
    self._done = dict.fromkeys(numbers, 0)  # steps of each wave
    self._total = {number: self._steps(number) for number in numbers}
    self._sent = dict.fromkeys(numbers, 0)  # to the tracker, likewise
    self._finished: set[int] = set()
    self._due, self._started, self._before = 0.0, time.monotonic(), 0
    self._last_line = time.monotonic()
    self._drawn = progress.Drawn(self._render)

  @property
  def epochs(self) -> int:
    """How many epochs the wave that is ahead has trained."""
    per_epoch = {n: self._total[n] // self._planned.of_wave(n)[0].epochs for n in self._done}
    return max(done // per_epoch[number] for number, done in self._done.items())

  def __enter__(self) -> 'View':
    for number in self._done:
      self._read(number)
    self._before = sum(self._done.values())
    self._drawn.__enter__()
    return self

  def __exit__(self, *exception) -> None:
    self._drawn.__exit__(*exception)

  def update(self) -> None:
    """Reads how far the waves are, but no oftener than a small share of the time allows."""
    started = time.monotonic()
    if started >= self._due:
      for number in self._done.keys() - self._finished:
        self._read(number)
      self._due = time.monotonic() + (time.monotonic() - started) / _SHARE
    if not self._drawn.is_shown and started - self._last_line > _PLAIN_SECONDS:
      self._say(self._where())

  def ended(self, number: int, node: str) -> None:
    """Takes in a wave that has ended on this machine, and says so where there is no terminal."""
    self._read(number)
    if not self._drawn.is_shown:
      name = waves.title(self._sweeps, self._planned, number) or 'all trials'
      self._say(f'{name}: done on {node}; {self._where()}: {self._board.found()}')

  def _say(self, text: str) -> None:
    self._last_line = time.monotonic()
    progress.note(text)

  def _steps(self, number: int) -> int:
    first = self._planned.of_wave(number)[0]
    return first.epochs * self._sweeps[first.setting].steps_per_epoch

  def _read(self, number: int) -> None:
    if not loop.place(self._folder / 'history', number).is_dir():
      return
    sweep = waves.of_wave(self._sweeps, self._planned, number)
    try:
      history = loop.curves(self._folder, self._planned, number, sweep)
    except Exception:
      return
    known = self._board.add(sweep.trials, waves.names(self._sweeps, self._planned, number))
    if loop.is_finished(self._folder, number):
      self._finished.add(number)
      done = self._total[number]
    else:
      done = self._done[number] + _filled(history, self._done[number])
    self._done[number] = done
    self._board.read(known, history, done)
    if self._tracker:
      # A checkpoint promises that the curves up to it are whole; what is sent is not sent again.
      is_whole = number in self._finished
      saved = done if is_whole else min(done, loop.saved_steps(self._folder, number))
      if saved > self._sent[number]:
        of = self._sent[number], saved
        self._sent[number] = loop.track(self._tracker, sweep, self._planned, history, *of)

  def _where(self) -> str:
    """'3 of 8 waves done, about 12 minutes left'."""
    done, total = sum(self._done.values()), sum(self._total.values())
    text = f'{len(self._finished)} of {formats.count(len(self._done), "wave")} done'
    new, passed = done - self._before, time.monotonic() - self._started
    if new > 0 and done < total:
      text += f', {formats.duration(passed * (total - done) / new)} left'
    return text

  def _render(self, console: Console) -> Group:
    done, total = sum(self._done.values()), sum(self._total.values())
    words = f'{100 * done / total:.0f} %: {self._where()}'
    head = bar(console.width, done, total, words, self._is_stopping())
    return Group(head, *table(console, self._board, head))


def _filled(history: History, first: int) -> int:
  """How many steps from `first` on are done: rows that are still to come are NaN."""
  loss = history.steps['loss']
  count = 0
  while first + count < len(loss) and not np.isnan(loss[first + count]).all():
    count += 1
  return count
