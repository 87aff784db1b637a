"""Claims: what a study found, each a sentence with the number and the interval behind it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy

_BOOTSTRAPS = 1000


@dataclasses.dataclass(frozen=True)
class Claim:
  """One thing that a study found.

  Attributes:
    name: unique in the study, such as 'exponent of SGD'.
    value: the number; None if it could not be determined.
    sentence: states it, with the interval and the unit.
    low, high: of its 95 % interval; None if there is none.
    tolerance: how far the value of a second run may be away, in the unit of the value. Another
      machine rounds differently, and training amplifies that, so it is usually half the interval.
    source: what was claimed where, such as 'Goyal et al. 2017: 1'; '' if nothing was.
    agrees: whether the source's claim holds here; None if there is none, or if it cannot be told.
  """

  name: str
  value: float | None
  sentence: str
  tolerance: float
  low: float | None = None
  high: float | None = None
  source: str = ''
  agrees: bool | None = None

  def as_json(self) -> dict[str, Any]:
    """Its fields."""
    return {
      name: float(f'{value:.6g}') if isinstance(value, float) else value
      for name, value in dataclasses.asdict(self).items()
    }

  def holds(self, other: 'Claim') -> bool:
    """True if `other`, of a second run, has the same value to within the tolerance of this one."""
    if self.value is None or other.value is None:
      return self.value is other.value
    return abs(self.value - other.value) <= self.tolerance


def compare(
  before: Sequence[Claim], now: Sequence[Claim]
) -> list[tuple[Claim, Claim | None, bool]]:
  """Each claim of an earlier run with the one of a second run, and whether it holds."""
  found = {claim.name: claim for claim in now}
  return [
    (claim, found.get(claim.name), claim.name in found and claim.holds(found[claim.name]))
    for claim in before
  ]


def estimated(
  name: str,
  estimate: tuple[float, float, float],
  sentence: str,
  source: str = '',
  agrees: bool | None = None,
) -> Claim:
  """A claim whose tolerance is half the width of its interval.

  Another machine rounds differently, and training amplifies that as it does another seed. So a
  second run may be away as far as other seeds may be.

  Args:
    name: of the claim.
    estimate: the value and the ends of its interval; NaN becomes None.
    sentence: with these numbers.
    source: what was published.
    agrees: whether it holds.
  """
  value, low, high = (None if math.isnan(x) else float(x) for x in estimate)
  tolerance = 0.0 if low is None or high is None else (high - low) / 2
  agrees = None if agrees is None else bool(agrees)
  return Claim(name, value, sentence, tolerance, low, high, source, agrees)


@dataclasses.dataclass(frozen=True)
class Power:
  """y = factor x^exponent, by least squares of the logarithms."""

  exponent: float
  low: float  # of the 95 % interval of the exponent
  high: float
  factor: float

  def __call__(self, x: Any) -> Any:
    """The fitted y at x."""
    return self.factor * np.asarray(x, float) ** self.exponent

  @property
  def between(self) -> str:
    """The exponent with its interval: '0.52 (95 % interval 0.41 to 0.63)'."""
    return f'{self.exponent:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})'


def power_law(x: Sequence[float], y: Sequence[float] | np.ndarray) -> Power:
  """Fits y = c x^a.

  The interval of a is Student's t of the regression's standard error. With y of several seeds it is
  the wider one of that and the percentile interval of 1,000 bootstraps over seeds.

  Args:
    x: (points,), at least three, all above 0.
    y: (points,) or (points, seeds), above 0; NaN is left out.

  Raises:
    ValueError: fewer than three points are left.
  """
  of_seeds = np.asarray(y, float).reshape(len(x), -1)
  with np.errstate(invalid='ignore', divide='ignore'):
    log_x, log_y = np.log(np.asarray(x, float)), np.log(of_seeds)
  means = _means(log_y)
  kept = np.isfinite(means)
  if kept.sum() < 3:
    raise ValueError(f'a power law needs three points; there are {kept.sum()}')
  fit = scipy.stats.linregress(log_x[kept], means[kept])
  half = np.nan_to_num(fit.stderr) * scipy.special.stdtrit(kept.sum() - 2, 0.975)
  low, high = fit.slope - half, fit.slope + half
  seeds = log_y.shape[1]
  if seeds > 1:
    drawn = np.random.default_rng(0).integers(seeds, size=(_BOOTSTRAPS, seeds))
    ends = np.nanpercentile(_slopes(log_x, _means(log_y[:, drawn])), (2.5, 97.5))
    low, high = min(low, ends[0]), max(high, ends[1])
  return Power(float(fit.slope), float(low), float(high), math.exp(fit.intercept))


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> tuple[float, float, float]:
  """A statistic of seeds, and its 95 % percentile interval over 1,000 bootstraps.

  Args:
    statistic: of the indices of seeds, (seeds,), some of which may be there several times.
    seeds: how many there are.
  """
  random = np.random.default_rng(0)
  drawn = [statistic(of) for of in random.integers(seeds, size=(_BOOTSTRAPS, seeds))]
  low, high = np.nanpercentile(drawn, (2.5, 97.5))
  return float(statistic(np.arange(seeds))), float(low), float(high)


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
  """The mean of independent values and its 95 % interval, by Student's t."""
  values = np.asarray(values, float)
  mean, count = float(values.mean()), len(values)
  if count < 2:
    return mean, math.nan, math.nan
  half = float(scipy.special.stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count))
  return mean, mean - half, mean + half


def ratio_interval(ratios: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
  """The geometric mean of independent ratios and its 95 % interval, by Student's t."""
  value, low, high = np.exp(mean_interval(np.log(ratios)))
  return float(value), float(low), float(high)


def is_above(bound: float, low: float, high: float) -> bool | None:
  """Whether a number with this interval lies above a bound; None if the interval contains that."""
  return True if low > bound else False if high < bound else None


def is_below(bound: float, low: float, high: float) -> bool | None:
  """Whether it lies below the bound; see `is_above`."""
  return is_above(-bound, -high, -low)


def is_as_good(gain: tuple[float, float, float], margin: float) -> bool | None:
  """Whether a gain, with its interval, is at least -margin; None if the interval contains that."""
  _, low, high = gain
  return True if low >= -margin else False if high < -margin else None


def points(gain: tuple[float, float, float]) -> str:
  """A gain in percentage points with its interval: '+3.0 points (95 % interval +1.8 to +4.2)'."""
  value, low, high = gain
  return f'{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})'.replace('-', '−')


def _means(log_y: np.ndarray) -> np.ndarray:
  """The mean over the last axis, the seeds, of those that have a value; NaN where none has."""
  known = np.isfinite(log_y)
  count = known.sum(-1)
  return np.where(count > 0, np.where(known, log_y, 0).sum(-1) / np.maximum(count, 1), np.nan)


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Slopes of lines by least squares, (lines,), from x (points,) and y (points, lines)."""
  known = np.isfinite(y)
  x = np.broadcast_to(x[:, None], y.shape)
  apart = np.where(known, x - np.nanmean(np.where(known, x, np.nan), 0), 0)
  with np.errstate(invalid='ignore', divide='ignore'):
    return (apart * np.where(known, y, 0)).sum(0) / (apart**2).sum(0)
