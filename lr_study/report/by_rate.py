"""The measure that leads against the learning rate, as a figure for print."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study import formats
from lr_study.answer.confidence import STATED
from lr_study.answer.measure import ACCURACY, LOSS, Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.report import curves, plotting
from lr_study.report.plotting import CHANCE, ONE_COLUMN

_TRAINING, _MEASURE, _GONE = '0.45', '#0072b2', '#c1420a'
_EDGE = (('color', 'edgecolor'), ('linewidth', 'linewidth'))
_LARGEST = 8.5  # size of a font in which a key of two columns fits
_STRIP = 0.12  # height of that for what diverged, below the axis, in that of the axis


def figure(results: Sequence[Result], verdict: Verdict, guessing_loss: float) -> Figure:
  """Means over seeds, the interval of what was validated, and each trial as a small point.

  Rates at which all trials diverged are crosses below the axis, others with the number of them.
  """
  measure = verdict.leads
  size = matplotlib.rcParams['font.size']
  wide, room = (2, 9) if size <= _LARGEST else (1, 13)  # the key's columns, and its height
  height = 1.75 + (2 + room) * size / 72
  drawn, ((axes,),) = plotting.sheet(
    ONE_COLUMN, height, 1, 1, (7.5, room, 1.8, 1.8), subplot_kw={'xscale': 'log'}
  )
  ended = {}
  for result in sorted(results, key=lambda result: result.learning_rate):
    if result.status != DIVERGED:
      ended.setdefault(result.learning_rate, []).append(result)
  several = any(len(found) > 1 for found in ended.values())
  for training in _of_training(measure):
    name = f'{training.name.replace("train", "training")}, epoch mean'
    _means(axes, ended, training, name, color=_TRAINING, linestyle=(0, (4, 1.5)), marker='s')
  known = any(verdict.intervals.values())
  name = measure.name + (f', {STATED} interval' if known else '')
  _means(axes, ended, measure, name, color=_MEASURE, marker='o')
  if several:
    trials = [result for found in ended.values() for result in found]
    rates, values = [r.learning_rate for r in trials], [_mean([r], measure) for r in trials]
    axes.scatter(rates, values, color=_MEASURE, s=5, alpha=0.45, linewidth=0)
  for rate, interval in verdict.intervals.items():
    if interval is not None:
      axes.plot([float(rate)] * 2, interval, color=_MEASURE, linewidth=1.5, alpha=0.6)
  _mark_best(axes, ended, verdict, several)
  plotting.limit(axes, measure, guessing_loss)
  if measure.is_share:
    axes.set_ylim(0, 1.02)  # room for half a marker
  level = curves.chance(results, measure, guessing_loss)
  if level is not None:
    axes.axhline(level, color=CHANCE, linewidth=0.8, linestyle=':', zorder=1, label='chance')
  _diverged(axes, results)
  axes.set(xlabel='learning rate', ylabel=f'{measured(measure)} {when(results)}')
  plotting.rate_axis(axes.xaxis)
  drawn.legend(loc='lower center', ncols=wide, columnspacing=1, handlelength=2.4)
  return drawn


def _means(
  axes: Axes, ended: dict[float, list[Result]], measure: Measure, name: str, **look: object
) -> None:
  axes.plot(list(ended), [_mean(found, measure) for found in ended.values()], label=name, **look)


def _mark_best(
  axes: Axes, ended: dict[float, list[Result]], verdict: Verdict, several: bool
) -> None:
  """A large point and the name of the recommended rate, and rings round those as good."""
  best = verdict.learning_rate
  others = [rate for rate in verdict.indistinguishable if rate != best]
  if others:
    means = [_mean(ended[rate], verdict.leads) for rate in others]
    label = 'may be the best' if several else 'may be just as good'
    ring = {'facecolor': 'none', 'edgecolor': _MEASURE, 'linewidth': 0.8, 'zorder': 3}
    axes.scatter(others, means, s=42, label=label, **ring)
  if best is None:
    return
  axes.plot(
    best, _mean(ended[best], verdict.leads), marker='o', markersize=7, color=_MEASURE, zorder=4,
    linestyle='none', label='recommended',
  )  # fmt: skip
  axes.axvline(best, color=_MEASURE, linewidth=0.6, alpha=0.5, zorder=1)
  axes.annotate(
    formats.rate(best), (best, 1), (0, 2), ha='center', va='bottom', weight='bold',
    xycoords=('data', 'axes fraction'), textcoords='offset points', color=_MEASURE,
    fontsize='small',
  )  # fmt: skip


def _diverged(axes: Axes, results: Sequence[Result]) -> None:
  """Crosses in a strip below the axis, each with the number of trials if others did not."""
  bottom, top = axes.get_ylim()
  found = {}
  for result in results:
    found.setdefault(result.learning_rate, []).append(result.status == DIVERGED)
  gone = {rate: of for rate, of in found.items() if any(of)}
  if not gone:
    return
  height = _STRIP * (top - bottom)
  ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
  axes.plot(
    list(gone), np.full(len(gone), bottom - height / 2), linestyle='none', marker='x',
    markersize=5, color=_GONE, label='_diverged', zorder=3,
  )  # fmt: skip
  for rate, of in gone.items():
    if not all(of):
      axes.annotate(
        f'{sum(of)}/{len(of)}', (rate, bottom - height / 2), (4, 0), va='center_baseline',
        textcoords='offset points', color=_GONE, fontsize='x-small',
      )  # fmt: skip
  edge = {name: matplotlib.rcParams[f'axes.{key}'] for name, key in _EDGE}
  axes.axhline(bottom, **edge)
  axes.set_ylim(bottom - height, top)
  show = axes.yaxis.get_major_formatter()
  axes.set_yticks([bottom - height / 2, *ticks], ['diverged', *show.format_ticks(ticks)])
  axes.yaxis.get_gridlines()[0].set_visible(False)


def measured(measure: Measure) -> str:
  """What the figure against the rate shows: 'accuracy', of training as well, or the measure."""
  return 'accuracy' if measure == ACCURACY else measure.name


def when(results: Sequence[Result]) -> str:
  """The epoch that the results' figures are of."""
  return 'at the best epoch' if any(result.best_epoch for result in results) else 'at the end'


def _of_training(measure: Measure) -> list[Measure]:
  """The training figure that corresponds to a measure, if there is one."""
  if measure == LOSS:
    return [measure._replace(field='train_loss')]
  return [Measure('train_accuracy')] if measure.field.endswith('accuracy') else []


def _mean(results: Sequence[Result], measure: Measure) -> float:
  """NaN if one is missing."""
  return float(np.mean(np.asarray([value_of(r, measure) for r in results], np.float64)))
