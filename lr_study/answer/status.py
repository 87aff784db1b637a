"""The tests that decide the status of a trial: pure functions of its numbers.

diverged           a loss, a gradient or the last evaluation was not finite
at_chance          the interval of the validation accuracy does not lie above that of guessing
still_improving    it lies above, and the training loss was falling beyond its noise
plateaued          it lies above, and the training loss was not falling
too_short_to_tell  it lies above, and of one or two epochs, or of a few steps, none of both shows
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # imports its parts, which takes long, only when they are used

from lr_study.answer import confidence
from lr_study.answer.measure import ACCURACY, BALANCED, Measure
from lr_study.data.checks import leading_measure

DIVERGED, AT_CHANCE = 'diverged', 'at_chance'
STILL_IMPROVING, PLATEAUED = 'still_improving', 'plateaued'
TOO_SHORT = 'too_short_to_tell'
LEARNED = (STILL_IMPROVING, PLATEAUED, TOO_SHORT)
STATUSES = (DIVERGED, AT_CHANCE, *LEARNED)
ENDED_EARLY = 'ended_early'  # for a rate in the sentence; not the status of a trial

# The share of the training that counts as its end. A slope must stand out from the noise of single
# batches, and its error falls as the length to the power 1.5: the loss would have to fall twice as
# fast to show in the last fifth as in the last third. A third is late enough; it is the last part
# of a schedule with three parts. If a third is fewer than `FEWEST` steps, it is these, but at most
# half of all steps.
STRETCH = 1 / 3
FEWEST = 100
BLOCKS = 10  # the slope is fitted to means of blocks, as neighbouring steps are not independent

# A trial of fewer epochs has learned all it knows in these: no plateau can be seen. On a set of
# photographs, no fall showed in the first epoch, after 24.7 %; epoch 13 reached 72.9 %.
FEWEST_EPOCHS = 3

# Long smooth curves show even the smallest fall beyond noise. A loss that falls by less than this
# share of itself over the stretch counts as flat.
SMALLEST_FALL = 0.01


def first_bad_step(
  loss: np.ndarray, gradient_norm: np.ndarray, last_evaluation: np.ndarray | None = None
) -> np.ndarray:
  """The first step, from 1, whose loss or gradient is not finite; 0 if there is none.

  If the last update breaks the weights, only the evaluation shows it; the result is then that step.

  Args:
    loss: (steps, ...), of one trial or of several.
    gradient_norm: likewise.
    last_evaluation: (...), the validation loss after the last of these steps, if measured.
  """
  bad = ~(np.isfinite(loss) & np.isfinite(gradient_norm))
  first = np.where(bad.any(0), bad.argmax(0) + 1, 0) if len(bad) else np.zeros(bad.shape[1:], int)
  if last_evaluation is None:
    return first
  return np.where((first == 0) & ~np.isfinite(last_evaluation), len(loss), first)


class Chance(NamedTuple):
  """The result of guessing: the value `share` of `measure`, whose noise is that of `images`."""

  measure: Measure
  share: float
  images: float


def chance_of(labels: np.ndarray, leads: Measure) -> Chance:
  """The result of guessing, which a trial must exceed to have learned.

  It uses the leading measure if that is an accuracy. Otherwise it uses balanced accuracy if the
  classes are so unequal that this would lead by default, or else accuracy. Guessing reaches the
  share of the most frequent class, or for balanced accuracy 1 / classes.

  Args:
    labels: of the validation images, (images,).
    leads: the leading measure.
  """
  if leads not in (ACCURACY, BALANCED):
    leads = BALANCED if leading_measure(labels) == BALANCED.field else ACCURACY
  counts = np.bincount(labels)
  counts = counts[counts > 0]
  share = 1 / len(counts) if leads == BALANCED else counts.max() / len(labels)
  return Chance(leads, float(share), confidence.counted(labels, leads))


def is_at_chance(interval: tuple[float, float], chance: Chance) -> bool:
  """True unless the whole interval of an accuracy lies above the result of guessing."""
  return interval[0] <= chance.share


class Trend(NamedTuple):
  """The training loss over the last stretch of a trial.

  steps: of the stretch. loss: its mean over them. change: the rise of a straight line through it
  from the first of these steps to the last, in the unit of the loss; below 0 if it falls. low,
  high: the `confidence.LEVEL` interval of the change. All three are None if there are too few
  steps. epochs: of the trial.
  """

  steps: int
  loss: float
  epochs: int
  change: float | None = None
  low: float | None = None
  high: float | None = None

  @property
  def is_small(self) -> bool:
    """True if the change is less than `SMALLEST_FALL` of the loss."""
    return abs(self.change) < SMALLEST_FALL * abs(self.loss)

  @property
  def falls(self) -> bool:
    """True if the fall is not small and beyond the noise, at 5 %: the interval is below 0."""
    return self.change is not None and self.high < 0 and not self.is_small

  @property
  def is_short(self) -> bool:
    """True if a loss that does not fall says nothing: there are too few steps or epochs."""
    return self.change is None or self.epochs < FEWEST_EPOCHS


def trend(losses: np.ndarray, steps_per_epoch: int) -> Trend:
  """Fits a straight line to the last stretch of a curve, and says how sure its slope is.

  The line is fitted to the means of blocks of steps by least squares, with Student's t for the
  slope, because a single step is far from normal and neighbouring steps are similar. A stretch of
  several epochs consists of whole epochs. If there are at least five, epochs are compared with one
  another; otherwise each fifth of an epoch is compared with the same fifth of the others. A pattern
  that recurs in every epoch, such as a fixed order of the images, is therefore not mistaken for a
  slope.

  Args:
    losses: of every step of a trial, (steps,), all finite.
    steps_per_epoch: how many steps an epoch has.
  """
  rows, length, places = _layout(len(losses), steps_per_epoch)
  last = losses[-rows * length :].astype(np.float64).reshape(rows, length)
  found = Trend(last.size, float(last.mean()), len(losses) // steps_per_epoch)
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
  """How the last stretch is divided: the number of rows, steps per row, and places per row."""
  stretch = max(1, int(min(max(STRETCH * steps, FEWEST), steps / 2)))
  epochs = -(-stretch // per_epoch)
  if epochs > 1 and 2 * epochs * per_epoch < steps:  # a single epoch cannot be compared
    if epochs >= BLOCKS / 2:
      together = max(1, epochs // BLOCKS)
      return epochs // together, together * per_epoch, 1
    if per_epoch >= BLOCKS:
      return epochs, per_epoch, BLOCKS // 2
  # Blocks of at least five steps, or else five blocks: shorter blocks are less independent.
  rows = min(BLOCKS, max(BLOCKS // 2, stretch // 5), max(1, stretch // 2))
  return rows, stretch // rows, 1


def of(interval: tuple[float, float], chance: Chance, trend: Trend) -> str:
  """The status of a trial that did not diverge."""
  if is_at_chance(interval, chance):
    return AT_CHANCE
  if trend.falls:
    return STILL_IMPROVING
  return TOO_SHORT if trend.is_short else PLATEAUED


def of_rate(found: Sequence[str], accuracies: Sequence[float | None], chance: Chance) -> str:
  """The word for a rate, from the statuses of its seeds.

  Diverged, or ended early, if any seed was. At chance if any seed was, and either the mean over
  seeds does not exceed guessing, or that seed is clearly worse: its whole interval is below the
  mean. A single seed at chance is not enough, because with few images and many seeds some network
  that has learned may look as if it had not. But a user trains once, so no seed may fail. Still
  improving if all seeds were; otherwise too short to tell if any seed was, or else plateaued.

  Args:
    found: the status of each seed, or `ENDED_EARLY`.
    accuracies: of each seed, by the measure of `chance`.
    chance: the result of guessing.
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
  if set(found) == {STILL_IMPROVING}:
    return STILL_IMPROVING
  return TOO_SHORT if TOO_SHORT in found else PLATEAUED
