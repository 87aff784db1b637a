"""How sure a comparison of rates is: intervals, and which rates may be the best."""

import functools

import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for

from lr_study.answer.measure import BALANCED, Measure

LEVEL = 0.9  # of every interval and of the set of rates that may be the best
STATED = f'{100 * LEVEL:g} %'
_DRAWS = 10_000  # a probability is known to 0.005 then, and a bound to 2 % of its length

# Rates are compared on the same images, so most of the error of counting them cancels in a
# difference, and part of the rest is in the differences between seeds already. What stays depends
# on how the rates disagree image by image, which accuracies do not tell: of the variance of a
# difference that independent images would give, this share. It is 0.002 in
# docs/calibration.json (scripts/calibrate.py); data on which rates disagree more may have more.
SHARE_OF_IMAGES = 0.05


def counted(labels: np.ndarray, measure: Measure) -> float:
  """The images, (images,), that a share of so much noise was counted on.

  A balanced accuracy is the mean over k classes of shares of n_1, ..., n_k images; at the same
  share its variance is that of k^2 / (1 / n_1 + ... + 1 / n_k) images. What is no share counts no
  images: infinitely many.
  """
  if measure == BALANCED:
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return len(counts) ** 2 / float(np.sum(1 / counts))
  return len(labels) if measure.is_share else np.inf


def interval(accuracies: np.ndarray, images: float) -> tuple[float, float]:
  """Where the mean accuracy over all seeds and all images is, with probability `LEVEL`.

  The variance of the mean is v / s, where s seeds have the variance v, plus q (1 - q) / (n + 4)
  for n images: q is the mean with two right and two wrong images added (Agresti and Coull,
  "Approximate is better than exact", 1998). A variance from s - 1 degrees of freedom needs
  Student's quantile; for a sum of two they are Welch's and Satterthwaite's (1946). Resampling
  three seeds would give an interval of half the width that holds the truth far too seldom.

  Args:
    accuracies: (seeds,), as fractions. One seed: the interval is that of counting alone.
    images: that each was counted on; infinite for a figure that is no share of images, as a loss:
      then the seeds alone have noise, and the interval may end anywhere.

  Returns:
    Both ends, as fractions.
  """
  seeds, mean = len(accuracies), float(np.mean(accuracies))
  of_seeds = float(np.var(accuracies, ddof=1)) / seeds if seeds > 1 else 0.0
  variance = of_seeds + _of_counting(mean, images)
  freedom = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds else np.inf
  half = float(scipy.special.stdtrit(freedom, (1 + LEVEL) / 2)) * np.sqrt(variance)
  if np.isinf(images):
    return float(mean - half), float(mean + half)
  return max(0.0, float(mean - half)), min(1.0, float(mean + half))


def compare(accuracies: np.ndarray, images: float) -> tuple[np.ndarray, np.ndarray]:
  """The probability that each rate is the best, and which rates cannot be told apart from it.

  Model: accuracy = rate + seed + error, since the trials of a seed share weights and order.
  What a seed does to all rates drops out; the errors have one variance, pooled over the rates,
  with (rates - 1)(seeds - 1) degrees of freedom: with three seeds a variance of each rate's own
  would have two. Then comes `SHARE_OF_IMAGES` of the variance of counting.

  A rate is in the set if it trails the best by no more than the best of the others would lead
  it in `LEVEL` of all studies if all rates were equal, the case that is hardest to tell (Gupta,
  "On some multiple decision (selection and ranking) rules", Technometrics 1965). So the set
  holds the best rate with at least that probability under this model; if all rates are equal but
  one of four has eight times the others' error, in 81 to 87 % of simulated studies. The rates
  whose probabilities sum to `LEVEL` would be fewer, but hold the best of three equal ones in
  78 % only, model or not.

  With one seed all of the variance of counting is taken, which is too much for the images, and
  nothing stands for the seeds.

  Args:
    accuracies: (seeds, rates), as fractions; or other figures, of which the largest is best.
    images: that each was counted on; infinite for a figure that is no share of images.

  Returns:
    Probabilities (rates,), for rates that are as likely one as the other beforehand, and
    booleans (rates,).
  """
  mean = accuracies.mean(0)
  errors = _errors(accuracies, images)
  best = np.argmax(mean[:, None] + errors, axis=0)
  probability = np.bincount(best, minlength=len(mean)) / _DRAWS
  return probability, mean.max() - mean <= _leads(errors)


def _errors(accuracies: np.ndarray, images: float) -> np.ndarray:
  """Draws of what the means may be wrong by, (rates, draws); the same in every run."""
  seeds, rates = accuracies.shape
  mean = accuracies.mean(0)
  of_counting = _of_counting(mean, images)[:, None]
  freedom = (rates - 1) * (seeds - 1)
  normal, chi_square = _standard(rates, max(1, freedom))
  if not freedom:
    return normal * np.sqrt(of_counting)
  left = accuracies - mean - accuracies.mean(1, keepdims=True) + mean.mean()
  # The variance is itself known from so many degrees of freedom only: Student's distribution.
  of_seeds = np.sum(left**2) / chi_square / seeds
  return normal * np.sqrt(of_seeds + SHARE_OF_IMAGES * of_counting)


@functools.lru_cache(maxsize=1)
def _standard(rates: int, freedom: int) -> tuple[np.ndarray, np.ndarray]:
  """Draws of normal, (rates, draws), and of chi-square variables, (draws,)."""
  draw = np.random.default_rng(0)
  return draw.normal(size=(rates, _DRAWS)), draw.chisquare(freedom, _DRAWS)


def _leads(errors: np.ndarray) -> np.ndarray:
  """By how much the best of the others leads each rate in `LEVEL` of all draws, if equal."""
  if len(errors) == 1:
    return np.zeros(1)
  *_, second, first = np.sort(errors, axis=0)
  best_other = np.where(errors == first, second, first)
  return np.quantile(best_other - errors, LEVEL, axis=1)


def _of_counting(share: np.ndarray | float, images: float) -> np.ndarray | float:
  """The variance of a share counted on so many images; the share itself may be 0 or 1."""
  if np.isinf(images):
    return np.zeros_like(share)
  q = (share * images + 2) / (images + 4)
  return q * (1 - q) / (images + 4)
