"""Takes machines of a Ray cluster away from a small study, and compares it with an undisturbed one.

python scripts/kill_cluster.py --config configs/alexnet_letters.py:quick \
  --config.model.name=mlp --config.learning_rates=1e-1,1e-2,1e-3 --config.epochs=3 --times=1

The cluster is on this machine: a head, and three nodes with a core each. Every event happens while
the study trains: a node, a worker, the command or the head is killed, a node leaves with notice, or
one joins. Needs requirements-ray.txt.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import psutil
from absl import flags

from lr_study import cli, faults
from lr_study.errors import StudyError
from lr_study.progress import note

cli.study_flags()
_TIMES = flags.DEFINE_integer('times', 20, 'How often to do all events.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the random moments.')
_EVENTS = flags.DEFINE_list(
  'events', ['node', 'worker', 'command', 'notice', 'late', 'head'], 'Which ones, in this order.'
)

_SWEEP = Path(__file__).with_name('sweep.py')
_NODES = 3
_SECONDS = 240.0  # that anything may take
_STORE = 80 * 10**6  # bytes of memory of a node, for what tasks exchange


class Nodes:
  """A cluster on this machine."""

  def __init__(self, count: int = _NODES):
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - an extra of the package

    self._cluster = Cluster(
      initialize_head=True,
      head_node_args={'num_cpus': 0, 'object_store_memory': _STORE, 'include_dashboard': False},
    )
    self.nodes = []
    for _ in range(count):
      self.add()

  @property
  def address(self) -> str:
    return self._cluster.address

  def add(self) -> None:
    self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_STORE))

  def kill(self) -> None:
    """Kills a raylet, as a machine that loses its power."""
    self.nodes.pop(0).kill_raylet(check_alive=False)

  def remove(self) -> None:
    """Takes a node away with notice: it gets no new tasks, and is gone some seconds later."""
    node = self.nodes.pop(0)
    subprocess.run(
      [
        *(sys.executable, '-m', 'ray.scripts.scripts', 'drain-node'),
        *('--address', self.address, '--node-id', node.node_id),
        *('--reason', 'DRAIN_NODE_REASON_PREEMPTION', '--reason-message', 'taken away'),
        *('--deadline-remaining-seconds', '5'),
      ],
      capture_output=True,
      check=True,
    )
    time.sleep(5)
    node.kill_raylet(check_alive=False)

  def shut_down(self) -> None:
    """Kills all, the head first."""
    with contextlib.suppress(Exception):  # what is dead already
      self._cluster.head_node.kill_gcs(check_alive=False)
      self._cluster.head_node.kill_raylet(check_alive=False)
    with contextlib.suppress(Exception):
      self._cluster.shutdown()


class Study:
  """The command, in a process of its own."""

  def __init__(self, arguments: list[str], folder: Path, address: str):
    self.folder = folder
    command = [sys.executable, str(_SWEEP), *arguments]
    self._log = folder.with_suffix('.log').open('ab')
    self._process = subprocess.Popen(
      [*command, f'--workdir={folder}', f'--ray={address}', '--ray_cpus=1'],
      stdout=self._log,
      stderr=subprocess.STDOUT,
    )

  def wait_until(self, happened) -> None:
    deadline = time.monotonic() + _SECONDS
    while not happened() and self._process.poll() is None:
      if time.monotonic() > deadline:
        raise TimeoutError(self.said())
      time.sleep(0.05)

  def wait(self) -> int:
    self.wait_until(lambda: False)
    self._log.close()
    return self._process.wait()

  def kill(self) -> None:
    self._process.kill()
    self.wait()

  def said(self) -> str:
    return self.folder.with_suffix('.log').read_text('utf-8', 'replace')

  def planned(self) -> bool:
    return (self.folder / 'history' / 'trials.json').exists()

  def workers(self) -> list[int]:
    """The processes that train a wave now, by its lease."""
    found = []
    for file in self.folder.glob('leases/wave_*.[0-9]'):
      with contextlib.suppress(OSError, ValueError):
        held = json.loads(file.read_text())
        if not held['released'] and psutil.pid_exists(held['pid']):
          found.append(held['pid'])
    return found


def _ended(pids: list[int]) -> bool:
  deadline = time.monotonic() + 60
  while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
    time.sleep(0.1)
  return not any(map(psutil.pid_exists, pids))


def _disturb(event: str, nodes: Nodes, study: Study, start) -> tuple[Nodes, Study]:
  """Makes an event happen; returns the cluster and the command that go on."""
  if event == 'node':
    nodes.kill()
  elif event == 'worker':
    for pid in study.workers()[:1]:
      os.kill(pid, signal.SIGKILL)
  elif event == 'notice':
    nodes.remove()
  elif event == 'command':
    workers = study.workers()
    study.kill()
    study = start(nodes)
    if not _ended(workers):
      raise RuntimeError(f'tasks of a command that was killed go on: {workers}')
  elif event == 'late':
    nodes.remove()
    nodes.add()
  elif event == 'head':
    nodes.shut_down()
    study.kill()
    nodes = Nodes()
    study = start(nodes)
  else:
    raise StudyError(f'--events: no {event!r}')
  return nodes, study


def _once(event: str, arguments: list[str], whole: Path, folder: Path, draw: random.Random) -> str:
  """Runs the study with one event; returns what went wrong, or nothing."""
  nodes = Nodes()
  try:
    study = Study(arguments, folder, nodes.address)
    study.wait_until(study.workers)
    time.sleep(draw.uniform(0, 4))
    finished = (folder / 'results.json').exists()
    nodes, study = _disturb(
      event, nodes, study, lambda nodes: Study(arguments, folder, nodes.address)
    )
    if status := study.wait():
      return f'{event}: status {status}: {study.said()[-2000:]}'
    differs = [*faults.differences(folder, whole), *map(str, folder.rglob('damaged_*'))]
    note(f'{event}{" (after the end)" if finished else ""}: {len(differs)} differences')
    return f'{event}: {differs}' if differs else ''
  finally:
    nodes.shut_down()


def main() -> None:
  cli.study_config()
  arguments = [flag for flag in sys.argv[1:] if not flag.startswith(('--times', '--seed', '--eve'))]
  draw, wrong, count = random.Random(_SEED.value), [], 0
  os.environ |= {'RAY_DEDUP_LOGS': '0', 'RAY_USAGE_STATS_ENABLED': '0'}
  with tempfile.TemporaryDirectory() as place:
    whole, folder = Path(place, 'whole'), Path(place, 'disturbed')
    nodes = Nodes()
    study = Study(arguments, whole, nodes.address)
    if study.wait():
      raise RuntimeError(study.said())
    nodes.shut_down()
    for _ in range(_TIMES.value):
      for event in _EVENTS.value:
        found = _once(event, arguments, whole, folder, draw)
        count += 1
        wrong += [found] if found else []
        note(f'{count} events, {len(wrong)} that went wrong {found}')
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix('.log').unlink(missing_ok=True)
  sys.exit(1 if wrong else 0)


if __name__ == '__main__':
  cli.run(main)
