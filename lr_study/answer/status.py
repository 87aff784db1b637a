"""The tests behind every word that a verdict has for a trial: pure functions of its numbers.

diverged         a loss, a gradient or the last evaluation was not finite
at_chance        the interval of its validation accuracy does not lie above what guessing reaches
still_improving  it lies above, and the training loss was falling beyond its noise
plateaued        it lies above, and the training loss was not
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for

from lr_study.answer import confidence
from lr_study.answer.measure import ACCURACY, BALANCED, Measure
from lr_study.data.checks import leading_measure

DIVERGED, AT_CHANCE = 'diverged', 'at_chance'
STILL_IMPROVING, PLATEAUED = 'still_improving', 'plateaued'
LEARNED = (STILL_IMPROVING, PLATEAUED)
STATUSES = (DIVERGED, AT_CHANCE, *LEARNED)
ENDED_EARLY = 'ended_early'  # of a rate in the sentence; no trial's own status

# Where "the end" begins. A slope must be told from the noise of single batches, and its error
# falls as the length to the power 1.5: the last fifth would have to fall twice as fast as the last
# third to be seen. A third is late enough; schedules of three parts have their last one there. A
# third of a short training is too few steps; then it is the last `FEWEST`, or half of all.
STRETCH = 1 / 3
FEWEST = 100
BLOCKS = 10  # whose means the slope is fitted to: neighbouring steps are not independent

# A fall that is beyond its noise may still be nothing: long smooth curves show the smallest one. A
# loss that loses less than this share of itself over the stretch is as good as flat.
SMALLEST_FALL = 0.01


def first_bad_step(
  loss: np.ndarray, gradient_norm: np.ndarray, last_evaluation: np.ndarray | None = None
) -> np.ndarray:
  """The first step, from 1, whose loss or gradient is not finite; 0 where there is none.

  A last update that breaks the weights shows in the evaluation only: then it is that step.

  Args:
    loss: (steps, ...), of one trial or of several.
    gradient_norm: likewise.
    last_evaluation: (...), the validation loss after the last of these steps, if it was measured.
  """
  bad = ~(np.isfinite(loss) & np.isfinite(gradient_norm))
  first = np.where(bad.any(0), bad.argmax(0) + 1, 0) if len(bad) else np.zeros(bad.shape[1:], int)
  if last_evaluation is None:
    return first
  return np.where((first == 0) & ~np.isfinite(last_evaluation), len(loss), first)


class Chance(NamedTuple):
  """What guessing reaches: `share` by `measure`, which counts as many `images`."""

  measure: Measure
  share: float
  images: float


def chance_of(labels: np.ndarray, leads: Measure) -> Chance:
  """What a trial must be told from to have learned.

  By the accuracy that leads; where another measure does, by balanced accuracy if the classes are
  so unequal that it would lead, else by accuracy. Guessing reaches the share of the most frequent
  class, or of a balanced accuracy the share of one class among all.

  Args:
    labels: of the validation images, (images,).
    leads: what the study goes by.
  """
  if leads not in (ACCURACY, BALANCED):
    leads = BALANCED if leading_measure(labels) == BALANCED.field else ACCURACY
  counts = np.bincount(labels)
  counts = counts[counts > 0]
  share = 1 / len(counts) if leads == BALANCED else counts.max() / len(labels)
  return Chance(leads, float(share), confidence.counted(labels, leads))


def is_at_chance(interval: tuple[float, float], chance: Chance) -> bool:
  """True unless the whole interval of an accuracy lies above what guessing reaches."""
  return interval[0] <= chance.share


class Trend(NamedTuple):
  """The training loss over the last stretch of a trial.

  steps: of the stretch. loss: its mean over them. change: what a straight line through it rises
  by from the first of these steps to the last, in the loss's unit; below 0 where it falls. low,
  high: the change's `confidence.LEVEL` interval. None, all three, where there are too few steps.
  """

  steps: int
  loss: float
  change: float | None = None
  low: float | None = None
  high: float | None = None

  @property
  def is_small(self) -> bool:
    """The change is less than `SMALLEST_FALL` of the loss."""
    return abs(self.change) < SMALLEST_FALL * abs(self.loss)

  @property
  def falls(self) -> bool:
    """Beyond its noise, at 5 %: its whole interval is below 0; and it is not small."""
    return self.change is not None and self.high < 0 and not self.is_small


def trend(losses: np.ndarray, steps_per_epoch: int) -> Trend:
  """Fits a straight line to the last stretch of a curve, and says how sure its slope is.

  To the means of blocks of steps, by least squares, with Student's t for the slope: a single step
  is far from normal, and neighbouring steps are alike. A stretch of several epochs is whole
  epochs, and compares like with like: epochs with each other where there are five of them, or else
  fifths of an epoch with the same fifth of the others. So nothing that recurs in every epoch, such
  as the same order of the images, passes for a slope.

  Args:
    losses: of every step of a trial, (steps,), all finite.
    steps_per_epoch: of them.
  """
  rows, length, places = _layout(len(losses), steps_per_epoch)
  last = losses[-rows * length :].astype(np.float64).reshape(rows, length)
  found = Trend(last.size, float(last.mean()))
  if rows * places < BLOCKS / 2:
    return found
  means = np.stack([part.mean(1) for part in np.array_split(last, places, axis=1)], 1)
  means -= means.mean(0)
  at = np.arange(rows)[:, None] - (rows - 1) / 2
  square = places * np.sum(at**2)
  slope = np.sum(at * means) / square
  freedom = rows * places - places - 1
  error = np.sqrt(np.sum((means - slope * at) ** 2) / freedom / square)
  half = scipy.special.stdtrit(freedom, (1 + confidence.LEVEL) / 2) * error
  return found._replace(
    change=float(rows * slope), low=float(rows * (slope - half)), high=float(rows * (slope + half))
  )


def _layout(steps: int, per_epoch: int) -> tuple[int, int, int]:
  """How the last stretch is cut: rows of so many steps each, and the places that a row has."""
  stretch = max(1, int(min(max(STRETCH * steps, FEWEST), steps / 2)))
  epochs = -(-stretch // per_epoch)
  if epochs > 1 and 2 * epochs * per_epoch < steps:  # one alone has none to be compared with
    if epochs >= BLOCKS / 2:
      together = max(1, epochs // BLOCKS)
      return epochs // together, together * per_epoch, 1
    if per_epoch >= BLOCKS:
      return epochs, per_epoch, BLOCKS // 2
  # Blocks of five steps or more, or else five of two: the shorter they are, the more alike.
  rows = min(BLOCKS, max(BLOCKS // 2, stretch // 5), max(1, stretch // 2))
  return rows, stretch // rows, 1


def of(interval: tuple[float, float], chance: Chance, trend: Trend) -> str:
  """The status of a trial that did not diverge."""
  if is_at_chance(interval, chance):
    return AT_CHANCE
  return STILL_IMPROVING if trend.falls else PLATEAUED


def of_rate(found: Sequence[str], accuracies: Sequence[float | None], chance: Chance) -> str:
  """The word for a rate, from what became of its seeds.

  Diverged, or ended early, if any seed was. At chance if any seed was, and either all of them
  together cannot be told from guessing, or that seed is plainly worse than they are: its whole
  interval is below their mean. Few images hide that a network has learned, the sooner the more
  seeds are asked; but who follows the advice trains once, so no seed may fail. Still improving if
  all seeds were.

  Args:
    found: the status of each seed, or `ENDED_EARLY`.
    accuracies: of each seed, by the measure of `chance`.
    chance: what guessing reaches.
  """
  for word in (DIVERGED, ENDED_EARLY):
    if word in found:
      return word
  if AT_CHANCE in found:
    values = np.asarray([value or 0.0 for value in accuracies])
    lost = [
      confidence.interval(values[i : i + 1], chance.images)[1] < values.mean()
      for i, word in enumerate(found)
      if word == AT_CHANCE
    ]
    if any(lost) or is_at_chance(confidence.interval(values, chance.images), chance):
      return AT_CHANCE
  return STILL_IMPROVING if set(found) == {STILL_IMPROVING} else PLATEAUED
