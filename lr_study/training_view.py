"""What is shown while trials train: the time left and a row per rate, or a line per epoch."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lr_study import formats, progress
from lr_study.answer.measure import ACCURACY, Measure
from lr_study.files.history import History
from lr_study.search.rounds import Planned

_PLAIN_SECONDS = 300  # an epoch that takes longer has further lines where there is no terminal
_MOST_NAMED = 5  # rates in a line
_BAR = 24  # characters of the bar; less where the window is narrow


@dataclasses.dataclass
class _Trial:
  """A trial as far as it is known: NaN where it is not."""

  loss: float = math.nan
  value: float = math.nan
  bad_step: int = 0
  state: str = 'waiting'


@dataclasses.dataclass(frozen=True)
class Row:
  """The trials of a rate: means over those seeds that have not diverged, NaN where none is known.

  known: how many seeds `value`, or `loss` before the first evaluation, is the mean of.
  """

  setting: str
  rate: float
  seeds: int
  known: int
  loss: float
  value: float
  status: str

  @property
  def has_diverged(self) -> bool:
    """True if none of its trials is left."""
    return self.status.startswith('diverged')


class Board:
  """What is known of all trials of a study so far, those of earlier waves and rounds too."""

  def __init__(self, measure: Measure = ACCURACY):
    """Knows no trial yet; `measure`: what evaluations show."""
    self.measure = measure
    self._trials: dict[tuple[str, float], dict[int, _Trial]] = {}

  def add(self, trials: Iterable[Planned], names: Iterable[str]) -> list[_Trial]:
    """What is known of these trials, of settings of these names; a new one waits."""
    found = []
    for trial, name in zip(trials, names, strict=True):
      of_rate = self._trials.setdefault((name, trial.learning_rate), {})
      found.append(of_rate.setdefault(trial.seed, _Trial()))
    return found

  def read(self, trials: Sequence[_Trial], history: History, done: int) -> None:
    """Takes in the curves over the first `done` steps, a column a trial, as after a resume."""
    if not done:
      return
    epochs = done // history.steps_per_epoch
    bad = history.first_bad_steps(0, done, evaluated=done == epochs * history.steps_per_epoch)
    finished = done == len(history.steps['loss'])
    recent = np.array(history.steps['loss'][max(0, done - history.steps_per_epoch) : done])
    for column, trial in enumerate(trials):
      trial.bad_step, trial.state = int(bad[column]), 'finished' if finished else 'training'
      if not trial.bad_step:
        trial.loss = float(recent[:, column].mean(dtype=np.float64))
      if epochs:
        trial.value = float(history.epochs[self.measure.field][epochs - 1, column])

  def rows(self) -> list[Row]:
    """A row for each rate of each setting, the largest rates first."""
    order = {setting: i for i, (setting, _) in enumerate(self._trials)}
    keys = sorted(self._trials, key=lambda key: (order[key[0]], -key[1]))
    return [_row(*key, list(self._trials[key].values())) for key in keys]

  def best(self, rows: Iterable[Row]) -> list[Row]:
    """The rows that have a value, the best first."""
    known = [row for row in rows if not math.isnan(row.value)]
    return sorted(known, key=lambda row: -self.measure.score(row.value))

  def found(self) -> str:
    """What is known of the rates, in a line: '77.3 % at 1e-03, 72.4 % at 1e-04; diverged: ...'."""
    rows = self.rows()
    best = self.best(row for row in rows if not row.has_diverged)
    named = [f'{self.measure.show(row.value)} at {_name(row)}' for row in best[:_MOST_NAMED]]
    named += [f'and {len(best) - _MOST_NAMED} worse'] if len(best) > _MOST_NAMED else []
    said = [f'{self.measure.name} {", ".join(named)}'] if named else []
    if gone := [row for row in rows if row.has_diverged]:
      many = len(gone) > _MOST_NAMED
      said.append(f'diverged: {formats.count(len(gone), "rate") if many else _names(gone)}')
    return '; '.join(said) or 'nothing was measured'


def _row(setting: str, rate: float, trials: Sequence[_Trial]) -> Row:
  good = [trial for trial in trials if not trial.bad_step]
  known = [t.value for t in good if not math.isnan(t.value)]
  losses = [t.loss for t in good if not math.isnan(t.loss)]
  loss, value = (float(np.mean(of)) if of else math.nan for of in (losses, known))
  return Row(setting, rate, len(trials), len(known or losses), loss, value, _status(trials))


def _status(trials: Sequence[_Trial]) -> str:
  bad = [trial.bad_step for trial in trials if trial.bad_step]
  if len(bad) == len(trials):
    return f'diverged {formats.at_steps(bad)}'
  states = {trial.state for trial in trials if not trial.bad_step}
  now = next(state for state in ('training', 'waiting', 'finished') if state in states)
  return f'{now}, {len(bad)} diverged' if bad else now


class TimeLeft:
  """The time that training will still take: steps and evaluations, each as it went last.

  Where a trial leaves, both are taken to cost as much less, until the next ones have been timed.
  """

  def __init__(self, steps: int, epochs: int):
    """Of the whole training, per trial."""
    self._steps, self._per_epoch = steps, steps / epochs
    self._last = 0.0  # when something ended
    self._done = 0
    self._timed = (0.0, 0, 0)  # seconds and steps with the current number of trials
    self._step = self._evaluation = (0.0, 1)  # seconds of one, and with how many trials

  def start(self, now: float, done: int) -> None:
    """Starts the clock after this many steps."""
    self._last, self._done = now, done

  def stepped(self, now: float, done: int, trials: int) -> None:
    """Notes how many steps are done, and how many trials took the last ones."""
    seconds, steps, of = self._timed
    if of != trials:
      seconds, steps = 0.0, 0
    self._timed = (seconds + now - self._last, steps + done - self._done, trials)
    self._step = (self._timed[0] / max(1, self._timed[1]), trials)
    self._last, self._done = now, done

  def evaluated(self, now: float, trials: int) -> None:
    """So many trials have been evaluated."""
    self._evaluation, self._last = (now - self._last, trials), now

  def seconds(self, now: float, trials: int) -> float:
    """The time left with this many trials."""
    steps = self._steps - self._done
    evaluations = math.ceil(steps / self._per_epoch)
    (step, of), (evaluation, of_evaluation) = self._step, self._evaluation
    left = steps * step * trials / of + evaluations * evaluation * trials / of_evaluation
    return max(0.0, left - (now - self._last))


class TrainingView:
  """A bar with the time left above a row per rate. Use it as a context manager."""

  def __init__(
    self,
    board: Board,
    trials: Sequence[Planned],
    names: Sequence[str],
    steps: int,
    epochs: int,
    title: str = '',
    is_stopping: Callable[[], bool] = lambda: False,
  ):
    """Shows nothing yet.

    Args:
      board: what is known of the study's trials.
      trials: those that train, in the order of the columns of their curves.
      names: of each trial's setting; empty if they share one.
      steps: of the whole training, per trial.
      epochs: likewise.
      title: what of a study trains; empty if it is all of it.
      is_stopping: True once the user has asked for the end.
    """
    self._board, self._measure = board, board.measure
    self._trials = board.add(trials, names)
    self._steps, self._epochs, self._title = steps, epochs, title
    self._is_stopping = is_stopping
    self._done, self._epoch, self._last_line = 0, 1, time.monotonic()
    self._left, self._knows = TimeLeft(steps, epochs), False
    self._drawn = progress.Drawn(self._render)

  def __enter__(self) -> 'TrainingView':
    self._drawn.__enter__()
    return self

  def __exit__(self, *exception) -> None:
    for trial in self._trials:
      if self._done == self._steps and not trial.bad_step:
        trial.state = 'finished'
    self._drawn.__exit__(*exception)

  def start(self, history: History, done: int) -> None:
    """The first `done` steps were done before, with these curves; the clock starts now."""
    self._board.read(self._trials, history, done)
    for trial in self._trials:
      trial.state = 'training'
    self._done, self._epoch = done, self._epoch_of(done + 1)
    self._left.start(time.monotonic(), done)

  def steps(
    self, done: int, columns: np.ndarray, curves: Mapping[str, np.ndarray], bad: np.ndarray
  ) -> None:
    """Shows a chunk of steps.

    Args:
      done: steps at its end.
      columns: which trials they are.
      curves: their 'loss', (steps, columns).
      bad: the first bad step of each trial in this chunk, (trials,), 0 where there is none.
    """
    for column, loss in zip(columns, curves['loss'].mean(0), strict=True):
      self._trials[column].loss = float(loss)
    self.diverged(bad)
    self._left.stepped(time.monotonic(), done, len(columns))
    self._done, self._epoch, self._knows = done, self._epoch_of(done), True
    self._drawn.update()
    if not self._drawn.is_shown and time.monotonic() - self._last_line > _PLAIN_SECONDS:
      self._say(f'{self._where()}, {self._time()}')

  def diverged(self, bad_steps: np.ndarray) -> None:
    """Takes in the first bad step of each trial, (trials,), 0 where there is none."""
    for trial, bad in zip(self._trials, bad_steps, strict=True):
      trial.bad_step = trial.bad_step or int(bad)

  def epoch(self, measured: np.ndarray) -> None:
    """Shows the measure, (trials,) and NaN where there is none, at the end of an epoch."""
    for trial, value in zip(self._trials, measured, strict=True):
      if not np.isnan(value):
        trial.value = float(value)
    self._left.evaluated(time.monotonic(), max(1, self._training()))
    self._drawn.update()
    if not self._drawn.is_shown:
      time_left = f', {self._time()}' if self._done < self._steps else ''
      self._say(f'{self._where()}{time_left}: {self._board.found()}')

  def seconds_left(self) -> float:
    """The time left, of the trials that have not diverged."""
    return self._left.seconds(time.monotonic(), self._training())

  def _training(self) -> int:
    return sum(not trial.bad_step for trial in self._trials)

  def _epoch_of(self, step: int) -> int:
    return min(self._epochs, max(0, step - 1) // (self._steps // self._epochs) + 1)

  def _say(self, text: str) -> None:
    self._last_line = time.monotonic()
    progress.note(text)

  def _where(self) -> str:
    title = f'{self._title}: ' if self._title else ''
    step = '' if self._done == self._steps else f', step {self._done} of {self._steps}'
    return f'{title}epoch {self._epoch} of {self._epochs}{step}'

  def _time(self) -> str:
    return f'{formats.duration(self.seconds_left())} left' if self._knows else 'timing'

  def _render(self, console: Console) -> Group:
    done = self._done / self._steps
    time_left = f', {self._time()}' if done < 1 else ''
    words = f'{100 * done:.0f} %{time_left}: {self._where()}'
    head = bar(console.width, self._done, self._steps, words, self._is_stopping())
    return Group(head, *table(console, self._board, head))


def bar(width: int, done: int, steps: int, words: str, is_stopping: bool) -> Table:
  """How far the steps are, for a window of this width: a bar and words."""
  if is_stopping:
    words = (
      'Stopping: finishing the current steps, then saving. Press Ctrl-C again to stop at once.'
    )
  grid = Table.grid(padding=(0, 1))
  grid.add_column(width=min(_BAR, width // 4))
  grid.add_column(overflow='fold')
  grid.add_row(ProgressBar(steps, done), Text(words))
  return grid


def table(console: Console, board: Board, above: Table) -> list[RenderableType]:
  """A row per rate, as far as the window has room below `above`; then the best ones."""
  room = progress.lines_of(console.height) - len(console.render_lines(above, pad=False))
  rows = board.rows()
  heads = len(console.render_lines(_table(console, board.measure, rows), pad=False)) - len(rows)
  room = max(0, room - heads)
  if len(rows) <= room:
    return [_table(console, board.measure, rows, board.best(rows)[:1])]
  best = board.best(rows)
  first = [*best, *(row for row in rows if row not in best)][: max(0, room - 1)]
  shown = [row for row in rows if row in first]
  rest = [row for row in rows if row not in first]
  gone = sum(row.has_diverged for row in rest)
  text = f'and {formats.count(len(rest), "more rate")}' + f', {gone} of them diverged' * bool(gone)
  shown_rows = [_table(console, board.measure, shown, best[:1])] if room > 1 else []
  return [*shown_rows, Text(text, style='dim')]


def _name(row: Row) -> str:
  return formats.rate(row.rate) + (f' ({row.setting})' if row.setting else '')


def _names(rows: Iterable[Row]) -> str:
  return ', '.join(map(_name, rows))


def _table(
  console: Console, measure: Measure, rows: Sequence[Row], best: Sequence[Row] = ()
) -> Table:
  """A line per row, with as many columns as the window has room for."""
  columns = [
    ('rate', [formats.rate(row.rate) for row in rows]),
    ('seeds', [_seeds(row) for row in rows]),
    ('training loss', [formats.loss(_known(row.loss)) for row in rows]),
    (measure.name, [measure.show(_known(row.value)) for row in rows]),
    ('status', [row.status for row in rows]),
  ]
  if any(row.setting for row in rows):
    columns.insert(0, ('setting', [row.setting for row in rows]))
  for dropped in (None, 'training loss', 'seeds'):
    columns = [column for column in columns if column[0] != dropped]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, cells in columns:
      left = name in ('setting', 'status')
      # A row is a line, so that the table is as tall as it has rows.
      table.add_column(
        Text(name.replace(' ', '\n')),
        justify='left' if left else 'right',
        no_wrap=True,
        overflow='ellipsis',
        min_width=None if left else max(map(progress.width, [*name.split(), *cells])),
        vertical='bottom',
      )
    for row, *cells in zip(rows, *(cells for _, cells in columns), strict=True):
      table.add_row(*map(Text, cells), style=_style(row, row in best))
    wide = console.options.update(max_width=progress.WIDE)  # or it would be as wide as the window
    if Measurement.get(console, wide, table).maximum <= console.width:
      break
  return table


def _style(row: Row, is_best: bool) -> str:
  if row.has_diverged:
    return 'red'
  return 'bold' if is_best else 'dim' if row.status == 'waiting' else ''


def _seeds(row: Row) -> str:
  return str(row.seeds) if row.known in (0, row.seeds) else f'{row.known} of {row.seeds}'


def _known(value: float) -> float | None:
  return None if math.isnan(value) else value
