"""Runs a study from its data to its answer, in rounds of trials that a search asks for."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import (
  environment,
  extension,
  loop,
  losses,
  prepare,
  progress,
  so_far,
  task,
  tracking,
  waves,
  weights,
)
from lr_study.answer import axes, verdict
from lr_study.answer.measure import further as further_measures
from lr_study.clock import Clock
from lr_study.config import check, flatten
from lr_study.data import samples
from lr_study.files import provenance, workdir
from lr_study.files.history import join
from lr_study.report import (
  drawing,
  live,
  page,
  pictures,
  report,
  summary,
  tensorboard,
  terminal,
)
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.time_limit import TimeIsUp, TimeLimit
from lr_study.tracking import Tracker
from lr_study.trials import Sweep
from lr_study.use import best, evaluate
from lr_study.vectorize import keep_compiled_programs
from lr_study.waves import Here, Trainer


def run(
  config: ConfigDict,
  folder: Path,
  overwrite: bool = False,
  extend: bool = False,
  command: Sequence[str] = (),
  track: str | None = None,
  limit: TimeLimit | None = None,
  trainer: Trainer | None = None,
) -> verdict.Verdict:
  """Runs a study, resumes a stopped one, or reads a finished one, and prints its answer.

  Args:
    config: the study; lr_study/config.py has the fields.
    folder: the work directory.
    overwrite: first delete the study that the work directory holds.
    extend: keep the trials of the study in the work directory, and train those that are new.
    command: from `cli.study_command`; the page builds its commands from it.
    track: the experiment tracker to send the study to, one of `tracking.TRACKERS`.
    limit: when the study must end, finished or not.
    trainer: trains the waves; None: this process does.

  Returns:
    The answer.

  Raises:
    StudyError: for errors that the user can fix; nothing was written.
    Stopped, TimeIsUp: a signal or the limit asked the study to stop; everything is saved.
  """
  tracking.check(track)
  config = check(config)
  config = as_begun(config, folder, overwrite)
  with workdir.held(folder):
    keep_compiled_programs()
    _, answer = carry_out(
      config,
      folder,
      overwrite,
      extend,
      tell=_tell,
      command=command,
      track=track,
      limit=limit,
      trainer=trainer,
    )
  progress.note(
    f'{folder}: report.html, summary.md, results.json; tensorboard --logdir {folder}/tensorboard'
  )
  return answer


def _tell(
  folder: Path,
  config: ConfigDict,
  results: Sequence[verdict.Result],
  answer: verdict.Verdict,
) -> None:
  content = report.read_content(folder)
  for finding in content['study']['data']['checks'].values():
    if finding['count']:  # repeated next to the answer, which depends on these images
      progress.note(f'Data: {finding["line"]}')
  terminal.tell(results, report.of_settings(content), answer)


def as_begun(config: ConfigDict, folder: Path, overwrite: bool = False) -> ConfigDict:
  """The config to run in a folder: if it holds a study, settings that must not change are kept.

  Args:
    config: a checked one.
    folder: the work directory.
    overwrite: ignore the study that the folder holds.

  Raises:
    StudyError: for example, the folder lies among the images.
  """
  datasets.check_apart(config.data, folder, '--workdir')
  return config if overwrite else workdir.as_begun(folder, config)


@environment.ours()
def carry_out(
  config: ConfigDict,
  folder: Path,
  overwrite: bool = False,
  extend: bool = False,
  reports: bool = True,
  tell: Callable[..., None] = lambda *_: None,
  command: Sequence[str] = (),
  track: str | None = None,
  limit: TimeLimit | None = None,
  trainer: Trainer | None = None,
) -> tuple[list[verdict.Result], verdict.Verdict]:
  """Trains the trials that the folder does not hold yet, or reads a finished study.

  Prints only progress. Raises the errors of `run`.

  Args:
    config: from `as_begun`.
    folder: the work directory, locked by this process.
    overwrite: see `run`.
    extend: see `run`.
    reports: False: no figures, no page, and no analysis of the best trial's mistakes.
    tell: called with `folder`, `config`, the results and the answer before reports are made.
    command: see `run`.
    track: see `run`; checked.
    limit: see `run`.
    trainer: see `run`.

  Returns:
    The results of all trials and the answer.
  """
  environment.check_devices()
  for name in config.figure_style if reports else ():
    drawing.load(name)  # an unknown one is said now, and not after the training
  of_study = rounds.settings(config)
  for own in {id(own): own for own in of_study.values()}.values():
    task.check(own)
  trainer = trainer or Here()
  data = prepare.load(config, of_study)
  study = provenance.describe(config, data)
  study |= {'command': list(command)} if command else {}
  extends = extend and workdir.holds_another(folder, study)
  is_finished = not (overwrite or extends) and (folder / 'results.json').exists()
  # Before the folder is claimed, so that an error here leaves it as it was. A finished study is
  # only read, but the weights that it started from may have changed.
  is_read = is_finished and not (config.model.get('weights') or track)
  sweeps = {} if is_read else prepare.sweeps(config, of_study, data)
  origins = list(dict.fromkeys(sweep.task.origin for sweep in sweeps.values()))
  study |= weights.record(origins)
  for line in weights.describe(origins, data.classes):
    progress.note(line)
  if not is_finished:
    study['device'] = trainer.device(config, folder, data.fingerprint)
  if extends:
    extension.extend(folder, study, sweeps)
  workdir.claim(folder, study, overwrite)
  weights.keep(origins, folder)
  for sweep in sweeps.values():
    sweep.clock.limit = limit  # one clock for all
  with tracking.tracked(track, folder, flatten(study['config'])) as tracker:
    finished = report.read(folder) or _train(
      config, sweeps, data, folder, study, trainer, reports, tracker
    )
    tell(folder, config, *finished)
    if reports and os.access(folder, os.W_OK):
      with drawing.one_note():
        _show(folder, config, data)
    if tracker:
      _track(tracker, folder, sweeps, *finished)
  return finished


def _track(
  tracker: Tracker,
  folder: Path,
  sweeps: dict[Setting, Sweep],
  results: list[verdict.Result],
  answer: verdict.Verdict,
) -> None:
  """Sends what a tracker has not of a finished study, and its answer."""
  planned = rounds.read(folder / 'history')
  tracker.retry()
  for number in sorted({trial.wave for trial in planned.trials}):
    sweep = waves.of_wave(sweeps, planned, number)
    history = loop.curves(folder, planned, number, sweep)
    loop.track(tracker, sweep, planned, history, 0, len(history.steps['loss']))
  for trial, result in zip(rounds.last(planned, sweeps), results, strict=True):
    tracker.end(loop.run_of(planned, trial, sweeps[trial.setting]), result)
  verdicts = report.of_settings(report.read_content(folder))
  tracker.finish(summary.answer(results, answer, verdicts), answer)


def _train(
  config: ConfigDict,
  sweeps: dict[Setting, Sweep],
  data: datasets.Dataset,
  folder: Path,
  study: dict[str, Any],
  trainer: Trainer,
  reports: bool,
  tracker: Tracker | None,
) -> tuple[list[verdict.Result], verdict.Verdict]:
  """Trains the trials that are not finished, and writes the results of all."""
  started = time.monotonic()
  shared = next(iter(sweeps.values()))
  counts = np.bincount(data.train.labels, minlength=len(data.classes))
  guessing_loss = losses.guessing(shared.task.loss, counts)

  def judged(planned: Plan) -> dict[Planned, verdict.Result]:
    return _judged(sweeps, planned, folder, labels)

  labels, measure = data.validation.labels, shared.measure
  metrics = further_measures(shared.task.metrics)
  watched = live.Study(folder, study, sweeps, labels, guessing_loss, metrics)
  after_epoch = live.Page(watched) if reports else lambda _: None
  measures = [further._asdict() for further in metrics]
  study = study | {'guessing_loss': guessing_loss, 'measures': measures}
  try:
    with trainer.opened(folder):
      reading = (judged, labels, measure, after_epoch, tracker)
      planned = waves.train(sweeps, folder, trainer, *reading)
  except TimeIsUp as up:
    limit = shared.clock.limit
    if limit is None:
      raise
    raise so_far.stopped(config, sweeps, folder, study, labels, limit, reports) from up
  so_far.delete(folder)
  by_trial = judged(planned)
  last = rounds.last(planned, sweeps)
  results = [by_trial[trial] for trial in last]
  edge_only, noun = config.search.name == 'bisect', samples.noun(data.mean.shape)
  answer = axes.answer(results, labels, measure, guessing_loss, edge_only, noun)
  with shared.clock('curves'):
    trained = list(dict.fromkeys(trial.setting for trial in last))  # a search may skip settings
    for setting in trained:
      sweep, of_setting = sweeps[setting], [trial for trial in last if trial.setting == setting]
      _join(sweep, planned, of_setting, folder, rounds.label(setting, trained))
  asked = sum(t.epochs * sweeps[t.setting].steps_per_epoch for t in last)
  study |= {
    'seconds': round(time.monotonic() - started, 1),
    'seconds_of': shared.clock.rounded(),
    'trial_steps': {'planned': asked, 'run': sum(result.steps for result in results)},
    'rounds': _rates_of_rounds(planned),
  }
  workdir.write_array(folder / workdir.MEAN, data.mean)
  seen = dict(zip(evaluate.SEEN_PARTS, data.digests, strict=False))
  workdir.write_arrays(folder / workdir.SEEN, seen)
  best_trial = best.name(folder, results, answer.verdict) if reports else None
  report.write(folder, study, results, answer, best_trial)
  return results, answer.verdict


def _show(folder: Path, config: ConfigDict, data: datasets.Dataset) -> None:
  """Examines the best trial and draws figures from a finished study's folder, unless that is done.

  The page comes last. A failure to draw does not affect the rest of the study.
  """
  content, clock = report.read_content(folder), Clock()
  (results, answer), study = report.read(folder), content['study']
  best_trial = content.get('best_trial')
  is_new = best_trial is not None and best_trial.get('missing') == best.NOT_YET
  if not is_new and page.is_final(folder):
    return
  with clock('best trial'), progress.working('Looking at the best trial', keep=False):
    if is_new:
      best_trial = best.examine(folder, config, data, results, answer)
  with clock('figures'), progress.working('Drawing the figures', keep=False):
    verdicts = report.of_settings(content)
    drawing.attempt(
      'figures', pictures.draw, folder, config, study, results, verdicts, best_trial, answer.setting
    )
  if is_new or 'figures' not in study['seconds_of']:
    seconds = clock.rounded()
    study['seconds'] = round(study['seconds'] + sum(seconds.values()), 1)
    study['seconds_of'] |= seconds
    report.write_content(folder, content | {'best_trial': best_trial})
  drawing.attempt('the answer in TensorBoard', tensorboard.write, folder)
  with progress.working(f'Drawing {page.NAME}', keep=False):
    drawing.attempt(page.NAME, page.write, folder)


def _judged(
  sweeps: dict[Setting, Sweep], planned: Plan, folder: Path, labels: np.ndarray
) -> dict[Planned, verdict.Result]:
  """The result of every trial of every round, from the curves of its wave."""
  found = {}
  for number in sorted({trial.wave for trial in planned.trials}):
    sweep = waves.of_wave(sweeps, planned, number)
    history = loop.curves(folder, planned, number, sweep)
    found |= zip(sweep.trials, waves.results(sweep, history, labels), strict=True)
  return found


def _join(
  sweep: Sweep, planned: Plan, of_setting: Sequence[Planned], folder: Path, label: str
) -> None:
  """Writes the history of a setting's trials, one column per trial."""
  numbers = {trial.wave for trial in of_setting}
  of_waves = {number: loop.curves(folder, planned, number, sweep) for number in numbers}
  columns = [(of_waves[trial.wave], planned.column(trial)) for trial in of_setting]
  epochs = max(trial.epochs for trial in of_setting)
  join(folder / 'history' / label, columns, epochs * sweep.steps_per_epoch, epochs)


def _rates_of_rounds(planned: Plan) -> list[list[float]]:
  """The rates that each round trained, in the order in which the search asked for them."""
  count = 1 + max(trial.round for trial in planned.trials)
  return [
    list(dict.fromkeys(trial.learning_rate for trial in planned.of_round(number)))
    for number in range(count)
  ]
