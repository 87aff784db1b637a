"""The range tests of fastai and Lightning: the rates that they suggest, given a loss curve.

Both raise the rate exponentially from step to step (Smith, 2017, Cyclical Learning Rates for
Training Neural Networks) and find a rate on the smoothed curve of the loss. Here the curve is that
of a trial with the schedule `exponential`.
"""

import numpy as np

_BETA = 0.98  # of the running mean, in both
_DIVERGED = 4.0  # both stop at this multiple of the best smoothed loss


def suggestions(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
  """The rate that each rule suggests.

  Args:
    rates: (steps,), rising.
    losses: (steps,), not smoothed; NaN or infinite after the trial has diverged.

  Returns:
    A rate by the name of each rule; None if the curve is too short for it.
  """
  rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
  return fastai(rates, losses) | {'lightning': lightning(rates, losses)}


def fastai(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
  """fastai's rules `valley` (its default), `steep` and `minimum` (a tenth of the rate there).

  fastai, callback/schedule.py and learner.py (AvgSmoothLoss): the running mean has a bias
  correction; the first tenth of the planned steps and the last five steps are left out.
  """
  smooth = _smoothed(losses, 1)
  used = slice(len(losses) // 10, _stop(smooth, 1) - 5)
  rates, smooth = rates[used], smooth[used]
  known = np.isnan(smooth).argmax() if np.isnan(smooth).any() else len(smooth)
  rates, smooth = rates[:known], smooth[:known]
  if known < 2:
    return dict.fromkeys(('valley', 'steep', 'minimum'))
  slopes = np.diff(smooth) / np.diff(np.log(rates))
  return {
    'valley': float(rates[_valley(smooth)]),
    'steep': float(rates[slopes.argmin()]),
    'minimum': float(rates[smooth.argmin()]) / 10,
  }


def lightning(rates: np.ndarray, losses: np.ndarray) -> float | None:
  """The rate at which the loss falls most steeply against the rate, not against its logarithm.

  Lightning, pytorch/tuner/lr_finder.py: the bias correction of the running mean is off by one step;
  the first ten steps and the last one are left out.
  """
  smooth = _smoothed(losses, 2)
  used = slice(10, _stop(smooth, 2) - 1)
  rates, smooth = rates[used], smooth[used]
  rates, smooth = rates[np.isfinite(smooth)], smooth[np.isfinite(smooth)]
  if len(smooth) < 2:
    return None
  return float(rates[np.gradient(smooth, rates).argmin()])


def _smoothed(losses: np.ndarray, age: int) -> np.ndarray:
  """Running means with bias correction, (steps,); `age` is the exponent of the first step."""
  means, mean = np.empty(len(losses)), 0.0
  for step, loss in enumerate(losses):
    mean = _BETA * mean + (1 - _BETA) * loss
    means[step] = mean / (1 - _BETA ** (step + age))
  return means


def _stop(smooth: np.ndarray, first: int) -> int:
  """The number of steps up to the first, not before `first`, with a loss far above the best."""
  best = np.minimum.accumulate(smooth)  # NaN from the first NaN on: no step is above that
  before = np.concatenate([smooth[:1], best[:-1]])
  bad = smooth > _DIVERGED * before
  bad[: first - 1] = False
  return int(bad.argmax()) + 1 if bad.any() else len(smooth)


def _valley(smooth: np.ndarray) -> int:
  """The point in the middle of the longest falling part of the curve.

  The part is a longest falling subsequence, which may skip points. Its start is computed as if it
  did not skip any, like fastai's.
  """
  lengths = np.ones(len(smooth), int)  # of the longest one that ends here
  for i in range(1, len(smooth)):
    lengths[i] = 1 + np.max(lengths[:i][smooth[:i] > smooth[i]], initial=0)
  end = int(lengths.argmax()) if lengths.max() > 1 else 0
  start = end - int(lengths[end]) if end else 0
  third = (end - start) / 3
  return start + int(third) + int(third / 2)
