"""Claims and the figure of configs/studies/edge_of_stability.py."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study.finished import Study
from lr_study.report.style import PALETTE
from lr_study.studies.claims import Claim, estimated, mean_interval
from lr_study.studies.table import Table

CURVES = ('sharpness', 'critical_sharpness')
_TITLES = {
  'sgd': 'Gradient descent', 'momentum': 'Momentum 0.5', 'adam': 'Adam',
}  # fmt: skip
_SOURCES = {
  'sgd': 'Cohen et al. 2021: just above 1',
  'momentum': 'Cohen et al. 2021: just above 1',
  'adam': 'Cohen et al. 2022: 1',
}
_CLOSE = 0.1  # to 1, for agreement
_COLOURS = PALETTE[0], PALETTE[2], PALETTE[7]  # from the largest rate


def columns(study: Study) -> dict[str, np.ndarray]:
  """The edge of stability of each trial, and means over the last third of its steps, (trials,).

  `arrived`: 1 if sharpness reaches the edge after the first tenth of the steps; before, large
  initial weights may put it there. `ratio`: sharpness divided by the edge. `critical_ratio`:
  critical sharpness divided by 2 / rate, the median.
  """
  sharpness, edges, critical = (
    np.asarray(study.curves[name]) for name in ('sharpness', 'sharpness_edge', 'critical_sharpness')
  )
  rates = np.asarray([result.learning_rate for result in study.trials])
  ratio, steps = sharpness / edges, len(edges)
  last = slice(-(steps // 3), None)
  return {
    'edge': edges[-1],
    'arrived': ((ratio[steps // 10 :] >= 1).any(0) & np.isfinite(ratio[-1])).astype(float),
    'ratio': ratio[last].mean(0),
    'critical_ratio': np.median(critical[last] * rates / 2, 0),
  }


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """How far from the edge training settles, by sharpness and by critical sharpness."""
  return [
    *(_settles(name, part) for name, part in tables.items()),
    *(_critical(name, part) for name, part in tables.items()),
  ]


def _settles(name: str, part: Table) -> Claim:
  arrived = part.where(part['arrived'] == 1)
  value, low, high = mean_interval(arrived['ratio']) if len(arrived) else [np.nan] * 3
  what = 'sharpness after its preconditioner' if name == 'adam' else 'sharpness'
  lost = f'; {part.diverged.sum()} diverged' if part.diverged.any() else ''
  return estimated(
    f'ratio of {name}',
    (value, low, high),
    f'{_TITLES[name]}: {what} reaches the edge of stability in {len(arrived)} of {len(part)} '
    f'trials{lost}. In these it is on average {value:.2f} of the edge (95 % interval {low:.2f} to '
    f'{high:.2f}) over the last third of the steps.',
    _SOURCES[name],
    _is_near(low, high),
  )


def _critical(name: str, part: Table) -> Claim:
  arrived = part.where(part['arrived'] == 1)
  value, low, high = mean_interval(arrived['critical_ratio']) if len(arrived) else [np.nan] * 3
  return estimated(
    f'critical ratio of {name}',
    (value, low, high),
    f'{_TITLES[name]}: critical sharpness in these trials is {value:.2f} (95 % interval {low:.2f} '
    f'to {high:.2f}) of 2 / rate.',
    'Kalra et al. 2026: it stays at the edge, too',
    _is_near(low, high),
  )


def _is_near(low: float, high: float) -> bool | None:
  """Whether an interval lies within `_CLOSE` of 1; None if only part of it does."""
  if low >= 1 - _CLOSE and high <= 1 + _CLOSE:
    return True
  return False if high < 1 - _CLOSE or low > 1 + _CLOSE else None


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """Sharpness and critical sharpness over the steps, for each rate."""
  figure = Figure(figsize=(6.8, 4.0), layout='constrained')
  for (name, part), (above, below) in zip(
    tables.items(), figure.subplots(2, len(tables), sharex=True, sharey='row').T, strict=True
  ):
    _draw(above, part, 'sharpness', part['edge'])
    _draw(below, part, 'critical_sharpness', 2 / part['learning_rate'])
    above.set_title(_TITLES[name])
    below.set_xlabel('step')
    for axes in (above, below):
      axes.set(ylim=(0.05, 3))
      axes.set_yticks([0.1, 0.3, 1, 3], ['0.1', '0.3', '1', '3'])
      axes.minorticks_off()
  above, below = figure.axes[0], figure.axes[len(tables)]
  above.set_ylabel('sharpness / edge of stability')
  below.set_ylabel('critical sharpness × rate / 2')
  return {'edge_of_stability': figure}


def _draw(axes: Axes, part: Table, name: str, scale: np.ndarray) -> None:
  rates = sorted(set(part['learning_rate']), reverse=True)
  curve = part.curves[name] / scale
  steps = (np.arange(len(curve)) + 0.5) * part.window
  for rate, colour in zip(rates, _COLOURS, strict=True):
    own = curve[:, part['learning_rate'] == rate]
    axes.plot(steps, own, color=colour, linewidth=0.5, alpha=0.6)
    axes.plot([], [], color=colour, label=f'{rate:g}')
  axes.axhline(1, color='0.55', linestyle='--')
  axes.set(yscale='log')
  if name == 'sharpness':
    axes.legend(title='rate', title_fontsize='small', loc='lower right')
