"""A finished study on paper: results.json, results.csv and summary.md."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr_study import curvature, formats
from lr_study.errors import StudyError
from lr_study.verdict import Result, Verdict
from lr_study.workdir import write_text


def write(
  workdir: Path, study: dict[str, Any], results: Sequence[Result], verdict: Verdict
) -> None:
  """Writes the three files; results.json last, since it marks a study as finished.

  Args:
    workdir: the study's folder.
    study: what goes under "study" in results.json: config, commit, versions, data, ...
    results: one a trial.
    verdict: the answer.
  """
  trials = [dataclasses.asdict(result) for result in results]
  table = io.StringIO()
  writer = csv.DictWriter(table, trials[0].keys(), lineterminator='\n')
  writer.writeheader()
  writer.writerows(trials)
  write_text(workdir / 'results.csv', table.getvalue())
  write_text(workdir / 'summary.md', _summary(study, results, verdict))
  content = {'study': study, 'trials': trials, 'verdict': dataclasses.asdict(verdict)}
  # allow_nan=False: a figure that does not exist is null; NaN is no JSON.
  write_text(workdir / 'results.json', json.dumps(content, indent=1, allow_nan=False) + '\n')


def read(workdir: Path) -> tuple[list[Result], Verdict] | None:
  """Reads a finished study's results; None if it has none. StudyError if it is damaged."""
  file = workdir / 'results.json'
  if not file.exists():
    return None
  try:
    content = json.loads(file.read_text())
    return [Result(**trial) for trial in content['trials']], Verdict(**content['verdict'])
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(
      f'{file} is damaged ({error!r}); delete it, and the same command writes it again'
    ) from error


def _summary(study: dict[str, Any], results: Sequence[Result], verdict: Verdict) -> str:
  config, data = study['config'], study['data']
  sharp = any(result.sharpness is not None for result in results)
  lines = [
    '# Which learning rate?',
    '',
    f'**{verdict.sentence}**',
    '',
    '| rate | seed | training loss | training accuracy | validation accuracy | status | evidence |'
    + (' sharpness | of the edge |' if sharp else ''),
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
    lines += [_ABOUT_SHARPNESS, '', '![Sharpness](figures/sharpness.png)', '']
  if data['left_out']:
    lines += [f'{len(data["left_out"])} unreadable files were left out:', '']
    lines += [f'    {" ".join(name.splitlines())}' for name in data['left_out']] + ['']
  return '\n'.join(lines)


_ABOUT_SHARPNESS = (
  "Sharpness is the largest eigenvalue of the loss's Hessian at the end, on the training images "
  'of sharpness_images. Above its edge, 2 (1 + momentum) / rate, steps along that direction '
  'overshoot more each time (Cohen et al., 2021). That is for the gradient of all images: at a '
  'small batch size the edge is a guide, and training may break well below it.'
)


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
