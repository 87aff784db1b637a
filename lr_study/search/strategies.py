"""Search strategies, which decide the learning rates to train next from the results so far.

A strategy is a pure function of the results so far; it does not train. The rates of the config are
the grid. To add a strategy, write a function in this file and a line in `KNOWN`, or a function in
your own file: `(config, told, **fields of config.search) -> list[Ask]`.

Most strategies search for a rate in one setting, and are called for each setting in turn. A
strategy that takes `settings` is called once for all settings that share a program: their values on
traced axes are coordinates of its search, like the rate.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study import formats, plugs
from lr_study.errors import StudyError
from lr_study.plugs import COUNT, limits
from lr_study.search import optuna_search
from lr_study.search.rounds import Setting

SUPPLIED = ('config', 'told', 'settings')


class Ask(NamedTuple):
  """Train this rate, with every seed, to the end of epoch `epochs` (from 1).

  setting: the setting to train it in; None if the strategy is called for one setting at a time.
  """

  learning_rate: float
  epochs: int
  setting: Setting | None = None


class Told(NamedTuple):
  """The result of a rate at the end of epoch `epochs`, over all its seeds.

  diverged: with any seed. learned: with every seed. accuracy: on the validation images, the mean
  over seeds; NaN if it diverged. alike: the rate cannot be told apart from the best one so far in
  its setting. setting: see `Ask`.
  """

  learning_rate: float
  epochs: int
  diverged: bool
  learned: bool
  accuracy: float
  alike: bool
  setting: Setting | None = None


Strategy = Callable[..., list[Ask]]  # config, the sorted results so far, **fields

_APART = (lambda x: x > 1.01, 'a number above 1.01')


def ask(
  config: ConfigDict, told: Sequence[Told], settings: Sequence[Setting | None] = (None,)
) -> list[Ask]:
  """What to train in the next round; [] once the search has ended.

  Args:
    config: of all these settings; `search.name` is one of `KNOWN` or 'file.py:function', and
      `learning_rates` is the grid.
    told: the result of every rate and number of epochs requested before, in any order.
    settings: to search; they differ in their values on traced axes.

  Raises:
    StudyError: the user's function failed, or returned something that cannot be trained.
  """
  strategy = plugs.find('search', config.search.name)
  values = plugs.checked('search', strategy, config.search)
  told = sorted(told, key=lambda t: (t.learning_rate, t.epochs))
  if 'settings' in inspect.signature(strategy).parameters:
    supplied = {'config': config, 'told': told, 'settings': tuple(settings)}
    asks = plugs.call('search', strategy, supplied, values)
    return _checked(strategy, asks, config, told, settings) if plugs.is_own(strategy) else asks
  found = []
  for setting in settings:
    of_setting = [t for t in told if t.setting == setting]
    asks = plugs.call('search', strategy, {'config': config, 'told': of_setting}, values)
    if plugs.is_own(strategy):
      asks = _checked(strategy, asks, config, of_setting, (setting,))
    found += [one._replace(setting=setting) for one in asks]
  return found


def _grid(config: ConfigDict, told: Sequence[Told]) -> list[Ask]:
  """The whole grid at once."""
  return [] if told else _to_the_end(config, config.learning_rates)


def _outside_in(config: ConfigDict, told: Sequence[Told]) -> list[Ask]:
  """The two ends of the grid, then their neighbours, towards the middle.

  Ends once a rate does worse than its outer neighbour: if accuracy has a single peak, the search
  has then passed it.
  """
  grid, known = sorted(config.learning_rates), _by_rate(told)
  step = math.ceil(len(known) / 2)
  if step > 1:
    for newer, older in ((step - 1, step - 2), (-step, 1 - step)):
      if _is_worse(known[grid[newer]], known[grid[older]]):
        return []
  left = grid[step : len(grid) - step]
  return _to_the_end(config, dict.fromkeys([left[-1], left[0]]) if left else [])


def _middle_out(config: ConfigDict, told: Sequence[Told]) -> list[Ask]:
  """The middle of the grid, then up and down, on each side until results get worse."""
  grid, known = sorted(config.learning_rates), _by_rate(told)
  middle = len(grid) // 2
  if not told:
    return _to_the_end(config, [grid[middle]])
  rates = []
  for side in (grid[middle:], grid[middle::-1]):
    tried = [known[rate] for rate in side if rate in known]
    up_and_broken = side[0] < side[-1] and tried[-1].diverged
    worse = len(tried) > 1 and _is_worse(tried[-1], tried[-2])
    if len(tried) < len(side) and not worse and not up_and_broken:
      rates.append(side[len(tried)])
  return _to_the_end(config, rates)


@limits(epochs=COUNT, factor=_APART)
def _bisect(
  config: ConfigDict, told: Sequence[Told], *, epochs: int = 1, factor: float = 1.25
) -> list[Ask]:
  """Finds the rate at which training becomes unstable, to within `factor`, by runs of `epochs`.

  Starts with the grid. Each further round has as many rates as the grid, spread evenly between the
  largest stable rate and the smallest unstable one.

  Args:
    config: of the study.
    told: the results so far.
    epochs: the length of each run.
    factor: how close these two rates are at the end: the larger divided by the smaller.
  """
  if not told:
    return [Ask(rate, epochs) for rate in config.learning_rates]
  broken = [t.learning_rate for t in told if t.diverged]
  stable = [t.learning_rate for t in told if not broken or t.learning_rate < broken[0]]
  if not broken:
    rates = [_STEP * stable[-1]]
  elif not stable:
    rates = [broken[0] / _STEP]
  else:
    low, high = stable[-1], broken[0]
    rates = _between(low, high, factor, len(config.learning_rates))
  return [Ask(rate, epochs) for rate in rates if _SMALLEST < rate < _LARGEST]


@limits(factor=_APART)
def _refine(
  config: ConfigDict, told: Sequence[Told], settings: Sequence[Setting], *, factor: float = 1.25
) -> list[Ask]:
  """The grid, then finer grids around the best rate, until its neighbours are as good.

  If there are several settings, only the one with the best rate gets finer grids. A finer grid has
  about as many rates as have diverged so far, and at least two. A best rate at an end of the grid
  first gets a neighbour outside. Also ends once neighbours are within `factor`.

  Args:
    config: of the study.
    told: the results so far.
    settings: of one program.
    factor: how close neighbours may get: the larger divided by the smaller.
  """
  if not told:
    return _everywhere(config, settings, config.epochs)
  learned = [t for t in told if t.learned]
  if not learned:
    return []
  best = max(learned, key=lambda t: t.accuracy)
  near = [t for t in told if t.setting == best.setting]
  place, free = near.index(best), sum(t.diverged for t in told)
  sides = [near[place - 1] if place else None, near[place + 1] if place + 1 < len(near) else None]
  if all(side is not None and side.alike for side in sides):
    return []
  rates = []
  for side, outward in zip(sides, (1 / _STEP, _STEP), strict=True):
    if side is None:
      rates.append(_rounded(best.learning_rate * outward))
    elif not side.alike:
      low, high = sorted((side.learning_rate, best.learning_rate))
      rates += _between(low, high, factor, max(1, (free + 1) // 2))
  return [Ask(rate, config.epochs, best.setting) for rate in rates if _SMALLEST < rate < _LARGEST]


@limits(epochs=COUNT, keep=(lambda n: 2 <= n < 2**31, 'a whole number from 2 up'))
def _halving(
  config: ConfigDict,
  told: Sequence[Told],
  settings: Sequence[Setting],
  *,
  epochs: int = 1,
  keep: int = 2,
) -> list[Ask]:
  """Successive halving (Jamieson and Talwalkar, 2016): short runs, of which the best continue.

  All rates in all settings train for `epochs`. The best 1 / `keep` of them continue to `keep` times
  as many epochs, and so on to the last epoch. A dropped rate does not return, even if it would
  learn later.

  Args:
    config: of the study.
    told: the results so far.
    settings: of one program.
    epochs: the length of the first runs.
    keep: one in `keep` rates continues, to `keep` times the epochs.
  """
  if not told:
    return _everywhere(config, settings, min(epochs, config.epochs))
  done = max(t.epochs for t in told)
  if done >= config.epochs:
    return []
  rung = [t for t in told if t.epochs == done]
  alive = sorted((t for t in rung if not t.diverged), key=lambda t: -t.accuracy)
  kept = alive[: math.ceil(len(rung) / keep)]
  return [Ask(t.learning_rate, min(done * keep, config.epochs), t.setting) for t in kept]


@limits(trials=COUNT)
def _optuna(
  config: ConfigDict, told: Sequence[Told], settings: Sequence[Setting], *, trials: int = 20
) -> list[Ask]:
  """`trials` points from Optuna's TPE sampler, as many per round as the grid has rates.

  A point is a rate between the ends of the grid, and a setting.

  Args:
    config: of the study; its smallest and largest rate are the ends of the range.
    told: the results so far.
    settings: of one program.
    trials: how many points there are in all.
  """
  left = min(trials - len(told), len(config.learning_rates))
  if left < 1:
    return []
  # A rate that diverged has no score. It counts as bad as the worst, to keep the sampler away.
  worst = min([0.0, *(t.accuracy for t in told if not t.diverged)])
  scores = [(t.learning_rate, t.setting, worst if t.diverged else t.accuracy) for t in told]
  points = optuna_search.ask(scores, config.learning_rates, settings, left)
  known = {(t.learning_rate, t.setting) for t in told}
  asked = dict.fromkeys((_rounded(rate), setting) for rate, setting in points)
  return [
    Ask(rate, config.epochs, setting) for rate, setting in asked if (rate, setting) not in known
  ]


KNOWN: dict[str, Strategy] = {
  'grid': _grid,
  'outside_in': _outside_in,
  'middle_out': _middle_out,
  'bisect': _bisect,
  'refine': _refine,
  'halving': _halving,
  'optuna': _optuna,
}

_STEP = 10.0  # the factor between rates beyond the ends of the grid
_SMALLEST, _LARGEST = 1e-30, 1e30  # float32 holds rates between these, and their products


def _checked(
  strategy: Strategy,
  asks: Any,
  config: ConfigDict,
  told: Sequence[Told],
  settings: Sequence[Setting | None],
) -> list[Ask]:
  """The requests of the user's function; raises StudyError if they cannot be trained."""
  title = plugs.title('search', strategy)
  try:
    asks = [_own(config, settings, *one) for one in asks]
  except (TypeError, ValueError) as error:
    triples = ', setting' if len(settings) > 1 else ''
    raise StudyError(
      f'{title} gave {plugs.shown(asks)}; a search must return a list of (learning rate, '
      f'epochs{triples}), with at most {config.epochs} epochs'
    ) from error
  trained = {(t.learning_rate, t.setting): t.epochs for t in sorted(told, key=lambda t: t.epochs)}
  written = {formats.rate(t.learning_rate): t.learning_rate for t in told}
  for rate, epochs, setting in asks:
    if (other := written.setdefault(formats.rate(rate), rate)) != rate:
      raise StudyError(
        f'{title} asked for the rates {other!r} and {rate!r}, which are both written '
        f'{formats.rate(rate)}; the rates of a search must differ in their first six digits'
      )
    if epochs <= trained.get((rate, setting), 0):
      raise StudyError(
        f'{title} asked for the rate {rate:g} to epoch {epochs}, which it already has; a search '
        'must return new rates or more epochs, or [] to end'
      )
    trained[rate, setting] = epochs
  return asks


def _own(
  config: ConfigDict,
  settings: Sequence[Setting | None],
  learning_rate: float,
  epochs: int,
  setting: Setting | None = None,
) -> Ask:
  """A request of the user's function; raises ValueError if it cannot be trained."""
  if setting is None and len(settings) == 1:
    (setting,) = settings
  fits = _SMALLEST < learning_rate < _LARGEST and 1 <= int(epochs) <= config.epochs
  if not fits or setting not in settings:
    raise ValueError(learning_rate, epochs, setting)
  return Ask(float(learning_rate), int(epochs), setting)


def _to_the_end(config: ConfigDict, rates) -> list[Ask]:
  return [Ask(rate, config.epochs) for rate in rates]


def _everywhere(config: ConfigDict, settings: Sequence[Setting], epochs: int) -> list[Ask]:
  return [Ask(rate, epochs, setting) for setting in settings for rate in config.learning_rates]


def _by_rate(told: Sequence[Told]) -> dict[float, Told]:
  return {t.learning_rate: t for t in told}


def _is_worse(newer: Told, older: Told) -> bool:
  """True if `newer` is further from the peak than `older`, as far as one can tell."""
  if not older.learned:
    return False
  return newer.diverged or (newer.accuracy < older.accuracy and not newer.alike)


def _between(low: float, high: float, factor: float, most: int) -> list[float]:
  """Rates between two, evenly spaced by logarithm.

  As many as it takes to have neighbours within `factor`, but at most `most`; fewer if rounding
  makes some equal.
  """
  needed = math.ceil(math.log(high / low) / math.log(factor) - 1e-9) - 1
  rates = map(_rounded, np.geomspace(low, high, min(needed, most) + 2)[1:-1])
  return [rate for rate in dict.fromkeys(rates) if low < rate < high]


def _rounded(rate: float) -> float:
  """The rate rounded to three digits, so that people can read and type it."""
  return float(f'{rate:.2e}')
