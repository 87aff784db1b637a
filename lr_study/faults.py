"""Kills a study again and again, and checks that it ends like one that nobody touched."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lr_study import study
from lr_study.files import events

_IN_START = 0.2  # share of the kills that come before a study trains


def kill_often(
  config: ConfigDict, folder: Path, kills: int, seed: int, tell: Callable[[str], None]
) -> dict[str, Any]:
  """Ends a study's process by SIGKILL at random moments, until it was killed `kills` times.

  Whenever the study gets to its end between two kills, it is compared and started again.

  Args:
    config: the study's; a small one.
    folder: is made, and holds the work directories.
    kills: how many.
    seed: of the moments.
    tell: is called with a line now and then.

  Returns:
    `finished`: how often the study came to its end; `differences`: what differed from the study
    that nobody touched, as lines; `last_written`: for each part of the work directory, in how many
    kills a file of it was the last that was written.
  """
  draw, killed, finished, differs, last = random.Random(seed), 0, 0, [], Counter()
  whole, folder = folder / 'whole', folder / 'killed'
  _run(config, whole)  # compiles
  shutil.rmtree(whole)
  _, start, rest = _run(config, whole)
  while True:
    if killed == kills:
      moment = {}
    elif draw.random() < _IN_START:
      moment = {'start': draw.uniform(0, start), 'rest': 0.0}
    else:  # a small study spends most of its time before it trains
      moment = {'rest': draw.uniform(0, rest)}
    was_killed, *_ = _run(config, folder, **moment)
    if was_killed:
      killed += 1
      last[_last_written(folder)[0]] += 1
      tell(f'killed {killed} times; finished {finished} times')
    if (folder / 'results.json').exists():
      finished += 1
      differs += differences(folder, whole)
      if killed == kills:
        return {'finished': finished, 'differences': differs, 'last_written': dict(last)}
      shutil.rmtree(folder)


def differences(folder: Path, other: Path) -> list[str]:
  """What two finished studies differ in, times aside: lines, none if they are the same.

  results.json and the curves are compared by the byte, TensorBoard's files by their steps.
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
  """A finished study's results.json, but for its times."""
  content = json.loads((folder / 'results.json').read_text())
  for name in ('seconds', 'seconds_of'):
    del content['study'][name]
  return content


def _last_written(folder: Path) -> tuple[str, float]:
  """Which part of the work directory was written last, and when, in seconds since the epoch."""
  newest, name = 0.0, 'nothing'
  for path in folder.rglob('*'):
    with contextlib.suppress(OSError):  # a checkpoint's folder may just have been renamed
      if path.is_file() and path.stat().st_mtime > newest:
        newest, name = path.stat().st_mtime, path.relative_to(folder).parts[0]
  return name, newest


def _run(
  config: ConfigDict, folder: Path, start: float | None = None, rest: float | None = None
) -> tuple[bool, float, float]:
  """Runs the study, and kills it `start` seconds after it began or `rest` after it began to train.

  Returns:
    True if it was killed; its seconds before it began to train, and those after that.
  """
  # Forked from a process that has imported everything, which takes longer than the tiny study.
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['lr_study.study'])
  process = context.Process(target=_study, args=(config, folder))
  began, began_at = time.monotonic(), time.time()
  process.start()
  while process.exitcode is None and not _trains(folder, began_at):
    if start is not None and time.monotonic() - began > start:
      break
    process.join(0.01)
  trains = time.monotonic()
  process.join(3600 if rest is None else rest)
  if process.exitcode is None:
    process.kill()
    process.join()
    return True, trains - began, time.monotonic() - trains
  if process.exitcode:
    raise RuntimeError(f'the study in {folder} ended with status {process.exitcode}')
  return False, trains - began, time.monotonic() - trains


def _trains(folder: Path, began_at: float) -> bool:
  """True once the study has written more than that it is there."""
  name, at = _last_written(folder)
  return name not in ('nothing', 'lock', 'config.json') and at > began_at


def _study(config: ConfigDict, folder: Path) -> None:
  with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
    study.run(config, folder)
