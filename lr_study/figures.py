"""The pictures of a study, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lr_study import formats
from lr_study.history import History, window_means
from lr_study.schedule import Schedule
from lr_study.verdict import DIVERGED, Result, Verdict

_POINTS = 150  # of a training curve: a window's mean each
_STYLE = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'figure.dpi': 150,
  'savefig.bbox': 'tight',
}


def draw(
  folder: Path,
  history: History,
  results: Sequence[Result],
  verdict: Verdict,
  schedule: Schedule,
  guessing_loss: float,
) -> None:
  """Draws every figure of a finished study into `folder`.

  lr_1e-04_seed_0.png, ...: a trial's training loss and accuracy over the epochs.
  all_rates.png: loss and validation accuracy of all trials.
  accuracy_by_rate.png: final accuracy against the rate, diverged rates as crosses.
  schedule.png: each rate over the epochs.
  sharpness.png: where it was measured, sharpness and its edge over the epochs.
  """
  folder.mkdir(exist_ok=True)
  with matplotlib.rc_context(_STYLE):
    for trial, result in enumerate(results):
      name = f'lr_{formats.rate(result.learning_rate)}_seed_{result.seed}.png'
      _trial(history, trial, result, guessing_loss).savefig(folder / name)
    _all_rates(history, results, guessing_loss).savefig(folder / 'all_rates.png')
    _accuracy_by_rate(results, verdict).savefig(folder / 'accuracy_by_rate.png')
    _schedule(results, schedule, history).savefig(folder / 'schedule.png')
    if np.isfinite(history.epochs['sharpness']).any():
      _sharpness(results, history).savefig(folder / 'sharpness.png')


def _trial(history: History, trial: int, result: Result, guessing_loss: float) -> Figure:
  """Loss in blue on the left axis and accuracy in red on the right, as DIGITS draws them."""
  figure = Figure(figsize=(5.2, 3.2))
  left = figure.add_subplot()
  left.set_ylabel('training loss (nats)', color='tab:blue')
  right = left.twinx()
  right.grid(False)
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
  ends = np.arange(1, len(history.epochs['train_loss']) + 1)
  marks = {'marker': 'o', 'linestyle': 'none', 'markersize': 4, 'clip_on': False, 'zorder': 3}
  if result.status != DIVERGED:
    left.plot(ends, history.epochs['train_loss'][:, trial], color='tab:blue', **marks)
    right.plot(ends, history.epochs['train_accuracy'][:, trial], color='tab:red', **marks)
  else:
    at = result.first_bad_step / _steps_per_epoch(history)
    left.axvline(at, color='black', linewidth=0.8, linestyle='--')
    left.annotate(
      f' diverged at step {result.first_bad_step}', (at, 0.5), xycoords=('data', 'axes fraction')
    )
  _epoch_axis(left, len(ends))
  rate = formats.rate(result.learning_rate)
  left.set_title(f'learning rate {rate}: {result.status.replace("_", " ")}', fontsize=10)
  return figure


def _all_rates(history: History, results: Sequence[Result], guessing_loss: float) -> Figure:
  figure = Figure(figsize=(8.4, 3.4), layout='constrained')
  losses, accuracies = figure.subplots(1, 2)
  epochs, labels = len(history.epochs['train_loss']), set()
  for trial, (result, colour) in enumerate(zip(results, _colours(results), strict=True)):
    label = formats.rate(result.learning_rate)
    if result.status == DIVERGED:
      label += ' (diverged)'
    if label in labels:
      label = '_' + label  # matplotlib leaves it out of the legend: one entry for all seeds
    labels.add(label)
    losses.plot(
      *_training_curve(history, trial, result, 'loss'), color=colour, linewidth=1, label=label
    )
    curve = history.epochs['validation_accuracy'][:, trial]
    bad = result.first_bad_step
    known = epochs if bad is None else int((bad - 1) // _steps_per_epoch(history))
    accuracies.plot(np.arange(1, known + 1), curve[:known], color=colour, marker='o', markersize=3)
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
  accuracies.set(ylabel='validation accuracy', ylim=(0, 1))
  for axes in (losses, accuracies):
    _epoch_axis(axes, epochs)
  accuracies.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  figure.legend(loc='outside right center', title='learning rate', frameon=False)
  return figure


def _accuracy_by_rate(results: Sequence[Result], verdict: Verdict) -> Figure:
  figure = Figure(figsize=(5.2, 3.4))
  axes = figure.add_subplot(xscale='log', xlabel='learning rate', ylabel='accuracy at the end')
  ended = [r for r in results if r.status != DIVERGED]
  gone = [r.learning_rate for r in results if r.status == DIVERGED]
  rates = sorted({r.learning_rate for r in ended})
  for name, colour, label in (
    ('train_accuracy', 'tab:gray', 'training'),
    ('validation_accuracy', 'tab:red', 'validation'),
  ):
    means = [np.mean([getattr(r, name) for r in ended if r.learning_rate == x]) for x in rates]
    axes.plot(rates, means, color=colour, linewidth=1, zorder=1)
    points = [getattr(r, name) for r in ended]
    axes.scatter([r.learning_rate for r in ended], points, color=colour, s=18, label=label)
  if gone:
    axes.scatter(
      gone,
      np.zeros(len(gone)),
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
  axes.set_ylim(0, 1)
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  axes.legend(frameon=False)
  return figure


def _schedule(results: Sequence[Result], schedule: Schedule, history: History) -> Figure:
  figure = Figure(figsize=(5.2, 3.2))
  axes = figure.add_subplot(yscale='log', ylabel='learning rate')
  steps = np.unique(np.linspace(0, len(history.steps['loss']) - 1, 1000).astype(int))
  heights = np.asarray([schedule(step) for step in steps])
  drawn = set()
  for result, colour in zip(results, _colours(results), strict=True):
    if result.learning_rate not in drawn:
      drawn.add(result.learning_rate)
      axes.plot(
        steps / _steps_per_epoch(history),
        result.learning_rate * heights,
        color=colour,
        linewidth=1.2,
        label=formats.rate(result.learning_rate),
      )
  _epoch_axis(axes, len(history.epochs['train_loss']))
  axes.legend(frameon=False, title='started at', loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def _sharpness(results: Sequence[Result], history: History) -> Figure:
  figure = Figure(figsize=(8.4, 3.4), layout='constrained')
  left, right = figure.subplots(1, 2, subplot_kw={'yscale': 'log'})
  sharpness, edge = history.epochs['sharpness'], history.epochs['sharpness_edge']
  sharpness = np.where(sharpness > 0, sharpness, np.nan)  # the axis is logarithmic
  epochs, labels = np.arange(1, len(edge) + 1), set()
  for trial, (result, colour) in enumerate(zip(results, _colours(results), strict=True)):
    if np.isnan(sharpness[:, trial]).all():
      continue
    label = formats.rate(result.learning_rate)
    label = '_' + label if label in labels else label
    labels.add(label)
    left.plot(epochs, edge[:, trial], color=colour, linewidth=1, linestyle=':')
    for axes, curve in ((left, sharpness), (right, sharpness / edge)):
      axes.plot(epochs, curve[:, trial], color=colour, marker='o', markersize=3, label=label)
  left.plot([], [], color='black', linewidth=1, linestyle=':', label='edge')
  left.set_ylabel('sharpness of the loss')
  right.set_ylabel('sharpness / edge of stability')
  right.axhline(1, color='black', linewidth=1, linestyle=':')
  for axes in (left, right):
    _epoch_axis(axes, len(epochs))
  figure.legend(
    *left.get_legend_handles_labels(),
    loc='outside right center',
    title='learning rate',
    frameon=False,
  )
  return figure


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
  ends, means = window_means(curve, max(1, len(history.steps[name]) // _POINTS))
  return ends / _steps_per_epoch(history), means


def _steps_per_epoch(history: History) -> int:
  return len(history.steps['loss']) // len(history.epochs['train_loss'])


def _colours(results: Sequence[Result]) -> list[tuple[float, ...]]:
  """From red for the largest rate to blue for the smallest, one a trial."""
  rates = sorted({result.learning_rate for result in results})
  scale = matplotlib.colormaps['turbo'](np.linspace(0.08, 0.92, len(rates)))
  return [tuple(scale[rates.index(result.learning_rate)]) for result in results]
