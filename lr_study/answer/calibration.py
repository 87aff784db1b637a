"""Checks the probabilities that verdicts state, with many small studies whose truth is known."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from lr_study import data as datasets
from lr_study import formats, trials
from lr_study.answer import confidence, statuses, verdict
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.files import provenance
from lr_study.files.history import History
from lr_study.trials import Sweep

_TOGETHER = 8  # seeds that train at the same time


class Trained(NamedTuple):
  """Every trial's result, rate by rate, and accuracies; NaN if the trial diverged.

  of_truth: (studies, rates, truth seeds), on the images of each study.
  of_studies: (studies, rates, seeds), of each study's seeds on its images.
  """

  results: list[verdict.Result]
  of_truth: np.ndarray
  of_studies: np.ndarray


def calibrate(
  config: ConfigDict,
  truth_seeds: int,
  studies: int,
  seeds: int,
  longer_seeds: int,
  tell: Callable[[str], None],
) -> dict[str, Any]:
  """Measures how often studies with a few seeds and validation images are right.

  Each study has its own `seeds` seeds and its own `eval_batch_size` validation images, with the
  same number of each class. The truth is the mean over `truth_seeds` other seeds on all of these
  images. Studies therefore have the errors of real ones, from their seeds and their images. The
  training images are the same throughout, because the question is which rate to use on them.

  Statuses are checked too: those of the truth's trials on one study's images are compared with all
  other images, and trials of `longer_seeds` other seeds train for longer (see statuses.py).

  Args:
    config: of a study; its seeds are set here, and other axes are removed.
    truth_seeds: how many seeds define the truth.
    studies: how many.
    seeds: per study.
    longer_seeds: how many seeds train for longer; unused unless the schedule is constant, because
      otherwise a study is not the beginning of a longer one.
    tell: called with a line of progress from time to time.

  Returns:
    What `table` shows, and every study, for JSON.

  Raises:
    StudyError: there are too few validation images.
  """
  config = config.copy_and_resolve_references().unlock()
  config.seeds = tuple(range(truth_seeds + studies * seeds))
  config.axes = {}
  config = check(config)
  data = _interleaved(datasets.load(config.data, config.image_size))
  each = config.eval_batch_size
  if len(data.validation.labels) < studies * each:
    raise StudyError(
      f'{studies} studies of {each} validation images need {studies * each}; there are '
      f'{len(data.validation.labels)}: lower eval_batch_size or --studies'
    )
  trained = _train(trials.prepare(config, data), data, truth_seeds, studies, seeds, tell)
  answers = _judge(config, data, trained, truth_seeds)
  of_statuses = statuses.by_fresh_images(trained.of_truth, data.validation.labels, each)
  if config.schedule.name == 'constant':
    first = len(config.seeds)
    further = range(first, first + longer_seeds)
    of_statuses |= statuses.by_longer_runs(config, data, further, tell)
  # A run that diverged counts as a guess.
  of_truth = np.nan_to_num(trained.of_truth, nan=1 / len(data.classes))
  return {
    'study': provenance.describe(config, data),
    **_summary(config, of_truth, answers, each),
    'statuses': of_statuses,
    'accuracy_of_truth': of_truth.mean(0).tolist(),  # (rates, seeds)
    'accuracy_of_studies': [  # (studies, rates, seeds), None where a trial diverged
      [[None if np.isnan(value) else value for value in row] for row in rows]
      for rows in trained.of_studies.tolist()
    ],
  }


def table(found: dict[str, Any]) -> str:
  """A Markdown table of the truth, and sentences on how often the studies found it."""
  lines = [
    '| rate | accuracy | standard error | named best | in the set | interval holds the accuracy |',
    '| ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for row in found['rates']:
    held = formats.percent(row['interval_holds'], 0)
    lines.append(
      f'| {formats.rate(row["learning_rate"])} | {formats.percent(row["accuracy"])} '
      f'| {formats.percent(row["standard_error"])} | {row["named_best"]} | {row["in_set"]} '
      f'| {held} of {row["intervals"]} |'
    )
  low, high = found['set_holds_best_interval']
  return '\n'.join(
    [
      *lines,
      '',
      f'The best rate is {formats.rate(found["best"])}, by {formats.percent(found["margin"])} '
      f'± {formats.percent(found["margin_standard_error"])} (standard error, paired).',
      f'{found["studies"]} studies of {found["seeds"]} seeds: the {confidence.STATED} set holds '
      f'it in {formats.percent(found["set_holds_best"])} of them (95 % interval {100 * low:.0f} to '
      f'{100 * high:.0f} %), with {found["mean_size"]:.2f} of {len(found["rates"])} rates on '
      f'average; it is the rate named best in {formats.percent(found["named_is_best"])}, with a '
      f'stated probability of {formats.percent(found["mean_stated"])}.',
      f'Share of the images in the variance of a difference: {found["share_of_images"]:.3f}.',
      *statuses.sentences(found['statuses']),
    ]
  )


def _interleaved(data: datasets.Dataset) -> datasets.Dataset:
  """With validation images of alternating classes, so that any run of them is balanced."""
  images, labels = data.validation
  turn = np.concatenate([np.arange(count) for count in np.bincount(labels)])
  order = np.lexsort((labels, turn))
  return data._replace(validation=datasets.Part(images[order], labels[order]))


def _train(
  sweep: Sweep,
  data: datasets.Dataset,
  truth_seeds: int,
  studies: int,
  seeds: int,
  tell: Callable[[str], None],
) -> Trained:
  config, per_epoch = sweep.config, sweep.steps_per_epoch
  rates, count, total = len(config.learning_rates), len(config.seeds), config.epochs * per_epoch
  accuracy = np.full((studies, rates, count), np.nan)
  with tempfile.TemporaryDirectory() as folder:
    history = History(Path(folder), total, config.epochs, rates * count, config.metrics)
    for first in range(0, count, _TOGETHER):
      chosen = np.arange(first, min(first + _TOGETHER, count))
      columns = (np.arange(rates)[:, None] * count + chosen).ravel()
      now = trials.running(sweep, columns)
      state_T = sweep.spread.init(now.hyper_T, now.seeds)
      for epoch in range(config.epochs):
        start = epoch * per_epoch
        state_T, curves, _ = trials.train_steps(sweep, now, state_T, epoch, 0, per_epoch)
        history.write_steps(start, curves, columns)
        means = history.epoch_means(start, start + per_epoch, columns)
        history.write_epoch(epoch, means, columns)
      judged: Sequence[int] = range(studies)
      if first >= truth_seeds:
        judged = sorted({(seed - truth_seeds) // seeds for seed in chosen})
      # The images of a study are one window.
      numbered = enumerate(sweep.validation.windows(config.eval_batch_size))
      windows = (window for study, window in numbered if study in judged)
      sums = sweep.spread.evaluate(state_T, windows, len(columns))
      for study, of_study in zip(judged, sums, strict=True):
        found = trials.values(sweep.task, [of_study], config.eval_batch_size)
        accuracy[study][:, chosen] = found['validation_accuracy'].reshape(rates, -1)
      # On any of the images: it only shows whether the weights are finite.
      loss = {'validation_loss': found['validation_loss']}
      history.write_epoch(config.epochs - 1, loss, columns)
      tell(f'{chosen[-1] + 1} of {count} seeds')
    of_truth, own = accuracy[..., :truth_seeds], accuracy[..., truth_seeds:]
    own = own.reshape(studies, rates, studies, seeds)
    of_studies = own[np.arange(studies), :, np.arange(studies)]
    # Each trial on the images of its study; those of the truth, which has no study, on all images.
    of_trials = of_studies.transpose(1, 0, 2).reshape(rates, -1)
    of_trials = np.concatenate([of_truth.mean(0), of_trials], 1).ravel()
    history.write_epoch(config.epochs - 1, {'validation_accuracy': of_trials})
    labels = data.validation.labels[: config.eval_batch_size]  # all studies have the same counts
    results = verdict.results(history, sweep.trials, labels, [total] * (rates * count))
  return Trained(results, of_truth, of_studies)


def _judge(
  config: ConfigDict, data: datasets.Dataset, trained: Trained, truth_seeds: int
) -> list[verdict.Verdict]:
  each, answers = config.eval_batch_size, []
  results = np.empty((len(config.learning_rates), len(config.seeds)), object)
  results.ravel()[:] = trained.results
  for study, measured in enumerate(trained.of_studies):
    first = truth_seeds + study * measured.shape[1]
    of_study = results[:, first : first + measured.shape[1]]
    labels = data.validation.labels[study * each : (study + 1) * each]
    answers.append(verdict.judge(of_study.ravel().tolist(), labels))
  return answers


def _summary(
  config: ConfigDict, of_truth: np.ndarray, answers: list[verdict.Verdict], images: int
) -> dict[str, Any]:
  rates, by_seed = config.learning_rates, of_truth.mean(0)  # (rates, truth seeds)
  mean = by_seed.mean(1)
  best, second = np.argsort(-mean)[:2]
  margins = by_seed[best] - by_seed[second]
  holds = sum(rates[best] in answer.indistinguishable for answer in answers)
  right = [answer.learning_rate == rates[best] for answer in answers]
  named = [answer for answer in answers if answer.learning_rate is not None]
  stated = [answer.probability_best[formats.rate(answer.learning_rate)] for answer in named]
  exact = stats.binomtest(holds, len(answers)).proportion_ci()  # Clopper and Pearson
  rows = []
  for rate, accuracy, seeds in zip(rates, mean, by_seed, strict=True):
    intervals = [found for a in answers if (found := a.intervals[formats.rate(rate)]) is not None]
    rows.append(
      {
        'learning_rate': rate,
        'accuracy': float(accuracy),
        'standard_error': _standard_error(seeds),
        'named_best': sum(answer.learning_rate == rate for answer in answers),
        'in_set': sum(rate in answer.indistinguishable for answer in answers),
        'intervals': len(intervals),
        'interval_holds': float(np.mean([low <= accuracy <= high for low, high in intervals]))
        if intervals
        else None,
      }
    )
  return {
    'rates': rows,
    'best': rates[best],
    'margin': float(margins.mean()),
    'margin_standard_error': _standard_error(margins),
    'truth_seeds': of_truth.shape[2],
    'studies': len(answers),
    'seeds': (len(config.seeds) - of_truth.shape[2]) // len(answers),
    'images': images,
    'set_holds_best': holds / len(answers),
    'set_holds_best_interval': [float(exact.low), float(exact.high)],
    'mean_size': float(np.mean([len(answer.indistinguishable) for answer in answers])),
    'named_is_best': float(np.mean(right)),
    'mean_stated': float(np.mean(stated)) if stated else None,
    'share_of_images': _share_of_images(of_truth[:, best], of_truth[:, second], images),
    'verdicts': [asdict(answer) for answer in answers],
  }


def _standard_error(values: np.ndarray) -> float:
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _share_of_images(first: np.ndarray, second: np.ndarray, images: int) -> float:
  """The share of the images in the variance of two rates' difference; see confidence.py.

  Two-way analysis of variance over (groups of images, seeds): the variance of the groups' means
  minus that of single entries, divided by the variance of counting two independent sets of images.
  """
  difference = first - second
  of_groups, of_seeds = difference.mean(1), difference.mean(0)
  left = difference - of_groups[:, None] - of_seeds + difference.mean()
  groups, seeds = difference.shape
  single = np.sum(left**2) / ((groups - 1) * (seeds - 1))
  of_images = np.var(of_groups, ddof=1) - single / seeds
  counting = sum(p.mean() * (1 - p.mean()) for p in (first, second)) / images
  return float(of_images / counting)
