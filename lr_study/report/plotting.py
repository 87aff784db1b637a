"""What figures for print share: sheets of one or two columns, axes of rates, labels of lines."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lr_study import formats
from lr_study.answer.measure import LOSS, Measure
from lr_study.report import style

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.8  # widths of figures in journals, in inches
THICK = 2.2  # the recommended rate's line, to the others'
CHANCE = '0.45'  # the colour of what guessing reaches
_LINE = 1.15  # height of a line of small text, in its size
_SMALL = 0.833  # Matplotlib's 'small'


@dataclasses.dataclass(frozen=True)
class Label:
  """A name at the end of a line, at its height in data."""

  height: float
  text: str
  colour: str
  bold: bool = False


def sheet(
  width: float,
  height: float,
  rows: int = 1,
  columns: int = 1,
  around: tuple[float, float, float, float] = (5, 3.6, 0.8, 0.8),
  between: tuple[float, float] = (0, 0),
  **options: Any,
) -> tuple[Figure, np.ndarray]:
  """A figure, in inches, and its axes, (rows, columns), with `options` of `Figure.subplots`.

  Args:
    width, height: of the whole.
    rows, columns: of axes.
    around: the room at the left, the bottom, the right and the top, in font sizes.
    between: the room between axes side by side and one below the other, likewise.
  """
  # Known at once: to find the room that texts take would draw each of them twice.
  size = matplotlib.rcParams['font.size'] / 72
  left, bottom, right, top = (size * room for room in around)
  across, down = (size * room for room in between)
  # Its size is what a journal asks for: nothing is cut off, as from figures without an engine.
  figure = Figure(figsize=(width, height), layout=PlaceHolderLayoutEngine(True, False))
  spaces = {
    'left': left / width,
    'bottom': bottom / height,
    'right': 1 - right / width,
    'top': 1 - top / height,
    'wspace': across * columns / (width - left - right - (columns - 1) * across),
    'hspace': down * rows / (height - bottom - top - (rows - 1) * down),
  }
  return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces, **options)


def title(figure: Figure, text: str) -> None:
  """A title above all axes; `sheet` must have left room for it."""
  figure.text(0.5, 0.99, text, ha='center', va='top', weight='bold', parse_math=False)


def look(rate: float, rates: Collection[float], best: float | None = None) -> dict[str, Any]:
  """How the line of a rate is drawn: its colour, dash and width; `best` is thick and solid.

  The colours are those of `style`, or of a style of Matplotlib that the user gave.
  """
  cycle = matplotlib.rcParams['axes.prop_cycle'].by_key().get('color', style.PALETTE)
  strokes = style.dash(rate, rates)
  width = matplotlib.rcParams['lines.linewidth']
  return {
    'color': style.colour(rate, rates, cycle),
    'linestyle': (0, strokes) if strokes and rate != best else '-',
    'linewidth': THICK * width if rate == best else width,
    'zorder': 2.5 if rate == best else 2,
  }


def end_labels(axes: Axes, labels: Sequence[Label]) -> list[Text]:
  """Labels lines at their right ends without overlap; a hairline leads to a moved label.

  The axes must have their limits and their place. Where there is no room for all, some between
  others are left out, and never a bold one.
  """
  labels = [label for label in labels if np.isfinite(label.height)]
  if not labels:
    return []
  labels = sorted(labels, key=lambda label: label.height)
  figure = axes.figure
  height = axes.get_position().height * figure.get_figheight() * 72
  gap = _LINE * _SMALL * matplotlib.rcParams['font.size'] / height
  labels = _fitting(labels, int(1 / gap) + 1)
  ends = axes.transData.transform([(axes.get_xlim()[1], label.height) for label in labels])
  wanted = np.clip(axes.transAxes.inverted().transform(ends)[:, 1], 0, 1)
  texts = []
  em = matplotlib.rcParams['font.size'] / (
    axes.get_position().width * figure.get_figwidth() * 72
  )  # in shares of the axes' width
  for label, end, place in zip(labels, wanted, apart(wanted, gap), strict=True):
    axes.plot(
      [1, 1 + 0.35 * em, 1 + 0.7 * em],
      [end, place, place],
      color=label.colour,
      linewidth=0.6,
      transform=axes.transAxes,
      clip_on=False,
      scalex=False,
      scaley=False,
    )
    texts.append(
      axes.text(
        1 + 0.85 * em,
        place,
        label.text,
        color=label.colour,
        fontsize='small',
        weight='bold' if label.bold else None,
        va='center_baseline',
        transform=axes.transAxes,
      )
    )
  return texts


def apart(wanted: np.ndarray, gap: float) -> np.ndarray:
  """Places from 0 to 1, `gap` apart, as near to those wanted, ascending, as that allows."""
  steps = gap * np.arange(len(wanted))
  blocks = []  # of places that touch: the sum of what they want, and how many they are
  for place in wanted - steps:
    blocks.append((place, 1))
    while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
      (total, count), (more, further) = blocks[-2:]
      blocks[-2:] = [(total + more, count + further)]
  low = np.concatenate([np.full(count, total / count) for total, count in blocks])
  return np.clip(low, 0, max(0, 1 - steps[-1])) + steps


def _fitting(labels: Sequence[Label], most: int) -> list[Label]:
  """The bold ones, and evenly spaced others."""
  if len(labels) <= most:
    return list(labels)
  kept = set(np.linspace(0, len(labels) - 1, most).round().astype(int))
  for place in (i for i, label in enumerate(labels) if label.bold and i not in kept):
    kept.remove(min(kept, key=lambda other: abs(other - place)))
    kept.add(place)
  return [label for i, label in enumerate(labels) if i in kept]


def rate_axis(axis: Axis) -> None:
  """Marks a logarithmic axis that has its data with rates as they are written."""
  log_axis(axis, formats.rate)


def log_axis(axis: Axis, show: Callable[[float], str] = '{:g}'.format) -> None:
  """Marks a logarithmic axis that has its data: decades, or what lies between if they are few."""
  low, high = axis.get_data_interval()
  spread = high / low if 0 < low <= high else 1  # none where there are no data
  axis.set_major_formatter(lambda value, _: show(value))
  axis.set_minor_locator(NullLocator())  # nine a decade are a grey band, and slow to draw
  if 1 < spread < 5:
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  elif spread < 100:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def limit(axes: Axes, measure: Measure, guessing_loss: float) -> None:
  """Sets the vertical axis to what the measure can be; a loss goes up to twice that of guessing."""
  if measure.is_share:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  elif measure == LOSS:
    axes.set_ylim(0, 2 * guessing_loss)


def epoch_axis(axes: Axes, epochs: int) -> None:
  """An axis of all epochs, marked at whole ones."""
  axes.set(xlabel='epoch', xlim=(0, 1.012 * epochs))  # room for half a marker
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
