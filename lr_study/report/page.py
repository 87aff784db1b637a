"""A study's page: report.html, one file that opens from disk and fetches nothing."""

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from lr_study import formats
from lr_study.answer import confidence, landscape
from lr_study.answer.landscape import Landscape
from lr_study.answer.measure import Measure
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import flatten
from lr_study.diagnosis import curvature
from lr_study.errors import StudyError
from lr_study.paths import Moved
from lr_study.report import (
  describe,
  drawing,
  figures,
  html,
  matrices,
  pictures,
  report,
  svg,
  tables,
)
from lr_study.search import rounds
from lr_study.search.rounds import Setting
from lr_study.use import best, evaluate
from lr_study.use.evaluate import Score

NAME = 'report.html'
_NOT_DRAWN = Markup('<p class="note">Not drawn.</p>')
_MOST_ROWS = 50  # of the table of classes

# What figures of the whole study are to a reader who does not see them.
_CONFUSION = 'Confusion matrix of the best trial, its main points in the table below'
_HEAT_MAP = 'Mean {} at each learning rate and {}'

# The columns of the table of trials: field of a result, head, how it is written. Those of further
# axes come after the first ones, those of further metrics before the last ones.
_FIRST = (
  ('learning_rate', 'rate', formats.rate),
  ('batch_size', 'batch size', str),
  ('schedule', 'schedule', str),
)
_COLUMNS = (
  ('seed', 'seed', str),
  ('train_loss_at_end', 'training loss at the end', formats.loss),
  ('train_accuracy', 'training accuracy', formats.percent),
  ('validation_loss', 'validation loss', formats.loss),
  ('validation_accuracy', 'validation accuracy', formats.percent),
  ('validation_balanced_accuracy', 'balanced accuracy', formats.percent),
)
_LAST = (
  ('status', 'status', lambda status: status.replace('_', ' ')),
  ('evidence', 'evidence', str),
)
_SETTING = ('batch_size', 'schedule')


def write(workdir: Path, out: Path | None = None, moved: Moved = ()) -> None:
  """Writes the page of a finished study from what its folder holds.

  Args:
    workdir: the study's.
    out: the file; by default report.html in the folder.
    moved: as of `evaluate.read_study`.

  Raises:
    StudyError: if the study is not finished, or has lost what the page shows.
  """
  config, study, results, verdict = evaluate.read_study(workdir, moved)
  content = report.read_content(workdir)
  try:
    examined, guessing_loss = content['best_trial'], study['guessing_loss']
  except KeyError as error:
    raise StudyError(
      f'{workdir / "results.json"} was written before studies kept {error}; delete it, and the '
      'same command of scripts/sweep.py writes it again'
    ) from error
  verdicts, leads = report.of_settings(content), verdict.leads
  records = map(rounds.record_of, content.get('landscapes', ()))  # older studies have none
  of_landscape = {of.setting: landscape.words(of) for of in (Landscape(**r) for r in records)}
  drawn = pictures.build(workdir, config, study, results, verdicts, examined)
  text = html.render(
    'report.html',
    name=workdir.resolve().name,
    verdict=verdict,
    about=_about(study),
    facts=_facts(verdict),
    **_table(results, verdict, study.get('measures', ())),
    measure=leads.name,
    measured=figures.measured(leads),
    when=figures.when(results),
    by_one_loss=describe.evaluation(study['config']),
    capital=figures.capital,
    answers=_answers(results, verdicts, verdict),
    settings=[
      _of_setting(setting, verdicts, drawn[rounds.label(setting, verdicts)], results)
      | {'landscape': of_landscape.get(setting, '')}
      for setting in verdicts
    ],
    about_sharpness=curvature.ABOUT,
    level=formats.percent(confidence.LEVEL, 0),
    heat_maps=_heat_maps(results, drawn[''], leads),
    confusion=_picture(drawn[''], 'confusion', 'confusion', _CONFUSION),
    several_seeds=len({result.seed for result in results}) > 1,
    guessing=formats.loss(guessing_loss),
    best=_best(workdir, study['data'], examined),
    run=_run(study),
    checks=[check['line'] for check in study['data']['checks'].values() if check['count']],
    left_out=study['data']['left_out'],
    config=sorted((name, repr(value)) for name, value in flatten(config).items()),
  )
  html.save(out or workdir / NAME, text)


def _heat_maps(
  results: Sequence[Result], drawn: Mapping[str, Figure], measure: Measure
) -> dict[str, list[tuple[str, Markup]]]:
  """The figures of rate and each axis, with captions, by the axis's name."""
  found = {}
  for name, of in matrices.heat_maps(results).items():
    axis = matrices.axis_name(of.axis)
    caption = figures.capital(f'{of.title}. ' if of.title else '')
    caption += f'{figures.capital(f"mean {measure.name}")}; framed, the best rate of each value.'
    picture = _picture(drawn, name, name, _HEAT_MAP.format(measure.name, axis))
    if picture:
      found.setdefault(axis, []).append((f'{caption} A cross: diverged.', picture))
  return found


def _about(study: dict[str, Any]) -> str:
  config, data = study['config'], study['data']
  return (
    f'{describe.part(config, "model")}, on {describe.data(config, data)}; {config["epochs"]} '
    f'epochs, {describe.training(config, config["axes"].get("schedule.name", ()))}; '
    f'{formats.duration(study["seconds"])} on {study["device"]}.'
  )


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
  facts = []
  if verdict.learning_rate is not None:
    others = [formats.rate(r) for r in verdict.indistinguishable if r != verdict.learning_rate]
    facts += [('Rate to use', formats.rate(verdict.learning_rate))]
    facts += [('May be just as good', ', '.join(others))] if others else []
  stable = verdict.largest_stable
  facts.append(('Largest stable rate', 'none tried' if stable is None else formats.rate(stable)))
  return facts


def _table(
  results: Sequence[Result], verdict: Verdict, measures: Sequence[dict[str, Any]]
) -> dict[str, Any]:
  """The columns and the rows of the table of trials."""
  rows = [report.as_row(dataclasses.asdict(result)) for result in results]
  axes = [(name, name, rounds.value_text) for name in results[0].axes]
  known = {measure.field: measure for measure in (Measure(**of) for of in measures)}
  further = [known.get(name, Measure(name, is_share=False)) for name in results[0].metrics]
  metrics = [(of.field, of.name.removeprefix('validation '), of.show) for of in further]
  columns: list[tuple[str, str, Callable[[Any], str]]] = [
    *_FIRST,
    *axes,
    *_COLUMNS,
    *metrics,
    *_LAST,
  ]
  leads = verdict.leads.field
  columns = [c for c in columns if c[0] == leads or _says_something(c[0], results)]
  numeric = {name: not isinstance(rows[0][name], str) for name, *_ in columns}
  trials = []
  for row, result in zip(rows, results, strict=True):
    cells = [
      {'text': show(row[name]), 'value': row[name], 'numeric': numeric[name], 'kind': name}
      for name, _, show in columns
    ]
    named = (result.learning_rate, result.setting) == (verdict.learning_rate, verdict.setting)
    trials.append({'cells': cells, 'best': named})
  heads = [{'name': head, 'numeric': numeric[name]} for name, head, _ in columns]
  return {'columns': heads, 'trials': trials}


def _says_something(column: str, results: Sequence[Result]) -> bool:
  """False for what all trials share of their settings, and where balancing changes nothing."""
  if column in _SETTING or column in results[0].axes:
    return len({r.axes.get(column, getattr(r, column, None)) for r in results}) > 1
  if column == 'validation_balanced_accuracy':
    pairs = [(getattr(r, column), r.validation_accuracy) for r in results if r.status != DIVERGED]
    return any(None not in pair and not math.isclose(*pair, abs_tol=1e-6) for pair in pairs)
  return True


def _rates(verdict: Verdict) -> list[dict[str, Any]]:
  """A row a rate, the largest first: its interval, and how probably it is the best."""
  chances, best = verdict.probability_best or {}, verdict.learning_rate
  return [
    {
      'rate': rate,
      # As written: by its key a rate has six digits.
      'best': best is not None and rate == formats.rate(best),
      'interval': verdict.leads.between(ends),
      'chance': formats.percent(chances.get(rate)),
    }
    for rate, ends in sorted(verdict.intervals.items(), key=lambda item: -float(item[0]))
  ]


def _answers(
  results: Sequence[Result], verdicts: Mapping[Setting, Verdict], best: Verdict
) -> dict[str, Any] | None:
  """The table of the settings; None if there is one."""
  if len(verdicts) == 1:
    return None
  names = tables.dimensions(verdicts)
  rows = [
    {
      'best': row.setting == best.setting,
      'names': [of(row.setting) for of in names.values()],
      'figures': row[1:],
    }
    for row in tables.answers(results, verdicts)
  ]
  return {'names': list(names), 'rows': rows}


def _of_setting(
  setting: Setting,
  verdicts: Mapping[Setting, Verdict],
  drawn: Mapping[str, Figure],
  results: Sequence[Result],
) -> dict[str, Any]:
  """The figures of a setting; each with what it is to a reader who does not see it."""
  verdict, label = verdicts[setting], rounds.label(setting, verdicts)
  own, measure = [r for r in results if r.setting == setting], verdict.leads
  title = rounds.title(setting, verdicts)
  where = f'{title}: ' if title else ''
  words = {
    figures.trial_name(r): f'Training loss and accuracy over the epochs, learning rate '
    f'{formats.rate(r.learning_rate)}, seed {r.seed}: {r.status.replace("_", " ")}; {r.evidence}'
    for r in own
  } | {
    'all_rates': f'Training loss and {measure.name} of all trials over the epochs',
    'accuracy_by_rate': f'{figures.capital(figures.measured(measure))} {figures.when(own)} '
    f'against the learning rate. {verdict.sentence}',
    'schedule': 'The learning rate of each trial over the epochs',
    'sharpness': 'Sharpness of the loss over the epochs, and the edge of stability of each rate',
  }
  found = {
    n: _picture(drawn, n, f'{label}{n}', where + text) or _NOT_DRAWN
    for n, text in words.items()
    if n in drawn or n != 'sharpness'  # which few studies have
  }
  trials = [{'picture': found[figures.trial_name(r)], 'seed': r.seed} for r in own]
  return {
    'title': title,
    'sentence': verdict.sentence,
    'rates': _rates(verdict),
    'seeds': verdict.probability_best is not None,
    'pictures': found,
    'trials': trials,
  }


def _picture(drawn: Mapping[str, Figure], name: str, own: str, words: str) -> Markup | None:
  """A figure in the page, under a name of its own; None if it was not drawn, or cannot be."""
  if name not in drawn:
    return None
  return drawing.attempt(name, svg.inline, drawn[name], own, words)


def _best(
  workdir: Path, data: Mapping[str, Any], examined: dict[str, Any] | None
) -> dict[str, Any] | None:
  if examined is None:
    return None
  classes = data['classes']
  of_trial = {'rate': formats.rate(examined['learning_rate']), 'seed': examined['seed']}
  if 'missing' in examined:
    return of_trial | {'missing': examined['missing']}
  if 'confused' not in examined:  # of an older study
    score = Score(tuple(classes), np.asarray(examined['confusion']))
    examined = score.as_json() | examined
  images_of, recall = examined['images_of'], examined['recall']
  images = sum(images_of)
  right = sum(round(share * n) for share, n in zip(recall, images_of, strict=True) if n)
  confused = {label: [] for label in range(len(classes))}
  for label, predicted, count in examined['confused']:
    confused[label].append(f'{classes[predicted]} ({count})')
  rows = [
    {
      'name': name,
      'images': images_of[label],
      'recall': recall[label],
      'accuracy': formats.percent(recall[label]),
      'predicted': ', '.join(confused[label]) or '–',
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
    'dense': examined['confusion'] is not None,
    'mistakes': mistakes,
    'what': describe.noun(data),
    'folder': str(best.MISTAKES) if examined['mistakes'] else None,
  }


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
