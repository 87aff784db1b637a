"""Run a published study anew and compare it with the committed results.

usage: lr-study reproduce STUDY [FLAGS]

  lr-study reproduce batch_size
  lr-study reproduce --stored batch_size
  lr-study reproduce --full batch_size

A study is a config in configs/studies/. The table shows each number that the study found, the one
found now, and whether the two agree to the stated tolerance. If not all agree, the exit status is
1. The same command continues a study that was stopped. --full is a larger size, for a GPU.
"""

import sys
from pathlib import Path

from absl import flags

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.studies import claims, page, reproduce

_WORKDIR = cli.path_flag(
  'workdir', 'Where the trials go. The default is runs/studies/STUDY, or STUDY_full.'
)
_STORED = flags.DEFINE_bool(
  'stored', False, 'Train nothing: analyse the committed trials again, and compare.'
)
_WRITE = flags.DEFINE_bool(
  'write', False, 'Replace the committed results, the summary and the figures.'
)
_FULL = flags.DEFINE_bool('full', False, 'At the size for a GPU, with results of its own.')


def main(*names: str) -> None:
  if len(names) != 1:
    known = ', '.join(reproduce.names())
    raise StudyError(f'give one study, such as {reproduce.names()[0]}; the studies: {known}')
  (name,) = names
  if _STORED.value:
    before = reproduce.stored(name, _FULL.value)
    now = reproduce.Reproduced(
      before.about, before.tables, reproduce.analysis_of(name).claims(before.tables)
    )
  else:
    reproduce.config_of(name)
    folder = _WORKDIR.value or Path('runs', 'studies', name + '_full' * _FULL.value)
    now = reproduce.run(name, folder, _FULL.value)
  for claim in now.claims:
    print(claim.sentence)
  if _WRITE.value:
    reproduce.write(name, now, _FULL.value)
    page.FILE.write_text(page.text(), 'utf-8')
    print(f'\nWritten: {reproduce.results_of(name, _FULL.value)} and {page.FILE}')
    return
  rows = claims.compare(reproduce.stored(name, _FULL.value).claims, now.claims)
  print('\n' + table(rows))
  if not all(same for *_, same in rows):
    sys.exit(1)


def table(rows: list[tuple[claims.Claim, claims.Claim | None, bool]]) -> str:
  """The rows of `claims.compare` as text."""
  width = max(len(before.name) for before, *_ in rows)
  lines = [f'{"":{width}}  {"committed":>10}  {"now":>10}  {"tolerance":>10}']
  for before, now, same in rows:
    values = (before.value, now and now.value, before.tolerance)
    shown = '  '.join(f'{"-" if value is None else format(value, ".4g"):>10}' for value in values)
    lines.append(f'{before.name:{width}}  {shown}  {"agrees" if same else "DIFFERS"}')
  return '\n'.join(lines)
