"""Claims and the figure of configs/studies/warm_up.py."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import Claim, estimated, is_above, mean_interval, ratio_interval
from lr_study.studies.table import Table

_AXIS = 'schedule.warmup_steps'
_TITLES = {'sgd': 'SGD', 'adam': 'Adam'}


def fails(part: Table) -> np.ndarray:
  """True for trials that diverged or ended above the loss of guessing, (trials,)."""
  return part.diverged | ~(part['train_loss_at_end'] < part.about['guessing_loss'])


def largest_stable(part: Table) -> tuple[np.ndarray, np.ndarray]:
  """The lengths of warm-up, (lengths,), and the largest stable rate, (lengths, seeds).

  It lies half a step of the grid, in its logarithm, below the first rate that fails. NaN if the
  smallest rate fails; the largest rate if none does.
  """
  lengths, found = [], []
  failed = Table({**part.columns, 'fails': fails(part).astype(float)}, about=part.about)
  for length, own in failed.by(_AXIS):
    tried, _, bad = own.grid('fails', 'learning_rate', 'seed')
    edges = np.sqrt(tried[:-1] * tried[1:])
    first = np.where(bad.any(0), bad.argmax(0), len(tried))
    lengths.append(length)
    found.append(np.concatenate([[np.nan], edges, tried[-1:]])[first])
  return np.asarray(lengths), np.stack(found)


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """How far the boundary moves, and what warm-up gains at the best rates."""
  return [
    *(_moves(name, part) for name, part in tables.items()),
    *(_best(name, part) for name, part in tables.items()),
    *(_gain(name, part) for name, part in tables.items()),
  ]


def _moves(name: str, part: Table) -> Claim:
  lengths, stable = largest_stable(part)
  value, low, high = ratio_interval(stable[-1] / stable[0])
  return estimated(
    f'largest stable rate of {name}',
    (value, low, high),
    f'{_TITLES[name]}: with {lengths[-1]:.0f} steps of warm-up, the largest stable rate is '
    f'{value:.1f} times (95 % interval {low:.1f} to {high:.1f}) that without.',
    'Kalra and Barkeshli 2024: larger with warm-up',
    is_above(1, low, high),
  )


def _best(name: str, part: Table) -> Claim:
  """Whether the rate with the lowest training loss moves as well."""
  lengths, found = rates.best_by(part, _AXIS, 'train_loss_at_end')
  value, low, high = ratio_interval(found[-1] / found[0])
  return estimated(
    f'best rate of {name}',
    (value, low, high),
    f'{_TITLES[name]}: with {lengths[-1]:.0f} steps of warm-up, the rate with the lowest training '
    f'loss is {value:.1f} times (95 % interval {low:.1f} to {high:.1f}) that without.',
  )


def _gain(name: str, part: Table) -> Claim:
  """The accuracy with the best warm-up, less that without, each at its best rate, in pairs."""
  highest = {}
  for length, own in part.by(_AXIS):
    _, _, found = own.grid('validation_accuracy', 'learning_rate', 'seed')
    found = 100 * np.where(np.isfinite(found), found, 0)
    highest[length] = found[np.argmax(found.mean(1))]
  best = max(highest, key=lambda length: highest[length].mean())
  value, low, high = mean_interval(highest[best] - highest[0])
  return estimated(
    f'gain of {name}',
    (value, low, high),
    f'{_TITLES[name]}: at the best rate of each, the best warm-up ({best:.0f} steps) gains '
    f'{value:.1f} points of validation accuracy (95 % interval {low:.1f} to {high:.1f}).',
    'Kalra and Barkeshli 2024: better final performance',
    is_above(0, low, high),
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The training loss by rate and warm-up, with the boundary of failure."""
  figure = Figure(figsize=(6.8, 2.9), layout='constrained')
  for axes, (name, part) in zip(figure.subplots(1, 2, sharey=True), tables.items(), strict=True):
    image = _draw(axes, part)
    axes.set_title(_TITLES[name])
    axes.set(xlabel='target learning rate', xscale='log')
  figure.axes[0].set_ylabel('steps of warm-up')
  bar = figure.colorbar(image, ax=figure.axes, pad=0.01)
  bar.set_label('training loss at the end (nats)')
  return {'warm_up': figure}


def _draw(axes: Axes, part: Table):
  """The mean loss over seeds; grey where a seed failed; the boundary as a line, a point a seed."""
  lengths, stable = largest_stable(part)
  tried = np.unique(part['learning_rate'])
  image = np.stack([
    own.grid('train_loss_at_end', 'learning_rate', 'seed')[2].mean(1)
    for _, own in part.by(_AXIS)
  ])  # fmt: skip
  step = np.sqrt(tried[1] / tried[0])
  ends = np.concatenate([tried / step, tried[-1:] * step])
  rows = np.arange(len(lengths) + 1) - 0.5
  most = part.about['guessing_loss']
  axes.set_facecolor('0.85')
  shown = np.ma.masked_where(~(image < most), image)
  drawn = axes.pcolormesh(ends, rows, shown, cmap='viridis', vmin=0, vmax=most)
  axes.text(0.97, 0.03, 'fails', transform=axes.transAxes, ha='right', va='bottom', color='0.4')
  boundary = np.exp(np.nanmean(np.log(stable), 1))
  axes.plot(boundary, range(len(lengths)), 'o-', color=PALETTE[0], linewidth=1.5, markersize=4)
  axes.annotate(
    'largest stable rate', (boundary[-2], len(lengths) - 2), (-6, 0), color='white', ha='right',
    textcoords='offset points', va='center', fontsize='small',
  )  # fmt: skip
  axes.set_yticks(range(len(lengths)), [f'{length:.0f}' for length in lengths])
  axes.grid(False)
  return drawn
