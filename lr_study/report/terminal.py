"""A finished study's answer in the terminal: a table of its rates, and the verdict's sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from lr_study import progress
from lr_study.answer.confidence import STATED
from lr_study.answer.verdict import Result, Verdict
from lr_study.report import tables
from lr_study.search import rounds
from lr_study.search.rounds import Setting

# Spaces become line breaks, but those of words that stay together.
_INTERVAL = f'{STATED} interval>'.replace(' %', '\u00a0%')
_PROBABILITY = 'probability of\u00a0being\u00a0best>'
_LEFT_OUT = (_PROBABILITY, _INTERVAL)


def tell(results: Sequence[Result], verdicts: Mapping[Setting, Verdict], answer: Verdict) -> None:
  """Prints the answer of each setting, if there are several, each rate of the best one, and why.

  Args:
    results: one a trial.
    verdicts: of each setting.
    answer: that of the study; its setting is the best one.
  """
  measured = [f'{answer.leads.name}>', _INTERVAL]
  if len(verdicts) > 1:
    names = tables.dimensions(verdicts)
    heads = [*(f'{name}>' for name in names), 'rate to use>', *measured]
    rows = [
      [*(of(row.setting) for of in names.values()), row.rate, row.value, row.interval]
      for row in tables.answers(results, verdicts)
    ]
    bold = [setting == answer.setting for setting in verdicts]
    progress.show(_table(heads, rows, bold))
    progress.note('')
    progress.note(f'The rates at {rounds.title(answer.setting, verdicts)}:')
  own = tables.rates([r for r in results if r.setting == answer.setting], answer)
  heads = ['rate>', *measured, _PROBABILITY, 'status']
  progress.show(_table(heads, [row[:-1] for row in own], [row.may_be_best for row in own]))
  if any(row.may_be_best for row in own):
    progress.note('Bold: may be the best.')
  progress.note('')
  progress.note(answer.sentence)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[bool]) -> Table:
  """A head that ends in > is that of numbers, which stay whole.

  Where the window is too narrow, columns of `_LEFT_OUT` are left out: the sentence has them.
  """
  table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
  most = max(head.count(' ') for head in heads)
  for head in heads:
    above = '\n' * (most - head.count(' '))  # heads end in one line; rows begin in one
    text = Text(above + head.removesuffix('>').replace(' ', '\n'))
    is_number = head.endswith('>')
    justify: Literal['left', 'right'] = 'right' if is_number else 'left'
    table.add_column(text, justify=justify, no_wrap=is_number)
  for row, is_bold in zip(rows, bold, strict=True):
    table.add_row(*map(Text, row), style='bold' if is_bold else '')
  left_out = next((heads.index(head) for head in _LEFT_OUT if head in heads), None)
  if left_out is None or progress.fits(table):
    return table
  fewer = [[cell for i, cell in enumerate(of) if i != left_out] for of in (heads, *rows)]
  return _table(fewer[0], fewer[1:], bold)
