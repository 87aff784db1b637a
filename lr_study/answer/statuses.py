"""Checks statuses: by fresh images, and by training for longer."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from lr_study import data as datasets
from lr_study import formats, trials
from lr_study.answer import confidence, status
from lr_study.answer.measure import ACCURACY
from lr_study.config import check

_LENGTHS = (1, 2, 4)  # of the trials that train longer, as multiples of a study's epochs
_AT_MOST = 0.1  # the share of its training loss that a plateaued trial may still lose
_CALLED = (status.STILL_IMPROVING, status.PLATEAUED)  # what is checked by longer runs
_TOGETHER = 8  # seeds that train at the same time


class Went(NamedTuple):
  """The result of training a trial for as many further steps as its last stretch has.

  change: of the mean loss, as a share of the mean over the stretch; infinite if the trial diverged.
  fell: the loss was lower, beyond its noise.
  """

  status: str
  change: float
  fell: bool


def by_fresh_images(of_trials: np.ndarray, labels: np.ndarray, images: int) -> dict[str, Any]:
  """Checks whether trials that are at chance on a few images, or not, are so on the other images.

  Args:
    of_trials: accuracies on each run of `images` images, (runs, rates, seeds); NaN if a trial
      diverged. Each trial gets its status from one of the runs, and is checked on all others.
    labels: of all these images.
    images: per run.

  Returns:
    For each of the two words, the result of `_share`, and the mean accuracy on the other images.
  """
  runs = len(of_trials)
  few, many = (status.chance_of(labels[: images * n], ACCURACY) for n in (1, runs - 1))
  found: dict[str, Any] = {status.AT_CHANCE: [], 'learned': []}
  for number, accuracies in enumerate(of_trials.reshape(runs, -1).T):
    if np.isfinite(accuracies).all():
      own, others = accuracies[number % runs], np.delete(accuracies, number % runs).mean()
      called, was = (
        status.is_at_chance(confidence.interval(np.asarray([value]), chance.images), chance)
        for value, chance in ((own, few), (others, many))
      )
      found[status.AT_CHANCE if called else 'learned'].append((was == called, others))
  return {
    word: _share([right for right, _ in of_word])
    | {
      'accuracy': float(np.mean([value for _, value in of_word])) if of_word else None,
      'images': images * (runs - 1),
    }
    for word, of_word in found.items()
  }


def by_longer_runs(
  config: ConfigDict, data: datasets.Dataset, seeds: Sequence[int], tell: Callable[[str], None]
) -> dict[str, Any]:
  """Checks 'still improving' and 'plateaued' by training for longer.

  Trials have one, two and four times the epochs. Because the rate is constant, each is the
  beginning of the next. Each trains for as many further steps as its last stretch has.

  Args:
    config: of a study, with a constant rate.
    data: of the study.
    seeds: of the trials.
    tell: called with a line of progress from time to time.

  Returns:
    For each of the two words, the result of `_share`, and the median change of the loss as a share
    of it. `trained_on`: how many trials of all lengths were checked.
  """
  config = config.copy_and_resolve_references().unlock()
  lengths = [times * config.epochs for times in _LENGTHS]
  config.epochs = lengths[-1] + math.ceil(lengths[-1] / 2)  # no stretch is longer than half
  went = []
  for first in range(0, len(seeds), _TOGETHER):
    config.seeds = tuple(seeds[first : first + _TOGETHER])
    went += _train_on(check(config), data, lengths)
    tell(f'{first + len(config.seeds)} of {len(seeds)} seeds that train for longer')
  found: dict[str, Any] = {'trained_on': len(went)}  # includes those at chance
  for word in _CALLED:
    of_word = [trial for trial in went if trial.status == word]
    right = [t.fell if word == status.STILL_IMPROVING else t.change >= -_AT_MOST for t in of_word]
    changes = [trial.change for trial in of_word if np.isfinite(trial.change)]
    found[word] = _share(right)
    found[word]['median_change'] = float(np.median(changes)) if changes else None
  return found


def _train_on(config: ConfigDict, data: datasets.Dataset, lengths: Sequence[int]) -> list[Went]:
  """Trains every rate and seed of the config, and judges each at each of the lengths."""
  sweep = trials.prepare(config, data)
  now, per_epoch = trials.running(sweep, np.arange(len(sweep.trials))), sweep.steps_per_epoch
  chance = status.chance_of(data.validation.labels[: config.eval_batch_size], ACCURACY)
  state_T = sweep.spread.init(now.hyper_T, now.seeds)
  rows, accuracies = [], {}
  last = max(epochs * per_epoch + _stretch(epochs, per_epoch) for epochs in lengths)
  for epoch in range(math.ceil(last / per_epoch)):
    state_T, curves, _ = trials.train_steps(sweep, now, state_T, epoch, 0, per_epoch)
    rows.append(curves['loss'])
    if epoch + 1 in lengths:
      window = next(iter(sweep.validation.windows(config.eval_batch_size)))
      sums = sweep.spread.evaluate(state_T, iter([window]), len(now.columns))
      values = trials.values(sweep.task, sums, config.eval_batch_size)
      accuracies[epoch + 1] = values['validation_accuracy']
  losses = np.concatenate(rows)
  return [
    went_on(curve, epochs, per_epoch, float(accuracy), chance)
    for epochs, of_trials in accuracies.items()
    for curve, accuracy in zip(losses.T, of_trials, strict=True)
    if np.isfinite(curve[: epochs * per_epoch]).all() and np.isfinite(accuracy)
  ]


def _stretch(epochs: int, per_epoch: int) -> int:
  return status.trend(np.zeros(epochs * per_epoch), per_epoch).steps


def went_on(
  losses: np.ndarray, epochs: int, per_epoch: int, accuracy: float, chance: status.Chance
) -> Went:
  """The status of a trial after `epochs` epochs, and how its loss changed after them.

  Args:
    losses: of every step, (steps,), including those that followed.
    epochs: of the trial when it got its status.
    per_epoch: steps per epoch.
    accuracy: on the validation images, after these epochs.
    chance: the result of guessing.
  """
  steps = epochs * per_epoch
  trend = status.trend(losses[:steps], per_epoch)
  word = status.of(confidence.interval(np.asarray([accuracy]), chance.images), chance, trend)
  before = losses[steps - trend.steps : steps].astype(np.float64)
  after = losses[steps : steps + trend.steps].astype(np.float64)
  if not np.isfinite(after).all():
    return Went(word, np.inf, False)
  blocks = [
    [block.mean() for block in np.array_split(part, min(status.BLOCKS, trend.steps))]
    for part in (before, after)
  ]
  fell = stats.ttest_ind(*blocks, equal_var=False, alternative='greater').pvalue < 0.05
  return Went(word, float(after.mean() / before.mean() - 1), bool(fell))


def sentences(found: dict[str, Any]) -> list[str]:
  """The findings in words; no sentence for what was not checked."""
  told = []
  if status.AT_CHANCE in found:
    few, many = found[status.AT_CHANCE], found['learned']
    told.append(
      f'Of {few["called"]} trials called at chance, {_of(few)} were at chance on {few["images"]} '
      f'other images, where the mean accuracy was {formats.percent(few["accuracy"])}; of '
      f'{many["called"]} trials that learned, {_of(many)} had learned by the same test.'
    )
  if status.PLATEAUED in found:
    improving, plateaued = (found[word] for word in _CALLED)
    told.append(
      f'Of {improving["called"]} trials called still improving, {_of(improving)} had a lower '
      'training loss, beyond noise, over as many further steps as the test uses (median change '
      f'{_change(improving)}); of {plateaued["called"]} called plateaued, {_of(plateaued)} lost at '
      f'most {formats.percent(_AT_MOST, 0)} of it (median change {_change(plateaued)}).'
    )
  return told


def _share(right: Sequence[bool]) -> dict[str, Any]:
  """How many trials were called something, how many were, the share and its 95 % interval."""
  if not right:
    return {'called': 0, 'were': 0, 'share': None, 'interval': None}
  count = int(sum(right))
  exact = stats.binomtest(count, len(right)).proportion_ci()  # Clopper and Pearson
  ends = [float(exact.low), float(exact.high)]
  return {'called': len(right), 'were': count, 'share': count / len(right), 'interval': ends}


def _of(found: dict[str, Any]) -> str:
  if found['interval'] is None:
    return '–'
  low, high = found['interval']
  share = formats.percent(found['share'])
  return f'{share} (95 % interval {100 * low:.0f} to {100 * high:.0f} %)'


def _change(found: dict[str, Any]) -> str:
  change = found['median_change']
  return '–' if change is None else f'{100 * change:+.0f} %'
