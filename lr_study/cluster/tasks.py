"""The tasks of a study, as Ray calls them in a process that it starts on some machine.

They import JAX only after the environment is as the study needs it. What they return are values,
errors too: an error of Ray means that the process of a task was lost.
"""

import importlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lr_study import errors
from lr_study.errors import StudyError

_SEE_SECONDS = 5.0  # a network disk may show a new file late


class Job(NamedTuple):
  """What all tasks of a study need to know.

  Attributes:
    config: the study's, as JSON.
    folder: the work directory, absolute.
    fingerprint: of the study's data.
    lock: the content of `lock_file`, by which a worker knows that it sees the same disk.
    lock_file: a file in the work directory.
    gpus: True if each task has a GPU; else it has cores.
    environment: variables that JAX reads.
    lapses: of leases, in seconds; see `lease.taken`.
  """

  config: str
  folder: str
  fingerprint: str
  lock: str
  lock_file: str
  gpus: bool
  environment: Mapping[str, str]
  lapses: float


class Outcome(NamedTuple):
  """What became of a task.

  Attributes:
    kind: 'done', 'stopped' (it was told to end, and has saved), 'lost' (another process has its
      lease), 'apart' (it does not see the work directory), 'crashed' (its process or its machine is
      gone; `lines` says why), or 'error'.
    node: the machine's name.
    node_id: Ray's, of the node.
    value: what it found.
    error: for the driver to raise; its text names the machine.
    lines: for people.
    seconds: that each phase took.
  """

  kind: str
  node: str
  node_id: str
  value: Any = None
  error: Exception | None = None
  lines: tuple[str, ...] = ()
  seconds: Mapping[str, float] | None = None


def look(job: Job) -> str | None:
  """This machine's name if it does not see the work directory as the driver does; else None."""
  until = time.monotonic() + _SEE_SECONDS
  while not _sees(job):
    if time.monotonic() > until:
      return platform.node()
    time.sleep(0.2)
  return None


def device(job: Job) -> Outcome:
  """What trials train on here; see `provenance.device`."""
  return _outcome(job, lambda worker: worker.device(job))


def waves_of(job: Job, *arguments: Any) -> Outcome:
  """Measures here how many trials fit; see `worker.waves_of`."""
  return _outcome(job, lambda worker: worker.waves_of(job, *arguments))


def train(job: Job, *arguments: Any) -> Outcome:
  """Trains a wave here; see `worker.train`."""
  return _outcome(job, lambda worker: worker.train(job, *arguments))


def _sees(job: Job) -> bool:
  try:
    return Path(job.folder, job.lock_file).read_text() == job.lock
  except OSError:
    return False


def _outcome(job: Job, do: Callable[[Any], Outcome]) -> Outcome:
  """What `do` returns, or its error, with where that was."""
  where = platform.node(), _node_id()
  if look(job):
    return Outcome('apart', *where)
  os.environ.update(job.environment)
  try:
    return do(importlib.import_module('lr_study.cluster.worker'))._replace(
      node=where[0], node_id=where[1]
    )
  except Exception as error:
    return Outcome('error', *where, error=_told(error, where[0]))


def _node_id() -> str:
  import ray  # noqa: PLC0415 - it has started this process

  return ray.get_runtime_context().get_node_id()


def _told(error: Exception, node: str) -> Exception:
  """The error with the machine in its text, in a form that can be sent."""
  line = errors.first_line(error)
  if isinstance(error, StudyError):
    return StudyError(f'{error} (on {node})')
  if errors.is_out_of_memory(error):
    return MemoryError(f'{line} (on {node})')
  if errors.is_full(error):
    return OSError(errors.FULL, f'{getattr(error, "strerror", None) or line} (on {node})')
  if errors.is_of_disk(error):
    return OSError(error.errno, f'{error.strerror} (on {node})', error.filename)
  return RuntimeError(f'a worker on {node} failed:\n{"".join(traceback.format_exception(error))}')
