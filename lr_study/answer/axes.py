"""The answer of a study with several settings: one verdict per setting, and how they compare."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lr_study import formats
from lr_study.answer import confidence, effects, landscape
from lr_study.answer.effects import Gain, Growth, axis_names
from lr_study.answer.landscape import Landscape
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict, judge
from lr_study.search import rounds
from lr_study.search.rounds import Setting

_NAMED = 3  # settings that a sentence names


@dataclasses.dataclass(frozen=True)
class Standing:
  """How a setting compares with the others, each at its best rate.

  `value`: the mean of the measure over the seeds at `learning_rate`; both are None if no rate can
  be used. `probability_best` and `may_be_best`: computed as for rates in confidence.py, in pairs
  over seeds; the former is None with one seed.
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
    """The setting that this describes."""
    return Setting.of(self)


@dataclasses.dataclass(frozen=True)
class Answer:
  """The answer of a study. `verdict` is that of the best setting; its sentence covers the others.

  `standings`: one per setting, if there are several. `landscapes`: one per setting.
  """

  verdict: Verdict
  of_setting: dict[Setting, Verdict]
  growth: tuple[Growth, ...]
  gains: tuple[Gain, ...]
  standings: tuple[Standing, ...] = ()
  landscapes: tuple[Landscape, ...] = ()


def answer(
  results: Sequence[Result],
  labels: np.ndarray,
  measure: Measure,
  guessing_loss: float,
  edge_only: bool = False,
  noun: str = 'images',
) -> Answer:
  """The answer of a study, from the results of all trials.

  Args:
    results: of all trials.
    labels: of the validation images, (images,).
    measure: the leading one.
    guessing_loss: the loss of guessing the classes' frequencies, in nats.
    edge_only: the runs were short, only to find where training becomes unstable.
    noun: what samples are called; see `samples.noun`.
  """
  of_setting: dict[Setting, list[Result]] = {}
  for result in results:
    of_setting.setdefault(result.setting, []).append(result)
  verdicts = {s: judge(found, labels, measure, noun) for s, found in of_setting.items()}
  if edge_only:
    verdicts = {
      s: dataclasses.replace(verdict, sentence=_edge_sentence(verdict, of_setting[s]))
      for s, verdict in verdicts.items()
    }
  ended = _ended_early(of_setting)
  for setting, of_all in ended.items():
    epochs = max(r.epochs for r in of_setting[setting])
    said = f'The search ended this setting after {epochs} of {of_all} epochs, when its answer was: '
    verdicts[setting] = dataclasses.replace(
      verdicts[setting], sentence=said + verdicts[setting].sentence
    )
  landscapes: tuple[Landscape, ...] = ()
  if not edge_only:
    landscapes = landscape.landscapes(results, verdicts, measure, guessing_loss)
  if len(verdicts) == 1:
    (only,) = verdicts.values()
    return Answer(only, verdicts, (), (), (), landscapes)
  values = {
    s: {} if s in ended else _of_best(found, verdicts[s], measure)
    for s, found in of_setting.items()
  }
  best = max(verdicts, key=lambda s: (s not in ended, _mean_score(values[s], measure)))
  if edge_only:  # such short runs cannot tell which rate and setting learn best
    told = (f'With {_names(s, verdicts)}: {found.sentence}' for s, found in verdicts.items())
    verdict = dataclasses.replace(verdicts[best], sentence=' '.join(told))
    return Answer(verdict, verdicts, (), (), ())
  at_the_end = {s: verdict for s, verdict in verdicts.items() if s not in ended}
  growth = effects.growth(of_setting, at_the_end, measure)
  gains = effects.gains(values, len(labels) if measure.is_share else math.inf)
  names, count = _names(best, verdicts), len(verdicts)
  opening = f'Of {count} settings, each at its best rate, the best {measure.name} is with {names}.'
  if verdicts[best].learning_rate is None:
    opening = _none_to_use(len(at_the_end), len(ended)) + f' With {names}:'
  standings = _standings(values, verdicts, confidence.counted(labels, measure), measure)
  sentences = (
    opening,
    verdicts[best].sentence,
    *_standing_sentences(standings, best, measure, len(values[best]), len(ended), noun),
    *effects.sentences(growth, gains, best, measure),
  )
  verdict = dataclasses.replace(verdicts[best], sentence=' '.join(sentences))
  return Answer(verdict, verdicts, growth, gains, standings, landscapes)


def _ended_early(of_setting: dict[Setting, list[Result]]) -> dict[Setting, int]:
  """Settings whose trials all ended before those of other settings, with the epochs of the latter.

  Only settings of the same batch size are compared, because epochs may depend on the batch size.
  """
  longest: dict[Setting, int] = {}
  for setting, found in of_setting.items():
    if stable := [r.epochs for r in found if r.status != DIVERGED]:
      longest[setting] = max(stable)
  most: dict[int, int] = {}
  for setting, epochs in longest.items():
    most[setting.batch_size] = max(epochs, most.get(setting.batch_size, 0))
  return {s: most[s.batch_size] for s, epochs in longest.items() if epochs < most[s.batch_size]}


def _none_to_use(settings: int, ended: int) -> str:
  """The sentence if no setting that trained to the end has a rate to use."""
  if not ended:
    return f'None of {settings} settings has a rate to use.'
  if settings == 1:
    return 'The one setting that trained to the end has no rate to use.'
  return f'None of the {settings} settings that trained to the end has a rate to use.'


def _standings(
  values: dict[Setting, dict[int, float]],
  verdicts: dict[Setting, Verdict],
  images: float,
  measure: Measure,
) -> tuple[Standing, ...]:
  """Compares the settings at their best rates; settings without a usable rate cannot be best."""
  compared = [setting for setting, of in values.items() if of]
  seeds = set.intersection(*(set(values[setting]) for setting in compared)) if compared else set()
  probability, alike = {}, set(compared) if len(compared) == 1 else set()
  if len(compared) > 1 and seeds:
    scores = [[measure.score(values[s][seed]) for s in compared] for seed in sorted(seeds)]
    found, is_alike = confidence.compare(np.asarray(scores), images)
    alike = {setting for setting, yes in zip(compared, is_alike, strict=True) if yes}
    if math.isinf(images) and len(seeds) == 1:
      alike = set(compared)  # the noise of one figure is unknown unless it is a share of images
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
  standings: Sequence[Standing],
  best: Setting,
  measure: Measure,
  seeds: int,
  ended: int,
  samples: str,
) -> list[str]:
  """Which of the other settings may be just as good, and which did worse; [] if there are none.

  Args:
    standings: of all settings.
    best: the recommended setting.
    measure: the leading one.
    seeds: how many the best setting has.
    ended: how many settings the search ended early.
    samples: what they are called.
  """
  settings = [standing.setting for standing in standings]
  others = [s for s in standings if s.learning_rate is not None and s.setting != best]
  alike = [f'{_names(s.setting, settings)}' for s in others if s.may_be_best]
  by = ['seeds'] * (seeds > 1) + [samples] * measure.is_share
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
      which += ' with a rate to use'  # the others have none
    elif not alike:
      which = f'The other {noun}'
    said.append(f'{which} did worse{"" if seeds > 1 else f" on these {samples}"}.')
  if ended:
    said.append(f'The search ended {formats.count(ended, "setting")} early.')
  return said


def _of_best(results: Sequence[Result], verdict: Verdict, measure: Measure) -> dict[int, float]:
  """Seed -> value at the rate that the verdict recommends; empty if it recommends none."""
  return {
    result.seed: value
    for result in results
    if result.learning_rate == verdict.learning_rate
    and (value := value_of(result, measure)) is not None
  }


def _mean_score(values: dict[int, float], measure: Measure) -> float:
  return measure.score(float(np.mean(list(values.values())))) if values else -math.inf


def _names(setting: Setting, among: Iterable[Setting]) -> str:
  """A setting in a sentence: batch size and schedule, or what varies if there are other axes."""
  axes = rounds.varied(setting, among)
  parts = []
  if not axes or len({other.batch_size for other in among}) > 1:
    parts.append(f'batch size {setting.batch_size}')
  if not axes or len({other.schedule for other in among}) > 1:
    parts.append(f'the schedule {setting.schedule}')
  return formats.joined(parts + axis_names(axes))


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
    f'a factor of {broken / stable:.2f} above, {length}. Such short runs cannot tell which rate '
    'learns best.'
  )
