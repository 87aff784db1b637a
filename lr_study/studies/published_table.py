"""Claims and the figure of configs/studies/published_table.py."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lr_study.formats import rate as written
from lr_study.report.style import PALETTE
from lr_study.studies.claims import Claim
from lr_study.studies.table import Table

TITLES = {
  'digits_tensorflow': 'DIGITS, TensorFlow', 'scaled': 'pixels from 0 to 1',
  'standardised': 'standardised images', 'mirrored': 'mirrored at random',
  'relu_head': 'ReLU in the head', 'momentum': 'momentum 0.9',
  'decay_of_rate': 'decay 0.01 × rate', 'decay': 'decay 0.01', 'wider': 'twice as wide',
  'digits_caffe': "DIGITS's Caffe network", 'torchvision': "torchvision's network",
}  # fmt: skip
_BASE = 'digits_tensorflow'
_OF_INPUTS = ('scaled', 'standardised', 'mirrored')
_PUBLISHED = 1e-4  # the best rate; all above it failed
_STEP = 0.5  # decades between rates
_LEARNS = 15.0  # per cent; guessing one of ten letters gives 10 with a deviation of 1.2


class Swept(NamedTuple):
  """The rates of one change in order, (rates,)."""

  rates: np.ndarray
  accuracy: np.ndarray  # on training images, per cent, (rates, seeds); NaN of trials that diverged
  diverged: np.ndarray  # bool (rates,): in any seed

  @property
  def stable(self) -> float:
    """The largest rate up to which no trial diverged; NaN if the smallest one did."""
    bad = np.flatnonzero(self.diverged)
    count = bad[0] if len(bad) else len(self.rates)
    return float(self.rates[count - 1]) if count else np.nan

  @property
  def best(self) -> int:
    """The place of the rate with the best mean accuracy; a trial that diverged guesses."""
    return int(np.argmax(np.nan_to_num(self.accuracy, nan=10.0).mean(1)))

  @property
  def learns(self) -> np.ndarray:
    """The rates at which every seed learns, in order."""
    return self.rates[(self.accuracy >= _LEARNS).all(1)]


def swept(part: Table) -> Swept:
  """The rates of one change."""
  rates, _, accuracy = part.grid('train_accuracy', 'learning_rate', 'seed')
  _, _, last = part.grid('validation_loss', 'learning_rate', 'seed')
  # A loss many times that of guessing is on its way to overflow.
  lost = ~(last < 100 * part.about['guessing_loss'])
  return Swept(rates, 100 * np.where(lost, np.nan, accuracy), lost.any(1))


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """The largest stable rate as published, and how each change moves it."""
  base = swept(tables[_BASE])
  changed = {name: swept(part) for name, part in tables.items() if name != _BASE}
  return [
    _answer(changed, base),
    _as_published(base),
    *(_moved(name, of, base) for name, of in changed.items()),
  ]


def _decades(of: Swept, base: Swept) -> float:
  return round(float(np.log10(of.stable / base.stable)), 6)


def _answer(changed: Mapping[str, Swept], base: Swept) -> Claim:
  """The change that raises the ceiling most, beside the others under which the network learns."""
  moved = {name: _decades(of, base) for name, of in changed.items() if len(of.learns)}
  most = max(moved, key=lambda name: moved[name])
  others = [decades for name, decades in moved.items() if name not in (most, *_OF_INPUTS)]
  return Claim(
    'decades by the change that raises it most',
    moved[most],
    f'The change that raises the largest stable rate most is "{TITLES[most]}", by {moved[most]:g} '
    f'decades (± {_STEP:g}). Those that leave the inputs alone move it by {_signed(min(others))} '
    f'to {_signed(max(others))}, where the network learns at all.',
    tolerance=_STEP,  # as below
    low=moved[most] - _STEP,
    high=moved[most] + _STEP,
  )


def _as_published(base: Swept) -> Claim:
  best, stable = float(base.rates[base.best]), base.stable
  return Claim(
    'largest stable rate',
    float(np.log10(stable)),
    f'As published, but smaller, training is stable up to a rate between {written(_tidy(stable))} '
    f'and {written(_tidy(stable * 10**_STEP))}, and best at {written(_tidy(best))}, with '
    f'{np.nanmean(base.accuracy[base.best]):.0f} % training accuracy.',
    tolerance=_STEP,  # one step of the grid: a rate next to the ceiling may fall on either side
    low=float(np.log10(stable)),
    high=float(np.log10(stable)) + _STEP,
    source='Mark III Systems: 1e-04 is best, and fails above',
    agrees=bool(np.isclose(best, _PUBLISHED) and stable < 10 * _PUBLISHED),
  )


def _moved(name: str, of: Swept, base: Swept) -> Claim:
  """How many decades a change moves the ceiling, to a step of the grid."""
  decades = _decades(of, base)
  is_end = np.isclose(of.stable, of.rates[-1])
  where = f'{written(_tidy(of.stable))}, the largest tried' if is_end else written(_tidy(of.stable))
  moves = (
    'does not move it' if abs(decades) < _STEP / 2 else f'moves it by {_signed(decades)} decades'
  )
  accuracy = np.nanmean(of.accuracy[of.best])
  best = f'Best at {written(_tidy(of.rates[of.best]))}, with {accuracy:.0f} %'
  ends = best if len(of.learns) else 'In this time it learns at no rate'
  return Claim(
    f'decades by {name}',
    decades,
    f'{TITLES[name][0].upper()}{TITLES[name][1:]}: stable up to {where}, which '
    f'{moves} (± {_STEP:g}). {ends}.',
    tolerance=_STEP,  # as above
    low=decades - _STEP,
    high=decades + _STEP,
  )


def _signed(decades: float) -> str:
  return f'{decades:+g}'.replace('-', '−')


def _tidy(rate: float) -> float:
  return float(f'{rate:.2g}')


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The stable rates and the best one with each change, and the accuracy there."""
  figure = Figure(figsize=(6.8, 0.9 + 0.22 * len(tables)), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
  names = [name for name in TITLES if name in tables][::-1]
  for row, name in enumerate(names):
    of, colour = swept(tables[name]), PALETTE[1 if name == _BASE else 2]
    stable = of.rates[of.rates <= of.stable * 1.01]
    left.plot(stable[[0, -1]], [row] * 2, color=colour, linewidth=5, alpha=0.35)
    if len(of.learns):
      left.plot(of.learns[[0, -1]], [row] * 2, color=colour, linewidth=1.5)
      left.plot(of.rates[of.best], row, 'o', color=colour, markersize=4.5)
    lost = of.rates[of.diverged]
    left.plot(lost, [row] * len(lost), 'x', color='0.55', markersize=4)
    right.plot(of.accuracy[of.best], [row] * of.accuracy.shape[1], 'o', color=colour)
  left.axvline(_PUBLISHED, color='0.55', linestyle='--')
  left.set(xscale='log', xlabel='learning rate')
  left.set_yticks(range(len(names)), [TITLES[name] for name in names])
  right.set_xlabel('best training accuracy (%)')
  marks = [
    left.plot([], [], color=PALETTE[2], linewidth=5, alpha=0.35, label='stable')[0],
    left.plot([], [], color=PALETTE[2], linewidth=1.5, label='learns')[0],
    left.plot([], [], 'o', color=PALETTE[2], label='best')[0],
    left.plot([], [], 'x', color='0.55', label='diverges')[0],
    left.plot([], [], '--', color='0.55', label='best as published')[0],
  ]
  figure.legend(handles=marks, loc='outside upper center', ncols=5)
  return {'published_table': figure}
