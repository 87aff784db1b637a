"""Claims and the figure of configs/studies/seeds.py."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import Claim, estimated, is_above, is_below
from lr_study.studies.table import Table

_SEEDS = (1, 2, 3, 5, 10)  # of a study
_DRAWS = 400  # divisions of all seeds into studies
_APART = {'a quarter of a decade': 1, 'half a decade': 2, 'a decade': 4}  # every n-th rate


class Named(NamedTuple):
  """How often studies name the wrong rate, its 95 % interval, and the points that it costs them."""

  wrong: float
  low: float
  high: float
  cost: float


def named(accuracy: np.ndarray, seeds: int) -> Named:
  """Of studies of so many seeds, drawn from those of `accuracy`, (rates, seeds).

  Each is judged by the mean of the seeds that it does not have. Of rates with the same accuracy,
  the smallest is named.
  """
  count = accuracy.shape[1]
  random = np.random.default_rng(0)
  total, wrong, cost = accuracy.sum(1), [], []
  for _ in range(_DRAWS if seeds > 1 else 1):
    order = random.permutation(count)[: count // seeds * seeds]
    of_study = accuracy[:, order.reshape(-1, seeds)].sum(2)  # (rates, studies)
    truth = (total[:, None] - of_study) / (count - seeds)
    chosen = of_study.argmax(0)
    lost = truth.max(0) - truth[chosen, np.arange(len(chosen))]
    wrong.append(np.mean(chosen != truth.argmax(0)))
    cost.append(lost.mean())
  share, studies = float(np.mean(wrong)), count // seeds
  ends = stats.binomtest(round(share * studies), studies).proportion_ci(method='wilson')
  low, high = min(ends.low, share), max(ends.high, share)
  return Named(share, float(low), float(high), float(np.mean(cost)))


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """How often studies of one seed and of three are wrong, and what helps."""
  grids = {int(part): rates.accuracies(of)[1] for part, of in tables.items()}
  found = [_share(images, of, seeds) for seeds in (1, 3) for images, of in grids.items()]
  middle = grids[1500]
  return [
    *found,
    *(_apart(title, middle[::every]) for title, every in _APART.items() if every > 1),
    *(_lead(images, of) for images, of in grids.items()),
  ]


def _share(images: int, accuracy: np.ndarray, seeds: int) -> Claim:
  found = named(accuracy, seeds)
  plural = 'one seed' if seeds == 1 else f'{seeds} seeds'
  return estimated(
    f'wrong with {plural}, {images} images',
    (found.wrong, found.low, found.high),
    f'With {images:,} training images, studies of {plural} name the wrong rate in '
    f'{_per_cent(found)}; on average that costs {found.cost:.2f} points of accuracy.',
    'Bouthillier et al. 2021: variance misleads' if seeds == 1 else '',
    # Misled: more often wrong than the 5 % that a test would allow.
    is_above(0.05, found.low, found.high) if seeds == 1 else None,
  )


def _apart(title: str, accuracy: np.ndarray) -> Claim:
  found = named(accuracy, 1)
  return estimated(
    f'wrong with rates {title} apart',
    (found.wrong, found.low, found.high),
    f'With rates {title} apart and 1,500 images, one seed is wrong in {_per_cent(found)}; that '
    f'costs {found.cost:.2f} points.',
    'Mark III Systems: one run per rate, a decade apart' if 'half' not in title else '',
  )


def _lead(images: int, accuracy: np.ndarray) -> Claim:
  """How far the best rate leads, in deviations of that lead between seeds."""
  best, second = np.argsort(-accuracy.mean(1))[:2]
  lead = accuracy[best] - accuracy[second]
  random = np.random.default_rng(0)
  drawn = lead[random.integers(len(lead), size=(1000, len(lead)))]
  ratio, ratios = lead.mean() / lead.std(ddof=1), drawn.mean(1) / drawn.std(1, ddof=1)
  low, high = np.percentile(ratios, (2.5, 97.5))
  return estimated(
    f'lead in deviations, {images} images',
    (float(ratio), float(low), float(high)),
    f'With {images:,} training images the best rate leads the second by {lead.mean():.2f} points, '
    f'and that lead varies by {lead.std(ddof=1):.2f} between seeds: {ratio:.2f} deviations (95 % '
    f'interval {low:.2f} to {high:.2f}).',
    'Jordan 2023: seeds make rates hard to compare',
    is_below(1, low, high),
  )


def _per_cent(found: Named) -> str:
  return (
    f'{100 * found.wrong:.0f} % of cases (95 % interval {100 * found.low:.0f} to '
    f'{100 * found.high:.0f} %)'
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """How often a study is wrong, and what that costs, over its seeds."""
  figure = Figure(figsize=(6.8, 2.6), layout='constrained')
  left, right = figure.subplots(1, 2)
  for i, (part, of) in enumerate(tables.items()):
    accuracy, colour = rates.accuracies(of)[1], PALETTE[(1, 2, 7)[i]]
    found = [named(accuracy, seeds) for seeds in _SEEDS]
    label = f'{int(part):,} training images'
    shifted = np.asarray(_SEEDS) * 1.03 ** (i - 1)  # or the intervals would hide one another
    wrong = 100 * np.asarray([(of.wrong, of.low, of.high) for of in found])
    errors = [wrong[:, 0] - wrong[:, 1], wrong[:, 2] - wrong[:, 0]]
    left.errorbar(shifted, wrong[:, 0], errors, fmt='o-', color=colour, elinewidth=0.6, label=label)
    right.plot(_SEEDS, [of.cost for of in found], 'o-', color=colour, label=label)
  for axes in (left, right):
    axes.set(xscale='log', xlabel='seeds of the study')
    axes.set_xticks(_SEEDS, map(str, _SEEDS))
    axes.minorticks_off()
    axes.set_ylim(0, None)
  left.set_ylabel('studies that name the wrong rate (%)')
  right.set_ylabel('accuracy lost on average (points)')
  right.legend(loc='upper right')
  return {'seeds': figure}
