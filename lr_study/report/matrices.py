"""Figures made of cells: the confusion matrix, and accuracy over rates and batch sizes."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lr_study import formats
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result
from lr_study.report import drawing
from lr_study.search import rounds

MOST_CLASSES = 40  # in a confusion matrix: more are too small to be read
_NUMBERED = 26  # classes up to which a cell holds its number
_LONGEST = 16  # characters of a class's name
_DARKEST = 0.6  # opacity of a cell: its number is read on it


def build(
  results: Sequence[Result], classes: Sequence[str], best: dict[str, Any] | None, measure: Measure
) -> dict[str, Figure]:
  """What there is to draw of these, by name.

  confusion: the best trial's, if it was examined (see best.py) and there are not too many classes.
  batch_sizes, or with several schedules or further axes batch_sizes_constant, ...: the measure that
  leads, if the study has several batch sizes; see `over_batch_sizes`.
  """
  parts = {
    name: (batch_sizes, own, measure) for name, (_, own) in over_batch_sizes(results).items()
  }
  if best and best.get('confusion') and len(classes) <= MOST_CLASSES:
    counts = np.asarray(best['confusion'])
    parts = {'confusion': (confusion, classes, counts)} | parts
  with drawing.style():
    found = {name: drawing.attempt(name, *part) for name, part in parts.items()}
  return {name: figure for name, figure in found.items() if figure is not None}


def over_batch_sizes(results: Sequence[Result]) -> dict[str, tuple[str, list[Result]]]:
  """The results that differ in rate and batch size alone, by the name of their figure.

  With each, what they have in common, for people; '' if there is one figure. Empty if the study
  has one batch size.
  """
  if len({result.batch_size for result in results}) == 1:
    return {}
  others = dict.fromkeys(result.setting._replace(batch_size=0) for result in results)
  return {
    '_'.join(filter(None, ('batch_sizes', rounds.label(other, others)))): (
      rounds.title(other, others),
      [r for r in results if r.setting._replace(batch_size=0) == other],
    )
    for other in others
  }


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


def batch_sizes(results: Sequence[Result], measure: Measure) -> Figure:
  """The mean over seeds at each rate and batch size; a cross where all diverged.

  A share is the darker the larger it is, else the worst cell is white and the best the darkest.
  """
  rates = sorted({r.learning_rate for r in results})
  sizes = sorted({r.batch_size for r in results})
  means = np.full((len(sizes), len(rates)), np.nan)
  size = (1.2 + 0.75 * len(rates), 0.9 + 0.42 * len(sizes))
  axes = Figure(figsize=size).add_subplot()
  for row, batch_size in enumerate(sizes):
    for column, rate in enumerate(rates):
      here = [r for r in results if (r.learning_rate, r.batch_size) == (rate, batch_size)]
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
  _name_ticks(axes, [formats.rate(rate) for rate in rates], [str(size) for size in sizes])
  axes.xaxis.set_tick_params(labelrotation=0)
  axes.set(xlabel='learning rate', ylabel='batch size')
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
