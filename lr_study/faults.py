"""Kills a study repeatedly, and checks that it ends like one that ran undisturbed."""

import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lr_study import study
from lr_study.config import from_json
from lr_study.errors import StudyError
from lr_study.files import events, record
from lr_study.files.checkpoint import steps_in
from lr_study.report import page

# Shares of the kills by phase; a small study spends little of its time training.
_PHASES = {'start': 0.2, 'training': 0.5, 'drawing': 0.3}
_READ_ERRORS = 0.2  # share of kills before the end after which a file cannot be read for one run
_UNREADABLE = Path('/proc/self/mem')  # Linux: a file whose first bytes cannot be read


def kill_often(
  config: ConfigDict, folder: Path, kills: int, seed: int, tell: Callable[[str], None]
) -> dict[str, Any]:
  """Kills a study's process with SIGKILL at random moments, `kills` times in all.

  After some of the kills, a file of the newest checkpoint cannot be read for one run. Whenever the
  study finishes between two kills, it is compared with an undisturbed one and started again.

  Args:
    config: the study's; a small one.
    folder: created; holds the work directories.
    kills: how many.
    seed: of the random moments.
    tell: called with a line of progress after each kill.

  Returns:
    `finished`: how often the study finished; `differences`: lines on what differed from the
    undisturbed study, and on checkpoints that were set aside; `read_errors`: how many runs could
    not read a file; `killed_in`: the number of kills in each phase; `last_written`: for each part
    of the work directory, the number of kills at which it was the part written last.
  """
  draw, killed, finished, errors, differs = random.Random(seed), 0, 0, 0, []
  killed_in, last = Counter(), Counter()
  whole, folder = folder / 'whole', folder / 'killed'
  _run(config, whole)  # compiles
  shutil.rmtree(whole)
  _, seconds_of = _run(config, whole)
  while True:
    phase = draw.choices(list(_PHASES), list(_PHASES.values()))[0]
    if killed == kills or (phase != 'drawing' and (folder / 'results.json').exists()):
      phase = ''  # to the end; most kills should come before the results are written
    status, spent = _run(config, folder, phase, draw.uniform(0, seconds_of.get(phase, 0.0)))
    if status > 0:
      raise RuntimeError(f'the study in {folder} ended with status {status}')
    if status:
      killed += 1
      killed_in[list(spent)[-1]] += 1
      last[_last_written(folder)[0]] += 1
      tell(f'killed {killed} times; finished {finished} times, {len(differs)} differences')
      files = _checkpoint_files(folder)
      if files and not (folder / 'results.json').exists() and draw.random() < _READ_ERRORS:
        errors += 1
        differs += _with_read_error(config, folder, draw.choice(files))
      continue
    finished += 1
    differs += differences(folder, whole) + _drawn_differently(folder, whole)
    differs += [str(path) for path in folder.rglob('damaged_*')]
    if killed == kills:
      counts = {'killed_in': dict(killed_in), 'last_written': dict(last)}
      return {'finished': finished, 'differences': differs, 'read_errors': errors, **counts}
    shutil.rmtree(folder)


def _checkpoint_files(folder: Path) -> list[Path]:
  """The files of each wave's newest checkpoint, which a study reads when it resumes."""
  found = []
  for wave in folder.glob('checkpoints/wave_*'):
    for newest in steps_in(wave)[:1]:
      found += [path for path in (wave / str(newest)).rglob('*/*') if path.is_file()]
  return sorted(found) if _UNREADABLE.exists() else []


def _with_read_error(config: ConfigDict, folder: Path, file: Path) -> list[str]:
  """Runs the study while a file cannot be read; lines on anything it did but report that."""
  before, kept = _checkpoint_files(folder), folder.with_name('kept')
  file.rename(kept)
  file.symlink_to(_UNREADABLE)
  status, _ = _run(config, folder)
  found = [] if status == 2 else [f'{file}: a read error ended with status {status}']
  if file.is_symlink():
    file.unlink()
    kept.rename(file)
  return found + ([] if _checkpoint_files(folder) == before else [f'{file}: a read error moved it'])


def _drawn_differently(folder: Path, other: Path) -> list[str]:
  """Figures that differ from those of another study of this config, and the page if missing."""
  files = [file for file in sorted(other.glob('figures/**/*')) if file.is_file()]
  pairs = [(folder / file.relative_to(other), file) for file in files]
  found = [ours for ours, file in pairs if _content(ours) != _content(file)]
  missing = [] if page.is_final(folder) else [folder / page.NAME]
  return [str(file) for file in found + missing]


def _content(file: Path) -> bytes | None:
  return file.read_bytes() if file.is_file() else None


def differences(folder: Path, other: Path) -> list[str]:
  """Files in which two finished studies differ, apart from times; [] if there are none.

  results.json is compared by its content, curves by their bytes, TensorBoard's files by their
  steps.
  """
  found = []
  if results(folder) != results(other):
    found.append(f'{folder}/results.json')
  for file in sorted((other / 'history').rglob('*.npy')):
    ours = folder / 'history' / file.relative_to(other / 'history')
    if not ours.exists() or ours.read_bytes() != file.read_bytes():
      found.append(str(ours))
  for run in sorted(path for path in (other / 'tensorboard').iterdir() if path.is_dir()):
    ours = folder / 'tensorboard' / run.name
    if events.read(ours) != events.read(run):
      found.append(str(ours))
  return found


def results(folder: Path) -> dict[str, Any]:
  """A finished study's results.json, without its times."""
  content = json.loads((folder / 'results.json').read_text())
  for name in ('seconds', 'seconds_of'):
    del content['study'][name]
  return content


def _last_written(folder: Path) -> tuple[str, float]:
  """Which part of the work directory was written last, and when, in seconds since the epoch."""
  newest, name = 0.0, 'nothing'
  # os.walk continues if a folder, such as a checkpoint's, has just been renamed.
  for path in (Path(place, file) for place, _, files in os.walk(folder) for file in files):
    with contextlib.suppress(OSError):
      if path.stat().st_mtime > newest:
        newest, name = path.stat().st_mtime, path.relative_to(folder).parts[0]
  return name, newest


def _run(
  config: ConfigDict, folder: Path, phase: str = '', seconds: float = 0.0
) -> tuple[int, dict[str, float]]:
  """Runs the study, and kills it `seconds` after the given phase began; '' never kills it.

  Returns:
    The exit status (0 at its end, 2 after a StudyError, -9 if killed), and the seconds of each
    phase that began.
  """
  # Forked from a process that has imported everything: importing takes longer than a tiny study.
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['lr_study.study'])
  # As a dict: a ConfigDict whose axes have dots in their names cannot be unpickled.
  process = context.Process(target=_study, args=(config.to_dict(), folder))
  began, spent, end = time.time(), {}, math.inf
  process.start()
  ends_of = (
    ('start', lambda: _trains(folder, began)),
    ('training', (folder / 'results.json').exists),
    ('drawing', lambda: False),
  )
  for name, is_over in ends_of:
    since = time.monotonic()
    end = since + seconds if name == phase else end
    while process.exitcode is None and not is_over():
      if time.monotonic() > end:
        process.kill()
      process.join(0.01)
    spent[name] = time.monotonic() - since
    if process.exitcode is not None:
      break
  return process.exitcode, spent


def _trains(folder: Path, began_at: float) -> bool:
  """True once the study has written more than its config and lock."""
  name, at = _last_written(folder)
  return name not in ('nothing', 'lock', 'config.json', record.NAME) and at > began_at


def _study(config: dict[str, Any], folder: Path) -> None:
  with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
    try:
      study.run(from_json(config), folder)
    except StudyError:
      sys.exit(2)
