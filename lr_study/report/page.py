"""A study's page: report.html, one file that opens from disk and fetches nothing."""

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lr_study import formats
from lr_study.answer import confidence
from lr_study.answer.verdict import DIVERGED, Result, Verdict
from lr_study.config import flatten
from lr_study.diagnosis import curvature
from lr_study.errors import StudyError
from lr_study.report import html, pictures, report, svg
from lr_study.search import rounds
from lr_study.use import best, evaluate
from lr_study.use.evaluate import Score

NAME = 'report.html'
_MOST_ROWS = 50  # of the table of classes

# What figures of the whole study are to a reader who does not see them.
_CONFUSION = 'Confusion matrix of the best trial, its main points in the table below'
_BATCH_SIZES = 'Validation accuracy at each learning rate and batch size'

# The columns of the table of trials: field of a result, head, how it is written.
_COLUMNS = (
  ('learning_rate', 'rate', formats.rate),
  ('batch_size', 'batch size', str),
  ('schedule', 'schedule', str),
  ('seed', 'seed', str),
  ('train_loss', 'training loss', formats.loss),
  ('train_accuracy', 'training accuracy', formats.percent),
  ('validation_loss', 'validation loss', formats.loss),
  ('validation_accuracy', 'validation accuracy', formats.percent),
  ('validation_balanced_accuracy', 'balanced accuracy', formats.percent),
  ('status', 'status', lambda status: status.replace('_', ' ')),
  ('evidence', 'evidence', str),
)
_SETTING = ('batch_size', 'schedule')


def write(workdir: Path, out: Path | None = None) -> None:
  """Writes the page of a finished study from what its folder holds.

  Args:
    workdir: the study's.
    out: the file; by default report.html in the folder.

  Raises:
    StudyError: if the study is not finished, or has lost what the page shows.
  """
  config, study, results, verdict = evaluate.read_study(workdir)
  content = report.read_content(workdir)
  try:
    examined, guessing_loss = content['best_trial'], study['guessing_loss']
  except KeyError as error:
    raise StudyError(
      f'{workdir / "results.json"} was written before studies kept {error}; delete it, and the '
      'same command of scripts/sweep.py writes it again'
    ) from error
  verdicts = report.of_settings(content)
  drawn = pictures.build(workdir, config, study, results, verdicts, examined)
  text = html.render(
    'report.html',
    name=workdir.resolve().name,
    verdict=verdict,
    about=_about(study),
    facts=_facts(verdict),
    **_table(results, verdict),
    settings=[
      _of_setting(label, drawn[label], own, results)
      for setting, own in verdicts.items()
      for label in [rounds.label(setting, verdicts)]
    ],
    about_sharpness=curvature.ABOUT,
    level=formats.percent(confidence.LEVEL, 0),
    batch_sizes=[
      (name.removeprefix('batch_sizes').strip('_'), svg.inline(figure, name, _BATCH_SIZES))
      for name, figure in drawn[''].items()
      if name.startswith('batch_sizes')
    ],
    confusion='confusion' in drawn['']
    and svg.inline(drawn['']['confusion'], 'confusion', _CONFUSION),
    several_seeds=len({result.seed for result in results}) > 1,
    guessing=formats.loss(guessing_loss),
    best=_best(workdir, study['data']['classes'], examined),
    run=_run(study),
    checks=[check['line'] for check in study['data']['checks'].values() if check['count']],
    left_out=study['data']['left_out'],
    config=sorted((name, repr(value)) for name, value in flatten(config).items()),
  )
  html.save(out or workdir / NAME, text)


def _about(study: dict[str, Any]) -> str:
  config, data = study['config'], study['data']
  return (
    f'{config["model"]["preset"]}, width {config["model"]["width"]:g}, on {data["train"]} training '
    f'and {data["validation"]} validation images of {len(data["classes"])} classes of '
    f'{data["name"]}, {config["image_size"]} px; {config["epochs"]} epochs, schedule '
    f'{config["schedule"]["name"]}; {formats.duration(study["seconds"])} on {study["device"]}.'
  )


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
  facts = []
  if verdict.learning_rate is not None:
    others = [formats.rate(r) for r in verdict.indistinguishable if r != verdict.learning_rate]
    facts += [
      ('Rate to use', formats.rate(verdict.learning_rate)),
      ('Not told apart from it', ', '.join(others) or 'none'),
    ]
  stable = verdict.largest_stable
  facts.append(('Largest stable rate', 'none tried' if stable is None else formats.rate(stable)))
  return facts


def _table(results: Sequence[Result], verdict: Verdict) -> dict[str, Any]:
  """The columns and the rows of the table of trials."""
  rows = [dataclasses.asdict(result) for result in results]
  columns = [column for column in _COLUMNS if _says_something(column[0], results)]
  numeric = {name: not isinstance(rows[0][name], str) for name, *_ in columns}
  trials = []
  for row in rows:
    cells = [
      {'text': show(row[name]), 'value': row[name], 'numeric': numeric[name], 'kind': name}
      for name, _, show in columns
    ]
    named = all(row[n] == getattr(verdict, n) for n in ('learning_rate', *_SETTING))
    trials.append({'cells': cells, 'best': named})
  heads = [{'name': head, 'numeric': numeric[name]} for name, head, _ in columns]
  return {'columns': heads, 'trials': trials}


def _says_something(column: str, results: Sequence[Result]) -> bool:
  """False for a batch size or schedule that all share, and where balancing changes nothing."""
  if column in _SETTING:
    return len({getattr(r, column) for r in results}) > 1
  if column == 'validation_balanced_accuracy':
    pairs = [(getattr(r, column), r.validation_accuracy) for r in results if r.status != DIVERGED]
    return any(not math.isclose(*pair, abs_tol=1e-6) for pair in pairs)
  return True


def _rates(verdict: Verdict) -> list[dict[str, Any]]:
  """A row a rate, the largest first: its interval, and how probably it is the best."""
  chances = verdict.probability_best or {}
  return [
    {
      'rate': rate,
      'best': float(rate) == verdict.learning_rate,
      'interval': f'{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %' if ends else '–',
      'chance': formats.percent(chances.get(rate)),
    }
    for rate, ends in sorted(verdict.intervals.items(), key=lambda item: -float(item[0]))
  ]


def _of_setting(
  label: str, drawn: Mapping[str, Figure], verdict: Verdict, results: Sequence[Result]
) -> dict[str, Any]:
  """The figures of a setting; each with what it is to a reader who does not see it."""
  own = [r for r in results if (r.batch_size, r.schedule) == (verdict.batch_size, verdict.schedule)]
  where = f'{label.replace("_", " ")}: ' if label else ''
  of_trials = [name for name in drawn if name.startswith('lr_')]
  words = {
    name: f'Training loss and accuracy over the epochs, learning rate '
    f'{formats.rate(r.learning_rate)}, seed {r.seed}: {r.status.replace("_", " ")}; {r.evidence}'
    for name, r in zip(of_trials, own, strict=True)
  } | {
    'all_rates': 'Training loss and validation accuracy of all trials over the epochs',
    'accuracy_by_rate': f'Accuracy at the end against the learning rate. {verdict.sentence}',
    'schedule': 'The learning rate of each trial over the epochs',
    'sharpness': 'Sharpness of the loss over the epochs, and the edge of stability of each rate',
  }
  found = {
    n: svg.inline(drawn[n], f'{label}{n}', where + text) for n, text in words.items() if n in drawn
  }
  trials = [
    {'picture': found[name], 'seed': r.seed} for name, r in zip(of_trials, own, strict=True)
  ]
  return {
    'label': label.replace('_', ' '),
    'sentence': verdict.sentence,
    'rates': _rates(verdict),
    'seeds': verdict.probability_best is not None,
    'pictures': found,
    'trials': trials,
  }


def _best(
  workdir: Path, classes: Sequence[str], examined: dict[str, Any] | None
) -> dict[str, Any] | None:
  if examined is None:
    return None
  of_trial = {'rate': formats.rate(examined['learning_rate']), 'seed': examined['seed']}
  if 'missing' in examined:
    return of_trial | {'missing': examined['missing']}
  score = Score(tuple(classes), np.asarray(examined['confusion']))
  images, right = int(score.confusion.sum()), int(np.trace(score.confusion))
  rows = [
    {
      'name': name,
      'images': int(score.confusion[label].sum()),
      'recall': examined['recall'][label],
      'accuracy': formats.percent(examined['recall'][label]),
      'mistaken': _mistaken(score, label),
    }
    for label, name in enumerate(classes)
  ]
  if len(rows) > _MOST_ROWS:
    rows.sort(key=lambda row: (row['recall'] is None, row['recall']))
  mistakes = [
    mistake
    | {
      'source': _data_uri(workdir / mistake['file']),
      'probability': formats.percent(mistake['probability']),
    }
    for mistake in examined['mistakes']
    if (workdir / mistake['file']).is_file()
  ]
  return of_trial | {
    'missing': None,
    'images': images,
    'right': right,
    'wrong': images - right,
    'classes': rows[:_MOST_ROWS],
    'hidden': len(rows[_MOST_ROWS:]),
    'mistakes': mistakes,
    'folder': str(best.MISTAKES),
  }


def _mistaken(score: Score, label: int) -> str:
  """The classes that images of one are most often taken for, at most three."""
  counts = score.confusion[label].copy()
  counts[label] = 0
  most = [i for i in np.argsort(-counts, kind='stable')[:3] if counts[i]]
  return ', '.join(f'{score.classes[i]} ({counts[i]})' for i in most) or '–'


def _data_uri(file: Path) -> str:
  return 'data:image/jpeg;base64,' + base64.b64encode(file.read_bytes()).decode()


def _run(study: dict[str, Any]) -> list[tuple[str, str]]:
  data, steps = study['data'], study['trial_steps']
  phases = sorted(study['seconds_of'].items(), key=lambda item: -item[1])
  return [
    ('Commit', study['commit'] or 'outside a git checkout'),
    ('Versions', ', '.join(f'{name} {version}' for name, version in study['versions'].items())),
    ('Device', study['device']),
    ('Seconds', ', '.join(f'{phase} {seconds:g}' for phase, seconds in phases)),
    ('Steps of all trials', f'{steps["run"]} of {steps["planned"]}'),
    ('Images', f'{data["name"]}, fingerprint {data["fingerprint"]}'),
    ('Classes', ', '.join(data['classes'])),
  ]
