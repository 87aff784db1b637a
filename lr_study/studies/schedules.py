"""Claims and the figure of configs/studies/schedules.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import trials
from lr_study.config import check
from lr_study.configs.studies.schedules import FULL, HORIZONS, get_config
from lr_study.formats import rate as written
from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import Claim, estimated, is_above, is_as_good, mean_interval, points
from lr_study.studies.table import Table

TITLES = {
  'constant': 'a constant rate', 'step_decay': 'two steps of a tenth', 'cosine': 'a cosine',
  'linear': 'a line', 'wsd': 'WSD',
}  # fmt: skip
_CLOSE = 1.0  # percentage points of accuracy: what we take for "as well as"
_SHARE = 5  # the cool-down is one part in so many; that of `schedules.wsd`
_TRUNK = 0  # in the column `horizon`


def measured(folder: Path, full: bool = False) -> dict[str, Table]:
  """Trains one run of WSD without its end, at each rate and seed, and the cool-downs off it.

  A cool-down takes the steps, the images and the rates that a whole run of its length would have
  had, from the state of the constant run.
  """
  del folder
  trunk, cooled, now = _sweeps(full)
  state_T = trunk.spread.init(now.hyper_T, now.seeds)
  curves = {horizon: np.full((HORIZONS[-1], len(now.seeds)), np.nan) for horizon in (0, *HORIZONS)}
  for epoch in range(HORIZONS[-1]):
    state_T, curves[_TRUNK][epoch] = _epoch(trunk, now, state_T, epoch)
    for horizon, sweep in cooled.items():
      if epoch + 1 != horizon - horizon // _SHARE:
        continue
      branch_T = sweep.spread.put(trunk.spread.get(state_T, len(now.seeds)))
      for later in range(epoch + 1, horizon):
        branch_T, curves[horizon][later] = _epoch(sweep, now, branch_T, later)
  ends = {_TRUNK: HORIZONS[-1], **{horizon: horizon for horizon in HORIZONS}}
  columns = {
    'horizon': np.repeat([float(of) for of in curves], len(now.seeds)),
    'learning_rate': np.tile(now.hyper_T['learning_rate'].astype(np.float64), len(curves)),
    'seed': np.tile(np.asarray(now.seeds, np.float64), len(curves)),
    'validation_accuracy': np.concatenate([of[ends[name] - 1] for name, of in curves.items()]),
  }
  return {
    'branched': Table(columns, {'validation_accuracy': np.concatenate([*curves.values()], 1)})
  }


def _sweeps(full: bool) -> tuple[trials.Sweep, dict[int, trials.Sweep], trials.Running]:
  """The constant run, the runs of WSD by their length, and the trials of each."""

  def of(part: str, epochs: int) -> ConfigDict:
    config = get_config(part, epochs)
    config.update(FULL if full else {})
    return check(config)

  config = of('constant', HORIZONS[-1])
  trunk = trials.prepare(config, datasets.load(config.data, config.image_size))
  cooled = {end: trials.in_setting(trunk, of('wsd', end)) for end in HORIZONS}
  return trunk, cooled, trials.running(trunk, np.arange(len(trunk.trials)))


def _epoch(
  sweep: trials.Sweep, now: trials.Running, state_T: Any, epoch: int
) -> tuple[Any, np.ndarray]:
  """The state after an epoch, and the validation accuracies, NaN of trials that diverged."""
  state_T, *_ = trials.train_steps(sweep, now, state_T, epoch, 0, sweep.steps_per_epoch)
  found = trials.evaluate(sweep, now, state_T)
  accuracy = np.where(np.isfinite(found['validation_loss']), found['validation_accuracy'], np.nan)
  return state_T, np.round(accuracy, 6)


def accuracies(part: Table) -> tuple[np.ndarray, np.ndarray]:
  """See `rates.accuracies`."""
  return rates.accuracies(part, 0.1)  # of ten letters, which the table of branches does not say


def at_best(part: Table) -> tuple[float, np.ndarray]:
  """The rate with the best mean accuracy, and the accuracies there, (seeds,)."""
  tried, found = accuracies(part)
  best = int(np.argmax(found.mean(1)))
  return float(tried[best]), found[best]


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """What each schedule gains over a constant rate, and whether branches do as well."""
  mark, line = 'Mark III Systems: use decay', 'Defazio et al. 2023: a line does better'
  return [
    _gain(tables, 'step_decay', 'constant', mark),
    _gain(tables, 'cosine', 'constant', mark),
    _gain(tables, 'linear', 'constant', mark),
    _gain(tables, 'wsd', 'constant', mark),
    _gain(tables, 'linear', 'cosine', line),
    *_branches(tables),
    _same(tables),
  ]


def _gain(tables: Mapping[str, Table], name: str, other: str, source: str) -> Claim:
  (rate, one), (base, two) = at_best(tables[name]), at_best(tables[other])
  gap = mean_interval(one - two)
  _, low, high = gap
  return estimated(
    f'{name} over {other}',
    gap,
    f'Validation accuracy is {one.mean():.1f} % with {TITLES[name]} (best at {written(rate)}) and '
    f'{two.mean():.1f} % with {TITLES[other]} (best at {written(base)}): a gain of {points(gap)}.',
    source,
    is_above(0, low, high),
  )


def trunk_rate(tables: Mapping[str, Table]) -> float:
  """The one rate whose cool-downs are best on average over the lengths."""
  found = [accuracies(tables['branched'].where(horizon=of)) for of in HORIZONS]
  mean = np.mean([accuracy.mean(1) for _, accuracy in found], 0)
  return float(found[0][0][np.argmax(mean)])


def _branches(tables: Mapping[str, Table]) -> list[Claim]:
  """Cool-downs off one run, against a cosine that is tuned for each length."""
  rate, found = trunk_rate(tables), []
  for horizon in HORIZONS:
    tried, accuracy = accuracies(tables['branched'].where(horizon=horizon))
    own = accuracy[int(np.argmin(np.abs(tried - rate)))]
    _, cosine = at_best(tables['cosine' if horizon == 10 else f'cosine_{horizon}'])
    gap = mean_interval(own - cosine)
    found.append(
      estimated(
        f'branch at {horizon} epochs over a cosine',
        gap,
        f'After {horizon} epochs, a cool-down off the one run at {written(rate)} has '
        f'{own.mean():.1f} %, and a cosine of that length at its best rate {cosine.mean():.1f} %: '
        f'a difference of {points(gap)}.',
        'Hägele et al. 2024: as good',
        is_as_good(gap, _CLOSE),
      )
    )
  return found


def _same(tables: Mapping[str, Table]) -> Claim:
  """Whether branches are what whole runs would have been, and what they save."""
  _, branched = accuracies(tables['branched'].where(horizon=10))
  _, whole = accuracies(tables['wsd'])
  off = float(np.abs(branched - whole).max())
  spent = HORIZONS[-1] - HORIZONS[-1] // _SHARE + sum(of // _SHARE for of in HORIZONS)
  return Claim(
    'branches against whole runs',
    off,
    f'The {branched.size} cool-downs that end after 10 epochs have the accuracies of whole runs of '
    f'WSD to within {off:.2f} points. Runs of {", ".join(map(str, HORIZONS))} epochs take '
    f'{spent} epochs in this way instead of {sum(HORIZONS)}.',
    tolerance=0.5,  # points: rounding that differs by machine moves a few of 1,600 images
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """Accuracy over the rate with each schedule, and the cool-downs off one run."""
  figure = Figure(figsize=(6.8, 2.8), layout='constrained')
  left, right = figure.subplots(1, 2)
  colours = dict(zip(TITLES, (PALETTE[i] for i in (8, 5, 2, 1, 6)), strict=True))
  for name, title in TITLES.items():
    tried, accuracy = accuracies(tables[name])
    left.plot(tried, accuracy.mean(1), 'o-', color=colours[name], label=title)
  left.set(xscale='log', xlabel='learning rate', ylabel='validation accuracy (%)')
  left.set_ylim(_floor(tables), None)
  left.set_xticks(tried, [written(rate) for rate in tried], minor=False)
  left.minorticks_off()
  left.legend(loc='lower center', ncols=2)
  _draw_branches(right, tables, colours)
  return {'schedules': figure}


def _floor(tables: Mapping[str, Table]) -> float:
  """A lower end that leaves out rates that are far too small or large."""
  return max(at_best(tables[name])[1].mean() for name in TITLES) - 20


def _draw_branches(axes: Axes, tables: Mapping[str, Table], colours: Mapping[str, str]) -> None:
  rate, epochs = trunk_rate(tables), np.arange(1, HORIZONS[-1] + 1)
  own = tables['branched'].where(np.isclose(tables['branched']['learning_rate'], rate))
  trunk = 100 * own.where(horizon=_TRUNK).curves['validation_accuracy'].mean(1)
  axes.plot(epochs, trunk, color=colours['constant'], label=f'constant, {written(rate)}')
  for horizon in HORIZONS:
    curve = 100 * own.where(horizon=horizon).curves['validation_accuracy'].mean(1)
    start = horizon - horizon // _SHARE
    branch = [trunk[start - 1], *curve[start:horizon]]
    label = 'its cool-downs' if horizon == HORIZONS[0] else None
    axes.plot(epochs[start - 1 : horizon], branch, 'o-', color=colours['wsd'], label=label)
    _, cosine = at_best(tables['cosine' if horizon == 10 else f'cosine_{horizon}'])
    label = 'cosine of this length, best rate' if horizon == HORIZONS[0] else None
    axes.plot([horizon - 1.2, horizon + 1.2], [cosine.mean()] * 2, '--', color='0.45', label=label)
  axes.set(xlabel='epoch', ylabel='validation accuracy (%)', ylim=(_floor(tables), None))
  axes.set_xticks([1, *HORIZONS])
  axes.legend(loc='lower right')
