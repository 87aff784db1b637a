"""What is said while a study runs: lines, spinners, and places that are drawn again and again."""

import contextlib
import contextvars
import io
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.measure import Measurement
from rich.segment import ControlType, Segment, SegmentLines
from rich.spinner import Spinner
from rich.text import Text

from lr_study import formats

_NOTEBOOK_SECONDS = 0.5  # between two pictures in a notebook
WIDE = 1000  # characters, more than any table has
_WIDTH = 110  # characters of a line in a notebook
_PRE = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'
_QUIET = contextvars.ContextVar('quiet', default=False)
_HEARD: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar('heard', default=None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Within this, in this thread, nothing is shown."""
  token = _QUIET.set(True)
  try:
    yield
  finally:
    _QUIET.reset(token)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
  """Within this, in this thread, nothing is shown; returns the lines that would have been."""
  lines: list[str] = []
  token = _HEARD.set(lines)
  try:
    with quiet():
      yield lines
  finally:
    _HEARD.reset(token)


class _Console(Console):
  """Leaves it to the command what happens if nobody reads what is printed, as after `| head`."""

  def on_broken_pipe(self) -> None:
    raise  # noqa: PLE0704 - Rich calls this while it handles the BrokenPipeError


def _plain_console() -> Console:
  """One whose text is text in a notebook, too."""
  return _Console(quiet=_QUIET.get(), force_jupyter=False)


class Drawn:
  """A place that is drawn again and again, in a terminal or a notebook. Use as a context manager.

  In a terminal it is below all that is printed meanwhile, and gone in the end. Elsewhere it is
  nowhere: `is_shown` is False.
  """

  _now: 'Drawn | None' = None  # the one that is in the terminal

  def __init__(self, draw: Callable[[Console], RenderableType], in_notebooks: bool = True):
    """Draws nothing yet.

    Args:
      draw: what is to be shown, on this console, now. It is called several times a second, in
        another thread too. Of more lines than the window has, the last ones are cut off.
      in_notebooks: False: in a terminal alone.
    """
    self._draw = draw
    self._console = _Console(quiet=_QUIET.get(), file=sys.stdout, force_jupyter=False)
    self._notebook = in_notebooks and not _QUIET.get() and Console().is_jupyter
    self._live: Live | None = None
    self._cell: _Cell | None = None
    self._widths: list[int] = []
    self._of = 0

  @property
  def is_shown(self) -> bool:
    """True if somebody sees it."""
    return self._live is not None or self._cell is not None

  def __enter__(self) -> 'Drawn':
    # FORCE_COLOR, which notebooks set, lets Rich believe that there is a terminal.
    terminal = sys.stdout.isatty() and self._console.is_terminal
    terminal = terminal and not self._console.is_dumb_terminal
    if self._notebook:
      self._cell = _Cell()
    elif terminal and not self._console.quiet and Drawn._now is None:
      live = self._live = Live(
        console=self._console,
        get_renderable=self._fitted,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),  # what goes into a file still does
      )
      live.start(refresh=True)
      Drawn._now = self
    return self

  def __exit__(self, *exception) -> None:
    if self._cell:
      self._cell.show(self._draw, last=True)
    elif self._live:
      Drawn._now = None
      self._live.__exit__(*exception)
      self._live = None

  def update(self) -> None:
    """Draws it now."""
    if self._cell:
      self._cell.show(self._draw)
    elif self._live:
      self._live.refresh()

  @classmethod
  def printing(cls) -> Console | None:
    """The console to print on above what is drawn; None if nothing is."""
    return cls._now._console if cls._now else None

  def _fitted(self) -> SegmentLines:
    """What is drawn, no taller than the window; after this the cursor is where Live expects it."""
    width, height = self._console.size
    rows = sum(max(1, math.ceil(own / width)) for own in self._widths)
    if self._of > width and rows > len(self._widths):
      # The window was made narrower. Lines that were too long for it take several rows now, of
      # which Live, which goes up a row per line, would leave some.
      up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * (rows - len(self._widths))
      self._console.control(Control(ControlType.CARRIAGE_RETURN, *up))
    lines = self._console.render_lines(self._draw(self._console), pad=False)
    lines = list(map(_stripped, lines[: lines_of(height)]))
    self._widths, self._of = list(map(Segment.get_line_length, lines)), width
    return SegmentLines(lines, new_lines=True)


def lines_of(height: int) -> int:
  """How many lines can be drawn in a window: the line after them would scroll it."""
  return max(1, height - 2)


def _stripped(line: list[Segment]) -> list[Segment]:
  """Without blanks at its end: terminals differ in whether they wrap these."""
  line = list(line)
  while line and not line[-1].text.strip():
    line.pop()
  return [*line[:-1], *(last._replace(text=last.text.rstrip()) for last in line[-1:])]


class _Cell:
  """A place in a notebook's output; `rich.live.Live` needs ipywidgets there."""

  def __init__(self):
    from IPython.display import display  # a notebook has it  # noqa: PLC0415

    self._handle, self._drawn = display({'text/plain': ''}, raw=True, display_id=True), -np.inf

  def show(self, draw: Callable[[Console], RenderableType], last: bool = False) -> None:
    if not last and time.monotonic() - self._drawn < _NOTEBOOK_SECONDS:
      return
    console = Console(
      record=True, file=io.StringIO(), width=_WIDTH, force_jupyter=False, force_terminal=True
    )
    console.print(draw(console))
    text = console.export_text(clear=False)
    html = console.export_html(inline_styles=True, code_format=_PRE)
    self._handle.update({'text/plain': text, 'text/html': html}, raw=True)
    self._drawn = time.monotonic()


@contextlib.contextmanager
def working(text: str, keep: bool = True) -> Iterator[None]:
  """Shows that something takes a while: a spinner and the seconds in a terminal.

  Args:
    text: what is going on.
    keep: a line stays, which is all there is where no terminal is. Else nothing stays.
  """
  started, spinner = time.monotonic(), Spinner('dots')

  def draw(of: Console) -> Spinner:
    spinner.text = Text(formats.printable(text) + _since(started))
    return spinner

  with Drawn(draw, in_notebooks=False) as drawn:
    is_shown = drawn.is_shown
    if keep and not is_shown:
      note(text)
    yield
  if keep and is_shown:
    note(text + _since(started))


def _since(started: float) -> str:
  seconds = time.monotonic() - started
  return f' ({formats.duration(seconds)})' if seconds >= 1 else ''


def note(text: str) -> None:
  """Prints one line about what is going on; in a terminal it breaks between words."""
  if (lines := _HEARD.get()) is not None:
    lines.append(text)
  # Paths come in, so it has to be printable.
  line, on = formats.printable(text), Drawn.printing() or _plain_console()
  if on.is_terminal:  # a word that is too long for a line stays whole
    line = textwrap.fill(line, on.width, break_long_words=False, break_on_hyphens=False)
  on.print(Text(line), soft_wrap=True)


def show(shown: RenderableType) -> None:
  """Prints what Rich can show."""
  _Console(quiet=_QUIET.get()).print(shown)


def fits(shown: RenderableType) -> bool:
  """True if this can be shown whole, though some of its lines may have to break."""
  on = _Console()
  wide = on.options.update(max_width=WIDE)  # or nothing would be wider than the window
  return Measurement.get(on, wide, shown).minimum <= on.width


def width(text: str) -> int:
  """The cells that text takes in a terminal: two for an emoji, none for a combining accent."""
  return cell_len(text)
