"""Runs the parts, each within its time, and keeps what they find."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.gpu_check.parts import PARTS, ROOT

_LEAST = 10  # seconds left, with which no part is begun
_KEPT = 3000  # characters of what a part that failed has printed


def run(
  only: Iterable[str], minutes: float, small: bool, out: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
  """Runs parts one after the other; one that fails or takes too long does not stop the next.

  Args:
    only: their names, of `PARTS`, in the order to run them.
    minutes: for all of them together.
    small: shrinks them, for a CPU.
    out: a JSON file of all that is found, written after each part.
    tell: is called with lines.

  Returns:
    What the file holds: `parts`, of each by its name `seconds`, `ok`, `said` and more.

  Raises:
    StudyError: there is no such part.
  """
  only = list(only)
  for name in only:
    if name not in PARTS:
      raise StudyError(f'--only: no part {name!r}; there are {", ".join(PARTS)}')
  found: dict[str, Any] = {'minutes': minutes, 'small': small, 'parts': {}}
  end = time.monotonic() + 60 * minutes
  for name in only:
    left = end - time.monotonic()
    if left < _LEAST:
      found['parts'][name] = {'ok': None, 'said': 'not run: no time was left'}
    else:
      tell(f'{name}: {PARTS[name].about}')
      found['parts'][name] = _part(name, small, min(PARTS[name].seconds, left))
    for line in lines(found['parts'][name]):
      tell(f'  {line}')
    write_text(out, json.dumps(found, indent=1) + '\n')
  return found


def lines(part: Mapping[str, Any]) -> list[str]:
  """What a part has to say."""
  said = [text for key, text in part.items() if key.startswith('said')]
  return said or ['nothing came']


def table(found: Mapping[str, Any]) -> str:
  """All parts as a Markdown table."""
  rows = ['| part | | seconds | |', '| --- | --- | ---: | --- |']
  for name, part in found['parts'].items():
    word = {True: 'yes', False: '**no**', None: '–'}[part.get('ok')]
    text = '; '.join(lines(part)).replace('|', '/')
    rows.append(f'| {name} | {word} | {part.get("seconds", 0):.0f} | {text} |')
  return '\n'.join(rows)


def _part(name: str, small: bool, limit: float) -> dict[str, Any]:
  """What a part's process finds within its time, which ends with all that it has started."""
  started = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='lr_study_check_', ignore_cleanup_errors=True) as folder:
    options = {'small': small, 'folder': folder}
    log = Path(folder, 'log')
    with log.open('w') as errors:
      process = subprocess.Popen(
        [sys.executable, '-m', 'lr_study.gpu_check.parts', name, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=ROOT,
        start_new_session=True,
      )
      is_late = False
      try:
        text, _ = process.communicate(timeout=limit)
      except subprocess.TimeoutExpired:
        is_late = True
      finally:
        with contextlib.suppress(ProcessLookupError):
          os.killpg(process.pid, signal.SIGKILL)
      if is_late:
        text, _ = process.communicate()
    found = {}
    for line in text.splitlines():
      if line.startswith('RESULT '):
        found |= json.loads(line.removeprefix('RESULT '))
    printed = log.read_text(errors='replace')
  if is_late:
    found |= {'ok': False, 'said_of_time': f'ended after its {limit:.0f} s'}
  elif process.returncode:
    last = (printed.strip().splitlines() or ['nothing'])[-1]
    found |= {'ok': False, 'said_of_its_end': f'status {process.returncode}: {last[:200]}'}
  if not found.get('ok'):
    found['printed'] = printed[-_KEPT:]
  return found | {'seconds': round(time.monotonic() - started, 1)}
