"""The answer of a finished study in TensorBoard: the verdict as text, pictures of what it is on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr_study import formats
from lr_study.errors import StudyError
from lr_study.files.events import write_answer
from lr_study.report import report, summary
from lr_study.search import rounds


def write(workdir: Path) -> None:
  """Shows the answer in TensorBoard's text and images tabs, from what the folder holds."""
  found = report.read(workdir)
  if found is None:
    raise StudyError(f'{workdir} holds no finished study')
  (results, verdict), content = found, report.read_content(workdir)
  verdicts = report.of_settings(content)
  text, pictures = summary.answer(results, verdict, verdicts), {}
  for name in ('confusion', 'accuracy_by_rate'):
    label = rounds.label(verdict.setting, verdicts) if name == 'accuracy_by_rate' else ''
    file = workdir / 'figures' / label / f'{name}.png'
    if file.is_file():
      pictures[f'answer/{name}'] = file.read_bytes()
  pictures |= _mistakes(workdir, content.get('best_trial') or {})
  write_answer(workdir / 'tensorboard', {'answer/verdict': text}, pictures)


def _mistakes(workdir: Path, best_trial: Mapping[str, Any]) -> dict[str, bytes]:
  found = {}
  for number, mistake in enumerate(best_trial.get('mistakes', ()), 1):
    file, sure = workdir / mistake['file'], formats.percent(mistake['probability'])
    if file.is_file():
      words = f'{mistake["true"]} predicted as {mistake["predicted"]}, {sure}'
      found[f'mistakes/{number:02} {formats.printable(words)}'] = file.read_bytes()
  return found
