"""From the curves to the answer: each trial's status, the best rate, and what the others did."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lr_study import formats
from lr_study.answer import confidence
from lr_study.answer.measure import ACCURACY, BALANCED, Measure, value_of
from lr_study.files.history import EPOCH_CURVES, History
from lr_study.search.rounds import Planned, Setting

CONVERGED, NOT_LEARNING, DIVERGED = 'converged', 'not_learning', 'diverged'
ENDED_EARLY = 'ended_early'  # of a rate in the sentence; no trial's own status

# A trial whose training loss ends above this share of the loss of guessing has learned nothing.
# Guessing the classes' frequencies costs their entropy; a network that sits on that plateau
# wanders about it by some hundredths, and one that has left it is soon far below.
GUESSING_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
  """How one trial ended. Losses in nats, accuracies as fractions; None where it diverged.

  `first_bad_step` counts from 1; `last_finite_loss` is that of the step before. The figures are
  those of the last epoch; or of `best_epoch`, from 1, if the study goes by each trial's best one.
  `metrics`: further ones by the names of their curves, as 'validation_top5'. `axes`: the trial's
  value on each further axis, as 'optimizer.weight_decay'.
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
  validation_balanced_accuracy: float | None = None  # studies before it had a curve have none
  update_ratio: float | None = None  # of the last step: its update's norm, by the weights'
  sharpness: float | None = None  # at the end, None where it was not measured; see curvature.py
  sharpness_edge: float | None = None
  best_epoch: int | None = None
  metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def setting(self) -> Setting:
    """What its search held fixed."""
    return Setting(self.batch_size, self.schedule, tuple(self.axes.items()))


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The answer to "which learning rate?", for one setting.

  `indistinguishable`: the rates that may be the best, the recommended one first; confidence.py
  says how they are found, and `probability_best`: of each rate, 0 where it cannot be (see
  `judge`), None with one seed, which cannot tell. `intervals`: of each rate's measure, None where
  a trial diverged, and for one seed of what is no share of images. `largest_stable`: the largest
  rate with no diverged trial at it or below. Keys are rates as in `formats.rate`. `measure`,
  `is_share` and `larger_is_better`: the figure that leads, see `Measure`. `axes`: the setting's
  value on each further axis.
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
    """What it is the answer for."""
    return Setting(self.batch_size, self.schedule, tuple(self.axes.items()))

  @property
  def leads(self) -> Measure:
    """The measure that it goes by."""
    return Measure(self.measure, self.is_share, self.larger_is_better)


def entropy(labels: np.ndarray) -> float:
  """The loss of guessing in nats: the entropy of the labels' frequencies."""
  shares = np.bincount(labels) / len(labels)
  shares = shares[shares > 0]
  return float(-np.sum(shares * np.log(shares)))


def first_bad_step(history: History, trial: int, steps: int) -> int | None:
  """The first step, from 1, whose loss or gradient is not finite; None if there is none.

  A last update that breaks the weights shows in the evaluation only: then it is that step.

  Args:
    history: has the trial's curves.
    trial: its column.
    steps: that it was to train, to the end of an epoch.
  """
  finite = np.isfinite(history.steps['loss'][:steps, trial])
  finite &= np.isfinite(history.steps['gradient_norm'][:steps, trial])
  if not finite.all():
    return int(np.argmin(finite)) + 1
  epoch = steps // history.steps_per_epoch - 1
  last = [history.epochs[name][epoch, trial] for name in ('train_loss', 'validation_loss')]
  return None if np.isfinite(last).all() else steps


def results(
  history: History,
  trials: Sequence[Planned],
  guessing_loss: float,
  steps: Sequence[int],
  at_best: Measure | None = None,
) -> list[Result]:
  """Judges each trial of a finished wave, which trained for `steps` steps.

  diverged: a training loss or gradient, or the last evaluation, was infinite or NaN.
  not_learning: the training loss at the end is not below `GUESSING_SHARE` of guessing's.
  converged: any other.

  With `at_best` the figures, and the training loss above, are those of the epoch at which this
  measure was best, and not of the last one.
  """
  columns = enumerate(zip(trials, steps, strict=True))
  return [
    _result(history, column, *of_trial, guessing_loss, at_best) for column, of_trial in columns
  ]


def _result(
  history: History,
  column: int,
  trial: Planned,
  steps: int,
  guessing_loss: float,
  at_best: Measure | None,
) -> Result:
  losses, per_epoch = history.steps['loss'][:, column], history.steps_per_epoch
  bad = first_bad_step(history, column, trial.epochs * per_epoch)
  epoch, best_epoch, when = trial.epochs - 1, None, 'at the end'
  if at_best and bad is None:
    epoch = _best_epoch(history.epochs[at_best.field][: trial.epochs, column], at_best)
    best_epoch, when = epoch + 1, f'at its best epoch, {epoch + 1}'
  last = {name: _known(curve[epoch, column]) for name, curve in history.epochs.items()}
  if bad is not None:
    finite = losses[:bad][np.isfinite(losses[:bad])]
    last_loss = float(finite[-1]) if len(finite) else None
    status = DIVERGED
    evidence = f'not finite from step {bad} on; the last finite loss was {formats.loss(last_loss)}'
    last = dict.fromkeys(last)
  else:
    last_loss = None
    learned = last['train_loss'] < GUESSING_SHARE * guessing_loss
    status = CONVERGED if learned else NOT_LEARNING
    evidence = (
      f'training loss {formats.loss(last["train_loss"])} {when}; '
      f'guessing costs {formats.loss(guessing_loss)}'
    )
  return Result(
    trial.learning_rate,
    trial.seed,
    trial.batch_size,
    trial.schedule,
    status,
    evidence,
    bad,
    last_loss,
    steps,
    steps // per_epoch,
    **{name: last[name] for name in EPOCH_CURVES},
    best_epoch=best_epoch,
    metrics={name: value for name, value in last.items() if name not in EPOCH_CURVES},
    axes=dict(trial.axes),
  )


def _best_epoch(curve: np.ndarray, measure: Measure) -> int:
  """The first of the epochs, from 0, whose value is best; the last one if none is finite."""
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
) -> Verdict:
  """Names the best rate: best mean of the measure over its seeds, then lowest validation loss.

  A rate that diverged, did not learn or was ended early with any seed cannot be the best: who
  follows the advice trains once. What makes the others differ is judged in confidence.py.

  Args:
    trials: of one setting; the same seeds at each rate.
    validation_labels: (images,).
    measure: that leads.
  """
  images, chance = _counted(validation_labels, measure)
  longest = max((t.epochs for t in trials if t.status != DIVERGED), default=0)
  by_rate, did = {}, {}
  for trial in sorted(trials, key=lambda t: (t.learning_rate, t.seed)):
    by_rate.setdefault(trial.learning_rate, []).append(trial)
  for rate, found in by_rate.items():
    did[rate] = [_did(trial, longest) for trial in found]
  rates = list(by_rate)
  learned = [rate for rate in rates if _worst(did[rate]) == CONVERGED]
  diverged = [rate for rate in rates if _worst(did[rate]) == DIVERGED]
  stable = [rate for rate in rates if not diverged or rate < diverged[0]]
  largest_stable = stable[-1] if stable else None
  values = {
    rate: np.asarray([value_of(trial, measure) for trial in found], np.float64)
    for rate, found in by_rate.items()
    if rate not in diverged
  }
  intervals = {formats.rate(rate): _interval(values.get(rate), images) for rate in rates}
  setting = trials[0].setting

  def answer(best, sentence, alike, sure, edge):
    of_setting = (setting.batch_size, setting.schedule)
    found = (alike, sure, intervals, largest_stable, edge, *measure[1:], dict(setting.axes))
    return Verdict(best, *of_setting, sentence, measure.field, *found)

  measured = [rate for rate in learned if np.isfinite(values[rate]).all()]
  if not measured:
    why = f'No rate that learned has a finite {measure.name}.' if learned else None
    return answer(None, why or _nothing_learned(did), (), None, True)

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
  parts = [
    _use(by_rate[best], measure, intervals[formats.rate(best)], len(validation_labels)),
    _how_sure(float(found[0]), len(measured)) if sure else _ONE_SEED,
    '' if chance is None else _chance(intervals[formats.rate(best)][0], chance),
    _alike(best, alike, _by(measure, sure is not None)),
    *_others(best, {rate: of_rate for rate, of_rate in did.items() if rate not in alike}),
    _edge(best, rates) if edge else '',
  ]
  return answer(best, ' '.join(part for part in parts if part), alike, sure, edge)


def _counted(labels: np.ndarray, measure: Measure) -> tuple[float, float | None]:
  """The images that a share of so much noise was counted on, and the accuracy of guessing.

  A balanced accuracy is the mean over k classes of shares of n_1, ..., n_k images; at the same
  share its variance is that of k^2 / (1 / n_1 + ... + 1 / n_k) images. What is no share counts no
  images: infinitely many. Only an accuracy has one of guessing.
  """
  counts = np.bincount(labels)
  counts = counts[counts > 0]
  if measure == BALANCED:
    return len(counts) ** 2 / float(np.sum(1 / counts)), 1 / len(counts)
  if measure == ACCURACY:
    return len(labels), counts.max() / len(labels)
  return len(labels) if measure.is_share else np.inf, None


def _interval(values: np.ndarray | None, images: float) -> tuple[float, float] | None:
  """That of the mean of a rate's values; None if one is missing, or if none tells of any noise."""
  if values is None or not np.isfinite(values).all() or (np.isinf(images) and len(values) < 2):
    return None
  return confidence.interval(values, images)


def _did(trial: Result, longest: int) -> str:
  """Its status, but `ENDED_EARLY` where others that did not diverge went on to `longest` epochs."""
  return ENDED_EARLY if trial.status != DIVERGED and trial.epochs < longest else trial.status


def _worst(did: Sequence[str]) -> str:
  return max(did, key=(CONVERGED, NOT_LEARNING, ENDED_EARLY, DIVERGED).index)


def _use(
  trials: Sequence[Result], measure: Measure, interval: tuple[float, float] | None, images: int
) -> str:
  """The rate of these trials, its seeds, and what they reached."""
  value = measure.show(float(np.mean([value_of(trial, measure) for trial in trials])))
  when = ' at its best epoch' if trials[0].best_epoch else ''
  said = f'Use {formats.rate(trials[0].learning_rate)}: {measure.name} {value}{when}'
  if interval is None:
    return f'{said}.'
  seeds = [f'{len(trials)} seeds'] if len(trials) > 1 else []
  counted = [f'{images} images'] if measure.is_share else []
  by = ' and '.join(seeds + counted) if seeds else f'counting {counted[0]}'
  return f'{said} ({confidence.STATED} interval {measure.between(interval)}, from {by}).'


def _by(measure: Measure, seeds: bool) -> str:
  """What rates are told apart by."""
  if not measure.is_share:
    return 'seeds' if seeds else 'figures'
  return 'seeds and images' if seeds else 'images'


def _how_sure(probability: float, learned: int) -> str:
  if learned == 1:
    return ''  # the best of one
  return f'It is the best with a probability of {formats.percent(probability, 0)}.'


_ONE_SEED = 'One seed cannot tell how sure that is: --config.seeds=0,1,2 trains three.'


def _chance(at_least: float, chance: float) -> str:
  if at_least > chance:
    return ''
  return (
    'These images cannot tell that from naming the most frequent class '
    f'({formats.percent(chance)}): train for more epochs, or on more images.'
  )


def _alike(best: float, alike: Sequence[float], by: str) -> str:
  others = ', '.join(formats.rate(rate) for rate in sorted(alike, reverse=True) if rate != best)
  return f'Not told apart from it by these {by}: {others}.' if others else ''


def _others(best: float, did: dict[float, list[str]]) -> tuple[str, str]:
  above, below = ({r: d for r, d in did.items() if (r > best) == up} for up in (True, False))
  return _side(above, 'up', 'did worse'), _side(below, 'down', 'had not finished learning')


def _side(did: dict[float, list[str]], way: str, worse: str) -> str:
  """What the rates on one side of the best did; `way` is 'up' or 'down', away from it."""
  verbs = {
    DIVERGED: 'diverged',
    CONVERGED: worse,
    NOT_LEARNING: 'ended no better than guessing',
    ENDED_EARLY: 'ended early',
  }
  clauses = []
  for status, verb in verbs.items():
    rates = [rate for rate, found in did.items() if _worst(found) == status]
    if rates:
      clauses.append(f'{_names(rates, status, did, way)} {verb}.')
  return ' '.join(clauses)


def _names(rates: Sequence[float], status: str, did: dict[float, list[str]], way: str) -> str:
  """'Rates from 1e-02 up' if these are all from there on, with every seed; else each by name."""
  inner, *_ = sorted(rates, reverse=way == 'down')
  beyond = {rate for rate in did if (rate >= inner) == (way == 'up') or rate == inner}
  whole = all(found == status for rate in rates for found in did[rate])
  if len(rates) > 1 and whole and beyond == set(rates):
    return f'Rates from {formats.rate(inner)} {way}'
  names = []
  for rate in sorted(rates, reverse=True):
    count = did[rate].count(status)
    part = f' ({count} of {len(did[rate])} seeds)' if count < len(did[rate]) else ''
    names.append(formats.rate(rate) + part)
  return ', '.join(names)


def _edge(best: float, rates: Sequence[float]) -> str:
  if best == rates[-1]:
    return f'It is the largest rate tried: add larger ones, such as {formats.rate(best * 10)}.'
  return f'It is the smallest rate tried: add smaller ones, such as {formats.rate(best / 10)}.'


def _nothing_learned(did: dict[float, list[str]]) -> str:
  statuses = {status for found in did.values() for status in found}
  smaller, larger = formats.rate(min(did) / 10), formats.rate(max(did) * 10)
  if statuses == {DIVERGED}:
    return f'No rate works: all diverged. Add smaller ones, such as {smaller}.'
  advice = f'or add larger rates, such as {larger}'
  if DIVERGED in statuses:
    advice = 'or add rates between those that diverged and those that did not'
  found = _side(did, 'up', 'learned with some seeds only')
  every = ' with every seed' if max(map(len, did.values())) > 1 else ''
  return f'No rate learned{every}. {found} Train for more epochs, {advice}.'
