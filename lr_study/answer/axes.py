"""A study of several batch sizes or schedules: the answer for each, and how they compare."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for

from lr_study import formats
from lr_study.answer.verdict import DIVERGED, Result, Verdict, judge
from lr_study.search.rounds import Setting


@dataclasses.dataclass(frozen=True)
class Growth:
  """How the best rate grows with the batch size: as batch_size ** exponent.

  `error`: half of the exponent's 95 % interval, by Student's t for the residuals of a straight
  line through the logarithms; None for two batch sizes, which leave no residuals. 1 is the
  linear rule (Goyal et al., 2017), 0.5 the square-root rule (Krizhevsky, 2014).
  """

  schedule: str
  batch_sizes: tuple[int, ...]
  best_rates: tuple[float, ...]
  exponent: float
  error: float | None


@dataclasses.dataclass(frozen=True)
class Gain:
  """What one schedule reaches at its best rate beyond what another reaches at its own.

  `gain` is a difference of validation accuracies, `error` half of its 95 % interval: of the mean
  over seeds, in pairs, and of counting the images.
  """

  batch_size: int
  schedule: str
  over: str
  gain: float
  error: float


@dataclasses.dataclass(frozen=True)
class Answer:
  """`verdict` is that of the best setting, and its sentence tells of the others too."""

  verdict: Verdict
  of_setting: dict[Setting, Verdict]
  growth: tuple[Growth, ...]
  gains: tuple[Gain, ...]


def answer(
  results: Sequence[Result], labels: np.ndarray, measure: str, edge_only: bool = False
) -> Answer:
  """The answer of a study, from every trial.

  Args:
    results: of all trials.
    labels: of the validation images, (images,).
    measure: the field of a result that leads, such as 'validation_accuracy'.
    edge_only: the runs were short ones, to find out where training stops being stable.
  """
  of_setting: dict[Setting, list[Result]] = {}
  for result in results:
    of_setting.setdefault(Setting(result.batch_size, result.schedule), []).append(result)
  verdicts = {s: judge(found, labels, measure) for s, found in of_setting.items()}
  if edge_only:
    verdicts = {
      s: dataclasses.replace(verdict, sentence=_edge_sentence(verdict, of_setting[s]))
      for s, verdict in verdicts.items()
    }
  if len(verdicts) == 1:
    return Answer(*verdicts.values(), verdicts, (), ())
  accuracies = {s: _of_best(found, verdicts[s], measure) for s, found in of_setting.items()}
  best = max(verdicts, key=lambda s: float(np.mean(list(accuracies[s].values()) or [-1.0])))
  growth = _growth(of_setting, verdicts, measure)
  gains = _gains(accuracies, len(labels))
  sentences = (
    f'Best with batch size {best.batch_size} and the schedule {best.schedule}, of '
    f'{len(verdicts)} settings.',
    verdicts[best].sentence,
    *map(_growth_sentence, growth),
    *map(_gain_sentence, gains),
  )
  verdict = dataclasses.replace(verdicts[best], sentence=' '.join(sentences))
  return Answer(verdict, verdicts, growth, gains)


def _of_best(results: Sequence[Result], verdict: Verdict, measure: str) -> dict[int, float]:
  """Seed -> accuracy of the rate that the verdict names; empty if it names none."""
  return {
    result.seed: accuracy
    for result in results
    if result.learning_rate == verdict.learning_rate
    and (accuracy := getattr(result, measure)) is not None
  }


def _growth(
  of_setting: dict[Setting, Sequence[Result]], verdicts: dict[Setting, Verdict], measure: str
) -> tuple[Growth, ...]:
  found = []
  for schedule in dict.fromkeys(setting.schedule for setting in verdicts):
    points = sorted(
      (s.batch_size, _peak(of_setting[s], verdict.learning_rate, measure))
      for s, verdict in verdicts.items()
      if s.schedule == schedule and verdict.learning_rate is not None
    )
    if len(points) > 1:
      sizes, rates = zip(*points, strict=True)
      line = scipy.stats.linregress(np.log(sizes), np.log(rates))
      freedom = len(points) - 2
      error = float(line.stderr * scipy.special.stdtrit(freedom, 0.975)) if freedom else None
      found.append(Growth(schedule, sizes, rates, float(line.slope), error))
  return tuple(found)


def _peak(results: Sequence[Result], best: float, measure: str) -> float:
  """Where the parabola through the best rate and its two neighbours is highest.

  Over the logarithm of the rate. A ladder alone would place the best rate to within its own
  spacing only. The best rate itself where a neighbour is missing or diverged.
  """
  by_rate: dict[float, list[float | None]] = {}
  for result in results:
    by_rate.setdefault(result.learning_rate, []).append(getattr(result, measure))
  rates = sorted(by_rate)
  place = rates.index(best)
  near = rates[max(place - 1, 0) : place + 2]
  if len(near) < 3 or any(None in by_rate[rate] for rate in near):
    return best
  x, y = np.log(near), [np.mean(by_rate[rate]) for rate in near]
  square, linear, _ = np.polyfit(x - x[1], y, 2)
  if square >= 0:
    return best
  return float(np.exp(np.clip(x[1] - linear / (2 * square), x[0], x[2])))


def _gains(accuracies: dict[Setting, dict[int, float]], images: int) -> tuple[Gain, ...]:
  """Of each schedule but the first over the first, for each batch size."""
  first, *others = dict.fromkeys(setting.schedule for setting in accuracies)
  found = []
  for size in dict.fromkeys(setting.batch_size for setting in accuracies):
    base = accuracies[Setting(size, first)]
    for name in others:
      new = accuracies[Setting(size, name)]
      seeds = [seed for seed in new if seed in base]
      if seeds:
        found.append(Gain(size, name, first, *_difference(new, base, seeds, images)))
  return tuple(found)


def _difference(
  new: dict[int, float], base: dict[int, float], seeds: Sequence[int], images: int
) -> tuple[float, float]:
  """Mean of the differences, in pairs by seed, and half of its 95 % interval."""
  differences = [new[seed] - base[seed] for seed in seeds]
  # Counting: as if the two were wrong on images of their own, so rather too wide.
  p = [np.mean([of[seed] for seed in seeds]) for of in (new, base)]
  counting = 1.96 * math.sqrt(sum(q * (1 - q) for q in p) / images)
  spread = 0.0
  if len(seeds) > 1:
    t = scipy.special.stdtrit(len(seeds) - 1, 0.975)
    spread = t * np.std(differences, ddof=1) / math.sqrt(len(seeds))
  return float(np.mean(differences)), float(math.hypot(counting, spread))


def _edge_sentence(verdict: Verdict, results: Sequence[Result]) -> str:
  stable = verdict.largest_stable
  broken = min((r.learning_rate for r in results if r.status == DIVERGED), default=None)
  epochs = max(r.epochs for r in results)
  length = f'in {epochs} epoch{"s" if epochs > 1 else ""}'
  if stable is None:
    return f'No rate is stable: {formats.rate(broken)} diverges, the smallest tried.'
  if broken is None:
    return f'Training is stable up to {formats.rate(stable)} at least, {length}.'
  return (
    f'Training is stable up to {formats.rate(stable)} and diverges from {formats.rate(broken)} '
    f'on, a factor of {broken / stable:.2f} above, {length}. Which rate learns best such short '
    'runs cannot tell.'
  )


def _growth_sentence(growth: Growth) -> str:
  rates = ', '.join(
    f'{formats.rate(float(f"{rate:.2g}"))} at {size}'
    for size, rate in zip(growth.batch_sizes, growth.best_rates, strict=True)
  )
  error = '' if growth.error is None else f' ± {growth.error:.2f}'
  return (
    f'The best rate with {growth.schedule}, by batch size: {rates}; it grows as the batch size to '
    f'the power {growth.exponent:.2f}{error}.'
  )


def _gain_sentence(gain: Gain) -> str:
  clear = abs(gain.gain) > gain.error
  verb = ('gains' if gain.gain > 0 else 'loses') if clear else 'is not told apart:'
  return (
    f'At batch size {gain.batch_size}, each at its best rate, {gain.schedule} {verb} '
    f'{100 * gain.gain:+.1f} ± {100 * gain.error:.1f} points over {gain.over}.'
  )
