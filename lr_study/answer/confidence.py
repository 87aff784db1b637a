"""How sure a comparison of rates is: intervals, and the rates that may be the best."""

import functools

import numpy as np
import scipy  # imports its parts, which takes long, only when they are used

from lr_study.answer.measure import BALANCED, Measure

LEVEL = 0.9  # of every interval and of the set of rates that may be the best
STATED = f'{100 * LEVEL:g} %'
_DRAWS = 10_000  # gives a probability to within 0.005, and a bound to within 2 % of its length

# Rates are compared on the same images, so most of the error of counting images cancels in a
# difference, and part of the rest is already in the differences between seeds. The remainder
# depends on how rates disagree image by image, which accuracies do not show. It is set to this
# share of the variance that independent images would give. The share measured in
# docs/calibration.json (scripts/calibrate.py) is 0.002; it may be larger on data on which rates
# disagree more.
SHARE_OF_IMAGES = 0.05


def counted(labels: np.ndarray, measure: Measure) -> float:
  """The number of images on which a share with the same noise would be counted.

  A balanced accuracy is the mean over k classes of shares of n_1, ..., n_k images. At equal shares
  its variance is that of k^2 / (1 / n_1 + ... + 1 / n_k) images. For a measure that is not a share,
  the number is infinite.

  Args:
    labels: of the validation images, (images,).
    measure: the figure.
  """
  if measure == BALANCED:
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return len(counts) ** 2 / float(np.sum(1 / counts))
  return len(labels) if measure.is_share else np.inf


def interval(accuracies: np.ndarray, images: float) -> tuple[float, float]:
  """The interval that holds the mean accuracy over all seeds and images with probability `LEVEL`.

  The variance of the mean is v / s, where s seeds have the variance v, plus q (1 - q) / (n + 4)
  for n images, where q is the mean with two right and two wrong images added (Agresti and Coull,
  "Approximate is better than exact", 1998). A variance from s - 1 degrees of freedom needs
  Student's quantile; for a sum of two variances, the degrees of freedom are those of Welch and
  Satterthwaite (1946). Resampling three seeds would give an interval of half the width, which holds
  the truth far too rarely.

  Args:
    accuracies: (seeds,), as fractions. With one seed, the interval covers only counting noise.
    images: on which each was counted; infinite for a figure that is not a share of images, such as
      a loss: then only the seeds have noise, and the interval is not limited to 0 to 1.

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
  """The probability that each rate is the best, and the set of rates that may be the best.

  Model: accuracy = rate + seed + error, since the trials of a seed share weights and order. The
  effect of a seed on all rates cancels. The errors have one variance, pooled over the rates, with
  (rates - 1)(seeds - 1) degrees of freedom; with three seeds, a separate variance per rate would
  have two. `SHARE_OF_IMAGES` of the variance of counting is added.

  Suppose that all rates were equal, which is the hardest case. In `LEVEL` of all studies, the best
  of the other rates would lead a given rate by at most some margin. A rate is in the set if it
  trails the best by at most that margin (Gupta, "On some multiple decision (selection and ranking)
  rules", Technometrics 1965). Under this model the set holds the best rate with at least that
  probability; if all rates are equal but one of four has eight times the error of the others, it
  does in 81 to 87 % of simulated studies. The rates whose probabilities sum to `LEVEL` would be a
  smaller set, but it would hold the best of three equal rates in only 78 %, even if the model
  holds.

  With one seed the full variance of counting is used, which is too much for the images, and there
  is no term for the seeds.

  Args:
    accuracies: (seeds, rates), as fractions; or other figures, of which the largest is best.
    images: on which each was counted; infinite for a figure that is not a share of images.

  Returns:
    Probabilities (rates,), assuming that all rates are equally likely beforehand, and booleans
    (rates,).
  """
  mean = accuracies.mean(0)
  errors = _errors(accuracies, images)
  best = np.argmax(mean[:, None] + errors, axis=0)
  probability = np.bincount(best, minlength=len(mean)) / _DRAWS
  return probability, mean.max() - mean <= _leads(errors)


def _errors(accuracies: np.ndarray, images: float) -> np.ndarray:
  """Draws of the errors of the means, (rates, draws); the same in every run."""
  seeds, rates = accuracies.shape
  mean = accuracies.mean(0)
  of_counting = np.asarray(_of_counting(mean, images))[:, None]
  freedom = (rates - 1) * (seeds - 1)
  normal, chi_square = _standard(rates, max(1, freedom))
  if not freedom:
    return normal * np.sqrt(of_counting)
  left = accuracies - mean - accuracies.mean(1, keepdims=True) + mean.mean()
  # The variance is estimated from few degrees of freedom, hence Student's distribution.
  of_seeds = np.sum(left**2) / chi_square / seeds
  return normal * np.sqrt(of_seeds + SHARE_OF_IMAGES * of_counting)


@functools.lru_cache(maxsize=1)
def _standard(rates: int, freedom: int) -> tuple[np.ndarray, np.ndarray]:
  """Draws of normal variables, (rates, draws), and of chi-square variables, (draws,)."""
  draw = np.random.default_rng(0)
  return draw.normal(size=(rates, _DRAWS)), draw.chisquare(freedom, _DRAWS)


def _leads(errors: np.ndarray) -> np.ndarray:
  """The `LEVEL` quantile of the lead of the best other rate over each rate, if all are equal."""
  if len(errors) == 1:
    return np.zeros(1)
  *_, second, first = np.sort(errors, axis=0)
  best_other = np.where(errors == first, second, first)
  return np.quantile(best_other - errors, LEVEL, axis=1)


def _of_counting(share: np.ndarray | float, images: float) -> np.ndarray | float:
  """The variance of a share counted on `images` images; the share may be 0 or 1."""
  if np.isinf(images):
    return np.zeros_like(share)
  q = (share * images + 2) / (images + 4)
  return q * (1 - q) / (images + 4)
