"""Claims and the figure of configs/studies/range_test.py."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study.finished import Study
from lr_study.report.style import PALETTE
from lr_study.search import range_test
from lr_study.studies.claims import Claim, estimated, mean_interval
from lr_study.studies.table import Table

RULES = {
  'valley': "fastai's valley", 'steep': "fastai's steep", 'minimum': "fastai's minimum / 10",
  'lightning': "Lightning's rule",
}  # fmt: skip
_TITLES = {
  'mlp_momentum': 'MLP, momentum', 'deep_sgd': 'deep MLP, SGD', 'mlp_adam': 'MLP, Adam',
  'cnn_momentum': 'CNN, momentum', 'cnn_adamw': 'CNN, AdamW',
}  # fmt: skip
_CLOSE = 1.0  # points of accuracy
_COLOURS = dict(zip(RULES, (PALETTE[2], PALETTE[0], PALETTE[7], PALETTE[9]), strict=True))
_MARKERS = dict(zip(RULES, 'osD^', strict=True))


def columns(study: Study) -> dict[str, np.ndarray]:
  """The rate that each rule suggests, (trials,), if the study is a range test."""
  schedule = study.record['config']['schedule']
  if schedule['name'] != 'exponential':
    return {}
  losses = np.asarray(study.curves['loss'])
  heights = schedule['start_height'] ** (1 - np.arange(len(losses)) / (len(losses) - 1))
  found = [
    range_test.suggestions(result.learning_rate * heights, own)
    for result, own in zip(study.trials, losses.T, strict=True)
  ]
  return {rule: np.asarray([of[rule] or np.nan for of in found], float) for rule in RULES}


def accuracies(sweep: Table) -> tuple[np.ndarray, np.ndarray]:
  """The rates, (rates,), and the mean accuracy at each, in %; a trial that diverged guesses."""
  tried, _, found = sweep.grid('validation_accuracy', 'learning_rate', 'seed')
  return tried, 100 * np.where(np.isfinite(found), found, 1 / sweep.about['classes']).mean(1)


def off_and_cost(tables: Mapping[str, Table], rule: str) -> tuple[np.ndarray, np.ndarray]:
  """How many decades above the best rate a rule's are, and their cost in points, (cases, seeds)."""
  off, cost = [], []
  for case in _TITLES:
    tried, accuracy = accuracies(tables[case])
    suggested = tables[f'{case}_test'][rule]
    off.append(np.log10(suggested / tried[accuracy.argmax()]))
    at = np.interp(np.log(suggested), np.log(tried), accuracy)
    cost.append(accuracy.max() - np.where(np.isfinite(suggested), at, np.nan))
  return np.stack(off), np.stack(cost)


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """How far off the rules are, and what that costs."""
  return [*(_cost(tables, rule) for rule in RULES), *(_off(tables, rule) for rule in RULES)]


def _cost(tables: Mapping[str, Table], rule: str) -> Claim:
  cost = np.nanmean(off_and_cost(tables, rule)[1], 1)
  value, low, high = mean_interval(cost)  # of networks, not of seeds
  worst = int(cost.argmax())
  return estimated(
    f'cost of {rule}',
    (value, low, high),
    f'{RULES[rule]} costs {value:.1f} points of accuracy on average (95 % interval over networks '
    f'{low:.1f} to {high:.1f}); at worst {cost[worst]:.1f}, with {list(_TITLES.values())[worst]}.',
    'Smith 2017: shows which rates to use',
    True if high <= _CLOSE else False if low > _CLOSE else None,
  )


def _off(tables: Mapping[str, Table], rule: str) -> Claim:
  off = np.nanmean(off_and_cost(tables, rule)[0], 1)
  value, low, high = mean_interval(off)
  signed = ' to '.join(f'{x:+.1f}' for x in (low, high))
  return estimated(
    f'distance of {rule}',
    (value, low, high),
    f'{RULES[rule]} suggests rates {value:+.1f} decades from the best one on average (95 % '
    f'interval over networks {signed}), and {np.abs(off).max():.1f} away at most.'.replace(
      '-', '−'
    ),
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The suggested rates beside the accuracy over the rate, and the cost of each."""
  figure = Figure(figsize=(6.8, 3.2), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
  for row, case in enumerate(_TITLES):
    tried, accuracy = accuracies(tables[case])
    good = tried[accuracy >= accuracy.max() - _CLOSE - 1e-6]  # it may be just this far away
    ends = [good.min() / 2**0.5, good.max() * 2**0.5]  # half a step of the grid further
    left.plot(ends, [row] * 2, color='0.75', linewidth=7, solid_capstyle='butt', zorder=1)
    left.plot(tried[accuracy.argmax()], row, '|', color='black', markersize=11, mew=1.5)
  for number, rule in enumerate(RULES):
    rows = np.arange(len(_TITLES)) + (number - 1.5) * 0.17
    suggested = np.stack([tables[f'{case}_test'][rule] for case in _TITLES])
    _, cost = off_and_cost(tables, rule)
    for axes, values in ((left, suggested), (right, cost)):
      _draw(axes, rows, values, rule)
  left.set(xscale='log', xlabel='learning rate', ylim=(len(_TITLES) - 0.5, -0.5))
  left.set_yticks(range(len(_TITLES)), list(_TITLES.values()))
  right.set_xlabel('accuracy lost against the best rate (points)')
  right.axvline(0, color='0.55', linestyle='--')
  left.plot([], [], color='0.75', linewidth=7, label='within 1 point of the best')
  left.plot([], [], '|', color='black', markersize=11, mew=1.5, label='best of the sweep')
  figure.legend(*left.get_legend_handles_labels(), loc='outside upper center', ncols=3)
  return {'range_test': figure}


def _draw(axes: Axes, rows: np.ndarray, values: np.ndarray, rule: str) -> None:
  """A point for each seed of each case."""
  at = np.repeat(rows, values.shape[1])
  style = {'color': _COLOURS[rule], 'markersize': 3.5, 'label': RULES[rule], 'zorder': 3}
  axes.plot(values.ravel(), at, _MARKERS[rule], alpha=0.8, **style)
