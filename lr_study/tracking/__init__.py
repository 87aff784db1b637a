"""Experiment trackers: a run per trial in MLflow or W&B, while a study trains.

All that is sent comes from the curves on disk, in a separate thread. A tracker that is away costs
a line; the same command sends later what is missing, and no point twice.
"""

import contextlib
import contextvars
import dataclasses
import importlib
import json
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lr_study import progress
from lr_study.answer.verdict import Result, Verdict
from lr_study.errors import StudyError, first_line, is_full
from lr_study.files.points import Point
from lr_study.files.workdir import TRACKING, write_text

TRACKERS = {'mlflow': 'MLflow', 'wandb': 'W&B'}  # with what people call them
_FILES = ('report.html', 'summary.md', 'results.json', 'results.csv', 'config.json')
_STUDY = 'study'  # in the record, next to the trials
_PATIENCE = 120  # seconds without any progress at the end of a study, then it ends without

_AGAIN = 'again'  # in the queue: ask a tracker that was away

Values = tuple[str, int, float]  # of a point: the curve's name, the step, the value


@dataclasses.dataclass(frozen=True)
class Run:
  """A trial, as trackers show it.

  key: the same for the trial whenever the study goes on or is extended. group: what trials of a
  rate have in common. fields: its value on each axis.
  """

  key: str
  name: str
  group: str
  fields: Mapping[str, Any] = dataclasses.field(hash=False)


class Ending(NamedTuple):
  """How a study ended: the verdict's sentence, the answer as Markdown, figures, files to keep."""

  sentence: str
  markdown: str
  fields: dict[str, Any]
  files: Sequence[Path]


class Backend(Protocol):
  """What a tracker has to do. Any method may fail where the tracker is away."""

  def begin(self, study: str, name: str, fields: Mapping[str, Any]) -> None:
    """Opens the study: its identity, its name, its config."""

  def steps(self, run: Run, sent: int) -> int:
    """How many steps of a trial the tracker has, where `sent` are on record."""

  def log(self, run: Run, points: Sequence[Values]) -> None:
    """Adds points to a trial, in the order of their steps; makes its run if there is none."""

  def end(self, run: Run, failed: bool, fields: Mapping[str, Any]) -> None:
    """Ends a trial; `failed`: it diverged."""

  def finish(self, ending: Ending) -> None:
    """Ends the study."""

  def close(self) -> None:
    """Lets go of what is open; the study may go on later."""


_Task = Callable[[Backend], None]


class Tracker:
  """Sends what a study has, in a separate thread: only `finish` waits for the tracker."""

  def __init__(self, name: str, folder: Path, fields: Mapping[str, Any]):
    """Starts the thread.

    Args:
      name: one of `TRACKERS`.
      folder: the study's work directory, which has a record of what was sent.
      fields: the study's config, flat.
    """
    self._name, self._folder, self._fields = name, folder, fields
    self._backend: Backend | None = None
    self._file = folder / TRACKING
    self._record = _read(self._file)
    self._save()  # before any run is there
    own = self._record['trackers'].setdefault(name, {})
    self._sent: dict[str, int] = own.setdefault('steps', {})
    self._ended: dict[str, Any] = own.setdefault('ended', {})
    self._has: dict[Run, int] = {}  # steps of each trial that the tracker has
    self._is_away, self._was_told, self._closes, self._moves = False, False, False, 0
    self._todo: queue.SimpleQueue[_Task | str | None] = queue.SimpleQueue()
    work = contextvars.copy_context().run  # or it would not know whether it is to be quiet
    self._thread = threading.Thread(target=work, args=(self._work,), daemon=True)
    self._thread.start()

  def reach(
    self, runs: Sequence[Run], points: Iterable[tuple[Sequence[Point], np.ndarray]]
  ) -> None:
    """Sends points of these trials, as `loop.points_of` gives them: with the columns they are of.

    Points that are not finite are left out, and those that the tracker has.
    """
    found: list[list[Values]] = [[] for _ in runs]
    for of_chunk, columns in points:
      for point in of_chunk:
        for column in columns:
          if np.isfinite(value := float(point.values[column])):
            found[column].append((f'{point.part}/{point.name}', point.step, value))
    self._todo.put(lambda backend: self._log(backend, dict(zip(runs, found, strict=True))))

  def end(self, run: Run, result: Result) -> None:
    """Says how a trial ended."""
    fields: dict[str, Any] = {'status': result.status, 'evidence': result.evidence}
    if result.first_bad_step is not None:
      fields['first_bad_step'] = result.first_bad_step
    self._todo.put(lambda backend: self._end(backend, run, fields))

  def retry(self) -> None:
    """From here on a tracker that was away is asked once more."""
    self._todo.put(_AGAIN)

  def finish(self, markdown: str, verdict: Verdict) -> None:
    """Says how the study ended, with its page, tables and figures; waits until all has been sent.

    Args:
      markdown: the answer.
      verdict: likewise.
    """
    files = [self._folder / name for name in _FILES]
    files += sorted((self._folder / 'figures').rglob('*.*'))
    fields = {'best_learning_rate': verdict.learning_rate, 'verdict': verdict.sentence}
    files = [file for file in files if file.is_file()]
    ending = Ending(verdict.sentence, markdown, fields, files)
    self._todo.put(lambda backend: self._finish(backend, ending))
    with progress.working(f'Sending the study to {TRACKERS[self._name]}', keep=False):
      self._join(_PATIENCE)

  def close(self) -> None:
    """Ends the thread after what it is at; the same command sends the rest later."""
    if self._thread.is_alive():
      self._closes = True
      self._join(_PATIENCE / 10)

  def _join(self, patience: float) -> None:
    self._todo.put(None)
    moves = -1
    while self._thread.is_alive() and moves != self._moves:
      moves = self._moves
      self._thread.join(patience)
    if self._thread.is_alive():
      self._tell('it does not answer')

  def _work(self) -> None:
    backend = None
    while (task := self._todo.get()) is not None:
      if isinstance(task, str):
        self._is_away, self._has = False, {}  # what the tracker has is asked of it once more
      elif not (self._is_away or self._closes):
        try:
          backend = backend or self._begin()
          task(backend)
        except Exception as error:  # clients raise any kind
          self._tell('the disk is full' if is_full(error) else first_line(error)[:200])
      self._moves += 1
    if backend:
      with contextlib.suppress(Exception):  # it was told of before
        backend.close()

  def _begin(self) -> Backend:
    # In the thread, since to import a client takes seconds.
    module = importlib.import_module(f'lr_study.tracking.of_{self._name}')
    backend = module.Sender(self._folder)
    backend.begin(self._record['study'], self._folder.resolve().name, self._fields)
    return backend

  def _tell(self, why: str) -> None:
    if not self._was_told:
      progress.note(
        f'Sending to {TRACKERS[self._name]} failed ({why}). The study continues; run the same '
        'command again later to send the rest'
      )
    self._is_away = self._was_told = True

  def _log(self, backend: Backend, found: Mapping[Run, Sequence[Values]]) -> None:
    new, before = {}, dict(self._sent)
    for run, values in found.items():
      if run not in self._has:
        self._has[run] = backend.steps(run, self._sent.get(run.key, 0))
      after = sorted((v for v in values if v[1] > self._has[run]), key=lambda v: v[1])
      if after:
        new[run] = after
        self._sent[run.key] = after[-1][1]
        for key in (run.key, _STUDY):
          self._ended.pop(key, None)
    if new:
      # On record before it is sent: where a tracker cannot be asked, a kill may cost points, but
      # no point comes twice.
      self._save()
    try:
      while new:
        run = next(iter(new))
        backend.log(run, new[run])
        self._has[run] = new.pop(run)[-1][1]
    finally:
      for run in new:  # not sent after all
        self._sent[run.key] = before.get(run.key, 0)
      if new:
        self._save()

  def _end(self, backend: Backend, run: Run, fields: Mapping[str, Any]) -> None:
    told = _as_json({**run.fields, **fields})
    if self._ended.get(run.key) != told:
      backend.end(run, 'first_bad_step' in fields, fields)
      self._ended[run.key] = told

  def _finish(self, backend: Backend, ending: Ending) -> None:
    told = _as_json([ending.sentence, [(file.name, file.stat().st_size) for file in ending.files]])
    if self._ended.get(_STUDY) != told:
      backend.finish(ending)
      self._ended[_STUDY] = told
    self._save()

  def _save(self) -> None:
    write_text(self._file, json.dumps(self._record) + '\n')


@contextlib.contextmanager
def tracked(name: str | None, folder: Path, fields: Mapping[str, Any]) -> Iterator[Tracker | None]:
  """The tracker of this name; None without a name.

  Args:
    name: one of `TRACKERS`, or None.
    folder: the study's work directory.
    fields: the study's config, flat.
  """
  if name and not os.access(folder, os.W_OK):
    progress.note(f'{folder} is read-only, so nothing is sent to {TRACKERS[name]}')
    name = None
  if name is None:
    yield None
    return
  tracker = Tracker(name, folder, fields)
  try:
    yield tracker
  finally:
    tracker.close()


def check(name: str | None) -> None:
  """Raises StudyError if there is no tracker of this name, or if its client is not installed."""
  if name is None:
    return
  if name not in TRACKERS:
    raise StudyError(f'--track={name} is not one of {", ".join(TRACKERS)}')
  if find_spec(name) is None:
    raise StudyError(
      f'--track={name}: {name} is not installed; pip install -r requirements-{name}.txt'
    )


def _as_json(content: Any) -> Any:
  return json.loads(json.dumps(content, default=str))  # tuples become lists, as in the record


def _read(file: Path) -> dict[str, Any]:
  """The record of a study; a new one where there is none that can be read."""
  with contextlib.suppress(OSError, ValueError):
    found = json.loads(file.read_text())
    if isinstance(found, dict) and {'study', 'trackers'} <= found.keys():
      return found
  return {'study': uuid.uuid4().hex, 'trackers': {}}
