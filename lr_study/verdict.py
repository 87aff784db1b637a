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
  history: History, learning_rates: Sequence[float], seeds: Sequence[int], guessing_loss: float
) -> list[Result]:
  """Judges each trial of a finished study.

  diverged: a training loss or gradient, or the last evaluation, was infinite or NaN.
  not_learning: the training loss at the end is not below `GUESSING_SHARE` of guessing's.
  converged: any other.
  """
  return [
    _result(history, trial, rate, seed, guessing_loss)
    for trial, (rate, seed) in enumerate(zip(learning_rates, seeds, strict=True))
  ]


def _result(history: History, trial: int, rate: float, seed: int, guessing_loss: float) -> Result:
  losses = history.steps['loss'][:, trial]
  bad = first_bad_step(history, trial)
  last = {name: float(curve[-1, trial]) for name, curve in history.epochs.items()}
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
  return Result(
    rate,
    seed,
    status,
    evidence,
    bad,
    last_loss,
    len(losses),
    len(history.epochs['train_loss']),
    **last,
  )


def judge(trials: Sequence[Result], validation_labels: np.ndarray) -> Verdict:
  """Names the best rate: highest mean validation accuracy over its seeds, then lowest loss.

  A rate that diverged or did not learn with any seed cannot be the best. Two rates cannot be
  told apart if their accuracies p and q differ by less than 1.96 sqrt((p (1 - p) + q (1 - q)) /
  images): the error of counting on so many validation images (normal approximation to the
  binomial, 95 %). What another seed would change comes on top, and one seed cannot tell it.
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
    sentence = _nothing_learned(rates, status)
    return Verdict(None, sentence, (), None, largest_stable, True)

  def mean(rate, name):
    return float(np.mean([getattr(t, name) for t in by_rate[rate]]))

  accuracy = {rate: mean(rate, 'validation_accuracy') for rate in learned}
  best = min(learned, key=lambda rate: (-accuracy[rate], mean(rate, 'validation_loss')))
  error = {
    rate: 1.96 * math.sqrt(accuracy[rate] * (1 - accuracy[rate]) / images) for rate in learned
  }
  alike = [r for r in learned if accuracy[best] - accuracy[r] <= math.hypot(error[best], error[r])]
  alike.sort(key=lambda rate: -accuracy[rate])
  edge = len(rates) > 1 and best in (rates[0], rates[-1])
  parts = [
    f'Use {formats.rate(best)}: validation accuracy {formats.percent(accuracy[best])} '
    f'(± {100 * error[best]:.1f} from counting {images} images).',
    _chance(accuracy[best] - error[best], chance),
    _alike(best, alike),
    _above([r for r in rates if r > best], status),
    _below([r for r in rates if r < best and r not in alike], status),
    _edge(best, rates) if edge else '',
  ]
  sentence = ' '.join(part for part in parts if part)
  return Verdict(best, sentence, tuple(alike), None, largest_stable, edge)


def _worst(statuses: Sequence[str]) -> str:
  return max(statuses, key=(CONVERGED, NOT_LEARNING, DIVERGED).index)


def _chance(at_least: float, chance: float) -> str:
  if at_least > chance:
    return ''
  return (
    f'That is no better than naming the most frequent class ({formats.percent(chance)}): train '
    'for more epochs, or on more images.'
  )


def _alike(best: float, alike: Sequence[float]) -> str:
  others = [formats.rate(rate) for rate in sorted(alike, reverse=True) if rate != best]
  return f'Not told apart from it by these images: {", ".join(others)}.' if others else ''


def _above(rates: Sequence[float], status: dict[float, str]) -> str:
  """What happened above the best rate; `rates` rise."""
  clauses = []
  first_bad = next((r for r in rates if status[r] == DIVERGED), None)
  if first_bad is not None:
    all_above = all(status[r] == DIVERGED for r in rates if r >= first_bad)
    several = sum(r >= first_bad for r in rates) > 1 and all_above
    gone = [formats.rate(r) for r in rates if status[r] == DIVERGED]
    clauses.append(
      f'Rates from {formats.rate(first_bad)} up diverged.'
      if several
      else f'{", ".join(gone)} diverged.'
    )
  idle = [formats.rate(r) for r in rates if status[r] == NOT_LEARNING]
  if idle:
    clauses.append(f'{", ".join(idle)} ended no better than guessing.')
  return ' '.join(clauses)


def _below(rates: Sequence[float], status: dict[float, str]) -> str:
  """What happened below the best rate and those like it; `rates` rise."""
  if not rates:
    return ''
  idle = [rate for rate in rates if status[rate] == NOT_LEARNING]
  text = f'From {formats.rate(rates[-1])} down the network had not finished learning'
  if idle:
    text += f', from {formats.rate(idle[-1])} down it had learned nothing'
  return text + '.'


def _edge(best: float, rates: Sequence[float]) -> str:
  if best == rates[-1]:
    return f'It is the largest rate tried: add larger ones, such as {formats.rate(best * 10)}.'
  return f'It is the smallest rate tried: add smaller ones, such as {formats.rate(best / 10)}.'


def _nothing_learned(rates: Sequence[float], status: dict[float, str]) -> str:
  if all(status[rate] == DIVERGED for rate in rates):
    return f'No rate works: all diverged. Add smaller ones, such as {formats.rate(rates[0] / 10)}.'
  idle = [formats.rate(rate) for rate in rates if status[rate] == NOT_LEARNING]
  gone = [formats.rate(rate) for rate in rates if status[rate] == DIVERGED]
  text = f'No rate learned: {", ".join(idle)} ended no better than guessing'
  text += f' and {", ".join(gone)} diverged. ' if gone else '. '
  return text + 'Train for more epochs, or add rates between these.'
