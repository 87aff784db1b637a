"""All figures of a finished study, setting by setting, from the curves in its folder."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from lr_study import schedules, trial
from lr_study.answer.verdict import Result, Verdict
from lr_study.files.history import open_joined
from lr_study.report import drawing, figures, matrices
from lr_study.search import rounds
from lr_study.search.rounds import Setting


def draw(
  workdir: Path,
  config: ConfigDict,
  study: Mapping[str, Any],
  results: Sequence[Result],
  verdicts: Mapping[Setting, Verdict],
  best_trial: dict[str, Any] | None,
  best: Setting,
) -> None:
  """Saves the figures in the study's folder and style; arguments and errors are those of `build`.

  For print too where they are of the whole study or of its answer's setting.
  """
  with drawing.using(config.figure_style):
    drawn = build(workdir, config, study, results, verdicts, best_trial, best)
    printed = ('', rounds.label(best, verdicts))
    for label, of_label in drawn.items():  # a study may have many settings
      formats = figures.FORMATS if label in printed else ('png',)
      figures.draw(workdir / 'figures' / label, of_label, formats)


def build(
  workdir: Path,
  config: ConfigDict,
  study: Mapping[str, Any],
  results: Sequence[Result],
  verdicts: Mapping[Setting, Verdict],
  best_trial: dict[str, Any] | None,
  best: Setting,
) -> dict[str, dict[str, Figure]]:
  """The figures by their names, under the label of their setting; '' for those of the study.

  Args:
    workdir: the study's; its history is joined.
    config: the study's.
    study: as under "study" in results.json, with `data` and `guessing_loss`.
    results: of all trials.
    verdicts: of each setting.
    best_trial: as under "best_trial" in results.json.
    best: the setting of the answer, which is drawn in detail.

  Raises:
    StudyError: if a curve is lost or damaged.
  """
  drawn, rates = {}, {result.learning_rate for result in results}
  configs = rounds.settings(config)
  for setting in verdicts:  # a search may have left others out
    own, label = configs[setting], rounds.label(setting, verdicts)
    per_epoch = study['data']['train'] // setting.batch_size
    swept = trial.own(rounds.numbers_of(own, setting), 'schedule')
    schedule = schedules.build(own.schedule, per_epoch, own.epochs, swept)
    drawn[label] = figures.build(
      open_joined(workdir / 'history' / label),
      [r for r in results if r.setting == setting],
      verdicts[setting],
      functools.partial(schedules.heights, schedule, **swept),
      study['guessing_loss'],
      rates,
      setting == best,
    )
  (measure, *_) = (verdict.leads for verdict in verdicts.values())
  of_study = matrices.build(results, study['data']['classes'], best_trial, measure)
  return drawn | {'': drawn.get('', {}) | of_study}
