"""A study's page: report.html, one file that opens from disk and fetches nothing."""

import base64
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr_study import config as configs
from lr_study import formats, plugs
from lr_study.answer import confidence, landscape
from lr_study.answer.landscape import Landscape
from lr_study.answer.measure import Measure
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.diagnosis import curvature
from lr_study.errors import StudyError
from lr_study.paths import Moved
from lr_study.report import (
  charts,
  describe,
  figures,
  html,
  live,
  matrices,
  next_steps,
  report,
  tables,
)
from lr_study.search import rounds
from lr_study.search.rounds import Setting
from lr_study.use import best, evaluate
from lr_study.use.evaluate import Score

NAME = live.NAME
_MOST_ROWS = 50  # of the table of classes
_STILLS = ('accuracy_by_rate', 'all_rates', 'schedule')

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
_SENTENCE_END = re.compile(r'(?<=\.) (?=[A-Z\d])')
_SAID_FIRST = 3  # sentences on a study with several settings: which, the rate, and how sure
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
    examined, _ = content['best_trial'], study['guessing_loss']
  except KeyError as error:
    raise StudyError(
      f'{workdir / "results.json"} was written before studies kept {error}; delete it, and the '
      'same command of scripts/sweep.py writes it again'
    ) from error
  verdicts, leads = report.of_settings(content), verdict.leads
  trials = charts.trials_of(workdir, results, verdicts)
  headline, rest = _headline(verdict.sentence, len(verdicts))
  text = html.render(
    'report.html',
    headline=headline,
    rest=rest,
    charts=_charts(trials, results, verdicts, verdict, study),
    name=workdir.resolve().name,
    verdict=verdict,
    stopped=study.get('stopped', ''),
    rate='none' if verdict.learning_rate is None else formats.rate(verdict.learning_rate),
    about=_about(study),
    facts=_facts(verdict),
    next_steps=next_steps.steps(workdir, study, config, results, verdict),
    measure=leads.name,
    capital=figures.capital,
    level=formats.percent(confidence.LEVEL, 0),
    answers=_answers(results, verdicts, verdict),
    settings=_settings(results, verdicts, verdict, content),
    trials=_table(results, verdict, study.get('measures', ())),
    when='so far' if 'stopped' in study else figures.when(results),
    by_one_loss=describe.evaluation(study['config']),
    about_sharpness=curvature.ABOUT if any(r.sharpness is not None for r in results) else '',
    undrawn=charts.undrawn_words(trials),
    measured=figures.measured(leads),
    stills=_stills(workdir, verdicts, verdict),
    maps=_maps(results, leads),
    best=_best(workdir, study['data'], examined),
    confusion=_confusion(study['data']['classes'], examined),
    checks=[check['line'] for check in study['data']['checks'].values() if check['count']],
    left_out=study['data']['left_out'],
    run=_run(study),
    changed=_changed(config),
    config=sorted((name, (repr(value),)) for name, value in configs.flatten(config).items()),
  )
  html.save(out or workdir / NAME, text)


def is_final(workdir: Path) -> bool:
  """True if the folder has the page of a finished study, and not that of one that trains."""
  file = workdir / NAME
  return file.exists() and not live.is_live(file)


def _charts(
  trials: Sequence[charts.Trial],
  results: Sequence[Result],
  verdicts: Mapping[Setting, Verdict],
  verdict: Verdict,
  study: Mapping[str, Any],
) -> dict[str, Any]:
  """What the script draws: the curves, and the measure of each rate with its interval."""
  leads, settings = verdict.leads, list(verdicts)
  metrics = [Measure(**of) for of in study.get('measures', ())]
  chance = charts.chance_of(results, leads)
  drawn = charts.content(trials, leads, metrics, study['guessing_loss'], chance)
  drawn['setting'] = settings.index(verdict.setting) if len(settings) > 1 else None
  names = [rate['name'] for rate in drawn['rates']]
  drawn['by_rate'] = [
    {
      'setting': number,
      'rate': names.index(rate),
      'mean': tables.mean(_of(results, setting, rate), leads),
      'low': ends[0] if ends else None,
      'high': ends[1] if ends else None,
      'best': of.learning_rate is not None and rate == formats.rate(of.learning_rate),
    }
    for number, (setting, of) in enumerate(verdicts.items())
    for rate, ends in of.intervals.items()
  ]
  return drawn


def _of(results: Sequence[Result], setting: Setting, rate: str) -> list[Result]:
  """The trials of a setting and a rate, as it is written."""
  return [r for r in results if r.setting == setting and formats.rate(r.learning_rate) == rate]


def _stills(
  workdir: Path, verdicts: Mapping[Setting, Verdict], verdict: Verdict
) -> dict[str, str | None]:
  """Figures of the setting to use, for print and where no script runs."""
  folder = workdir / 'figures' / rounds.label(verdict.setting, verdicts)
  return {name: html.picture(folder / f'{name}.png') for name in _STILLS}


def _maps(results: Sequence[Result], measure: Measure) -> dict[str, list[dict[str, Any]]]:
  """The tables of rate and each axis, by the axis's name."""
  found = {}
  for of in matrices.heat_maps(results).values():
    title = figures.capital(f'{of.title}. ' if of.title else '')
    own = tables.grid(of.results, of.axis, measure)
    found.setdefault(matrices.axis_name(of.axis), []).append({'title': title, **own})
  return found


def _confusion(
  classes: Sequence[str], examined: Mapping[str, Any] | None
) -> list[dict[str, Any]] | None:
  """The rows of the confusion matrix; None if there is none, or if there are too many classes."""
  counts = (examined or {}).get('confusion')
  if not counts or len(classes) > matrices.MOST_CLASSES:
    return None
  return [
    {'name': name, 'cells': [(n, math.sqrt(n / max(1, sum(row)))) for n in row]}
    for name, row in zip(classes, counts, strict=True)
  ]


def _changed(config: Any) -> list[tuple[str, tuple[str, str]]]:
  """The fields that are not the defaults: name, and value and default if there is one."""
  return [
    (name, (repr(value), '–' if default is plugs.REQUIRED else repr(default)))
    for name, (value, default) in sorted(configs.changed(config).items())
  ]


def _about(study: dict[str, Any]) -> str:
  config, data = study['config'], study['data']
  epochs = formats.count(config['epochs'], 'epoch')
  return (
    f'{describe.part(config, "model")}, on {describe.data(config, data)}; {epochs}, '
    f'{describe.training(config, config["axes"].get("schedule.name", ()))}; '
    f'{formats.duration(study["seconds"])} on {study["device"]}.'
  )


def _headline(sentence: str, settings: int) -> tuple[str, str]:
  """What a page says first, and the rest: of several settings, up to how sure the rate is."""
  sentences = _SENTENCE_END.split(sentence)
  if settings == 1 or len(sentences) <= _SAID_FIRST:
    return sentence, ''
  return ' '.join(sentences[:_SAID_FIRST]), ' '.join(sentences[_SAID_FIRST:])


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
  places = tables.shown(results, verdict.leads)
  rows = [report.as_row(dataclasses.asdict(results[place])) for place in places]
  axes = [(name, name, rounds.value_text) for name in results[0].axes]
  known = {measure.field: measure for measure in (Measure(**of) for of in measures)}
  further = [known.get(name, Measure(name, is_share=False)) for name in results[0].metrics]
  metrics = [(of.field, of.name.removeprefix('validation '), of.show) for of in further]
  columns: list[tuple[str, str, Callable[[Any], str]]]
  columns = [*_FIRST, *axes, *_COLUMNS, *metrics, *_LAST]
  leads = verdict.leads.field
  columns = [c for c in columns if c[0] == leads or _says_something(c[0], results)]
  numeric = {name: not isinstance(rows[0][name], str) for name, *_ in columns}
  trials = []
  for row, place in zip(rows, places, strict=True):
    result = results[place]
    cells = [
      {'text': show(row[name]), 'value': row[name], 'numeric': numeric[name], 'kind': name}
      for name, _, show in columns
    ]
    named = (result.learning_rate, result.setting) == (verdict.learning_rate, verdict.setting)
    trials.append({'cells': cells, 'best': named, 'number': place})
  heads = [{'name': head, 'numeric': numeric[name]} for name, head, _ in columns]
  return {'title': tables.title(results), 'columns': heads, 'rows': trials}


def _says_something(column: str, results: Sequence[Result]) -> bool:
  """False for what all trials share of their settings, and where balancing changes nothing."""
  if column in _SETTING or column in results[0].axes:
    return len({r.axes.get(column, getattr(r, column, None)) for r in results}) > 1
  if column == 'validation_balanced_accuracy':
    pairs = [(getattr(r, column), r.validation_accuracy) for r in results if r.status != DIVERGED]
    return any(None not in pair and not math.isclose(*pair, abs_tol=1e-6) for pair in pairs)
  return True


def _settings(
  results: Sequence[Result],
  verdicts: Mapping[Setting, Verdict],
  best: Verdict,
  content: Mapping[str, Any],
) -> list[dict[str, Any]]:
  """What is said of each setting, that of the verdict first."""
  records = map(rounds.record_of, content.get('landscapes', ()))  # older studies have none
  of_landscape = {of.setting: landscape.words(of) for of in (Landscape(**r) for r in records)}
  numbers = {setting: number for number, setting in enumerate(verdicts)}
  return [
    {
      'number': numbers[setting],
      'title': rounds.title(setting, verdicts),
      'sentence': verdicts[setting].sentence,
      'rates': _rates([r for r in results if r.setting == setting], verdicts[setting]),
      'seeds': verdicts[setting].probability_best is not None,
      'landscape': of_landscape.get(setting, ''),
    }
    for setting in sorted(verdicts, key=lambda setting: setting != best.setting)
  ]


def _rates(results: Sequence[Result], verdict: Verdict) -> list[dict[str, Any]]:
  """A row for each rate of a setting, the largest first."""
  # As written: by its key a rate has six digits.
  best = verdict.learning_rate is not None and formats.rate(verdict.learning_rate)
  rows = sorted(tables.rates(results, verdict), key=lambda row: -float(row.rate))
  return [row._asdict() | {'best': row.rate == best} for row in rows]


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
    (figures.capital(describe.noun(data)), f'{data["name"]}, fingerprint {data["fingerprint"]}'),
    ('Classes', ', '.join(data['classes'])),
  ]
