"""Claims and the figure of configs/studies/optimizers.py."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lr_study.answer import landscape
from lr_study.configs.studies.optimizers import USUAL
from lr_study.formats import joined
from lr_study.formats import rate as written
from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import (
  Claim,
  estimated,
  is_as_good,
  mean_interval,
  points,
  ratio_interval,
)
from lr_study.studies.table import Table

TITLES = {
  'sgd': 'SGD', 'momentum': 'SGD, momentum 0.9', 'adamw': 'AdamW', 'lion': 'Lion', 'muon': 'Muon',
  'schedule_free_adamw': 'Schedule-free AdamW', 'prodigy': 'Prodigy',
  'dadapt_adamw': 'D-Adaptation', 'dog': 'DoG',
}  # fmt: skip
_CLOSE = 1.0  # percentage points of accuracy: what we take for "close" and "as good"


class Swept(NamedTuple):
  """An optimiser's grid, (rates,) and (rates, seeds)."""

  rates: np.ndarray
  accuracy: np.ndarray  # on validation images, per cent; a trial that diverged guesses
  usual: int  # the place of the usual rate

  @property
  def best(self) -> int:
    """The place of the rate with the best mean."""
    return int(np.argmax(self.accuracy.mean(1)))

  @property
  def basin(self) -> tuple[float, float]:
    """The ends of the rates around the best one whose means are as good, without a gap."""
    good = self.accuracy.mean(1) >= self.accuracy.mean(1)[self.best] - _CLOSE
    bad = np.flatnonzero(~good)
    first = max(bad[bad < self.best], default=-1) + 1
    last = min(bad[bad > self.best], default=len(good)) - 1
    return float(self.rates[first]), float(self.rates[last])


def swept(name: str, part: Table) -> Swept:
  """The grid of one optimiser."""
  found, accuracy = rates.accuracies(part)
  return Swept(found, accuracy, int(np.argmin(np.abs(np.log(found / USUAL[name])))))


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """What the usual rate costs, and what the sources say of the best ones."""
  grids = {name: swept(name, part) for name, part in tables.items()}
  return [
    _answer(grids),
    *_free_of_rates(grids),
    _several_at_usual(grids),
    _schedule_free(grids),
    _lion(tables),
    *(_cost(name, of, sensitivity(tables[name])) for name, of in grids.items()),
  ]


def _answer(grids: Mapping[str, Swept]) -> Claim:
  """What a sweep gains with the most used optimiser, and what those without a rate leave of it."""
  of = grids['adamw']
  swept_mean = of.accuracy[of.best].mean()
  gain = mean_interval(of.accuracy[of.best] - of.accuracy[of.usual])
  behind = [
    f'{TITLES[name]} {swept_mean - grids[name].accuracy[grids[name].usual].mean():.1f}'
    for name in ('dadapt_adamw', 'prodigy', 'dog')
  ]
  return estimated(
    'what a sweep gains',
    gain,
    f'A sweep gains {points(gain)} over the usual rate of AdamW. Optimisers that find their own '
    f'rate end below the swept AdamW: {joined(behind)} points.',
  )


def _free_of_rates(grids: Mapping[str, Swept]) -> list[Claim]:
  """Optimisers that find their own rate, at the factor 1, against a swept one."""
  found = []
  for name, other, source in (
    ('prodigy', 'adamw', 'Mishchenko and Defazio 2023: close to tuned Adam'),
    ('dadapt_adamw', 'adamw', 'Defazio and Mishchenko 2023: matches tuned rates'),
    ('dog', 'sgd', 'Ivgi et al. 2023: close to tuned SGD'),
  ):
    one, two = grids[name], grids[other]
    gap = mean_interval(one.accuracy[one.usual] - two.accuracy[two.best])
    sentence = (
      f'The validation accuracy of {TITLES[name]} as it comes differs from that of {TITLES[other]} '
      f'at its best rate by {points(gap)}.'
    )
    found.append(
      estimated(f'{name} against {other}', gap, sentence, source, is_as_good(gap, _CLOSE))
    )
  return found


def _several_at_usual(grids: Mapping[str, Swept]) -> Claim:
  at_usual = {name: of.accuracy[of.usual] for name, of in grids.items()}
  name = max(at_usual, key=lambda name: at_usual[name].mean())
  adamw = grids['adamw']
  gap = mean_interval(at_usual[name] - adamw.accuracy[adamw.best])
  return estimated(
    'best at the usual rate',
    gap,
    f'The best of the {len(grids)} optimisers at their usual rates is {TITLES[name]}. It differs '
    f'from AdamW at its best rate by {points(gap)}.',
    'Schmidt et al. 2020: as good as tuning one',
    is_as_good(gap, _CLOSE),
  )


def _schedule_free(grids: Mapping[str, Swept]) -> Claim:
  one, two = grids['schedule_free_adamw'], grids['adamw']
  gap = mean_interval(one.accuracy[one.best] - two.accuracy[two.best])
  return estimated(
    'schedule-free against a cosine',
    gap,
    f'At their best rates, schedule-free AdamW differs from AdamW with a cosine by {points(gap)}.',
    'Defazio et al. 2024: matches a schedule',
    is_as_good(gap, _CLOSE),
  )


def _lion(tables: Mapping[str, Table]) -> Claim:
  value, low, high = ratio_interval(rates.best(tables['adamw']) / rates.best(tables['lion']))
  agrees = True if low >= 3 and high <= 10 else False if high < 3 or low > 10 else None
  return estimated(
    'rates of AdamW and Lion',
    (value, low, high),
    f'The rate with the lowest validation loss is {value:.1f} times (95 % interval {low:.1f} to '
    f'{high:.1f}) smaller with Lion than with AdamW.',
    'Chen et al. 2023: 3 to 10',
    agrees,
  )


def sensitivity(part: Table) -> float:
  """Wortsman's rate sensitivity over the grid, in nats of the validation loss."""
  found, _, losses = part.grid('validation_loss', 'learning_rate', 'seed')
  value = landscape.sensitivity(found, losses.mean(1), part.about['guessing_loss'])
  assert value is not None  # there are several rates, and some learn
  return value


def _cost(name: str, of: Swept, sensitive: float) -> Claim:
  cost = mean_interval(of.accuracy[of.usual] - of.accuracy[of.best])
  low, high = of.basin
  place = f'{written(of.rates[of.usual])}, differs by {points(cost)}'
  near = f'Rates from {written(low)} to {written(high)} are within {_CLOSE:g} point of the best'
  return estimated(
    f'usual rate of {name}',
    cost,
    f'{TITLES[name]} is best at {written(of.rates[of.best])}, with '
    f'{of.accuracy[of.best].mean():.1f} %. '
    f'Its usual rate{" is that one" if of.best == of.usual else ", " + place}. '
    f'{near if low < high else f"No other rate is within {_CLOSE:g} point of it"}; rate '
    f'sensitivity {sensitive:.2f} nats.',
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The rates that are as good as the best, and the accuracy at the best and at the usual one."""
  grids = {name: swept(name, part) for name, part in tables.items()}
  order = sorted(grids, key=lambda name: grids[name].accuracy[grids[name].best].mean())
  figure = Figure(figsize=(6.8, 3.0), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True)
  for row, name in enumerate(order):
    of, colour = grids[name], PALETTE[2]
    ends = np.multiply(of.basin, (2**-0.5, 2**0.5))  # half a step of the grid further
    left.plot(ends, [row] * 2, color=colour, linewidth=5, alpha=0.35, solid_capstyle='butt')
    left.plot(of.rates[[0, -1]], [row] * 2, color='0.75', linewidth=0.6, zorder=1)
    for place, own in ((of.best, {}), (of.usual, {'mfc': 'white', 'color': PALETTE[1]})):
      style = {'color': colour, 'markersize': 4.5, 'zorder': 3 + (place == of.usual)} | own
      value, low, high = mean_interval(of.accuracy[place])
      left.plot(of.rates[place], row, 'o', **style)
      right.plot([low, high], [row] * 2, color=style['color'], linewidth=0.8)
      right.plot(value, row, 'o', **style)
  left.set(xscale='log', xlabel='learning rate')
  left.set_yticks(range(len(order)), [TITLES[name] for name in order])
  adamw = grids['adamw']
  right.axvline(adamw.accuracy[adamw.best].mean(), color='0.55', linestyle='--')
  right.set_xlabel('validation accuracy (%)')
  marks = [
    left.plot([], [], 'o', color=PALETTE[2], label='best of the sweep')[0],
    left.plot([], [], 'o', color=PALETTE[1], mfc='white', label='usual rate')[0],
    left.plot([], [], color=PALETTE[2], linewidth=5, alpha=0.35, label='within 1 point')[0],
  ]
  figure.legend(handles=marks, loc='outside upper center', ncols=3)
  return {'optimizers': figure}
