"""A finished study on paper: results.json, results.csv and summary.md."""

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr_study import formats
from lr_study.answer.axes import Answer
from lr_study.answer.confidence import STATED
from lr_study.answer.verdict import Result, Verdict
from lr_study.diagnosis import curvature
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.search.rounds import Setting


def write(
  workdir: Path,
  study: dict[str, Any],
  results: Sequence[Result],
  answer: Answer,
  best_trial: dict[str, Any] | None,
) -> None:
  """Writes the three files; results.json last, since it marks a study as finished.

  Args:
    workdir: the study's folder.
    study: what goes under "study" in results.json: config, commit, versions, data, ...
    results: one a trial.
    answer: of the study.
    best_trial: what best.py found out about it.
  """
  trials = [dataclasses.asdict(result) for result in results]
  table = io.StringIO()
  writer = csv.DictWriter(table, trials[0].keys(), lineterminator='\n')
  writer.writeheader()
  writer.writerows(trials)
  write_text(workdir / 'results.csv', table.getvalue())
  write_text(workdir / 'summary.md', _summary(study, results, answer.verdict))
  content = {'study': study, 'trials': trials, 'verdict': dataclasses.asdict(answer.verdict)}
  content['settings'] = [dataclasses.asdict(verdict) for verdict in answer.of_setting.values()]
  for name in ('growth', 'gains'):
    content[name] = [dataclasses.asdict(found) for found in getattr(answer, name)]
  content['best_trial'] = best_trial
  # allow_nan=False: a figure that does not exist is null; NaN is no JSON.
  write_text(workdir / 'results.json', json.dumps(content, indent=1, allow_nan=False) + '\n')


def read(workdir: Path) -> tuple[list[Result], Verdict] | None:
  """Reads a finished study's results; None if it has none. StudyError if it is damaged."""
  file = workdir / 'results.json'
  if not file.exists():
    return None
  try:
    content = read_content(workdir)
    return [Result(**trial) for trial in content['trials']], Verdict(**content['verdict'])
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(
      f'{file} is damaged ({error!r}); delete it, and the same command writes it again'
    ) from error


def read_content(workdir: Path) -> dict[str, Any]:
  """results.json as it is; ValueError or OSError if it cannot be read."""
  return json.loads((workdir / 'results.json').read_text())


def of_settings(content: dict[str, Any]) -> dict[Setting, Verdict]:
  """The verdict of each setting of a study, from what results.json holds."""
  verdicts = [Verdict(**verdict) for verdict in content['settings']]
  return {Setting(verdict.batch_size, verdict.schedule): verdict for verdict in verdicts}


def _summary(study: dict[str, Any], results: Sequence[Result], verdict: Verdict) -> str:
  config, data = study['config'], study['data']
  sharp = any(r.sharpness is not None for r in results)
  lines = [
    '# Which learning rate?',
    '',
    f'**{verdict.sentence}**',
    '',
    *_rates(results, verdict),
    '',
    '| rate | seed | training loss | training accuracy | validation accuracy | status | evidence |'
    + (' sharpness at the end | of the edge |' if sharp else ''),
    '| ---: | ---: | ---: | ---: | ---: | --- | --- |' + (' ---: | --- |' if sharp else ''),
  ]
  for r in results:
    figures = (
      formats.rate(r.learning_rate),
      str(r.seed),
      formats.loss(r.train_loss),
      formats.percent(r.train_accuracy),
      formats.percent(r.validation_accuracy),
      r.status,
      r.evidence,
      *(_sharpness(r) if sharp else ()),
    )
    lines.append(f'| {" | ".join(figures)} |')
  model, optimizer = config['model'], config['optimizer']
  lines += [
    '',
    f'{model["preset"]}, width {model["width"]:g}, on {data["train"]} training and '
    f'{data["validation"]} validation images of {len(data["classes"])} classes, '
    f'{config["image_size"]} px; {config["epochs"]} epochs at batch size {config["batch_size"]}, '
    f'momentum {optimizer["momentum"]:g}, schedule {config["schedule"]["name"]}; '
    f'{formats.duration(study["seconds"])} on {study["device"]}.',
    '',
    _saved(**study['trial_steps']),
    '',
    _profile(study['seconds_of']),
    '',
    '![Validation accuracy against the learning rate](figures/accuracy_by_rate.png)',
    '',
    '![All trials](figures/all_rates.png)',
    '',
  ]
  if sharp:
    lines += [curvature.ABOUT, '', '![Sharpness](figures/sharpness.png)', '']
  found = [check['line'] for check in data['checks'].values() if check['count']]
  if found:
    lines += ['Before training, checks of the data found:', '']
    lines += [f'    {formats.printable(line)}' for line in found] + ['']
  if data['left_out']:
    lines += [f'{len(data["left_out"])} unreadable files were left out:', '']
    lines += [f'    {" ".join(name.splitlines())}' for name in data['left_out']] + ['']
  return '\n'.join(lines)


def _rates(results: Sequence[Result], verdict: Verdict) -> list[str]:
  """The rates as a table: the mean over the seeds, its interval, how likely each is the best."""
  measure = verdict.measure.replace('_', ' ')
  lines = [
    f'| rate | {measure} | {STATED} interval | probability of being the best | status |',
    '| ---: | ---: | ---: | ---: | --- |',
  ]
  for rate in dict.fromkeys(r.learning_rate for r in results):
    found = [r for r in results if r.learning_rate == rate]
    name, statuses = formats.rate(rate), Counter(r.status for r in found)
    interval = verdict.intervals[name]
    # A mean over the seeds that did not diverge would flatter the rate.
    mean = interval and float(np.mean([getattr(r, verdict.measure) for r in found]))
    between = '–' if interval is None else '{:.1f} to {:.1f} %'.format(*(100 * x for x in interval))
    sure = verdict.probability_best and verdict.probability_best[name]
    status = ', '.join(f'{count} {status}' for status, count in statuses.items())
    cells = (
      f'**{name}**' if rate in verdict.indistinguishable else name,
      formats.percent(mean),
      between,
      formats.percent(sure),
      status if len(statuses) > 1 else found[0].status,
    )
    lines.append(f'| {" | ".join(cells)} |')
  return [*lines, '', 'In bold: the rates that may be the best. A row a trial:']


def _sharpness(result: Result) -> tuple[str, str]:
  if result.sharpness is None:
    return '–', '–'
  side = curvature.side(result.sharpness, result.sharpness_edge)
  return f'{result.sharpness:.3g}', f'{side} {result.sharpness_edge:.3g}'


def _saved(planned: int, run: int) -> str:
  if run == planned:
    return f'All {planned} steps of all trials were run.'
  share = formats.percent(1 - run / planned)
  return f'Diverged trials left early, which saved {share} of the {planned} steps of all trials.'


def _profile(seconds_of: dict[str, float]) -> str:
  phases = sorted(seconds_of.items(), key=lambda item: -item[1])
  return 'Seconds: ' + ', '.join(f'{phase} {seconds:g}' for phase, seconds in phases) + '.'
