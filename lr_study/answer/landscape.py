"""How the result depends on the rate: where the best one lies between those tried, and how wide.

Rate sensitivity is that of Wortsman et al. 2023, "Small-scale proxies for large-scale transformer
training instabilities" (arXiv 2309.14322), section 2.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for

from lr_study import formats
from lr_study.answer import confidence
from lr_study.answer.measure import LOSS, Measure, value_of
from lr_study.answer.verdict import Result, Verdict
from lr_study.search.rounds import Setting

_CLOSE = 0.01  # of a share, or of a loss: what lies as near to the best is as good
_TAIL = 0.05  # on each side of a 90 % interval


@dataclasses.dataclass(frozen=True)
class Landscape:
  """What the rates of a setting show together; None for what they do not tell.

  peak: the rate between those tried at which a parabola through the best one and its neighbours,
  over the logarithm of the rate, is best. peak_interval: its 90 % interval, from the seeds.
  sensitivity: the mean over the rates of min(loss, loss of guessing) - lowest loss, in nats, of the
  validation loss and its mean over seeds; 0 if all rates do equally well. basin: decades from the
  smallest to the largest of the rates around the best one that cannot be told apart from it, or
  are within 1 % of it.
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
    """Which one it is of."""
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
    measure: that leads.
    guessing_loss: what guessing the classes' frequencies costs, in nats.
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
  """The rates of a setting in order, (rates,), and each one's scores, (rates, seeds); larger is
  better, and NaN where a trial diverged."""
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
  """Where the parabola through the best rate and its two neighbours is highest, and its interval.

  The interval is Student's t with the error of the jackknife over seeds (Efron and Stein 1981).

  Args:
    rates: (rates,), in order.
    scores: (rates, seeds).
    best: one of the rates.

  Returns:
    None and None where a neighbour is missing or diverged, or where the parabola has no maximum
    between them; None for the interval with one seed, or if the seeds do not agree on that.
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
  """Of the parabola through three points; None if it is no maximum between the outer ones."""
  square, linear, _ = np.polyfit(x - x[1], y, 2)
  if square >= 0:
    return None
  top = x[1] - linear / (2 * square)
  return top if x[0] < top < x[2] else None


def sensitivity(rates: np.ndarray, losses: np.ndarray, guessing_loss: float) -> float | None:
  """Wortsman's rate sensitivity, in nats.

  A loss that is not finite counts as that of guessing, which stands for the loss at the start. The
  mean over the range of rates is by the logarithm of the rate, with straight lines between them.

  Args:
    rates: (rates,), in order.
    losses: (rates,).
    guessing_loss: what guessing costs.

  Returns:
    None for one rate.
  """
  if len(rates) < 2:
    return None
  losses = np.where(np.isfinite(losses), np.minimum(losses, guessing_loss), guessing_loss)
  x = np.log(rates)
  return float(np.trapezoid(losses - losses.min(), x) / (x[-1] - x[0]))


def _basin(rates: np.ndarray, scores: np.ndarray, verdict: Verdict, measure: Measure) -> float:
  """Decades of the rates on both sides of the best one that are as good, without a gap."""
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
  """A landscape for people: a sentence for each figure that it has."""
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
    said.append('No rate beside it is about as good.')
  if found.sensitivity is not None:
    said.append(
      f'Rate sensitivity: {formats.loss(found.sensitivity)} nats, by which the validation loss '
      'lies above its lowest on average over the rates tried (Wortsman et al. 2023).'
    )
  return ' '.join(said)
