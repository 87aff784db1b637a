"""A finished study as summary.md: the answer, tables of rates and of trials, its costs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lr_study import formats
from lr_study.answer import landscape
from lr_study.answer.axes import Answer
from lr_study.answer.confidence import STATED
from lr_study.answer.measure import ACCURACY, value_of
from lr_study.answer.verdict import Result, Verdict
from lr_study.diagnosis import curvature
from lr_study.report import describe, figures, tables
from lr_study.search.rounds import Setting, label, title

_SIGNS = re.compile(r'[\\`*\[\]<&|]')  # what Markdown would not show as it is


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
    f'**{plain(answer.verdict.sentence)}**',
    '',
    *([plain(study['stopped']), ''] if 'stopped' in study else []),
    *_settings(results, answer),
    f'{tables.title(results)}:',
    '',
    *_trials(results, answer, sharp),
  ]
  if by_one_loss := describe.evaluation(config):
    lines += ['', plain(by_one_loss)]
  sizes = ', '.join(dict.fromkeys(str(setting.batch_size) for setting in answer.of_setting))
  training = describe.training(config, (setting.schedule for setting in answer.of_setting))
  lines += [
    '',
    plain(
      f'{describe.part(config, "model")}, on {describe.data(config, data)}; {config["epochs"]} '
      f'epochs at batch size {sizes}, {training}; {formats.duration(study["seconds"])} on '
      f'{study["device"]}.'
    ),
    '',
    _saved(**study['trial_steps']),
    '',
    _profile(study['seconds_of']),
    '',
  ]
  for setting in answer.of_setting:
    of, folder = '', 'figures'
    if several:
      of = f' ({title(setting, answer.of_setting)})'
      folder = f'figures/{label(setting, answer.of_setting)}'
    measure = figures.capital(answer.verdict.leads.name)
    lines += [f'![{measure} against the rate{of}]({folder}/accuracy_by_rate.png)', '']
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


def answer(results: Sequence[Result], verdict: Verdict, verdicts: Mapping[Setting, Verdict]) -> str:
  """The sentence, and the rates of each setting, as Markdown."""
  lines = [f'**{plain(verdict.sentence)}**', '']
  for setting, of in verdicts.items():
    name = title(setting, verdicts)
    lines += [f'### {plain(figures.capital(name))}', ''] if name else []
    lines += [*rates([r for r in results if r.setting == setting], of), '']
  return '\n'.join(lines)


def _settings(results: Sequence[Result], answer: Answer) -> list[str]:
  """The rates of each setting; where there are several, with headings and the answer of each."""
  lines = []
  if len(answer.of_setting) > 1:
    names = tables.dimensions(answer.of_setting)
    heads = (*_heads(names), 'rate to use>', *_measured(answer.verdict))
    may_be_best = {standing.setting for standing in answer.standings if standing.may_be_best}
    rows = []
    for setting, *figures_of in tables.answers(results, answer.of_setting):
      rate, *others = map(plain, figures_of)
      rate = f'**{rate}**' if setting in may_be_best else rate
      rows.append((*(plain(of(setting)) for of in names.values()), rate, *others))
    lines += ['A row a setting; in bold, those that may be the best:', '', *_table(heads, rows), '']
  found = zip(answer.of_setting, answer.landscapes, strict=False)  # short runs have none
  of_landscape = {setting: landscape.words(of) for setting, of in found}
  for setting, verdict in answer.of_setting.items():
    name = figures.capital(title(setting, answer.of_setting))
    lines += [f'## {name}', ''] if name else []
    lines += [*rates([r for r in results if r.setting == setting], verdict), '']
    lines += [plain(of_landscape[setting]), ''] if of_landscape.get(setting) else []
  bold = 'the rates that may be the best'
  if answer.verdict.probability_best is None:  # of one seed nobody knows
    bold = 'the rate to use, and those that may be just as good'
  return [*lines, f'In bold: {bold}.', '']


def _heads(names: Iterable[str]) -> list[str]:
  """The heads of the columns of what settings differ in."""
  return [name if name == 'schedule' else f'{name}>' for name in names]


def _measured(verdict: Verdict) -> tuple[str, str]:
  """The heads of the columns of the measure that leads, and of its intervals."""
  return f'{verdict.leads.name}>', f'{STATED} interval>'


def rates(results: Sequence[Result], verdict: Verdict) -> list[str]:
  """The rates as a table: the mean over the seeds, its interval, how likely each is the best."""
  heads = ('rate>', *_measured(verdict), 'probability of being the best>', 'status')
  rows = [
    (f'**{of.rate}**' if of.may_be_best else of.rate, *of[1:-1])
    for of in tables.rates(results, verdict)
  ]
  return _table(heads, rows)


def _trials(results: Sequence[Result], answer: Answer, sharp: bool) -> list[str]:
  """The trials as a table, with what their settings differ in; `sharp`: with sharpness."""
  measure, names = answer.verdict.leads, tables.dimensions(answer.of_setting)
  own = () if measure == ACCURACY else (measure,)
  heads = (
    *_heads(names),
    *('rate>', 'seed>', 'training loss at the end>', 'training accuracy>', 'validation accuracy>'),
    *(f'{measure.name}>' for measure in own),
    *('status', 'evidence'),
    *((f'sharpness {figures.when(results)}>', 'of the edge') if sharp else ()),
  )
  rows = [
    (
      *(plain(of(r.setting)) for of in names.values()),
      formats.rate(r.learning_rate),
      str(r.seed),
      formats.loss(r.train_loss_at_end),
      formats.percent(r.train_accuracy),
      formats.percent(r.validation_accuracy),
      *(measure.show(value_of(r, measure)) for measure in own),
      _words(r.status),
      r.evidence,
      *(_sharpness(r) if sharp else ()),
    )
    for r in map(results.__getitem__, tables.shown(results, measure))
  ]
  return _table(heads, rows)


def _words(status: str) -> str:
  return status.replace('_', ' ')


def plain(text: str) -> str:
  """Text that may hold the names of files and functions, so that Markdown shows it as it is."""
  return _SIGNS.sub(r'\\\g<0>', formats.printable(text))


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
