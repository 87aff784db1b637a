"""A study of several settings: the answer for each, and how they compare."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for

from lr_study import formats
from lr_study.answer import confidence
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict, judge
from lr_study.search import rounds
from lr_study.search.rounds import Setting

_NAMED = 3  # settings, in a sentence


@dataclasses.dataclass(frozen=True)
class Growth:
  """How the best rate grows with the batch size: as batch_size ** exponent.

  `error`: half of the exponent's 95 % interval, by Student's t for the residuals of a straight
  line through the logarithms; None for two batch sizes, which leave no residuals. 1 is the
  linear rule (Goyal et al., 2017), 0.5 the square-root rule (Krizhevsky, 2014). `axes`: what the
  batch sizes have in common besides the schedule.
  """

  schedule: str
  batch_sizes: tuple[int, ...]
  best_rates: tuple[float, ...]
  exponent: float
  error: float | None
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Gain:
  """What one schedule reaches at its best rate beyond what another reaches at its own.

  `gain` is a difference of the measure, `error` half of its 95 % interval: of the mean over seeds,
  in pairs, and of counting the images. `axes`: what both have in common besides the batch size.
  """

  batch_size: int
  schedule: str
  over: str
  gain: float
  error: float
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Standing:
  """How a setting compares with the others, each at its best rate.

  `value`: of the measure there, the mean over the seeds; both None if no rate can be used.
  `probability_best` and `may_be_best`: as confidence.py has them for rates, in pairs over seeds;
  the former is None with one seed.
  """

  batch_size: int
  schedule: str
  axes: dict[str, Any]
  learning_rate: float | None
  value: float | None
  probability_best: float | None
  may_be_best: bool

  @property
  def setting(self) -> Setting:
    """Which one it is."""
    return Setting(self.batch_size, self.schedule, tuple(self.axes.items()))


@dataclasses.dataclass(frozen=True)
class Answer:
  """`verdict` is that of the best setting, and its sentence tells of the others too.

  `standings`: of each setting, if there are several.
  """

  verdict: Verdict
  of_setting: dict[Setting, Verdict]
  growth: tuple[Growth, ...]
  gains: tuple[Gain, ...]
  standings: tuple[Standing, ...] = ()


def answer(
  results: Sequence[Result], labels: np.ndarray, measure: Measure, edge_only: bool = False
) -> Answer:
  """The answer of a study, from every trial.

  Args:
    results: of all trials.
    labels: of the validation images, (images,).
    measure: that leads.
    edge_only: the runs were short ones, to find out where training stops being stable.
  """
  of_setting: dict[Setting, list[Result]] = {}
  for result in results:
    of_setting.setdefault(result.setting, []).append(result)
  verdicts = {s: judge(found, labels, measure) for s, found in of_setting.items()}
  if edge_only:
    verdicts = {
      s: dataclasses.replace(verdict, sentence=_edge_sentence(verdict, of_setting[s]))
      for s, verdict in verdicts.items()
    }
  if len(verdicts) == 1:
    return Answer(*verdicts.values(), verdicts, (), ())
  values = {s: _of_best(found, verdicts[s], measure) for s, found in of_setting.items()}
  best = max(verdicts, key=lambda s: _mean_score(values[s], measure))
  if edge_only:  # which rate learns best, and with which setting, such short runs cannot tell
    told = (f'With {_names(s, verdicts)}: {found.sentence}' for s, found in verdicts.items())
    verdict = dataclasses.replace(verdicts[best], sentence=' '.join(told))
    return Answer(verdict, verdicts, (), ())
  growth = _growth(of_setting, verdicts, measure)
  gains = _gains(values, len(labels) if measure.is_share else math.inf)
  names, count = _names(best, verdicts), len(verdicts)
  opening = f'Of {count} settings, the best {measure.name} at a rate to use is with {names}.'
  if verdicts[best].learning_rate is None:
    opening = f'None of {count} settings has a rate to use. With {names}:'
  standings = _standings(values, verdicts, confidence.counted(labels, measure), measure)
  sentences = (
    opening,
    verdicts[best].sentence,
    *_standing_sentences(standings, best, measure, len(values[best])),
    *map(_growth_sentence, growth),
    *(_gain_sentence(gain, measure) for gain in gains),
  )
  verdict = dataclasses.replace(verdicts[best], sentence=' '.join(sentences))
  return Answer(verdict, verdicts, growth, gains, standings)


def _standings(
  values: dict[Setting, dict[int, float]],
  verdicts: dict[Setting, Verdict],
  images: float,
  measure: Measure,
) -> tuple[Standing, ...]:
  """Compares the settings at their best rates; those without one cannot be the best."""
  compared = [setting for setting, of in values.items() if of]
  seeds = set.intersection(*(set(values[setting]) for setting in compared)) if compared else set()
  probability, alike = {}, set(compared) if len(compared) == 1 else set()
  if len(compared) > 1 and seeds:
    scores = [[measure.score(values[s][seed]) for s in compared] for seed in sorted(seeds)]
    found, is_alike = confidence.compare(np.asarray(scores), images)
    alike = {setting for setting, yes in zip(compared, is_alike, strict=True) if yes}
    if math.isinf(images) and len(seeds) == 1:
      alike = set(compared)  # one figure that is no share of images tells nothing of its noise
    if len(seeds) > 1:
      probability = dict.fromkeys(verdicts, 0.0) | dict(
        zip(compared, map(float, found), strict=True)
      )
  return tuple(
    Standing(
      *s[:2],
      dict(s.axes),
      verdicts[s].learning_rate if of else None,
      float(np.mean(list(of.values()))) if of else None,
      probability.get(s),
      s in alike,
    )
    for s, of in values.items()
  )


def _standing_sentences(
  standings: Sequence[Standing], best: Setting, measure: Measure, seeds: int
) -> list[str]:
  """Which of the other settings may be just as good, and which did worse; nothing of one alone."""
  settings = [standing.setting for standing in standings]
  others = [s for s in standings if s.learning_rate is not None and s.setting != best]
  alike = [f'{_names(s.setting, settings)}' for s in others if s.may_be_best]
  by = ['seeds'] * (seeds > 1) + ['images'] * measure.is_share
  said = []
  if alike:
    more = f'; and {len(alike) - _NAMED} more' if len(alike) > _NAMED else ''
    noun = 'setting' if len(alike) == 1 else 'settings'
    said.append(
      f'The {noun} with {"; ".join(alike[:_NAMED])}{more} may be just as good: these '
      f'{" and ".join(by) or "figures"} cannot separate them.'
    )
  worse = len(others) - len(alike)
  if worse:
    noun = 'setting' if worse == 1 else 'settings'
    which = f'{"One" if worse == 1 else worse} other {noun}'
    if len(alike) + worse < len(settings) - 1:
      which += ' with a rate to use'  # the rest have none
    elif not alike:
      which = f'The other {noun}'
    said.append(f'{which} did worse{"" if seeds > 1 else " on these images"}.')
  return said


def _of_best(results: Sequence[Result], verdict: Verdict, measure: Measure) -> dict[int, float]:
  """Seed -> value of the rate that the verdict names; empty if it names none."""
  return {
    result.seed: value
    for result in results
    if result.learning_rate == verdict.learning_rate
    and (value := value_of(result, measure)) is not None
  }


def _mean_score(values: dict[int, float], measure: Measure) -> float:
  return measure.score(float(np.mean(list(values.values())))) if values else -math.inf


def _names(setting: Setting, among: Iterable[Setting]) -> str:
  """A setting in a sentence: batch size and schedule; if there are further axes, what varies."""
  axes = rounds.varied(setting, among)
  parts = []
  if not axes or len({other.batch_size for other in among}) > 1:
    parts.append(f'batch size {setting.batch_size}')
  if not axes or len({other.schedule for other in among}) > 1:
    parts.append(f'the schedule {setting.schedule}')
  *first, last = parts + _axis_names(axes)
  return f'{", ".join(first)} and {last}' if first else last


def _axis_names(axes: dict[str, Any]) -> list[str]:
  return [f'{name} {rounds.value_text(value)}' for name, value in axes.items()]


def _growth(
  of_setting: dict[Setting, Sequence[Result]], verdicts: dict[Setting, Verdict], measure: Measure
) -> tuple[Growth, ...]:
  found = []
  for schedule, axes in dict.fromkeys((s.schedule, s.axes) for s in verdicts):
    points = sorted(
      (s.batch_size, _peak(of_setting[s], verdict.learning_rate, measure))
      for s, verdict in verdicts.items()
      if (s.schedule, s.axes) == (schedule, axes) and verdict.learning_rate is not None
    )
    if len(points) > 1:
      sizes, rates = zip(*points, strict=True)
      line = scipy.stats.linregress(np.log(sizes), np.log(rates))
      freedom = len(points) - 2
      error = float(line.stderr * scipy.special.stdtrit(freedom, 0.975)) if freedom else None
      common = rounds.varied(Setting(0, '', axes), verdicts)
      found.append(Growth(schedule, sizes, rates, float(line.slope), error, common))
  return tuple(found)


def _peak(results: Sequence[Result], best: float, measure: Measure) -> float:
  """Where the parabola through the best rate and its two neighbours is highest.

  Over the logarithm of the rate. A ladder alone would place the best rate to within its own
  spacing only. The best rate itself where a neighbour is missing or diverged.
  """
  by_rate: dict[float, list[float | None]] = {}
  for result in results:
    by_rate.setdefault(result.learning_rate, []).append(value_of(result, measure))
  rates = sorted(by_rate)
  place = rates.index(best)
  near = rates[max(place - 1, 0) : place + 2]
  if len(near) < 3 or any(None in by_rate[rate] for rate in near):
    return best
  x, y = np.log(near), [measure.score(np.mean(by_rate[rate])) for rate in near]
  square, linear, _ = np.polyfit(x - x[1], y, 2)
  if square >= 0:
    return best
  return float(np.exp(np.clip(x[1] - linear / (2 * square), x[0], x[2])))


def _gains(values: dict[Setting, dict[int, float]], images: float) -> tuple[Gain, ...]:
  """Of each schedule but the first over the first, all else equal."""
  first, *others = dict.fromkeys(setting.schedule for setting in values)
  found = []
  for size, axes in dict.fromkeys((setting.batch_size, setting.axes) for setting in values):
    base = values[Setting(size, first, axes)]
    common = rounds.varied(Setting(0, '', axes), values)
    for name in others:
      new = values[Setting(size, name, axes)]
      seeds = [seed for seed in new if seed in base]
      # One pair of a figure that is no share of images tells nothing of its noise.
      if len(seeds) > math.isinf(images):
        difference = _difference(new, base, seeds, images)
        found.append(Gain(size, name, first, *difference, common))
  return tuple(found)


def _difference(
  new: dict[int, float], base: dict[int, float], seeds: Sequence[int], images: float
) -> tuple[float, float]:
  """Mean of the differences, in pairs by seed, and half of its 95 % interval."""
  differences = [new[seed] - base[seed] for seed in seeds]
  # Counting: as if the two were wrong on images of their own, so rather too wide.
  p = [np.mean([of[seed] for seed in seeds]) for of in (new, base)]
  counting = 0.0  # of no images, where it is no share of them
  if math.isfinite(images):
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
    f'Training is stable up to {formats.rate(stable)} and diverges at {formats.rate(broken)}, '
    f'a factor of {broken / stable:.2f} above, {length}. Which rate learns best such short '
    'runs cannot tell.'
  )


def _growth_sentence(growth: Growth) -> str:
  rates = ', '.join(
    f'{formats.rate(float(f"{rate:.2g}"))} at {size}'
    for size, rate in zip(growth.batch_sizes, growth.best_rates, strict=True)
  )
  error = '' if growth.error is None else f' ± {growth.error:.2f}'
  return (
    f'The best rate with {", ".join([growth.schedule, *_axis_names(growth.axes)])}, by batch size: '
    f'{rates}; it grows as the batch size to the power {growth.exponent:.2f}{error}.'
  )


def _gain_sentence(gain: Gain, measure: Measure) -> str:
  where = ', '.join([f'batch size {gain.batch_size}', *_axis_names(gain.axes)])
  clear = abs(gain.gain) > gain.error
  if not measure.is_share:
    return _other_gain_sentence(gain, measure, f'At {where}', clear)
  better = (gain.gain > 0) == measure.larger_is_better
  verb = ('gains' if better else 'loses') if clear else 'is not told apart:'
  return (
    f'At {where}, each at its best rate, {gain.schedule} {verb} '
    f'{100 * gain.gain:+.1f} ± {100 * gain.error:.1f} points over {gain.over}.'
  )


def _other_gain_sentence(gain: Gain, measure: Measure, where: str, clear: bool) -> str:
  """That of what is no share of images, and may be the better the smaller it is."""
  way = ('a higher' if gain.gain > 0 else 'a lower') if clear else 'no clearly different'
  return (
    f'{where}, each at its best rate, {gain.schedule} has {way} {measure.name} than {gain.over}: '
    f'by {gain.gain:+.3g} ± {gain.error:.2g}.'
  )
