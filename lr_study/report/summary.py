"""A finished study as summary.md: the answer, tables of rates and of trials, its costs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lr_study import formats
from lr_study.answer.axes import Answer
from lr_study.answer.confidence import STATED
from lr_study.answer.verdict import Result, Verdict
from lr_study.diagnosis import curvature
from lr_study.search.rounds import label


def text(study: Mapping[str, Any], results: Sequence[Result], answer: Answer) -> str:
  """A finished study as Markdown.

  Args:
    study: as under "study" in results.json.
    results: one a trial.
    answer: of the study.
  """
  config, data = study['config'], study['data']
  sharp = any(r.sharpness is not None for r in results)
  several = len(answer.of_setting) > 1
  lines = [
    '# Which learning rate?',
    '',
    f'**{answer.verdict.sentence}**',
    '',
    *_settings(results, answer),
    'A row a trial:',
    '',
    *_trials(results, several, sharp),
  ]
  model, optimizer = config['model'], config['optimizer']
  sizes, schedules = (
    ', '.join(dict.fromkeys(str(getattr(setting, name)) for setting in answer.of_setting))
    for name in ('batch_size', 'schedule')
  )
  lines += [
    '',
    f'{model["preset"]}, width {model["width"]:g}, on {data["train"]} training and '
    f'{data["validation"]} validation images of {len(data["classes"])} classes, '
    f'{config["image_size"]} px; {config["epochs"]} epochs at batch size {sizes}, '
    f'momentum {optimizer["momentum"]:g}, schedule {schedules}; '
    f'{formats.duration(study["seconds"])} on {study["device"]}.',
    '',
    _saved(**study['trial_steps']),
    '',
    _profile(study['seconds_of']),
    '',
  ]
  for setting in answer.of_setting:
    name = label(setting, answer.of_setting)
    of, folder = (f' ({name})', f'figures/{name}') if several else ('', 'figures')
    lines += [f'![Validation accuracy against the rate{of}]({folder}/accuracy_by_rate.png)', '']
    lines += [f'![All trials{of}]({folder}/all_rates.png)', '']
    lines += [f'![Sharpness{of}]({folder}/sharpness.png)', ''] if sharp else []
  lines += [curvature.ABOUT, ''] if sharp else []
  found = [check['line'] for check in data['checks'].values() if check['count']]
  if found:
    lines += ['Before training, checks of the data found:', '']
    lines += [f'    {formats.printable(line)}' for line in found] + ['']
  if data['left_out']:
    lines += [f'{len(data["left_out"])} unreadable files were left out:', '']
    lines += [f'    {" ".join(name.splitlines())}' for name in data['left_out']] + ['']
  return '\n'.join(lines)


def _settings(results: Sequence[Result], answer: Answer) -> list[str]:
  """The rates of each batch size and schedule; with headings where there are several."""
  lines = []
  for setting, verdict in answer.of_setting.items():
    name = label(setting, answer.of_setting)
    lines += [f'## {name.replace("_", " ")}', ''] if name else []
    lines += _rates([r for r in results if (r.batch_size, r.schedule) == setting], verdict)
  return lines


def _rates(results: Sequence[Result], verdict: Verdict) -> list[str]:
  """The rates as a table: the mean over the seeds, its interval, how likely each is the best."""
  measure = verdict.measure.replace('_', ' ')
  heads = (
    'rate>',
    f'{measure}>',
    f'{STATED} interval>',
    'probability of being the best>',
    'status',
  )
  rows = []
  for rate in dict.fromkeys(r.learning_rate for r in results):
    found = [r for r in results if r.learning_rate == rate]
    name, statuses = formats.rate(rate), Counter(r.status for r in found)
    interval = verdict.intervals[name]
    # A mean over the seeds that did not diverge would flatter the rate.
    mean = interval and float(np.mean([getattr(r, verdict.measure) for r in found]))
    between = '–' if interval is None else '{:.1f} to {:.1f} %'.format(*(100 * x for x in interval))
    sure = verdict.probability_best and verdict.probability_best[name]
    status = ', '.join(f'{count} {status}' for status, count in statuses.items())
    rows.append(
      (
        f'**{name}**' if rate in verdict.indistinguishable else name,
        formats.percent(mean),
        between,
        formats.percent(sure),
        status if len(statuses) > 1 else found[0].status,
      )
    )
  return [*_table(heads, rows), '', 'In bold: the rates that may be the best.', '']


def _trials(results: Sequence[Result], several: bool, sharp: bool) -> list[str]:
  """The trials as a table, `several` with batch size and schedule, `sharp` with sharpness."""
  heads = (
    *(('batch size>', 'schedule') if several else ()),
    *('rate>', 'seed>', 'training loss>', 'training accuracy>', 'validation accuracy>'),
    *('status', 'evidence'),
    *(('sharpness at the end>', 'of the edge') if sharp else ()),
  )
  rows = [
    (
      *((str(r.batch_size), r.schedule) if several else ()),
      formats.rate(r.learning_rate),
      str(r.seed),
      formats.loss(r.train_loss),
      formats.percent(r.train_accuracy),
      formats.percent(r.validation_accuracy),
      r.status,
      r.evidence,
      *(_sharpness(r) if sharp else ()),
    )
    for r in results
  ]
  return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  """Markdown; a column whose head ends in > is set to the right."""
  lines = [
    [head.removesuffix('>') for head in heads],
    ['---:' if head.endswith('>') else '---' for head in heads],
    *rows,
  ]
  return [f'| {" | ".join(line)} |' for line in lines]


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
