"""Figures made of cells: the confusion matrix, and the measure over rate and one more axis."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lr_study import formats, plugs
from lr_study.answer import effects
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result
from lr_study.report import drawing, plotting
from lr_study.report.plotting import ONE_COLUMN, TWO_COLUMNS
from lr_study.search import rounds

MOST_CLASSES = 40  # in a confusion matrix: more are too small to be read
_NUMBERED = 26  # classes up to which a cell holds its number
_LONGEST = 16  # characters of a class's name
_MOST_MAPS = 6  # of an axis: of more, nobody would look at each
_SMALL = 12  # classes up to which a confusion matrix fits into a column
_NARROW = 4  # rates up to which a heat map does
_LEAST = 0.6  # width of a sign, in font sizes
_GONE = '#c1420a'


def build(
  results: Sequence[Result], classes: Sequence[str], best: dict[str, Any] | None, measure: Measure
) -> dict[str, Figure]:
  """What there is to draw of these, by name.

  confusion: the best trial's, if it was examined (see best.py) and there are not too many classes.
  rate_and_batch_size, or with several schedules rate_and_batch_size_constant, ...: the measure that
  leads, for each axis that has several values; see `heat_maps`.
  """
  parts: dict[str, tuple[Any, ...]] = {
    name: (heat_map, found.results, found.axis, measure)
    for name, found in heat_maps(results).items()
  }
  if best and best.get('confusion') and len(classes) <= MOST_CLASSES:
    counts = np.asarray(best['confusion'])
    parts = {'confusion': (confusion, classes, counts)} | parts
  with drawing.style():
    found = {name: drawing.attempt(name, *part) for name, part in parts.items()}
  return {name: figure for name, figure in found.items() if figure is not None}


class HeatMap(NamedTuple):
  """What a figure of rate and one more axis shows.

  axis: its name, as 'optimizer.momentum'. title: what its settings have in common, for people; ''
  if there is one figure of the axis.
  """

  axis: str
  title: str
  results: list[Result]


def heat_maps(results: Sequence[Result]) -> dict[str, HeatMap]:
  """The results that differ in rate and one more axis alone, by the name of their figure.

  Of an axis that has several values; at most `_MOST_MAPS` of each.
  """
  found, settings = {}, list(dict.fromkeys(result.setting for result in results))
  for axis in effects.varied(settings):
    groups = effects.groups(settings, axis)
    others = [rounds.without(members[0][1], axis) for members in groups]
    for members, other in list(zip(groups, others, strict=True))[:_MOST_MAPS]:
      name = '_'.join(filter(None, (figure_name(axis), rounds.label(other, others))))
      own = {setting for _, setting in members}
      of_map = [result for result in results if result.setting in own]
      found[name] = HeatMap(axis, rounds.title(other, others), of_map)
  return found


def axis_name(axis: str) -> str:
  """An axis for people: 'batch size', 'schedule', 'optimizer.momentum'."""
  return {effects.BATCH_SIZE: 'batch size', effects.SCHEDULE: 'schedule'}.get(axis, axis)


def figure_name(axis: str) -> str:
  """The name of the figure of rate and this axis."""
  return 'rate_and_' + axis_name(axis).replace(' ', '_').replace('.', '_')


def confusion(classes: Sequence[str], counts: np.ndarray) -> Figure:
  """A row a true class, its images by the class they were predicted as; int (classes, classes).

  A cell is the darker the larger its share of the row; by the share's root, since most are small.
  """
  number = len(classes)
  is_small = number <= _SMALL
  longest = max(map(len, map(_short, classes)))
  room = 3.2 + 0.55 * longest
  side = ONE_COLUMN if is_small else TWO_COLUMNS
  figure, ((axes,),) = plotting.sheet(side, side - 0.5, 1, 1, (room, room, 7, 1))
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  cells = _cells(axes, shares, PowerNorm(0.5, 0, shares.max() or 1))
  _colour_bar(figure, axes, cells, 'share of the true class', is_share=True)
  if number <= _NUMBERED:
    for row, column in zip(*np.nonzero(counts), strict=True):
      _write(axes, cells, row, column, str(counts[row, column]), row == column, 'x-small')
  _name_ticks(axes, classes, classes)
  axes.set(xlabel='predicted class', ylabel='true class')
  return figure


def heat_map(results: Sequence[Result], axis: str, measure: Measure, title: str = '') -> Figure:
  """The mean over seeds at each rate and value of an axis; a cross where all diverged.

  The best cell is the darkest, the worst the lightest; the best rate of each value is framed.
  `title`: above the cells, such as the values on further axes.
  """
  rates = sorted({r.learning_rate for r in results})
  value_at = {r.setting: rounds.on_axes(r.setting)[axis] for r in results}
  values = list(dict.fromkeys(value_at.values()))
  if all(map(plugs.is_number, values)):
    values.sort()
  texts = list(map(rounds.value_text, values))
  width = ONE_COLUMN if len(rates) <= _NARROW else TWO_COLUMNS
  size = matplotlib.rcParams['font.size'] / 72
  room = 3.4 + 1.1 * axis.count('.') + 0.55 * max(len(_short(text)) for text in texts)
  line = 1.8 if title else 0  # its room, in font sizes
  height = max(1.3, 0.34 * len(values) + 4.4 * size) + line * size
  figure, ((axes,),) = plotting.sheet(width, height, 1, 1, (room, 3.6, 9, 0.8 + line))
  if title:
    plotting.title(figure, title)
  means, gone = np.full((2, len(values), len(rates)), np.nan)
  for row, value in enumerate(values):
    for column, rate in enumerate(rates):
      here = [r for r in results if (r.learning_rate, value_at[r.setting]) == (rate, value)]
      left = [value_of(r, measure) for r in here if r.status != DIVERGED]
      if here:
        gone[row, column] = len(here) - len(left)
      if left and None not in left:
        means[row, column] = np.mean(left)
  cells = _cells(axes, means, None, not measure.larger_is_better)
  is_wide = axes.get_position().width * width / len(rates) > 6 * _LEAST * size
  for row, column in np.argwhere(np.isfinite(gone)):
    if np.isnan(means[row, column]):
      axes.plot(column, row, color=_GONE, marker='x', markersize=5)
    elif is_wide:
      text = measure.show(means[row, column])
      text += f'\n{gone[row, column]:.0f} diverged' if gone[row, column] else ''
      _write(axes, cells, row, column, text, False, 'small')
  for row in np.flatnonzero(np.isfinite(means).any(1)):
    corner = (np.nanargmax(measure.score(means[row])) - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.5, clip_on=False, zorder=3))
  if np.isfinite(means).any():
    _colour_bar(figure, axes, cells, measure.name.replace(' ', '\n', 1), measure.is_share)
  _name_ticks(axes, list(map(formats.rate, rates)), texts)
  axes.xaxis.set_tick_params(labelrotation=0 if is_wide or len(rates) < 9 else 90)
  axes.set(xlabel='learning rate', ylabel=axis_name(axis).replace('.', '.\n'))
  return figure


def _cells(
  axes: Axes, values: np.ndarray, norm: Normalize | None, reverse: bool = False
) -> QuadMesh:
  """A square for each value, (rows, columns), from light to dark over all of them; none for NaN."""
  colours = matplotlib.colormaps[matplotlib.rcParams['image.cmap']]
  rows, columns = values.shape
  edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
  mesh = axes.pcolormesh(
    *edges, np.ma.masked_invalid(values), norm=norm, cmap=colours.reversed() if reverse else colours
  )
  axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  return mesh


def _colour_bar(figure: Figure, axes: Axes, cells: QuadMesh, name: str, is_share: bool) -> None:
  """What the colours mean, at the right of the cells."""
  place, size = axes.get_position(), matplotlib.rcParams['font.size'] / 72
  width = figure.get_figwidth()
  bar = figure.add_axes((place.x1 + size / width, place.y0, size / width, place.height))
  scale = figure.colorbar(cells, cax=bar, label=name)
  scale.outline.set_visible(False)
  scale.solids.set(rasterized=False, edgecolor='face')  # sharp at any size, and without seams
  scale.ax.grid(False)
  if is_share:
    scale.ax.yaxis.set_major_formatter(lambda value, _: f'{100 * value:g}%')


def _write(
  axes: Axes, cells: QuadMesh, row: int, column: int, text: str, is_bold: bool, size: str
) -> None:
  """A text in a cell, in black or white: what is read on its colour."""
  rgb = np.asarray(cells.to_rgba(cells.get_array()[row, column])[:3])
  bright = rgb @ [0.299, 0.587, 0.114]
  axes.text(
    column, row, text, ha='center', va='center', fontsize=size, linespacing=0.95,
    color='black' if bright > 0.5 else 'white', weight='bold' if is_bold else None,
  )  # fmt: skip


def _name_ticks(axes: Axes, across: Sequence[str], down: Sequence[str]) -> None:
  short = [[_short(name) for name in names] for names in (across, down)]
  axes.set_xticks(range(len(across)), short[0], rotation=90 if max(map(len, short[0])) > 2 else 0)
  axes.set_yticks(range(len(down)), short[1])
  for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
    label.set_parse_math(False)  # names may hold dollars


def _short(name: str) -> str:
  name = formats.printable(name)
  return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'
