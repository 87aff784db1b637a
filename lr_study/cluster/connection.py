"""Ray: joins a cluster, and runs tasks on it. The only module that imports Ray for the driver."""

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lr_study import progress
from lr_study.cluster import tasks
from lr_study.cluster.tasks import Job, Outcome
from lr_study.errors import StudyError, first_line

_SETTINGS = {  # of Ray; what the environment says comes first
  'RAY_USAGE_STATS_ENABLED': '0',
  'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',  # the default to come, of which Ray warns
}
_REACH_SECONDS = 10.0  # for a head to answer at all
_LOOK_SECONDS = 120.0  # for all nodes to say that they see the work directory


class Workers(NamedTuple):
  """What the nodes of a cluster have room for: a wave per GPU, or one per `cores` cores.

  number: of waves at once. most: likewise, on one node. nodes: their ids.
  """

  gpus: bool
  cores: int
  number: int
  most: int
  nodes: tuple[str, ...]


@contextlib.contextmanager
def connected(address: str, cores: int | None) -> Iterator['Connection']:
  """Joins a Ray cluster, and leaves it at the end, which ends all tasks.

  Args:
    address: 'auto', ray://HOST:PORT, HOST:PORT, or 'local', which starts one on this machine.
    cores: of each wave, if the cluster has no GPUs; None: all of the smallest node.

  Raises:
    StudyError: Ray is not installed, or there is no such cluster.
  """
  for name, value in _SETTINGS.items():
    os.environ.setdefault(name, value)
  try:
    import ray  # noqa: PLC0415 - an extra of the package
  except ImportError as error:
    raise StudyError(
      '--ray needs Ray, which is not installed: pip install -r requirements-ray.txt'
    ) from error
  before = signal.getsignal(signal.SIGTERM)
  try:
    with progress.working('Joining the cluster', keep=False), _without_words():
      _reach(address)
      quiet = {'logging_level': logging.FATAL, 'log_to_driver': False}
      ray.init(address, runtime_env=_environment(address), **quiet)
  except Exception as error:  # of many kinds
    raise StudyError(
      f'--ray={address}: no cluster there ({first_line(error)}); start one by `ray start '
      '--head`, set RAY_AUTH_MODE=token if it has a token, or use --ray=local'
    ) from error
  signal.signal(signal.SIGTERM, before)  # Ray's handler would end the command
  try:
    yield Connection(ray, cores)
  finally:
    ray.shutdown()


def _environment(address: str) -> dict[str, Any] | None:
  """Where workers find this package: Ray's client does not tell them, unlike a machine's own."""
  if not address.startswith('ray://'):
    return None
  package = str(Path(__file__).resolve().parents[2])
  return {'env_vars': {'PYTHONPATH': package}}


def _reach(address: str) -> None:
  """Raises at once if nothing answers at HOST:PORT, for which Ray itself waits two minutes."""
  host, colon, port = address.removeprefix('ray://').rpartition(':')
  if colon and port.isdecimal():
    socket.create_connection((host.strip('[]'), int(port)), _REACH_SECONDS).close()


@contextlib.contextmanager
def _without_words() -> Iterator[None]:
  """Within this, only Python writes to the terminal: Ray would tell each try to connect."""
  sys.stderr.flush()
  kept = os.dup(2)
  with open(os.devnull, 'w') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


class Connection:
  """A cluster that this process has joined. Get one from `connected`."""

  def __init__(self, ray: Any, cores: int | None):
    """`ray`: the module, which is a client of one cluster."""
    self._ray, self._cores = ray, cores
    self.apart: set[str] = set()  # nodes that get no more tasks

  def workers(self) -> Workers:
    """Those that there are now."""
    alive = [node for node in self._ray.nodes() if node['Alive']]
    alive = [node for node in alive if node['NodeID'] not in self.apart]
    gpus = any(node['Resources'].get('GPU') for node in alive)
    of_nodes = {n['NodeID']: int(n['Resources'].get('GPU' if gpus else 'CPU', 0)) for n in alive}
    if not gpus and self._cores is None:
      self._cores = min(filter(None, of_nodes.values()), default=1)
    cores = 1 if gpus else self._cores or 1
    rooms = {node: room // cores for node, room in of_nodes.items() if room >= cores}
    most = max(rooms.values(), default=1)
    return Workers(gpus, cores, max(1, sum(rooms.values())), most, tuple(rooms))

  def put(self, value: str) -> Any:
    """Sends a value to the cluster once; tasks take what this returns in its place."""
    return self._ray.put(value)

  def start(
    self, function: Callable[..., Outcome], name: str, workers: Workers, *arguments: Any
  ) -> Any:
    """Starts a task on any worker, and returns what stands for it."""
    options: dict[str, Any] = {'num_gpus': 1} if workers.gpus else {'num_cpus': workers.cores}
    if self.apart:
      options['label_selector'] = {'ray.io/node-id': f'!in({",".join(sorted(self.apart))})'}
    remote = self._ray.remote(max_retries=0)(function)  # the driver starts again what is lost
    return remote.options(name=name, **options).remote(*arguments)

  def ended(self, started: Sequence[Any], seconds: float) -> list[tuple[Any, Outcome | None]]:
    """Those that have ended, once at least one has, or after this time; None: it was cancelled.

    Raises:
      StudyError: Ray could not run one.
    """
    done, left = self._ray.wait(list(started), num_returns=1, timeout=seconds)
    if done and left:
      done += self._ray.wait(left, num_returns=len(left), timeout=0)[0]
    return [(task, self._result(task)) for task in done]

  def result(self, task: Any) -> Outcome:
    """Waits for a task that is not cancelled."""
    while not (ended := self.ended([task], 1.0)):
      pass  # so that a signal is handled every second
    outcome = ended[0][1]
    assert outcome is not None
    return outcome

  def cancel(self, started: Sequence[Any]) -> None:
    """Tells tasks to stop: those that train save first."""
    for task in started:
      self._ray.cancel(task, force=False)

  def blind(self, job: Job, workers: Workers) -> list[str]:
    """The names of the machines that do not see the work directory as this one does.

    Raises:
      StudyError: Ray could not ask one.
    """
    from ray.util.scheduling_strategies import (  # noqa: PLC0415
      NodeAffinitySchedulingStrategy,
    )

    remote = self._ray.remote(num_cpus=0, max_retries=0)(tasks.look)
    asked = [
      remote.options(
        name='look', scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
      ).remote(job)
      for node in workers.nodes
    ]
    done, _ = self._ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)
    try:
      return [name for name in self._ray.get(done) if name]
    except self._ray.exceptions.RayError as error:
      raise StudyError(f'Ray could not run a task: {first_line(error)}') from error

  def _result(self, task: Any) -> Outcome | None:
    raised = self._ray.exceptions
    try:
      return self._ray.get(task)
    except raised.TaskCancelledError:
      return None
    except (  # the process of the task, its machine, or what it returned is gone
      raised.WorkerCrashedError,
      raised.OutOfMemoryError,
      raised.NodeDiedError,
      raised.LocalRayletDiedError,
      raised.ObjectLostError,
    ) as error:
      return Outcome('crashed', '', '', lines=(first_line(error),))
    except raised.RayError as error:
      raise StudyError(f'Ray could not run a task: {first_line(error)}') from error
