"""A finished study on paper: results.json, results.csv and summary.md."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr_study.answer.axes import Answer
from lr_study.answer.measure import value_of
from lr_study.answer.status import STATUSES
from lr_study.answer.verdict import Result, Verdict
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.report import summary
from lr_study.search import rounds
from lr_study.search.rounds import Setting

_OF_NAMES = ('metrics', 'axes')  # fields of a result that hold values by names


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
    study: what goes under "study" in results.json: config, commit, versions, data, ... In
      `measures` are the fields of the `Measure` of each further metric.
    results: one a trial.
    answer: of the study.
    best_trial: what best.py found out about it.
  """
  trials = [dataclasses.asdict(result) for result in results]
  leads = answer.verdict.leads
  # The measure that decides, by name, and its value for each trial.
  rows = [
    as_row(trial) | {'measure': leads.field, 'measured': value_of(result, leads)}
    for trial, result in zip(trials, results, strict=True)
  ]
  table = io.StringIO()
  writer = csv.DictWriter(table, rows[0].keys(), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  write_text(workdir / 'results.csv', table.getvalue())
  write_text(workdir / 'summary.md', summary.text(study, results, answer))
  content = {'study': study, 'trials': trials, 'verdict': dataclasses.asdict(answer.verdict)}
  content['settings'] = [dataclasses.asdict(verdict) for verdict in answer.of_setting.values()]
  for name in ('growth', 'gains', 'standings', 'landscapes'):
    content[name] = [dataclasses.asdict(found) for found in getattr(answer, name)]
  write_content(workdir, content | {'best_trial': best_trial})


def write_content(workdir: Path, content: dict[str, Any]) -> None:
  """Writes results.json, all of it."""
  # allow_nan=False: a figure that does not exist is null; NaN is no JSON.
  write_text(workdir / 'results.json', json.dumps(content, indent=1, allow_nan=False) + '\n')


def as_row(trial: dict[str, Any]) -> dict[str, Any]:
  """A trial as in results.json, with a column for each of its metrics and axes."""
  row = {name: value for name, value in trial.items() if name not in _OF_NAMES}
  for name in _OF_NAMES:
    row |= trial.get(name, {})
  return row


def read(workdir: Path) -> tuple[list[Result], Verdict] | None:
  """Reads a finished study's results; None if it has none.

  Raises:
    StudyError: if it is damaged, or of a version that judged by other tests.
  """
  file = workdir / 'results.json'
  if not file.exists():
    return None
  try:
    content = read_content(workdir)
    results = [Result(**rounds.record_of(trial)) for trial in content['trials']]
    verdict = Verdict(**rounds.record_of(content['verdict']))
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(
      f'{file} is damaged ({error!r}); delete it, and the same command writes it again'
    ) from error
  old = {result.status for result in results} - set(STATUSES)
  if old:
    raise StudyError(
      f'{file} is of an older version, which called trials {", ".join(sorted(old))} by other '
      'tests; delete it, and the same command of scripts/sweep.py writes it again, from the curves'
    )
  return results, verdict


def read_content(workdir: Path) -> dict[str, Any]:
  """results.json as it is; ValueError or OSError if it cannot be read."""
  return json.loads((workdir / 'results.json').read_text())


def of_settings(content: dict[str, Any]) -> dict[Setting, Verdict]:
  """The verdict of each setting of a study, from what results.json holds."""
  verdicts = [Verdict(**rounds.record_of(verdict)) for verdict in content['settings']]
  return {verdict.setting: verdict for verdict in verdicts}
