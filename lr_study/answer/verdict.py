"""Turns curves into the answer: each trial's status, the best rate, and how the others did."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lr_study import formats
from lr_study.answer import confidence, sentence, status
from lr_study.answer.measure import ACCURACY, Measure, value_of
from lr_study.answer.sentence import UNMEASURED
from lr_study.answer.status import DIVERGED, ENDED_EARLY, LEARNED, Chance, Trend
from lr_study.files.history import EPOCH_CURVES, History
from lr_study.search.rounds import Planned, Setting


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of one trial. Losses in nats, accuracies as fractions; None if it diverged.

  `first_bad_step` counts from 1; `last_finite_loss` is the last finite one up to it. The figures
  are those of the last epoch, or of `best_epoch` (from 1) if the study compares the best epochs of
  trials. `train_loss` and `train_accuracy` are means over the steps of that epoch. `metrics`: other
  metrics by the names of their curves, such as 'validation_top5'. `axes`: the trial's value on each
  other axis, such as 'optimizer.weight_decay'.

  The status is based on these (see status.py): `train_loss_at_end`, the mean over the `last_steps`
  steps; `train_loss_change`, the rise of a straight line through them, with its interval, None if
  there are too few steps; the interval of the accuracy; and `chance`, the accuracy of guessing.
  """

  learning_rate: float
  seed: int
  batch_size: int
  schedule: str
  status: str
  evidence: str
  first_bad_step: int | None
  last_finite_loss: float | None
  steps: int
  epochs: int
  train_loss: float | None
  train_accuracy: float | None
  validation_loss: float | None
  validation_accuracy: float | None
  validation_balanced_accuracy: float | None = None
  update_ratio: float | None = None  # norm of the last step's update, divided by the weights'
  sharpness: float | None = None  # at the end, None if it was not measured; see curvature.py
  sharpness_edge: float | None = None
  critical_sharpness: float | None = None
  best_epoch: int | None = None
  train_loss_at_end: float | None = None
  last_steps: int | None = None
  train_loss_change: float | None = None
  train_loss_change_low: float | None = None
  train_loss_change_high: float | None = None
  accuracy_low: float | None = None
  accuracy_high: float | None = None
  chance: float | None = None
  metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def setting(self) -> Setting:
    """The setting: what was fixed in its search."""
    return Setting.of(self)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The answer to "which learning rate?", for one setting.

  `indistinguishable`: the rates that may be the best, the recommended one first.
  `probability_best`: of each rate; 0 if the rate cannot be best (see `judge`), None with one seed.
  See confidence.py for both. `intervals`: of each rate's measure; None if a trial diverged, or if
  there is one seed and the measure is not a share of images. `largest_stable`: the largest rate
  such that no trial diverged at it or below. Keys are rates as written by `formats.rate`.
  `edge_of_ladder`: the recommended rate is at an end of the grid, or there is none. `measure`,
  `is_share` and `larger_is_better`: the leading measure, see `Measure`. `axes`: the setting's value
  on each other axis.
  """

  learning_rate: float | None
  batch_size: int
  schedule: str
  sentence: str
  measure: str
  indistinguishable: tuple[float, ...]
  probability_best: dict[str, float] | None
  intervals: dict[str, tuple[float, float] | None]
  largest_stable: float | None
  edge_of_ladder: bool
  is_share: bool = True
  larger_is_better: bool = True
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __str__(self) -> str:
    return self.sentence

  def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # in a notebook
    printer.text(self.sentence)

  @property
  def setting(self) -> Setting:
    """The setting that this is the answer for."""
    return Setting.of(self)

  @property
  def leads(self) -> Measure:
    """The leading measure."""
    return Measure(self.measure, self.is_share, self.larger_is_better)


def results(
  history: History,
  trials: Sequence[Planned],
  labels: np.ndarray,
  steps: Sequence[int],
  measure: Measure = ACCURACY,
  at_best: bool = False,
) -> list[Result]:
  """Judges each trial of a finished wave by the tests of status.py.

  Args:
    history: of the wave, one column per trial.
    trials: of the wave.
    labels: of the validation images, (images,).
    steps: how many each trial trained.
    measure: the leading one.
    at_best: take the figures of the epoch at which the measure was best, not of the last one. The
      trend of the loss is always that of the end.
  """
  chance = status.chance_of(labels, measure)
  bad = history.first_bad_steps(0, len(history.steps['loss']), evaluated=True)
  columns = enumerate(zip(trials, steps, bad, strict=True))
  best = measure if at_best else None
  return [_result(history, column, *of_trial, chance, best) for column, of_trial in columns]


def _result(
  history: History,
  column: int,
  trial: Planned,
  steps: int,
  bad_step: int,
  chance: Chance,
  at_best: Measure | None,
) -> Result:
  per_epoch, losses = history.steps_per_epoch, history.steps['loss'][:, column]
  bad = int(bad_step) or None
  epoch, best_epoch = trial.epochs - 1, None
  if at_best and bad is None:
    epoch = _best_epoch(history.epochs[at_best.field][: trial.epochs, column], at_best)
    best_epoch = epoch + 1
  figures = {name: _known(curve[epoch, column]) for name, curve in history.epochs.items()}
  last_loss, tested = None, dict[str, Any]()
  if bad is not None:
    finite = losses[:bad][np.isfinite(losses[:bad])]
    last_loss = float(finite[-1]) if len(finite) else None
    figures = dict.fromkeys(figures)
    found, evidence = DIVERGED, _broke(history, column, bad, last_loss)
  else:
    found, evidence, tested = _judged(losses, per_epoch, figures, chance, best_epoch)
  return Result(
    trial.learning_rate,
    trial.seed,
    trial.batch_size,
    trial.schedule,
    found,
    evidence,
    bad,
    last_loss,
    steps,
    steps // per_epoch,
    **dict[str, Any]({name: figures[name] for name in EPOCH_CURVES}),
    best_epoch=best_epoch,
    **tested,
    metrics={name: value for name, value in figures.items() if name not in EPOCH_CURVES},
    axes=dict(trial.axes),
  )


def _judged(
  losses: np.ndarray,
  per_epoch: int,
  figures: dict[str, float | None],
  chance: Chance,
  best_epoch: int | None,
) -> tuple[str, str, dict[str, float | None]]:
  """The status of a trial that did not diverge, its evidence, and the numbers behind both."""
  trend, value = status.trend(losses, per_epoch), figures[chance.measure.field]
  # An accuracy is not finite if predictions are not finite: none of them is right.
  ends = confidence.interval(np.asarray([value or 0.0]), chance.images)
  found = status.of(ends, chance, trend)
  when = f' at its best epoch, {best_epoch}' if best_epoch else ''
  accuracy = (
    f'{chance.measure.name} {formats.percent(value)}{when} ({confidence.STATED} interval '
    f'{chance.measure.between(ends)}); guessing reaches {formats.percent(chance.share)}'
  )
  numbers = {
    'train_loss_at_end': trend.loss,
    'last_steps': trend.steps,
    'train_loss_change': trend.change,
    'train_loss_change_low': trend.low,
    'train_loss_change_high': trend.high,
    'accuracy_low': ends[0],
    'accuracy_high': ends[1],
    'chance': chance.share,
  }
  parts = [_trend(trend), accuracy]
  return found, '; '.join(parts if found in LEARNED else parts[::-1]), numbers


def _trend(trend: Trend) -> str:
  """What the training loss did at the end."""
  number = f'last {trend.steps} steps' if trend.steps > 1 else 'last step'
  loss = f'training loss {formats.loss(trend.loss)} over the {number}'
  if trend.change is None:
    return f'{loss}, too few to tell whether it fell'
  small = ''
  if trend.high < 0 and trend.is_small:
    small = f', less than {formats.percent(status.SMALLEST_FALL, 0)} of it'
  return (
    f'{loss}, in which it changed by {trend.change:+.2g} ({confidence.STATED} interval '
    f'{trend.low:+.2g} to {trend.high:+.2g}){small}'
  )


def _broke(history: History, column: int, bad: int, last_loss: float | None) -> str:
  """What was not finite at a trial's first bad step."""
  broken = [
    f'the {name}'
    for name, curve in (('loss', 'loss'), ('gradient', 'gradient_norm'))
    if not np.isfinite(history.steps[curve][bad - 1, column])
  ]
  what = f'{" and ".join(broken)} of step {bad} {"were" if len(broken) > 1 else "was"}'
  if not broken:
    what = f'the evaluation after step {bad}, the last, was'
  return f'{what} not finite; the last finite loss was {formats.loss(last_loss)}'


def _best_epoch(curve: np.ndarray, measure: Measure) -> int:
  """The first epoch (from 0) with the best value; the last epoch if no value is finite."""
  known = np.isfinite(curve)
  if not known.any():
    return len(curve) - 1
  return int(np.argmax(np.where(known, measure.score(curve), -np.inf)))


def _known(value: np.floating) -> float | None:
  return float(value) if np.isfinite(value) else None


def judge(
  trials: Sequence[Result],
  validation_labels: np.ndarray,
  measure: Measure = ACCURACY,
  noun: str = 'images',
) -> Verdict:
  """Finds the best rate: best mean of the measure over its seeds, then lowest validation loss.

  Only rates that learned by `status.of_rate` count. confidence.py compares the others with it.

  Args:
    trials: of one setting; the same seeds at each rate.
    validation_labels: (images,).
    measure: the leading one.
    noun: what the sentence calls the samples.
  """
  images = confidence.counted(validation_labels, measure)
  by_rate: dict[float, list[Result]] = {}
  for trial in sorted(trials, key=lambda t: (t.learning_rate, t.seed)):
    by_rate.setdefault(trial.learning_rate, []).append(trial)
  rates, did = list(by_rate), _did(by_rate)
  chance = status.chance_of(validation_labels, measure)
  words = {
    rate: status.of_rate(did[rate], [value_of(t, chance.measure) for t in found], chance)
    for rate, found in by_rate.items()
  }
  diverged = [rate for rate in rates if DIVERGED in did[rate]]
  stable = [rate for rate in rates if not diverged or rate < diverged[0]]
  values = {
    rate: np.asarray([value_of(trial, measure) for trial in found], np.float64)
    for rate, found in by_rate.items()
    if rate not in diverged
  }
  intervals = {formats.rate(rate): _interval(values.get(rate), images) for rate in rates}
  learned = [rate for rate in rates if words[rate] in LEARNED]
  measured = [rate for rate in learned if np.isfinite(values[rate]).all()]
  setting = trials[0].setting

  def answer(best, said, alike, sure, edge):
    of_setting = (setting.batch_size, setting.schedule)
    largest_stable = stable[-1] if stable else None
    found: tuple[Any, ...] = (alike, sure, intervals, largest_stable, edge)
    found += (*measure[1:], dict(setting.axes))
    return Verdict(best, *of_setting, said, measure.field, *found)

  if not measured:
    said = sentence.none_to_use(by_rate, did, words, measure, chance, len(validation_labels), noun)
    return answer(None, said, (), None, True)

  loss = {rate: np.mean([t.validation_loss for t in by_rate[rate]]) for rate in measured}
  best, *_ = ranked = sorted(
    measured, key=lambda rate: (-measure.score(values[rate].mean()), loss[rate])
  )
  scores = np.stack([measure.score(values[rate]) for rate in ranked], 1)
  found, is_alike = confidence.compare(scores, images)
  alike = tuple(rate for rate, yes in zip(ranked, is_alike, strict=True) if yes)
  sure = None
  if len(values[best]) > 1:
    sure = dict.fromkeys(map(formats.rate, rates), 0.0)
    sure |= {formats.rate(rate): float(p) for rate, p in zip(ranked, found, strict=True)}
  edge = len(rates) > 1 and best in (rates[0], rates[-1])
  said = sentence.use(
    by_rate[best],
    measure,
    intervals[formats.rate(best)],
    len(validation_labels),
    float(found[0]) if sure and len(measured) > 1 else None,
    alike,
    did,
    {r: words[r] if r in measured or words[r] not in LEARNED else UNMEASURED for r in rates},
    noun,
  )
  return answer(best, said, alike, sure, edge)


def _did(by_rate: dict[float, list[Result]]) -> dict[float, list[str]]:
  """The status of each seed of each rate, or `ENDED_EARLY`.

  A trial ended early if it did not diverge and another such trial trained for more epochs.
  """
  trials = [trial for found in by_rate.values() for trial in found]
  longest = max((t.epochs for t in trials if t.status != DIVERGED), default=0)
  return {
    rate: [ENDED_EARLY if t.status != DIVERGED and t.epochs < longest else t.status for t in found]
    for rate, found in by_rate.items()
  }


def _interval(values: np.ndarray | None, images: float) -> tuple[float, float] | None:
  """The interval of the mean of a rate's values; None if one is missing or the noise is unknown."""
  if values is None or not np.isfinite(values).all() or (np.isinf(images) and len(values) < 2):
    return None
  return confidence.interval(values, images)
