"""Effects along an axis: how the best rate changes, and what one value gains over another."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # imports its parts, which takes long, only when they are used

from lr_study import formats, plugs
from lr_study.answer import landscape
from lr_study.answer.measure import Measure
from lr_study.answer.verdict import Result, Verdict
from lr_study.search import rounds
from lr_study.search.rounds import Setting

BATCH_SIZE, SCHEDULE = 'batch_size', 'schedule.name'


@dataclasses.dataclass(frozen=True)
class Growth:
  """How the best rate scales along an axis of numbers: as value ** exponent.

  `best_rates`: at each of `values`, all above 0. `error`: half of the exponent's 95 % interval, by
  Student's t for the residuals of a straight line through the logarithms; None for two values,
  which have no residuals. For batch sizes, an exponent of 1 is the linear rule (Goyal et al.,
  2017), and 0.5 is the square-root rule (Krizhevsky, 2014). `schedule`, `axes`: what the settings
  have in common.
  """

  schedule: str
  batch_sizes: tuple[int, ...]
  best_rates: tuple[float, ...]
  exponent: float
  error: float | None
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)
  axis: str = BATCH_SIZE
  values: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gain:
  """The gain of one value of an axis over the first value, each at its best rate.

  `gain` is a difference of the measure, and `error` is half of its 95 % interval, from the mean
  over seeds, in pairs, and from counting images. `value` is compared with `over`, the first value
  on the axis. `batch_size`, `schedule`, `axes`: of the setting that has `value`.
  """

  batch_size: int
  schedule: str
  over: Any
  gain: float
  error: float
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)
  axis: str = SCHEDULE
  value: Any = None


def growth(
  of_setting: Mapping[Setting, Sequence[Result]],
  verdicts: Mapping[Setting, Verdict],
  measure: Measure,
) -> tuple[Growth, ...]:
  """The growth along each axis of numbers, for each combination of values on the other axes.

  Settings without a usable rate are left out, and so is a value of 0, which has no logarithm.
  """
  found = []
  for axis, values in varied(verdicts).items():
    if not all(map(plugs.is_number, values)):
      continue
    for members in groups(verdicts, axis):
      points = sorted(
        (value, _peak(of_setting[s], verdicts[s].learning_rate, measure), s.batch_size)
        for value, s in members
        if value > 0 and verdicts[s].learning_rate is not None
      )
      if len(points) < 2:
        continue
      at, rates, sizes = zip(*points, strict=True)
      with np.errstate(invalid='ignore'):  # points on a line: rounding may leave less than 0
        line = scipy.stats.linregress(np.log(at), np.log(rates))
      freedom, stderr = len(points) - 2, np.nan_to_num(line.stderr)
      error = float(stderr * scipy.special.stdtrit(freedom, 0.975)) if freedom else None
      setting = members[0][1]
      common = _others(setting, verdicts, axis)
      exponent = float(line.slope)
      found.append(Growth(setting.schedule, sizes, rates, exponent, error, common, axis, at))
  return tuple(found)


def _peak(results: Sequence[Result], best: float, measure: Measure) -> float:
  """The estimated best rate between those tried, or the best one tried if there is no estimate.

  The rates tried would locate it only to within their spacing.
  """
  found, _ = landscape.peak(*landscape.by_rate(results, measure), best)
  return best if found is None else found


def gains(values: Mapping[Setting, Mapping[int, float]], images: float) -> tuple[Gain, ...]:
  """The gain of each value of an axis over the first, all else equal; not along batch sizes.

  Args:
    values: of each setting at its best rate, by seed; empty if it has no usable rate.
    images: on which a share was counted; infinite if the measure is not a share.
  """
  found = []
  for axis in varied(values):
    if axis == BATCH_SIZE:
      continue
    for (over, first), *others in groups(values, axis):
      for value, setting in others:
        new, base = values[setting], values[first]
        seeds = [seed for seed in new if seed in base]
        # The noise of a single pair is unknown unless the figure is a share of images.
        if len(seeds) > math.isinf(images):
          difference = _difference(new, base, seeds, images)
          common = _others(setting, values, axis)
          found.append(Gain(*setting[:2], over, *difference, common, axis, value))
  return tuple(found)


def _difference(
  new: Mapping[int, float], base: Mapping[int, float], seeds: Sequence[int], images: float
) -> tuple[float, float]:
  """The mean of the differences, in pairs by seed, and half of its 95 % interval."""
  differences = [new[seed] - base[seed] for seed in seeds]
  # Counting assumes that errors of the two are independent, so the interval is rather too wide.
  p = [np.mean([of[seed] for seed in seeds]) for of in (new, base)]
  counting = 0.0  # for a measure that is not a share of images
  if math.isfinite(images):
    counting = 1.96 * math.sqrt(sum(q * (1 - q) for q in p) / images)
  spread = 0.0
  if len(seeds) > 1:
    t = scipy.special.stdtrit(len(seeds) - 1, 0.975)
    spread = t * np.std(differences, ddof=1) / math.sqrt(len(seeds))
  return float(np.mean(differences)), float(math.hypot(counting, spread))


def sentences(
  growths: Iterable[Growth], all_gains: Iterable[Gain], best: Setting, measure: Measure
) -> list[str]:
  """Sentences about the best setting; results.json has the rest.

  Only gains of schedules get a sentence, because the comparison of settings already covers the
  other axes. A power that two points give gets none: nothing tells how far it can be trusted.
  """
  told = (found for found in growths if found.error is not None)
  said = [_growth_sentence(found) for found in told if _is_about(found, best)]
  return said + [
    _gain_sentence(gain, measure)
    for gain in all_gains
    if gain.axis == SCHEDULE and gain.batch_size == best.batch_size and _fit(gain.axes, best)
  ]


def _is_about(found: Growth, best: Setting) -> bool:
  """True if the best setting is among those that `found` is about."""
  sizes = {best.batch_size, *found.batch_sizes}
  one_size = found.axis == BATCH_SIZE or len(sizes) == 1
  return one_size and found.schedule == best.schedule and _fit(found.axes, best)


def _fit(axes: Mapping[str, Any], best: Setting) -> bool:
  own = dict(best.axes)
  return all(own.get(name) == value for name, value in axes.items())


def varied(settings: Iterable[Setting]) -> dict[str, list[Any]]:
  """The values on each axis that varies among the settings."""
  values: dict[str, dict[Any, None]] = {}
  for setting in settings:
    for name, value in rounds.on_axes(setting).items():
      values.setdefault(name, {})[value] = None
  return {name: list(of) for name, of in values.items() if len(of) > 1}


def groups(settings: Iterable[Setting], axis: str) -> list[list[tuple[Any, Setting]]]:
  """Groups of settings that differ only on this axis, each with its value there."""
  groups: dict[tuple[Any, ...], list[tuple[Any, Setting]]] = {}
  for setting in settings:
    own = rounds.on_axes(setting)
    value = own.pop(axis)
    groups.setdefault(tuple(own.items()), []).append((value, setting))
  return list(groups.values())


def _others(setting: Setting, among: Iterable[Setting], axis: str) -> dict[str, Any]:
  """The setting's values on other axes that vary, except this one."""
  return {n: x for n, x in rounds.varied(setting, among).items() if n != axis}


def _growth_sentence(found: Growth) -> str:
  rates = ', '.join(
    f'{formats.rate(float(f"{rate:.2g}"))} at {rounds.value_text(value)}'
    for value, rate in zip(found.values, found.best_rates, strict=True)
  )
  of_batch_sizes = found.axis == BATCH_SIZE
  name = 'batch size' if of_batch_sizes else found.axis
  what = 'it grows as the batch size' if of_batch_sizes else f'it scales as {name}'
  return (
    f'The best rate with {", ".join([found.schedule, *axis_names(found.axes)])}, by {name}: '
    f'{rates}; {what} to the power {found.exponent:.2f} ± {found.error:.2f}.'
  )


def _gain_sentence(gain: Gain, measure: Measure) -> str:
  where = ', '.join([f'batch size {gain.batch_size}', *axis_names(gain.axes)])
  clear = abs(gain.gain) > gain.error
  if not measure.is_share:
    return _other_gain_sentence(gain, measure, f'At {where}', clear)
  better = (gain.gain > 0) == measure.larger_is_better
  verb = ('gains' if better else 'loses') if clear else 'shows no clear difference:'
  return (
    f'At {where}, each at its best rate, {gain.schedule} {verb} '
    f'{100 * gain.gain:+.1f} ± {100 * gain.error:.1f} points over {gain.over}.'
  )


def _other_gain_sentence(gain: Gain, measure: Measure, where: str, clear: bool) -> str:
  """The sentence for a measure that is not a share of images, and may be better if smaller."""
  way = ('a higher' if gain.gain > 0 else 'a lower') if clear else 'no clearly different'
  return (
    f'{where}, each at its best rate, {gain.schedule} has {way} {measure.name} than {gain.over}: '
    f'by {gain.gain:+.3g} ± {gain.error:.2g}.'
  )


def axis_names(axes: Mapping[str, Any]) -> list[str]:
  """Values on axes for a sentence: ['optimizer.momentum 0.9']."""
  return [f'{name} {rounds.value_text(value)}' for name, value in axes.items()]
