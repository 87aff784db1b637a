"""What is shown while trials train: a live table in a terminal or a notebook, else plain lines."""

import contextlib
import contextvars
import io
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from lr_study import formats
from lr_study.answer.measure import ACCURACY, Measure, value_of

_PLAIN_SECONDS = 10  # between two plain lines
_NOTEBOOK_SECONDS = 0.5  # between two pictures in a notebook
_WIDTH = 110  # characters of a line in a notebook
_QUIET = contextvars.ContextVar('quiet', default=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Within this, in this thread, nothing is shown."""
  token = _QUIET.set(True)
  try:
    yield
  finally:
    _QUIET.reset(token)


class _Cell:
  """A place in a notebook's output that is drawn again and again. As `rich.live.Live` is used.

  That one needs ipywidgets there.
  """

  def __init__(self):
    from IPython.display import display  # a notebook has it  # noqa: PLC0415

    self._handle, self._drawn = display({'text/plain': ''}, raw=True, display_id=True), -np.inf

  def update(self, shown: Group | Progress, last: bool = False) -> None:
    if not last and time.monotonic() - self._drawn < _NOTEBOOK_SECONDS:
      return
    console = Console(
      record=True, file=io.StringIO(), width=_WIDTH, force_jupyter=False, force_terminal=True
    )
    console.print(shown)
    text = console.export_text(clear=False)
    html = console.export_html(inline_styles=True, code_format=_PRE)
    self._handle.update({'text/plain': text, 'text/html': html}, raw=True)
    self._drawn = time.monotonic()


_PRE = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'


class _Console(Console):
  """Leaves it to the command what happens if nobody reads what is printed, as after `| head`."""

  def on_broken_pipe(self) -> None:
    raise  # noqa: PLE0704 - Rich calls this while it handles the BrokenPipeError


class TrainingView:
  """A row a trial and a bar with the time left. Use it as a context manager."""

  def __init__(
    self,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    epochs: int,
    title: str = 'training',
    measure: Measure = ACCURACY,
    labels: Sequence[str] = (),
  ):
    """Shows nothing yet.

    Args:
      learning_rates: of each trial.
      seeds: of each trial.
      steps: of the whole study, per trial.
      epochs: likewise.
      title: of the bar.
      measure: what evaluations show.
      labels: of each trial's setting; none if they share one.
    """
    self._rates, self._seeds, self._epochs = learning_rates, seeds, epochs
    self._measure, self._labels = measure, labels if any(labels) else ()
    trials = len(learning_rates)
    self._loss, self._accuracy = np.full(trials, np.nan), np.full(trials, np.nan)
    self._validation = np.full(trials, np.nan)
    self._bad_step = np.zeros(trials, int)
    self._epoch = np.zeros(trials, int)
    self._console = _Console(quiet=_QUIET.get())
    self._progress = Progress(
      TextColumn('{task.description}'),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn('steps, {task.fields[left]} left'),
      console=self._console,
    )
    self._task = self._progress.add_task(title, total=steps, left='?')
    self._steps, self._first, self._started = steps, 0, time.monotonic()
    self._last_line = -np.inf
    self._live = None

  def __enter__(self) -> 'TrainingView':
    if _QUIET.get():
      return self
    if self._console.is_jupyter:
      self._live = _Cell()
    elif self._console.is_terminal:
      self._live = Live(self._render(), console=self._console, transient=True)
      self._live.__enter__()
    return self

  def __exit__(self, *exception) -> None:
    if isinstance(self._live, _Cell):
      self._live.update(self._progress, last=True)  # what came of the trials, the answer tells
    elif self._live:
      self._live.update(self._render())
      self._live.__exit__(*exception)

  def start(self, steps_done: int) -> None:
    """The clock for the time left starts now, after `steps_done` steps."""
    self._first, self._started = steps_done, time.monotonic()

  def steps(
    self, steps_done: int, epoch: int, columns: np.ndarray, curves: Mapping[str, np.ndarray]
  ) -> None:
    """Shows a chunk of steps.

    Args:
      steps_done: at its end.
      epoch: its epoch, from 1.
      columns: which trials they are.
      curves: their 'loss' and 'accuracy', (steps, columns).
    """
    self._epoch[columns] = epoch
    self._loss[columns] = curves['loss'].mean(0)
    self._accuracy[columns] = curves['accuracy'].mean(0)
    left = formats.duration(self.seconds_left(steps_done))
    self._progress.update(self._task, completed=steps_done, left=left)
    self._show(steps_done, left, epoch)

  def diverged(self, bad_steps: np.ndarray) -> None:
    """Takes in the first bad step of each trial, (trials,), 0 where there is none."""
    self._bad_step = np.where(self._bad_step, self._bad_step, bad_steps)

  def epoch(self, epoch: int, measured: np.ndarray) -> None:
    """Shows the measure, (trials,) and NaN where there is none, after `epoch` (from 1)."""
    known = ~np.isnan(measured)
    self._validation[known] = np.asarray(measured)[known]
    if self._live:
      self._live.update(self._render())
    else:
      found = ', '.join(
        f'{name} {"diverged" if bad else self._measure.show(_known(value))}'
        for name, value, bad in zip(self._names(), measured, self._bad_step, strict=True)
      )
      self._console.print(
        f'epoch {epoch}/{self._epochs}: {self._measure.name} {found}', soft_wrap=True
      )

  def seconds_left(self, steps_done: int) -> float:
    """The time left if steps and evaluations go on as they went since `start`."""
    done = max(steps_done - self._first, 1)
    return (time.monotonic() - self._started) / done * (self._steps - steps_done)

  def _names(self) -> list[str]:
    rates = map(formats.rate, self._rates)
    if not self._labels:
      return list(rates)
    return [f'{rate} ({label})' for rate, label in zip(rates, self._labels, strict=True)]

  def _show(self, steps_done: int, left: str, epoch: int) -> None:
    if self._live:
      self._live.update(self._render())
    elif time.monotonic() - self._last_line > _PLAIN_SECONDS:
      self._last_line = time.monotonic()
      self._console.print(
        f'step {steps_done}/{self._steps}, epoch {epoch}/{self._epochs}, {left} left',
        soft_wrap=True,
      )

  def _render(self) -> Group:
    heads = ('rate', 'seed', 'epoch', 'training loss', 'training', _head(self._measure), 'status')
    table = _table(('setting', *heads) if self._labels else heads)
    for i, (rate, seed) in enumerate(zip(self._rates, self._seeds, strict=True)):
      bad = self._bad_step[i]
      figures = (
        ('–', '–', '–')
        if bad
        else (
          formats.loss(_known(self._loss[i])),
          formats.percent(_known(self._accuracy[i])),
          self._measure.show(_known(self._validation[i])),
        )
      )
      status = 'training' if self._epoch[i] else 'waiting'
      status = f'[red]diverged at step {bad}[/red]' if bad else status
      label = [self._labels[i]] if self._labels else []
      table.add_row(
        *label, formats.rate(rate), str(seed), f'{self._epoch[i]}/{self._epochs}', *figures, status
      )
    return Group(table, self._progress)


def print_answer(
  results, sentence: str, measure: Measure = ACCURACY, labels: Sequence[str] = ()
) -> None:
  """Prints the table of results and the verdict's sentence.

  Args:
    results: one `verdict.Result` for each trial.
    sentence: the verdict's.
    measure: that it goes by.
    labels: of each trial's setting; none if there is one.
  """
  heads = ('rate', 'seed', 'training loss at the end', 'training', _head(measure), 'status')
  table = _table(('setting', *heads) if any(labels) else heads)
  for i, result in enumerate(results):
    status = result.status
    if result.first_bad_step is not None:
      status += f' at step {result.first_bad_step}'
    table.add_row(
      *([labels[i]] if any(labels) else ()),
      formats.rate(result.learning_rate),
      str(result.seed),
      formats.loss(result.train_loss_at_end),
      formats.percent(result.train_accuracy),
      measure.show(value_of(result, measure)),
      status,
    )
  console = _Console()
  console.print(table)
  console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _head(measure: Measure) -> str:
  return 'validation' if measure == ACCURACY else measure.name


def _table(heads: Sequence[str]) -> Table:
  table = Table()
  for name in heads:
    left = name in ('setting', 'status')
    longest = len('still_improving') if name == 'status' else None  # words stay whole
    justify = 'left' if left else 'right'
    table.add_column(name, justify=justify, overflow='fold', min_width=longest)
  return table


def _known(value: float) -> float | None:
  return None if np.isnan(value) else float(value)


def note(text: str) -> None:
  """Prints one line about what is going on."""
  # Paths come in: no signs for `:bomb:`, and no half of a character.
  line = formats.printable(text)
  _Console(emoji=False, quiet=_QUIET.get(), force_jupyter=False).print(
    line, soft_wrap=True, highlight=False, markup=False
  )


def width(text: str) -> int:
  """The places that text takes in a terminal: an emoji takes two, an accent of its own none."""
  return cell_len(text)
