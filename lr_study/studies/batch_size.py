"""Claims and the figure of configs/studies/batch_size.py."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study.finished import Study
from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import (
  Claim,
  bootstrap,
  estimated,
  is_below,
  power_law,
  ratio_interval,
)
from lr_study.studies.table import Table

_TARGET = 1.2  # nats, of the training loss
_SMOOTHED = 1024  # images over which the training loss is averaged
_TITLES = {'sgd': 'SGD', 'adam': 'Adam'}
_COLOURS = {'sgd': PALETTE[2], 'adam': PALETTE[1]}
_HALF = 4  # of the eight batch sizes


def columns(study: Study) -> dict[str, np.ndarray]:
  """The steps to the target, (trials,)."""
  sizes = [result.batch_size for result in study.trials]
  found = map(steps_to_target, study.curves['loss'].T, sizes)
  return {'steps_to_target': np.asarray(list(found))}


def steps_to_target(losses: np.ndarray, batch_size: int) -> float:
  """The step at which the smoothed loss of the batches, (steps,), reaches the target; else NaN."""
  window = max(1, _SMOOTHED // batch_size)
  smooth = np.convolve(losses, np.ones(window) / window, 'valid')
  below = np.flatnonzero(smooth <= _TARGET)
  if not len(below):
    return np.nan
  first = below[0]
  over = (_TARGET - smooth[first]) / (smooth[first - 1] - smooth[first]) if first else 0.0
  return float(first - over + (window + 1) / 2)


class Hyperbola(NamedTuple):
  """Steps to a loss: fewest (1 + critical / batch size) (McCandlish et al. 2018)."""

  fewest: float
  critical: float

  def __call__(self, sizes: np.ndarray) -> np.ndarray:
    """The steps at batch sizes."""
    return self.fewest * (1 + self.critical / np.asarray(sizes, float))


def hyperbola(sizes: np.ndarray, steps: np.ndarray) -> Hyperbola:
  """Fits the steps, (sizes,), by least squares of the relative errors."""
  terms = np.stack([1 / steps, 1 / (sizes * steps)], 1)
  (fewest, images), _ = scipy.optimize.nnls(terms, np.ones(len(steps)))
  return Hyperbola(fewest, images / fewest if fewest else np.inf)


def fewest_steps(part: Table) -> tuple[np.ndarray, np.ndarray]:
  """The batch sizes, (sizes,), and the steps that the fastest rate needs, (sizes, seeds)."""
  found = [
    (size, np.nanmin(own.grid('steps_to_target', 'learning_rate', 'seed')[2], 0))
    for size, own in part.by('batch_size')
  ]
  sizes, steps = zip(*found, strict=True)
  return np.asarray(sizes), np.stack(steps)


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """How the rates and the steps of each optimiser depend on the batch size."""
  sizes, sgd = rates.best_by(tables['sgd'], 'batch_size')
  _, adam = rates.best_by(tables['adam'], 'batch_size')
  small, large = slice(None, _HALF), slice(_HALF, None)
  return [
    _exponent('SGD', sizes[small], sgd[small], 'Goyal et al. 2017: 1', 1.0),
    _exponent('SGD', sizes[large], sgd[large], 'Goyal et al. 2017: 1', 1.0),
    _exponent('Adam', sizes, adam, 'Malladi et al. 2022: 0.5', 0.5),
    _fall(sizes, adam),
    *(_critical(name, part) for name, part in tables.items()),
  ]


def _exponent(name: str, sizes: np.ndarray, found: np.ndarray, source: str, rule: float) -> Claim:
  power = power_law(sizes, found)
  return estimated(
    f'exponent of {name} {sizes[0]:.0f} to {sizes[-1]:.0f}',
    (power.exponent, power.low, power.high),
    f'From {sizes[0]:,.0f} to {sizes[-1]:,.0f} images, the best rate of {name} grows as the '
    f'batch size to the power {power.between}.',
    source,
    power.low <= rule <= power.high,
  )


def _fall(sizes: np.ndarray, adam: np.ndarray) -> Claim:
  """Whether Adam's best rate falls over the last factor of 4 in batch size."""
  ratio, low, high = ratio_interval(adam[-1] / adam[-3])
  return estimated(
    'ratio of Adam',
    (ratio, low, high),
    f'The best rate of Adam with {sizes[-1]:,.0f} images is {ratio:.2f} times (95 % interval '
    f'{low:.2f} to {high:.2f}) that with {sizes[-3]:,.0f}.',
    'Li et al. 2024: below 1 for large batches',
    is_below(1, low, high),
  )


def _critical(name: str, part: Table) -> Claim:
  sizes, steps = fewest_steps(part)
  value, low, high = bootstrap(
    lambda of: hyperbola(sizes, steps[:, of].mean(1)).critical, steps.shape[1]
  )
  fit = hyperbola(sizes, steps.mean(1))
  ends = np.asarray([ratio_interval(row) for row in steps])
  held = int(((ends[:, 1] <= fit(sizes)) & (fit(sizes) <= ends[:, 2])).sum())
  return estimated(
    f'critical batch size of {_TITLES[name]}',
    (value, low, high),
    f'With {_TITLES[name]}, {_TARGET} nats take {steps[0].mean():,.0f} steps of {sizes[0]:,.0f} '
    f'images and {steps[-1].mean():,.0f} of {sizes[-1]:,.0f}. The critical batch size is '
    f'{value:,.0f} images (95 % interval {low:,.0f} to {high:,.0f}); the hyperbola passes through '
    f'the intervals of {held} of {len(sizes)} sizes.',
    'McCandlish et al. 2018: steps = S_min (1 + B_crit / B)',
    # Each interval has the true value with a probability of 95 %, so one miss in eight is usual.
    held >= len(sizes) - 1,
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The best rate, and the steps to the target, over the batch size."""
  figure = Figure(figsize=(6.8, 2.7), layout='constrained')
  left, right = figure.subplots(1, 2)
  for (name, part), rule in zip(tables.items(), (1.0, 0.5), strict=True):
    _draw_rates(left, name, part, rule)
    _draw_steps(right, name, part)
  for axes in (left, right):
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlabel('batch size (images)')
    axes.xaxis.set_major_formatter(lambda x, _: f'{x:g}')
    axes.set_xticks([8, 32, 128, 512])
  left.set_ylabel('best learning rate')
  right.set_ylabel(f'steps to a training loss of {_TARGET} nats')
  return {'batch_size': figure}


def _draw_rates(axes: Axes, name: str, part: Table, rule: float) -> None:
  sizes, found = rates.best_by(part, 'batch_size')
  colour, middle = _COLOURS[name], np.exp(np.nanmean(np.log(found), 1))
  axes.plot(sizes, found, '.', color=colour, alpha=0.4, markersize=3)
  axes.plot(sizes, middle, 'o-', color=colour)
  start = np.exp(np.mean(np.log(middle[:_HALF]) - rule * np.log(sizes[:_HALF])))
  axes.plot(sizes, start * sizes**rule, '--', color='0.55')
  above, power = (True, 'batch size') if rule == 1 else (False, 'its square root')
  axes.annotate(
    power, (sizes[-1], start * sizes[-1] ** rule), (-4, 0) if above else (4, -10), color='0.4',
    textcoords='offset points', ha='right', va='bottom' if above else 'top', fontsize='small',
  )  # fmt: skip
  axes.annotate(
    _TITLES[name], (sizes[1], middle[1]), (0, 7), color=colour, ha='right',
    textcoords='offset points',
  )  # fmt: skip


def _draw_steps(axes: Axes, name: str, part: Table) -> None:
  sizes, steps = fewest_steps(part)
  fit, colour = hyperbola(sizes, steps.mean(1)), _COLOURS[name]
  fine = np.geomspace(sizes[0], sizes[-1], 100)
  axes.plot(sizes, steps, '.', color=colour, alpha=0.4, markersize=3)
  axes.plot(sizes, steps.mean(1), 'o', color=colour)
  axes.plot(fine, fit(fine), '--', color='0.55')
  at, is_above = fit(fit.critical), name == 'sgd'
  end = at * 2 if is_above else at / 2
  axes.plot([fit.critical] * 2, [at, end], ':', color=colour)
  axes.annotate(
    f'{_TITLES[name]}: critical batch size {fit.critical:.0f}', (fit.critical, end),
    (-8, 1) if is_above else (0, -1), color=colour, ha='left' if is_above else 'right',
    va='bottom' if is_above else 'top', textcoords='offset points', fontsize='small',
  )  # fmt: skip
