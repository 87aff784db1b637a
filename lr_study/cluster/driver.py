"""In the process of the command: has the waves of a study trained by tasks of a Ray cluster.

It plans, watches and reports. It never touches a device: JAX has only the CPU here.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lr_study import formats, loop, progress, waves
from lr_study.clock import Clock
from lr_study.cluster import lease, tasks
from lr_study.cluster.connection import Connection, Workers
from lr_study.cluster.connection import connected as _joined
from lr_study.cluster.tasks import Job, Outcome
from lr_study.cluster.view import View
from lr_study.errors import StudyError
from lr_study.files import record, workdir
from lr_study.interrupt import Interrupt, Stopped
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Setting
from lr_study.time_limit import TimeIsUp
from lr_study.tracking import Tracker
from lr_study.training_view import Board
from lr_study.trials import Sweep

_LOOK_SECONDS = 0.5  # between two looks at what has ended
_SAVE_SECONDS = 120.0  # for workers that were told to stop
_CRASHES = 5  # of a wave, one after the other, before which it saved nothing new
_AGAIN = ('stopped', 'lost', 'apart', 'crashed')  # after such outcomes a wave trains elsewhere
_PASSED_ON = ('JAX_', 'XLA_', 'XDG_CACHE_HOME')  # variables of this process that workers get, too
_NOT_PASSED_ON = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')


@contextlib.contextmanager
def connected(
  address: str, cores: int | None, lapses: float = lease.SECONDS
) -> Iterator['Cluster']:
  """Joins a Ray cluster to train on; see `connection.connected`.

  Args:
    address: where it is.
    cores: of each wave, if there are no GPUs.
    lapses: seconds after which a wave of a machine that does not answer is trained elsewhere.
  """
  jax.config.update('jax_platforms', 'cpu')  # before a device is touched
  with _joined(address, cores) as connection:
    yield Cluster(connection, lapses)


class Cluster:
  """Trains the waves of a study on a cluster; see `waves.Trainer`."""

  def __init__(self, connection: Connection, lapses: float = lease.SECONDS):
    """Trains nothing yet."""
    self._connection, self._lapses = connection, lapses
    self._job: Job | None = None
    self._lease: lease.Lease | None = None

  def device(self, config: ConfigDict, folder: Path, fingerprint: str) -> str:
    """What workers train on. Before, all nodes are asked whether they see the work directory.

    Raises:
      StudyError: a node does not, or has no device.
    """
    workers = self._connection.workers()
    self._job = _job(config, folder, fingerprint, workers, self._lapses)
    if names := self._connection.blind(self._job, workers):
      raise StudyError(
        f'{folder} is not there on {workdir.shortened(names)}, or is another folder; choose a '
        '--workdir on a disk that all machines see'
      )
    found = self._asked(tasks.device, 'device', workers)
    each = 'one GPU' if workers.gpus else formats.count(workers.cores, 'core')
    progress.note(
      f'{formats.count(workers.number, "worker")} on '
      f'{formats.count(len(workers.nodes), "machine")}, each with {each}: {found}'
    )
    return found

  @contextlib.contextmanager
  def opened(self, folder: Path) -> Iterator[None]:
    """Within this, the study in `folder`, which is claimed, can be planned and trained.

    Raises:
      StudyError: another command trains it, on whatever machine.
    """
    leases, name = folder / workdir.LEASES, 'driver'
    record.add(leases, is_folder=True)
    before = lease.holder_of(leases, name)

    def is_renewed() -> bool:
      return before is not None and lease.holder_of(leases, name) != before

    with lease.taken(leases, name, is_renewed, self._lapses) as self._lease:
      if self._lease is None:
        raise StudyError(
          f'{folder} is in use by {before and before["holder"]}; wait for it to end, or choose '
          'another --workdir'
        )
      yield
    lease.forget(folder)

  def waves_of(self, sweep: Sweep) -> list[int]:
    """The wave of each trial of the sweep, from 0: as many as keep every worker busy.

    Raises:
      StudyError: not even one trial fits.
    """
    workers = self._connection.workers()
    count = formats.count(len(sweep.trials), 'trial')
    with progress.working(f'Compiling for {count} on a worker', keep=False):
      of_sweep = rounds.as_text(Plan(sweep.trials)), workers.number, workers.most
      return self._asked(tasks.waves_of, 'plan', workers, *of_sweep)

  def train(
    self,
    sweeps: Mapping[Setting, Sweep],
    folder: Path,
    planned: Plan,
    numbers: Sequence[int],
    board: Board,
    after_epoch: Callable[[Plan], None],
    tracker: Tracker | None,
  ) -> None:
    """Trains these waves to their ends, as many at once as there are workers.

    Raises:
      Stopped, TimeIsUp: a signal or the time limit asked the study to stop; all is saved.
      StudyError: of a worker; the others have saved.
    """
    assert self._job is not None
    assert self._lease is not None
    clock = next(iter(sweeps.values())).clock
    left = [number for number in numbers if not loop.is_finished(folder, number)]
    running = _Running(self._connection, self._job, planned, clock.limit is not None)
    interrupt, crashes = Interrupt(clock.limit), _Crashes(folder)
    shown = (board, lambda: interrupt.signum is not None, tracker)
    view = View(sweeps, folder, planned, numbers, *shown)
    with interrupt, view:
      for number in left:
        running.start(number, waves.title(sweeps, planned, number), len(left))
      try:
        while running.tasks and not interrupt.asked:
          for number, outcome in running.ended(_LOOK_SECONDS):
            _keep(folder, number, outcome, clock, view)
            if outcome is None or outcome.kind in _AGAIN:
              title = waves.title(sweeps, planned, number)
              self._tell_apart(outcome)
              crashes.add(number, title, outcome)
              running.start(number, title)
            elif isinstance(outcome.error, MemoryError):
              waves.halve(folder, planned, number, outcome.error)
            elif outcome.error:
              raise outcome.error
          self._lease.check()
          view.update()
          if view.epochs:
            after_epoch(planned)
          if clock.limit:
            clock.limit.to_end = _seconds_to_end(folder, running.tasks.values())
      except lease.Lost as error:
        raise StudyError(f'another command has taken {folder} over, so this one ends') from error
      finally:
        for number, outcome in running.stop():
          _keep(folder, number, outcome, clock, view)
    if not all(loop.is_finished(folder, number) for number in left):
      raise Stopped(interrupt.signum) if interrupt.signum else TimeIsUp

  def _asked(self, function: Callable[..., Outcome], name: str, workers: Workers, *of: Any) -> Any:
    """What a task returns; raises its error, and tries again if it could not tell."""
    for _ in range(_CRASHES):
      outcome = self._connection.result(
        self._connection.start(function, name, workers, self._job, *of)
      )
      for line in outcome.lines:
        progress.note(line)
      if outcome.error:
        raise outcome.error
      if outcome.kind == 'done':
        return outcome.value
      self._tell_apart(outcome)
    why = ' '.join(outcome.lines) or f'{outcome.node} does not see the work directory'
    raise StudyError(f'{_CRASHES} workers were lost before they answered: {why}')

  def _tell_apart(self, outcome: Outcome | None) -> None:
    """Gives no more tasks to a node that joined without the disk."""
    if outcome and outcome.kind == 'apart' and outcome.node_id not in self._connection.apart:
      self._connection.apart.add(outcome.node_id)
      progress.note(f'{outcome.node} does not see the work directory; it gets no more tasks')


class _Crashes:
  """How often the waves of a round have lost their workers."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._known: dict[int, tuple[int, int]] = {}  # of a wave: what was saved, crashes since

  def add(self, number: int, title: str, outcome: Outcome | None) -> None:
    """Says so if the worker of a wave is gone.

    Raises:
      StudyError: it was so often that the next one would be lost as well.
    """
    if outcome is None or outcome.kind != 'crashed':
      return
    why, title = ' '.join(outcome.lines), title or 'all trials'
    saved = loop.saved_steps(self._folder, number)
    before, count = self._known.get(number, (0, 0))
    count = count + 1 if saved == before else 1
    self._known[number] = saved, count
    if count >= _CRASHES:
      raise StudyError(
        f'{title}: {count} workers one after the other were lost before they saved anything '
        f'({why}); lower memory_gb if a machine was short of memory, or checkpoint_minutes if '
        'machines do not live that long. The same command continues'
      )
    progress.note(f'{title}: its worker was lost ({why}); another one continues')


class _Running:
  """The tasks of a round that have not ended."""

  def __init__(self, connection: Connection, job: Job, planned: Plan, is_limited: bool):
    self.tasks: dict[Any, int] = {}  # the number of the wave of each
    self._connection, self._job, self._is_limited = connection, job, is_limited
    self._plan = connection.put(rounds.as_text(planned))
    self._workers = connection.workers()
    self._tells = True

  def start(self, number: int, title: str, of: int = 0) -> None:
    """Starts the task of a wave; `of` so many of a round, the first tells how long they take."""
    count = math.ceil(of / self._workers.number) if self._tells else 0
    self._tells = False
    name = f'{Path(self._job.folder).name}: {title or "all trials"}'
    arguments = self._job, self._plan, number, count, self._is_limited
    self.tasks[self._connection.start(tasks.train, name, self._workers, *arguments)] = number

  def ended(self, seconds: float) -> list[tuple[int, Outcome | None]]:
    """The waves whose tasks have ended, after this time at most."""
    ended = self._connection.ended(list(self.tasks), seconds)
    return [(self.tasks.pop(task), outcome) for task, outcome in ended]

  def stop(self) -> list[tuple[int, Outcome | None]]:
    """Has all tasks save and end, and waits for them."""
    found: list[tuple[int, Outcome | None]] = []
    self._connection.cancel(list(self.tasks))
    until = time.monotonic() + _SAVE_SECONDS
    while self.tasks and time.monotonic() < until:
      found += self.ended(1.0)
    return found


def _job(
  config: ConfigDict, folder: Path, fingerprint: str, workers: Workers, lapses: float
) -> Job:
  environment = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(_PASSED_ON) and name not in _NOT_PASSED_ON
  }
  if not workers.gpus:
    # XLA and `threads.cores` use so many threads.
    environment |= {'JAX_PLATFORMS': 'cpu', 'NPROC': str(workers.cores)}
  lock = folder / workdir.LOCK
  return Job(
    config=json.dumps(config.to_dict()),
    folder=str(folder.resolve()),
    fingerprint=fingerprint,
    lock=lock.read_text(),
    lock_file=lock.name,
    gpus=workers.gpus,
    environment=environment,
    lapses=lapses,
  )


def _keep(folder: Path, number: int, outcome: Outcome | None, clock: Clock, view: View) -> None:
  """Takes in what a task has found, its error apart."""
  if outcome is None:
    return
  for line in outcome.lines:
    progress.note(line)
  for phase, seconds in (outcome.seconds or {}).items():
    clock.seconds[phase] = clock.seconds.get(phase, 0.0) + seconds
  if outcome.kind == 'done':
    record.adopt(folder, number)
    view.ended(number, outcome.node)


def _seconds_to_end(folder: Path, numbers: Iterable[int]) -> float:
  """How long it takes at most until these waves have stopped, and a report is written."""
  held = (lease.holder_of(folder / workdir.LEASES, f'wave_{number}') for number in numbers)
  return 2 * _LOOK_SECONDS + max((content['to_end'] for content in held if content), default=0.0)
