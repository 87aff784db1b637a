"""From the curves to the answer: each trial's status, the best rate, and what the others did."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lr_study import formats
from lr_study.history import History

CONVERGED, NOT_LEARNING, DIVERGED = 'converged', 'not_learning', 'diverged'

# A trial whose training loss ends above this share of the loss of guessing has learned nothing.
# Guessing the classes' frequencies costs their entropy; a network that sits on that plateau
# wanders about it by some hundredths, and one that has left it is soon far below.
GUESSING_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
  """How one trial ended. Losses in nats, accuracies as fractions; None where it diverged.

  `first_bad_step` counts from 1; `last_finite_loss` is that of the step before.
  """

  learning_rate: float
  seed: int
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
  update_ratio: float | None = None  # of the last step: its update's norm, by the weights'
  sharpness: float | None = None  # at the end, None where it was not measured; see curvature.py
  sharpness_edge: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The answer to "which learning rate?".

  `indistinguishable`: the rates whose validation accuracy is within the sampling error of the
  best one's (see `judge`), the best first. `probability_best`: None, since one seed a rate
  cannot tell. `largest_stable`: the largest rate with no diverged trial at it or below.
  """

  learning_rate: float | None
  sentence: str
  indistinguishable: tuple[float, ...]
  probability_best: dict[str, float] | None
  largest_stable: float | None
  edge_of_ladder: bool


def entropy(labels: np.ndarray) -> float:
  """The loss of guessing in nats: the entropy of the labels' frequencies."""
  shares = np.bincount(labels) / len(labels)
  shares = shares[shares > 0]
  return float(-np.sum(shares * np.log(shares)))


def first_bad_step(history: History, trial: int) -> int | None:
  """The first step, from 1, whose loss or gradient is not finite; None if there is none.

  A last update that breaks the weights shows in the evaluation only: then it is that step.
  """
  finite = np.isfinite(history.steps['loss'][:, trial])
  finite &= np.isfinite(history.steps['gradient_norm'][:, trial])
  if not finite.all():
    return int(np.argmin(finite)) + 1
  last = [history.epochs[name][-1, trial] for name in ('train_loss', 'validation_loss')]
  return None if np.isfinite(last).all() else len(finite)


def results(
  history: History,
  learning_rates: Sequence[float],
  seeds: Sequence[int],
  guessing_loss: float,
  steps: Sequence[int],
) -> list[Result]:
  """Judges each trial of a finished study, which trained for `steps` steps.

  diverged: a training loss or gradient, or the last evaluation, was infinite or NaN.
  not_learning: the training loss at the end is not below `GUESSING_SHARE` of guessing's.
  converged: any other.
  """
  trials = enumerate(zip(learning_rates, seeds, steps, strict=True))
  return [_result(history, trial, *of_trial, guessing_loss) for trial, of_trial in trials]


def _result(
  history: History, trial: int, rate: float, seed: int, steps: int, guessing_loss: float
) -> Result:
  losses = history.steps['loss'][:, trial]
  per_epoch = len(losses) // len(history.epochs['train_loss'])
  bad = first_bad_step(history, trial)
  last = {name: _finite(curve[-1, trial]) for name, curve in history.epochs.items()}
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
      f'training loss {formats.loss(last["train_loss"])} at the end; '
      f'guessing costs {formats.loss(guessing_loss)}'
    )
  return Result(rate, seed, status, evidence, bad, last_loss, steps, steps // per_epoch, **last)


def _finite(value: float) -> float | None:
  return float(value) if np.isfinite(value) else None


def judge(trials: Sequence[Result], validation_labels: np.ndarray) -> Verdict:
  """Names the best rate: highest mean validation accuracy over its seeds, then lowest loss.

  A rate that diverged or did not learn with any seed cannot be the best. An accuracy p of n
  images and s seeds is known to +- 1.96 sqrt(q (1 - q) / (n + 4) + v / s): the error of counting
  (Agresti and Coull, 1998: q is p with two right and two wrong images added) and, with several
  seeds, that of their mean, v being their variance. Two rates cannot be told apart if they
  differ by less than the root of the sum of both errors squared. What another seed would change
  one seed cannot tell.
  """
  images = len(validation_labels)
  chance = np.bincount(validation_labels).max() / images
  by_rate = {}
  for trial in trials:
    by_rate.setdefault(trial.learning_rate, []).append(trial)
  rates = sorted(by_rate)
  status = {rate: _worst([t.status for t in by_rate[rate]]) for rate in rates}
  learned = [rate for rate in rates if status[rate] == CONVERGED]
  diverged = [rate for rate in rates if status[rate] == DIVERGED]
  stable = [rate for rate in rates if not diverged or rate < diverged[0]]
  largest_stable = stable[-1] if stable else None
  if not learned:
    return Verdict(None, _nothing_learned(by_rate), (), None, largest_stable, True)

  def values(rate, name):
    return [getattr(trial, name) for trial in by_rate[rate]]

  accuracy = {rate: float(np.mean(values(rate, 'validation_accuracy'))) for rate in learned}
  error = {rate: _error(values(rate, 'validation_accuracy'), images) for rate in learned}
  best = min(learned, key=lambda r: (-accuracy[r], float(np.mean(values(r, 'validation_loss')))))
  alike = [r for r in learned if accuracy[best] - accuracy[r] <= math.hypot(error[best], error[r])]
  alike.sort(key=lambda rate: -accuracy[rate])
  edge = len(rates) > 1 and best in (rates[0], rates[-1])
  seeds = len(by_rate[best])
  others = {rate: found for rate, found in by_rate.items() if rate not in alike}
  parts = [
    f'Use {formats.rate(best)}: validation accuracy {formats.percent(accuracy[best])} '
    f'(± {100 * error[best]:.1f} from counting {images} images'
    + (f' and from {seeds} seeds).' if seeds > 1 else ').'),
    _chance(accuracy[best] - error[best], chance),
    _alike(best, alike),
    _side({r: found for r, found in others.items() if r > best}, 'up', 'did worse'),
    _side(
      {r: found for r, found in others.items() if r < best}, 'down', 'had not finished learning'
    ),
    _edge(best, rates) if edge else '',
  ]
  sentence = ' '.join(part for part in parts if part)
  return Verdict(best, sentence, tuple(alike), None, largest_stable, edge)


def _error(accuracies: Sequence[float], images: int) -> float:
  q = (np.mean(accuracies) * images + 2) / (images + 4)
  variance = q * (1 - q) / (images + 4)
  if len(accuracies) > 1:
    variance += np.var(accuracies, ddof=1) / len(accuracies)
  return float(1.96 * np.sqrt(variance))


def _worst(statuses: Sequence[str]) -> str:
  return max(statuses, key=(CONVERGED, NOT_LEARNING, DIVERGED).index)


def _chance(at_least: float, chance: float) -> str:
  if at_least > chance:
    return ''
  return (
    'These images cannot tell that from naming the most frequent class '
    f'({formats.percent(chance)}): train for more epochs, or on more images.'
  )


def _alike(best: float, alike: Sequence[float]) -> str:
  others = [formats.rate(rate) for rate in sorted(alike, reverse=True) if rate != best]
  return f'Not told apart from it by these images: {", ".join(others)}.' if others else ''


def _side(by_rate: dict[float, list[Result]], way: str, worse: str) -> str:
  """What the rates on one side of the best did; `way` is 'up' or 'down', away from it."""
  did = {DIVERGED: 'diverged', CONVERGED: worse, NOT_LEARNING: 'ended no better than guessing'}
  clauses = []
  for status, verb in did.items():
    rates = [r for r, found in by_rate.items() if _worst([t.status for t in found]) == status]
    if rates:
      clauses.append(f'{_names(rates, status, by_rate, way)} {verb}.')
  return ' '.join(clauses)


def _names(
  rates: Sequence[float], status: str, by_rate: dict[float, list[Result]], way: str
) -> str:
  """'Rates from 1e-02 up' if these are all from there on, with every seed; else each by name."""
  inner, *_ = sorted(rates, reverse=way == 'down')
  beyond = {rate for rate in by_rate if (rate >= inner) == (way == 'up') or rate == inner}
  whole = all(trial.status == status for rate in rates for trial in by_rate[rate])
  if len(rates) > 1 and whole and beyond == set(rates):
    return f'Rates from {formats.rate(inner)} {way}'
  names = []
  for rate in sorted(rates, reverse=True):
    count = sum(trial.status == status for trial in by_rate[rate])
    part = f' ({count} of {len(by_rate[rate])} seeds)' if count < len(by_rate[rate]) else ''
    names.append(formats.rate(rate) + part)
  return ', '.join(names)


def _edge(best: float, rates: Sequence[float]) -> str:
  if best == rates[-1]:
    return f'It is the largest rate tried: add larger ones, such as {formats.rate(best * 10)}.'
  return f'It is the smallest rate tried: add smaller ones, such as {formats.rate(best / 10)}.'


def _nothing_learned(by_rate: dict[float, list[Result]]) -> str:
  statuses = {trial.status for found in by_rate.values() for trial in found}
  smaller, larger = formats.rate(min(by_rate) / 10), formats.rate(max(by_rate) * 10)
  if statuses == {DIVERGED}:
    return f'No rate works: all diverged. Add smaller ones, such as {smaller}.'
  advice = f'or add larger rates, such as {larger}'
  if DIVERGED in statuses:
    advice = 'or add rates between those that diverged and those that did not'
  found = _side(by_rate, 'up', 'learned with some seeds only')
  every = ' with every seed' if max(map(len, by_rate.values())) > 1 else ''
  return f'No rate learned{every}. {found} Train for more epochs, {advice}.'
