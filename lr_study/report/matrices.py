"""Figures made of cells: the confusion matrix, and the measure over rate and one more axis."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lr_study import formats, plugs
from lr_study.answer import effects
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result
from lr_study.report import drawing
from lr_study.search import rounds

MOST_CLASSES = 40  # in a confusion matrix: more are too small to be read
_NUMBERED = 26  # classes up to which a cell holds its number
_LONGEST = 16  # characters of a class's name
_MOST_MAPS = 6  # of an axis: of more, nobody would look at each
_DARKEST = 0.6  # opacity of a cell: its number is read on it


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
  side = 1.4 + max(1.6, 0.34 * number)
  axes = Figure(figsize=(side, side)).add_subplot()
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  _cells(axes, np.sqrt(shares))
  if number <= _NUMBERED:
    for row, column in zip(*np.nonzero(counts), strict=True):
      weight = 'bold' if row == column else 'normal'
      axes.text(column, row, counts[row, column], ha='center', va='center', weight=weight)
  _name_ticks(axes, classes, classes)
  axes.set(xlabel='predicted class', ylabel='true class', aspect='equal')
  return axes.figure


def heat_map(results: Sequence[Result], axis: str, measure: Measure) -> Figure:
  """The mean over seeds at each rate and value of an axis; a cross where all diverged.

  A share is the darker the larger it is, else the worst cell is white and the best the darkest.
  """
  rates = sorted({r.learning_rate for r in results})
  value_at = {r.setting: rounds.on_axes(r.setting)[axis] for r in results}
  values = list(dict.fromkeys(value_at.values()))
  if all(map(plugs.is_number, values)):
    values.sort()
  means = np.full((len(values), len(rates)), np.nan)
  size = (1.2 + 0.75 * len(rates), 0.9 + 0.42 * len(values))
  axes = Figure(figsize=size).add_subplot()
  for row, value in enumerate(values):
    for column, rate in enumerate(rates):
      here = [r for r in results if (r.learning_rate, value_at[r.setting]) == (rate, value)]
      left = [value_of(r, measure) for r in here if r.status != DIVERGED]
      if left and None not in left:
        means[row, column] = np.mean(left)
        text = measure.show(means[row, column])
        text += f'\n{len(here) - len(left)} diverged' if len(left) < len(here) else ''
        axes.text(column, row, text, ha='center', va='center', fontsize=8)
      elif here:
        axes.plot(column, row, color='red', marker='x', markersize=7)
  known, scores = np.isfinite(means), measure.score(means)
  if not measure.is_share and known.any():
    low, high = scores[known].min(), scores[known].max()
    scores = (scores - low) / ((high - low) or 1)
  _cells(axes, np.nan_to_num(scores))
  for row in np.flatnonzero(known.any(1)):
    corner = (np.nanargmax(scores[row]) - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.5, clip_on=False, zorder=3))
  _name_ticks(axes, list(map(formats.rate, rates)), list(map(rounds.value_text, values)))
  axes.xaxis.set_tick_params(labelrotation=0)
  axes.set(xlabel='learning rate', ylabel=axis_name(axis))
  return axes.figure


def _cells(axes: Axes, shares: np.ndarray) -> None:
  """A square for each share, (rows, columns), as opaque as it is large; none for 0."""
  places = np.argwhere(shares > 0)
  squares = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in places]
  colours = [
    (*matplotlib.colors.to_rgb('tab:blue'), _DARKEST * shares[row, column])
    for row, column in places
  ]
  axes.add_collection(PatchCollection(squares, facecolor=colours, edgecolor='none'))
  rows, columns = shares.shape
  axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)


def _name_ticks(axes: Axes, across: Sequence[str], down: Sequence[str]) -> None:
  short = [[_short(name) for name in names] for names in (across, down)]
  axes.set_xticks(range(len(across)), short[0], rotation=90 if max(map(len, short[0])) > 2 else 0)
  axes.set_yticks(range(len(down)), short[1])
  for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
    label.set_parse_math(False)  # names may hold dollars


def _short(name: str) -> str:
  name = formats.printable(name)
  return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'
