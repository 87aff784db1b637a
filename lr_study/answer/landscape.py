"""How the result depends on the rate: the best rate between those tried, and the range around it.

Rate sensitivity is that of Wortsman et al. 2023, "Small-scale proxies for large-scale transformer
training instabilities" (arXiv 2309.14322), section 2.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # imports its parts, which takes long, only when they are used

from lr_study import formats
from lr_study.answer import confidence
from lr_study.answer.measure import LOSS, Measure, value_of
from lr_study.answer.verdict import Result, Verdict
from lr_study.search.rounds import Setting

_CLOSE = 0.01  # a rate within this of the best share, or of the best loss, is as good
_TAIL = 0.05  # on each side of a 90 % interval


@dataclasses.dataclass(frozen=True)
class Landscape:
  """What the rates of a setting show together; None if they do not show it.

  peak: the rate at which a parabola through the best rate and its neighbours, over the logarithm of
  the rate, is best. peak_interval: its 90 % interval, from the seeds. sensitivity: the mean over
  the rates of min(loss, loss of guessing) - lowest loss, in nats, where loss is the mean validation
  loss over seeds; 0 if all rates do equally well, None if none beats guessing. basin: how many
  decades of rates around the best one cannot be told apart from it, or are within 1 % of it.
  """

  batch_size: int
  schedule: str
  axes: dict[str, Any]
  peak: float | None
  peak_interval: tuple[float, float] | None
  sensitivity: float | None
  basin: float | None

  @property
  def setting(self) -> Setting:
    """The setting that this describes."""
    return Setting.of(self)


def landscapes(
  results: Sequence[Result],
  verdicts: Mapping[Setting, Verdict],
  measure: Measure,
  guessing_loss: float,
) -> tuple[Landscape, ...]:
  """The landscape of each setting.

  Args:
    results: of all trials.
    verdicts: of each setting.
    measure: the leading one.
    guessing_loss: the loss of guessing the classes' frequencies, in nats.
  """
  found = []
  for setting, verdict in verdicts.items():
    own = [result for result in results if result.setting == setting]
    rates, values = by_rate(own, measure)
    losses = -by_rate(own, LOSS)[1]
    place, interval, basin = None, None, None
    if verdict.learning_rate is not None:
      place, interval = peak(rates, values, verdict.learning_rate)
      basin = _basin(rates, values, verdict, measure)
    found.append(
      Landscape(
        setting.batch_size,
        setting.schedule,
        dict(setting.axes),
        place,
        interval,
        sensitivity(rates, losses.mean(1), guessing_loss),
        basin,
      )
    )
  return tuple(found)


def by_rate(results: Sequence[Result], measure: Measure) -> tuple[np.ndarray, np.ndarray]:
  """The rates of a setting in order, (rates,), and their scores, (rates, seeds).

  Larger scores are better; they are NaN where a trial diverged.
  """
  of_rate: dict[float, dict[int, float]] = {}
  for result in results:
    value = value_of(result, measure)
    of_rate.setdefault(result.learning_rate, {})[result.seed] = np.nan if value is None else value
  rates = sorted(of_rate)
  scores = [
    [measure.score(of_rate[rate][seed]) for seed in sorted(of_rate[rate])] for rate in rates
  ]
  return np.asarray(rates), np.asarray(scores, np.float64)


def peak(
  rates: np.ndarray, scores: np.ndarray, best: float
) -> tuple[float | None, tuple[float, float] | None]:
  """The maximum of the parabola through the best rate and its two neighbours, and its interval.

  The interval is Student's t with the jackknife error over seeds (Efron and Stein 1981).

  Args:
    rates: (rates,), in order.
    scores: (rates, seeds).
    best: one of the rates.

  Returns:
    The rate at the maximum and its interval. Both are None if a neighbour is missing or diverged,
    or if the parabola has no maximum between them. The interval is None with one seed, or if there
    is no such maximum without one of the seeds.
  """
  place = int(np.argmin(np.abs(rates - best)))
  if not 0 < place < len(rates) - 1 or not np.isfinite(scores[place - 1 : place + 2]).all():
    return None, None
  x, y = np.log(rates[place - 1 : place + 2]), scores[place - 1 : place + 2]
  top, seeds = _vertex(x, y.mean(1)), y.shape[1]
  if top is None:
    return None, None
  without = [_vertex(x, np.delete(y, k, 1).mean(1)) for k in range(seeds)] if seeds > 1 else [None]
  if None in without:
    return float(np.exp(top)), None
  error = np.sqrt((seeds - 1) * np.var(without))
  half = error * scipy.special.stdtrit(seeds - 1, 1 - _TAIL)
  return float(np.exp(top)), (float(np.exp(top - half)), float(np.exp(top + half)))


def _vertex(x: np.ndarray, y: np.ndarray) -> float | None:
  """The maximum of the parabola through three points; None if none lies between the outer ones."""
  square, linear, _ = np.polyfit(x - x[1], y, 2)
  if square >= 0:
    return None
  top = x[1] - linear / (2 * square)
  return top if x[0] < top < x[2] else None


def sensitivity(rates: np.ndarray, losses: np.ndarray, guessing_loss: float) -> float | None:
  """Wortsman's rate sensitivity, in nats.

  A loss that is not finite counts as the loss of guessing, in place of the initial loss. The mean
  is over the logarithm of the rate, with straight lines between the rates.

  Args:
    rates: (rates,), in order.
    losses: (rates,).
    guessing_loss: the loss of guessing.

  Returns:
    The sensitivity; None if there is only one rate, or if none is better than guessing.
  """
  if len(rates) < 2:
    return None
  losses = np.where(np.isfinite(losses), np.minimum(losses, guessing_loss), guessing_loss)
  if losses.min() == guessing_loss:
    return None
  x = np.log(rates)
  return float(np.trapezoid(losses - losses.min(), x) / (x[-1] - x[0]))


def _basin(rates: np.ndarray, scores: np.ndarray, verdict: Verdict, measure: Measure) -> float:
  """How many decades around the best rate are as good, without a gap."""
  means, best = scores.mean(1), int(np.argmin(np.abs(rates - verdict.learning_rate)))
  near = _CLOSE if measure.is_share else _CLOSE * abs(means[best])
  good = (means >= means[best] - near) | np.isin(rates, verdict.indistinguishable)
  first = last = best
  while first > 0 and good[first - 1]:
    first -= 1
  while last < len(rates) - 1 and good[last + 1]:
    last += 1
  return float(np.log10(rates[last] / rates[first]))


def words(found: Landscape) -> str:
  """A landscape for people: one sentence per figure."""
  said = []
  if found.peak is not None:
    ends = ''
    if found.peak_interval is not None:
      low, high = (formats.rate(float(f'{end:.2g}')) for end in found.peak_interval)
      ends = f' ({confidence.STATED} interval {low} to {high})'
    said.append(
      'Between the rates tried, a parabola through the best one and its neighbours puts the best '
      f'rate at {formats.rate(float(f"{found.peak:.2g}"))}{ends}.'
    )
  if found.basin:
    said.append(f'Rates over a factor of {10**found.basin:.2g} are about as good.')
  elif found.basin is not None:
    said.append('No neighbouring rate is about as good.')
  if found.sensitivity is not None:
    said.append(
      f'Rate sensitivity: {formats.loss(found.sensitivity)} nats, the average distance of the '
      'validation loss from its lowest value over the rates tried (Wortsman et al. 2023).'
    )
  return ' '.join(said)
