"""What the range tests of fastai and Lightning suggest, from one trial whose rate climbs.

Both raise the rate exponentially from step to step (Smith, 2017, Cyclical Learning Rates for
Training Neural Networks) and read a rate off the smoothed curve of the loss; here from the curve
of a trial with the schedule `exponential`.
"""

import numpy as np

_BETA = 0.98  # of the running mean, in both
_DIVERGED = 4.0  # times the best smoothed loss; both stop there


def suggestions(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
  """What each rule suggests.

  Args:
    rates: (steps,), rising.
    losses: (steps,), as they were; NaN or infinite once the trial diverged.

  Returns:
    A rate by the name of the rule; None where the curve is too short for it.
  """
  rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
  return fastai(rates, losses) | {'lightning': lightning(rates, losses)}


def fastai(rates: np.ndarray, losses: np.ndarray) -> dict[str, float | None]:
  """The rules `valley` (its default), `steep` and `minimum` (a tenth of it).

  fastai, callback/schedule.py and learner.py (AvgSmoothLoss): the mean is corrected for its
  start; a tenth of the planned steps at the start and the last five are left out.
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
  """The rate at the steepest fall of the loss by the rate itself, not by its logarithm.

  Lightning, pytorch/tuner/lr_finder.py: the mean is corrected as if it were a step older; the
  first ten steps and the last one are left out.
  """
  smooth = _smoothed(losses, 2)
  used = slice(10, _stop(smooth, 2) - 1)
  rates, smooth = rates[used], smooth[used]
  rates, smooth = rates[np.isfinite(smooth)], smooth[np.isfinite(smooth)]
  if len(smooth) < 2:
    return None
  return float(rates[np.gradient(smooth, rates).argmin()])


def _smoothed(losses: np.ndarray, age: int) -> np.ndarray:
  """Running means, (steps,), divided by the weight that losses have in them; `age` at step 1."""
  means, mean = np.empty(len(losses)), 0.0
  for step, loss in enumerate(losses):
    mean = _BETA * mean + (1 - _BETA) * loss
    means[step] = mean / (1 - _BETA ** (step + age))
  return means


def _stop(smooth: np.ndarray, first: int) -> int:
  """Steps until one, the `first` at the earliest, whose smoothed loss is far above the best."""
  best = np.minimum.accumulate(smooth)  # NaN from the first one on: no step is above that
  before = np.concatenate([smooth[:1], best[:-1]])
  bad = smooth > _DIVERGED * before
  bad[: first - 1] = False
  return int(bad.argmax()) + 1 if bad.any() else len(smooth)


def _valley(smooth: np.ndarray) -> int:
  """A point half-way down the longest falling part: its middle third's middle.

  The part is a longest falling subsequence, which may skip points; its start is taken as if it
  skipped none, as fastai does.
  """
  lengths = np.ones(len(smooth), int)  # of the longest that ends here
  for i in range(1, len(smooth)):
    lengths[i] = 1 + np.max(lengths[:i][smooth[:i] > smooth[i]], initial=0)
  end = int(lengths.argmax()) if lengths.max() > 1 else 0
  start = end - int(lengths[end]) if end else 0
  third = (end - start) / 3
  return start + int(third) + int(third / 2)
