"""Curves of a study's trials over the epochs, as figures for print."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lr_study import formats
from lr_study.answer.measure import ACCURACY, LOSS, Measure
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result
from lr_study.files.history import History, window_means
from lr_study.report import plotting
from lr_study.report.plotting import CHANCE, ONE_COLUMN, TWO_COLUMNS, Label

_POINTS = 75  # of a training curve, a window's mean each: more are a band of ink in print
_FEW_EPOCHS = 12  # up to which each has a marker
_MOST_PANELS = 12  # of rates, in one figure
_COLUMNS = 4  # of panels
_FEWEST = 3  # points of a curve: of fewer there is nothing to see
_NAMED = 4  # rates that diverged, up to which each is named
_DASHED = (0, (3, 1.5))
_LOSS, _ACCURACY = '#0072b2', '#c1420a'  # differ for all readers


class Trials(NamedTuple):
  """The trials of a setting, and what their figures have in common.

  history: a column for each of `results`. measure: that leads. best: the recommended rate; None if
  there is none. rates: all of the study, as a rate looks alike in all figures.
  """

  history: History
  results: Sequence[Result]
  measure: Measure
  guessing_loss: float
  best: float | None
  rates: Collection[float]

  @property
  def epochs(self) -> int:
    """Epochs that the longest trial trains."""
    return len(self.history.epochs['train_loss'])

  @property
  def steps_per_epoch(self) -> int:
    """Steps of an epoch."""
    return len(self.history.steps['loss']) // self.epochs

  def by_rate(self) -> dict[float, list[int]]:
    """The columns of each rate, the largest first."""
    found = {}
    for column, result in enumerate(self.results):
      found.setdefault(result.learning_rate, []).append(column)
    return {rate: found[rate] for rate in sorted(found, reverse=True)}

  @property
  def highest_loss(self) -> float:
    """Where an axis of losses ends: above all that did not diverge, at most at twice guessing."""
    whole = [c for c, result in enumerate(self.results) if result.status != DIVERGED]
    losses = [self.training([c], 'loss')[1] for c in whole]
    losses.append(np.asarray(self.history.epochs['validation_loss'])[:, whole])
    highest = max((np.nanmax(of) for of in losses if np.isfinite(of).any()), default=0.0)
    return float(np.clip(1.05 * highest, 1.1 * self.guessing_loss, 2 * self.guessing_loss))

  def training(self, columns: Sequence[int], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, (points,), and a curve over steps as means over windows, (points, columns).

    NaN from where a trial diverged.
    """
    curves = np.array(self.history.steps[name][:, columns])
    for curve, column in zip(curves.T, columns, strict=True):
      bad = self.results[column].first_bad_step
      curve[len(curve) if bad is None else bad - 1 :] = np.nan
    window = max(1, len(curves) // _POINTS)
    found = [window_means(curve[np.isfinite(curve)][:, None], window) for curve in curves.T]
    ends = np.unique(np.concatenate([ends for ends, _ in found]))
    means = np.full((len(ends), len(columns)), np.nan)
    for place, (own, values) in enumerate(found):
      means[np.searchsorted(ends, own), place] = values[:, 0] if len(own) else []
    return ends / self.steps_per_epoch, means

  def validated(self, columns: Sequence[int], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, (epochs,), and a curve over them, (epochs, columns); NaN where a trial diverged."""
    curves = np.array(self.history.epochs[name][:, columns], np.float64)
    for curve, column in zip(curves.T, columns, strict=True):
      bad = self.results[column].first_bad_step
      curve[len(curve) if bad is None else (bad - 1) // self.steps_per_epoch :] = np.nan
    return np.arange(1, self.epochs + 1), curves


def all_rates(trials: Trials, title: str = '') -> Figure:
  """Loss and accuracy, or the measure that leads, in training and in validation.

  A line for each rate, the mean over seeds, in a band from the smallest to the largest. `title`:
  above all panels, such as the setting if a study has several.
  """
  measure = ACCURACY if trials.measure == LOSS else trials.measure
  line = 1.8 if title else 0  # its room, in font sizes
  height = 4.2 + line * matplotlib.rcParams['font.size'] / 72
  around = (6, 5.8, 5.4, 2 + line)
  figure, panels = plotting.sheet(TWO_COLUMNS, height, 2, 2, around, (9.5, 1.8), sharex=True)
  if title:
    plotting.title(figure, title)
  curves = (
    (panels[0, 0], trials.training, 'loss', LOSS),
    (panels[0, 1], trials.validated, 'validation_loss', LOSS),
    (panels[1, 0], trials.training, 'accuracy', ACCURACY),
    (panels[1, 1], trials.validated, measure.field, measure),
  )
  for axes, curve, name, of in curves:
    plotting.limit(axes, of, trials.guessing_loss)
    if of == LOSS:
      axes.set_ylim(0, trials.highest_loss)
    ends = [_rate(axes, trials, rate, *curve(columns, name)) for rate, columns in _lines(trials)]
    plotting.end_labels(axes, [*filter(None, ends), *_chance(axes, of, trials)])
  for axes, name in zip(panels[0], ('training', 'validation'), strict=True):
    axes.set_title(name)
  panels[0, 0].set_ylabel('loss (nats)')
  panels[1, 0].set_ylabel('accuracy')
  if measure != ACCURACY:
    panels[1, 1].set_ylabel(measure.name.removeprefix('validation '))
  for axes in panels[1]:
    plotting.epoch_axis(axes, trials.epochs)
  seeds = max(map(len, trials.by_rate().values()))
  about = f'Lines are means over {seeds} seeds, bands their range.' if seeds > 1 else ''
  _note(figure, about, _gone(trials))
  return figure


def _lines(trials: Trials) -> Iterator[tuple[float, list[int]]]:
  """Rates and their columns, the recommended one last: on top."""
  yield from sorted(trials.by_rate().items(), key=lambda item: item[0] == trials.best)


def _rate(
  axes: Axes, trials: Trials, rate: float, x: np.ndarray, curves: np.ndarray
) -> Label | None:
  """A rate's line, with a cross where its last trial diverged; its label if it reaches the end."""
  known = np.flatnonzero(np.isfinite(curves).any(1))
  if not len(known):
    return None
  look = plotting.look(rate, trials.rates, trials.best)
  mean = band(axes, x, curves, **look, marker='o' if len(x) <= _FEW_EPOCHS else None)
  last = known[-1]
  if last == len(x) - 1 and x[-1] >= trials.epochs:
    above = ' ↑' if mean[last] > axes.get_ylim()[1] else ''
    return Label(mean[last], formats.rate(rate) + above, look['color'], rate == trials.best)
  at = np.clip(mean[last], *axes.get_ylim())  # at the edge, if it is not to be seen
  axes.plot(x[last], at, color=look['color'], marker='x', markersize=5, clip_on=False)
  return None


def band(axes: Axes, x: np.ndarray, curves: np.ndarray, **options: Any) -> np.ndarray:
  """The mean of curves, (points, seeds), as a line in a band from the smallest to the largest.

  NaN where a trial has no point: the others' go on. Returns the mean, (points,).
  """
  known = np.ma.masked_invalid(curves)
  mean = known.mean(1).filled(np.nan)
  axes.plot(x, mean, **options)
  if curves.shape[1] > 1:
    low, high = (side.filled(np.nan) for side in (known.min(1), known.max(1)))
    axes.fill_between(x, low, high, color=options['color'], alpha=0.18, linewidth=0)
  return mean


def _chance(axes: Axes, measure: Measure, trials: Trials) -> list[Label]:
  """A dotted line at what guessing reaches, and its label; none where that is not known."""
  level = chance(trials.results, measure, trials.guessing_loss)
  if level is None:
    return []
  axes.axhline(level, color=CHANCE, linewidth=0.8, linestyle=':', zorder=1)
  return [Label(level, 'chance', CHANCE)]


def chance(results: Sequence[Result], measure: Measure, guessing_loss: float) -> float | None:
  """What guessing reaches by a measure; None where that is not known."""
  if measure == LOSS:
    return guessing_loss
  if not measure.field.endswith('accuracy'):
    return None
  return next((r.chance for r in results if r.chance is not None), None)


def _gone(trials: Trials) -> str:
  """Which rates diverged, and when: '× diverged: 1e-01 at steps 3 to 4, 1e-02 at step 7 (1 of 3)'.

  Of many, how many they are.
  """
  found = {}
  for rate, columns in trials.by_rate().items():
    bad = [trials.results[c].first_bad_step for c in columns]
    bad = [step for step in bad if step is not None]
    if bad:
      share = '' if len(bad) == len(columns) else f' ({len(bad)} of {len(columns)})'
      found[rate] = f'{formats.rate(rate)} {formats.at_steps(bad)}{share}'
  if not found:
    return ''
  if len(found) <= _NAMED:
    return f'× diverged: {", ".join(found.values())}.'
  ends = ' to '.join(formats.rate(rate) for rate in (max(found), min(found)))
  return f'× diverged: trials at {len(found)} rates, {ends}.'


def _note(figure: Figure, *sentences: str) -> None:
  """Small print at the foot of a figure."""
  text = ' '.join(filter(None, sentences))
  figure.text(0.01, 0.01, text, fontsize='small', va='bottom', parse_math=False, alpha=0.8)


def rate_by_rate(trials: Trials) -> Figure | None:
  """Loss on the left axis and accuracy on the right one, as DIGITS draws them: a panel a rate.

  Of the rates nearest to the recommended one, where they are many; none of one that diverged
  before there is a curve. None if no rate has one.
  """
  seen = [
    (rate, columns)
    for rate, columns in trials.by_rate().items()
    if np.isfinite(trials.training(columns, 'loss')[1]).any(1).sum() >= _FEWEST
  ]
  if not seen:
    return None
  rates = [rate for rate, _ in seen]
  middle = rates.index(trials.best) if trials.best in rates else len(rates) // 2
  first = int(np.clip(middle - _MOST_PANELS // 2, 0, max(0, len(rates) - _MOST_PANELS)))
  seen = seen[first : first + _MOST_PANELS]
  columns = min(_COLUMNS, len(seen))
  rows = -(-len(seen) // columns)
  size = matplotlib.rcParams['font.size'] / 72
  figure, panels = plotting.sheet(
    TWO_COLUMNS if columns > 2 else ONE_COLUMN,
    rows * 1.05 + (2.4 * (rows - 1) + 7.6) * size,
    rows, columns, (4.4, 5.8, 5, 1.8), (1.2, 2.4), sharex=True, sharey=True,
  )  # fmt: skip
  for number, (axes, (rate, own)) in enumerate(zip(panels.flat, seen, strict=False)):
    is_last = number % columns == columns - 1 or number == len(seen) - 1
    _panel(axes, trials, rate, own, is_last)
  panels[0, 0].set_ylim(0, trials.highest_loss)
  plotting.epoch_axis(panels[0, 0], trials.epochs)
  for number, axes in enumerate(panels.flat):
    axes.set_visible(number < len(seen))
    below = number + columns >= len(seen)
    axes.tick_params(labelbottom=below)
    axes.set_xlabel('epoch' if below else '')
  for axes in panels[:, 0]:
    axes.set_ylabel('loss (nats)', color=_LOSS)
  shown = [trials.results[column] for _, own in seen for column in own]
  _key(figure, any(r.status == DIVERGED for r in shown), len(rates) - len(seen))
  return figure


def _panel(axes: Axes, trials: Trials, rate: float, columns: list[int], is_last: bool) -> None:
  """One rate's loss and accuracy."""
  other = axes.twinx()
  other.set_ylim(0, 1)
  other.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  other.tick_params(labelright=is_last)
  other.spines['right'].set_visible(True)
  other.grid(False)
  if is_last:
    other.set_ylabel('accuracy', color=_ACCURACY)
  width = matplotlib.rcParams['lines.linewidth']
  for of, name, colour in ((axes, 'loss', _LOSS), (other, 'accuracy', _ACCURACY)):
    x, curves = trials.training(columns, name)
    band(of, x, curves, color=colour, linewidth=0.6 * width)
    x, curves = trials.validated(columns, f'validation_{name}')
    band(of, x, curves, color=colour, linewidth=1.4 * width, linestyle=_DASHED)
  axes.axhline(trials.guessing_loss, color=CHANCE, linewidth=0.8, linestyle=':', zorder=1)
  bad = [trials.results[c].first_bad_step for c in columns]
  for step in filter(None, bad):
    axes.plot(
      step / trials.steps_per_epoch, 1, 'x', color=matplotlib.rcParams['text.color'], markersize=5,
      clip_on=False, transform=axes.get_xaxis_transform(),
    )  # fmt: skip
  statuses = Counter(trials.results[c].status.replace('_', ' ') for c in columns)
  (status, count), *_ = statuses.most_common()
  if len(statuses) > 1:
    status = f'{count} of {len(columns)} {status}'
  weight = 'bold' if rate == trials.best else None
  axes.set_title(f'{formats.rate(rate)}: {status}', fontsize='small', weight=weight, pad=3)


def _key(figure: Figure, diverged: bool, left_out: int) -> None:
  """What the lines of `rate_by_rate` are, at its foot."""
  width = matplotlib.rcParams['lines.linewidth']
  kinds = (('training', 0.6 * width, '-'), ('validation', 1.4 * width, _DASHED))
  lines = [
    Line2D([], [], color=CHANCE, linewidth=width, linestyle=dash, label=name)
    for name, width, dash in kinds
  ]
  lines.append(Line2D([], [], color=CHANCE, linewidth=0.8, linestyle=':', label='chance (loss)'))
  if diverged:
    cross = {
      'marker': 'x',
      'markersize': 5,
      'linestyle': 'none',
      'color': matplotlib.rcParams['text.color'],
    }
    lines.append(Line2D([], [], label='diverged', **cross))
  figure.legend(handles=lines, loc='lower left', ncols=len(lines), bbox_to_anchor=(0, -0.01))
  if left_out:
    text = f'{left_out} rates further away are not shown.'
    figure.text(0.99, 0.01, text, ha='right', va='bottom', fontsize='small', alpha=0.8)


def schedule(trials: Trials, heights: Callable[[np.ndarray], np.ndarray]) -> Figure:
  """Each rate over the epochs; `heights` of the schedule at steps, both (steps,)."""
  figure, ((axes,),) = plotting.sheet(
    ONE_COLUMN, 2.3, 1, 1, (6, 3.6, 5.4, 0.8), subplot_kw={'yscale': 'log'}
  )
  steps = np.unique(np.linspace(0, len(trials.history.steps['loss']) - 1, 1000).astype(int))
  of_steps, labels = np.asarray(heights(steps)), []
  for rate, _ in _lines(trials):
    look = plotting.look(rate, trials.rates, trials.best)
    axes.plot(steps / trials.steps_per_epoch, rate * of_steps, **look)
    text, is_best = formats.rate(rate), rate == trials.best
    labels.append(Label(rate * of_steps[-1], text, look['color'], is_best))
  axes.set_ylabel('learning rate')
  plotting.rate_axis(axes.yaxis)
  plotting.epoch_axis(axes, trials.epochs)
  plotting.end_labels(axes, labels)
  return figure


def sharpness(trials: Trials) -> Figure:
  """Sharpness and its edge over the epochs, and their ratio."""
  figure, ((left, right),) = plotting.sheet(
    TWO_COLUMNS, 2.6, 1, 2, (6, 5.2, 5.4, 0.8), (11, 0), subplot_kw={'yscale': 'log'}
  )
  curves = trials.history.epochs
  sharp, edge = (np.asarray(curves[name]) for name in ('sharpness', 'sharpness_edge'))
  sharp = np.where(sharp > 0, sharp, np.nan)  # the axis is logarithmic
  x, labels = np.arange(1, len(edge) + 1), ([], [])
  for rate, columns in _lines(trials):
    if np.isnan(sharp[:, columns]).all():
      continue
    look = plotting.look(rate, trials.rates, trials.best)
    of_edge = look | {'linestyle': ':', 'linewidth': 0.8}
    band(left, x, edge[:, columns], **of_edge)
    marks = {'marker': 'o' if len(x) <= _FEW_EPOCHS else None}
    for axes, curve, into in zip((left, right), (sharp, sharp / edge), labels, strict=True):
      mean = band(axes, x, curve[:, columns], **look, **marks)
      into.append(Label(mean[-1], formats.rate(rate), look['color'], rate == trials.best))
  left.set_ylabel('sharpness of the loss')
  right.set_ylabel('sharpness / edge of stability')
  right.axhline(1, color=CHANCE, linewidth=0.8, linestyle=':', zorder=1)
  for axes, of_axes in zip((left, right), labels, strict=True):
    plotting.epoch_axis(axes, len(x))
    plotting.log_axis(axes.yaxis)
    plotting.end_labels(axes, of_axes)
  _note(figure, 'Dotted at the left: the edge of stability of each rate.')
  return figure
