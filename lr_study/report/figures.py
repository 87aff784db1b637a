"""The pictures of a study: built once, then saved as files or into a page."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lr_study import formats
from lr_study.answer.confidence import STATED
from lr_study.answer.measure import ACCURACY, LOSS, Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.files import workdir
from lr_study.files.history import History, window_means
from lr_study.report import drawing

_POINTS = 150  # of a training curve: a window's mean each


def build(
  history: History,
  results: Sequence[Result],
  verdict: Verdict,
  heights: Callable[[np.ndarray], np.ndarray],
  guessing_loss: float,
) -> dict[str, Figure]:
  """Every figure of a finished study, by its name; `save` turns one into a file.

  lr_1e-04_seed_0, ...: a trial's training loss and accuracy over the epochs.
  all_rates: loss of all trials, and the measure that leads.
  accuracy_by_rate: that measure at the end against the rate, diverged rates as crosses.
  schedule: each rate over the epochs.
  sharpness: where it was measured, sharpness and its edge over the epochs.

  Args:
    history: of the trials of a setting.
    results: of these trials, in the order of its columns.
    verdict: on them.
    heights: of the schedule at steps, both (steps,).
    guessing_loss: a dotted line.
  """
  parts: dict[str, tuple[Any, ...]] = {
    trial_name(result): (_trial, history, trial, result, guessing_loss)
    for trial, result in enumerate(results)
  } | {
    'all_rates': (all_rates, history, results, verdict.leads, guessing_loss),
    'accuracy_by_rate': (_accuracy_by_rate, results, verdict, guessing_loss),
    'schedule': (_schedule, results, heights, history),
  }
  if np.isfinite(history.epochs['sharpness']).any():
    parts['sharpness'] = (_sharpness, results, history)
  with drawing.style():
    found = {name: drawing.attempt(name, *part) for name, part in parts.items()}
  return {name: figure for name, figure in found.items() if figure is not None}


def trial_name(result: Result) -> str:
  """What the figure of a trial is called."""
  return f'lr_{formats.rate(result.learning_rate)}_seed_{result.seed}'


def save(
  figure: Figure,
  target: Path | IO,
  image_format: str = 'png',
  settings: Mapping[str, Any] | None = None,
) -> None:
  """Writes a figure to a file or a stream, as 'png', 'svg', ..., by further settings."""
  with drawing.style({**drawing.STYLE, **(settings or {})}), warnings.catch_warnings():
    # Names of classes may be in any script; what the typeface lacks is a box.
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    # To cut off what is empty takes as long as to draw: only where nothing else has set the sizes.
    cut = None if figure.get_layout_engine() else 'tight'
    # It makes ticks, and reads sizes, only now.
    figure.savefig(target, format=image_format, bbox_inches=cut)


def draw(folder: Path, figures: Mapping[str, Figure]) -> None:
  """Saves every figure into `folder` as its name with `.png`."""
  for name, figure in figures.items():
    drawing.attempt(name, _draw, folder / f'{name}.png', figure)


def _draw(file: Path, figure: Figure) -> None:
  stream = io.BytesIO()
  save(figure, stream)
  file.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_bytes(file, stream.getvalue())


def _trial(history: History, trial: int, result: Result, guessing_loss: float) -> Figure:
  """Loss in blue on the left axis and accuracy in red on the right, as DIGITS draws them."""
  # All have the same texts round them, so the same margins.
  figure = Figure(figsize=(5.2, 3.2), layout=PlaceHolderLayoutEngine(True, False))
  figure.subplots_adjust(0.13, 0.14, 0.87, 0.91)
  left = figure.add_subplot()
  left.set_ylabel('training loss (nats)', color='tab:blue')
  right = left.twinx()
  right.grid(False)
  right.spines['right'].set_visible(True)
  right.set_ylabel('training accuracy', color='tab:red')
  right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  right.set_ylim(-0.02, 1.02)
  epochs, loss = _training_curve(history, trial, result, 'loss')
  left.plot(epochs, loss, color='tab:blue', linewidth=1)
  accuracy = _training_curve(history, trial, result, 'accuracy')
  right.plot(*accuracy, color='tab:red', linewidth=1)
  left.axhline(guessing_loss, color='tab:blue', linewidth=0.8, linestyle=':')
  if np.isfinite(loss).any():
    left.set_ylim(0, min(1.1 * np.nanmax(loss), 3 * guessing_loss))
  if result.status == DIVERGED:
    at = result.first_bad_step / _steps_per_epoch(history)
    left.axvline(at, color='black', linewidth=0.8, linestyle='--')
    left.annotate(
      f' diverged at step {result.first_bad_step}', (at, 0.5), xycoords=('data', 'axes fraction')
    )
  _epoch_axis(left, len(history.epochs['train_loss']))
  rate = formats.rate(result.learning_rate)
  left.set_title(f'learning rate {rate}: {result.status.replace("_", " ")}', fontsize=10)
  return figure


def all_rates(
  history: History, results: Sequence[Result], measure: Measure, guessing_loss: float
) -> Figure:
  """Loss of all trials, and the measure that leads; arguments as of `build`."""
  figure = Figure(figsize=(8.4, 3.4), layout='constrained')
  losses, measured = figure.subplots(1, 2)
  epochs, seeds = len(history.epochs['train_loss']), 1
  ends, _ = window_means(history.steps['loss'], _window(history))
  for (rate, trials), colour in zip(_by_rate(results).items(), _colours(results), strict=True):
    seeds = max(seeds, len(trials))
    label = formats.rate(rate) + _diverged(trials)
    loss = np.full((len(ends), len(trials)), np.nan)
    values = np.full((epochs, len(trials)), np.nan)
    for seed, (trial, result) in enumerate(trials):
      _, means = _training_curve(history, trial, result, 'loss')
      loss[: len(means), seed] = means
      bad = result.first_bad_step
      known = epochs if bad is None else int((bad - 1) // _steps_per_epoch(history))
      values[:known, seed] = history.epochs[measure.field][:known, trial]
    _band(losses, ends / _steps_per_epoch(history), loss, colour, label=label)
    _band(measured, np.arange(1, epochs + 1), values, colour, marker='o', markersize=3)
  losses.axhline(guessing_loss, color='black', linewidth=0.8, linestyle=':')
  losses.annotate(
    'guessing',
    (1, guessing_loss),
    xycoords=('axes fraction', 'data'),
    ha='right',
    va='bottom',
    bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1},
  )
  losses.set(ylabel='training loss (nats)', ylim=(0, 2 * guessing_loss))
  measured.set_ylabel(measure.name)
  for axes in (losses, measured):
    _epoch_axis(axes, epochs)
  limit(measured, measure, guessing_loss)
  title = 'learning rate' if seeds == 1 else f'learning rate:\nmean and range\nof {seeds} seeds'
  figure.legend(loc='outside right center', title=title, frameon=False)
  return figure


def _by_rate(results: Sequence[Result]) -> dict[float, list[tuple[int, Result]]]:
  """The trials of each rate, the largest first, with their columns in the history."""
  rates = sorted({result.learning_rate for result in results}, reverse=True)
  return {
    rate: [(i, result) for i, result in enumerate(results) if result.learning_rate == rate]
    for rate in rates
  }


def _diverged(trials: Sequence[tuple[int, Result]]) -> str:
  count = sum(result.status == DIVERGED for _, result in trials)
  if count in (0, len(trials)):
    return ' (diverged)' if count else ''
  return f' ({count} of {len(trials)} diverged)'


def _band(
  axes: Axes, x: np.ndarray, curves: np.ndarray, colour: tuple[float, ...], **options: Any
) -> None:
  """The mean of curves (points, seeds) as a line in a band from the smallest to the largest.

  NaN where a trial has no point: the others' go on.
  """
  known = np.ma.masked_invalid(curves)
  axes.plot(x, known.mean(1).filled(np.nan), color=colour, linewidth=1, **options)
  if curves.shape[1] > 1:
    low, high = (side.filled(np.nan) for side in (known.min(1), known.max(1)))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _accuracy_by_rate(results: Sequence[Result], verdict: Verdict, guessing_loss: float) -> Figure:
  """Means over seeds, the interval of what was validated, and each trial as a small point."""
  figure, measure = Figure(figsize=(5.2, 3.4)), verdict.leads
  axes = figure.add_subplot(xscale='log', xlabel='learning rate')
  axes.set_ylabel(f'{measured(measure)} {when(results)}')
  ended = {
    rate: [result for _, result in trials if result.status != DIVERGED]
    for rate, trials in _by_rate(results).items()
  }
  ended = {rate: found for rate, found in ended.items() if found}
  several = any(len(found) > 1 for found in ended.values())
  known = measure.is_share or any(verdict.intervals.values())
  for shown, colour, label in (
    *((training, 'tab:gray', f'{training.name.replace("train", "training")}, mean of the epoch')
      for training in _of_training(measure)),
    (measure, 'tab:red', measure.name + (f', {STATED} interval' if known else '')),
  ):  # fmt: skip
    means = [_mean(found, shown) for found in ended.values()]
    axes.plot(list(ended), means, color=colour, linewidth=1, marker='o', markersize=4, label=label)
    if several:
      of_trials = [r for found in ended.values() for r in found]
      points = [(r.learning_rate, _mean([r], shown)) for r in of_trials]
      axes.scatter(*zip(*points, strict=True), color=colour, s=6, alpha=0.4, linewidth=0)
  for rate, interval in zip(map(float, verdict.intervals), verdict.intervals.values(), strict=True):
    if interval is not None:
      axes.plot([rate, rate], interval, color='tab:red', linewidth=1.5, alpha=0.6)
  if len(verdict.indistinguishable) > 1:
    alike = [_mean(ended[rate], measure) for rate in verdict.indistinguishable]
    rings = {'s': 70, 'facecolor': 'none', 'edgecolor': 'black', 'linewidth': 0.8, 'zorder': 3}
    axes.scatter(
      verdict.indistinguishable,
      alike,
      label='may be the best' if several else 'may be just as good',
      **rings,
    )
  limit(axes, measure, guessing_loss)
  gone = [result.learning_rate for result in results if result.status == DIVERGED]
  bottom, top = axes.get_ylim()
  if gone:
    axes.scatter(
      gone,
      np.full(len(gone), bottom if measure.larger_is_better else top),
      color='red',
      marker='x',
      s=45,
      label='diverged',
      clip_on=False,
      zorder=3,
    )
  if verdict.learning_rate is not None:
    axes.axvline(verdict.learning_rate, color='black', linewidth=0.8, linestyle=':')
    axes.annotate(
      f' {formats.rate(verdict.learning_rate)}',
      (verdict.learning_rate, 1),
      va='top',
      xycoords=('data', 'axes fraction'),
    )
  axes.set_ylim(bottom, top)
  rate_axis(axes.xaxis)
  axes.legend(frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.18), ncols=2)
  return figure


def measured(measure: Measure) -> str:
  """What the figure against the rate shows: 'accuracy', of training as well, or the measure."""
  return 'accuracy' if measure == ACCURACY else measure.name


def capital(text: str) -> str:
  """The text with its first letter as a capital."""
  return text[:1].upper() + text[1:]


def when(results: Sequence[Result]) -> str:
  """The epoch that the results' figures are of."""
  return 'at the best epoch' if any(result.best_epoch for result in results) else 'at the end'


def _of_training(measure: Measure) -> list[Measure]:
  """The figure of training that goes beside a measure, if there is one."""
  if measure == LOSS:
    return [measure._replace(field='train_loss')]
  return [Measure('train_accuracy')] if measure.field.endswith('accuracy') else []


def _mean(results: Sequence[Result], measure: Measure) -> float:
  """NaN if one is missing."""
  return float(np.mean(np.asarray([value_of(r, measure) for r in results], np.float64)))


def _schedule(
  results: Sequence[Result], heights: Callable[[np.ndarray], np.ndarray], history: History
) -> Figure:
  figure = Figure(figsize=(5.2, 3.2))
  axes = figure.add_subplot(yscale='log', ylabel='learning rate')
  steps = np.unique(np.linspace(0, len(history.steps['loss']) - 1, 1000).astype(int))
  of_steps = heights(steps)
  for rate, colour in zip(_by_rate(results), _colours(results), strict=True):
    axes.plot(
      steps / _steps_per_epoch(history),
      rate * of_steps,
      color=colour,
      linewidth=1.2,
      label=formats.rate(rate),
    )
  rate_axis(axes.yaxis)
  _epoch_axis(axes, len(history.epochs['train_loss']))
  axes.legend(frameon=False, title='started at', loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def _sharpness(results: Sequence[Result], history: History) -> Figure:
  figure = Figure(figsize=(8.4, 3.4), layout='constrained')
  left, right = figure.subplots(1, 2, subplot_kw={'yscale': 'log'})
  sharpness, edge = (np.asarray(history.epochs[name]) for name in ('sharpness', 'sharpness_edge'))
  sharpness = np.where(sharpness > 0, sharpness, np.nan)  # the axis is logarithmic
  epochs = np.arange(1, len(edge) + 1)
  for (rate, trials), colour in zip(_by_rate(results).items(), _colours(results), strict=True):
    columns = [trial for trial, _ in trials]
    if np.isnan(sharpness[:, columns]).all():
      continue
    _band(left, epochs, edge[:, columns], colour, linestyle=':')
    for axes, curves in ((left, sharpness), (right, sharpness / edge)):
      label = formats.rate(rate)
      _band(axes, epochs, curves[:, columns], colour, marker='o', markersize=3, label=label)
  left.plot([], [], color='black', linewidth=1, linestyle=':', label='edge')
  left.set_ylabel('sharpness of the loss')
  right.set_ylabel('sharpness / edge of stability')
  right.axhline(1, color='black', linewidth=1, linestyle=':')
  for axes in (left, right):
    _epoch_axis(axes, len(epochs))
    log_axis(axes.yaxis)
  figure.legend(
    *left.get_legend_handles_labels(),
    loc='outside right center',
    title='learning rate',
    frameon=False,
  )
  return figure


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


def _epoch_axis(axes: Axes, epochs: int) -> None:
  axes.set(xlabel='epoch', xlim=(0, epochs))
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _training_curve(
  history: History, trial: int, result: Result, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Epochs, (points,), and means over windows of steps up to where the trial diverged."""
  bad = result.first_bad_step
  curve = history.steps[name][: None if bad is None else bad - 1, trial]
  if len(curve) == 0:
    return np.zeros(0), np.zeros(0)
  ends, means = window_means(curve, _window(history))
  return ends / _steps_per_epoch(history), means


def _window(history: History) -> int:
  """Steps that a point of a training curve is the mean of."""
  return max(1, len(history.steps['loss']) // _POINTS)


def _steps_per_epoch(history: History) -> int:
  return len(history.steps['loss']) // len(history.epochs['train_loss'])


def _colours(results: Sequence[Result]) -> list[tuple[float, ...]]:
  """From red for the largest rate to blue for the smallest, as `_by_rate` has them."""
  scale = matplotlib.colormaps['turbo'](np.linspace(0.92, 0.08, len(_by_rate(results))))
  return [tuple(colour) for colour in scale]
