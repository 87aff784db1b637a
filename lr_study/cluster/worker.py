"""What tasks.py does once JAX may be imported: trains a wave of a study, or plans what fits."""

import functools
import json
import math
from pathlib import Path

import jax

from lr_study import environment, loop, plan, prepare, progress, waves
from lr_study.clock import Clock
from lr_study.cluster import lease
from lr_study.cluster.lease import Lease, Lost
from lr_study.cluster.tasks import Job, Outcome
from lr_study.config import from_json
from lr_study.errors import StudyError
from lr_study.files import provenance, record, workdir
from lr_study.interrupt import Stopped
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Setting
from lr_study.time_limit import TimeLimit
from lr_study.training_view import Board
from lr_study.trials import Sweep
from lr_study.vectorize import keep_compiled_programs

_ALWAYS_TOLD = ('damaged', 'lost', 'Resuming')  # in lines about a wave


class _NeverUp(TimeLimit):
  """The limit of the driver: it tells this worker when to stop, and reads how long that takes."""

  def __init__(self, held: Lease):
    self._held = held
    super().__init__(math.inf)

  @property
  def to_end(self) -> float:
    """What other processes read in the lease."""
    return self._held.to_end

  @to_end.setter
  def to_end(self, seconds: float) -> None:
    self._held.to_end = seconds


def device(job: Job) -> Outcome:
  """What trials train on here.

  Raises:
    StudyError: JAX does not find the GPU that Ray has given to this process.
  """
  environment.check_devices()
  if job.gpus and jax.default_backend() == 'cpu':
    raise StudyError(
      'Ray has given this task a GPU, but JAX finds none: install JAX for GPUs there'
    )
  return Outcome('done', '', '', provenance.device())


def waves_of(job: Job, trials: str, workers: int, beside: int) -> Outcome:
  """The wave of each of these trials of one program, the text of a plan; see `plan.waves`."""
  with environment.ours(), progress.heard() as lines:
    asked = rounds.from_text(trials).trials
    sweep = _sweeps(job.config, job.fingerprint)[asked[0].setting]._replace(trials=asked)
    found = plan.waves(sweep, workers, beside)
  return Outcome('done', '', '', found, lines=tuple(lines))


def train(job: Job, trials: str, number: int, count: int, is_limited: bool) -> Outcome:
  """Trains a wave to its end, from its newest checkpoint, once no other process does.

  Args:
    job: of the study.
    trials: its plan, as text.
    number: of the wave.
    count: how many waves a worker trains in this round; 0: do not say how long they will take.
    is_limited: the study has a time limit, which has to know how long this one takes to stop.
  """
  device(job)
  folder, clock = Path(job.folder), Clock()
  is_done = functools.partial(loop.is_finished, folder, number)
  with environment.ours(), progress.heard() as lines:
    planned, sweeps = _plan(trials), _sweeps(job.config, job.fingerprint)
    sweep = waves.of_wave(sweeps, planned, number)._replace(clock=clock)
    title = waves.title(sweeps, planned, number)
    try:
      with lease.taken(folder / workdir.LEASES, f'wave_{number}', is_done, job.lapses) as held:
        if held and not is_done():
          clock.limit = _NeverUp(held) if is_limited else None
          _train(sweep, folder, planned, number, title, count or is_limited, held)
      kind = 'done'
    except Stopped:
      kind = 'stopped'
    except Lost:
      kind = 'lost'
  if count:
    told = [line for line in lines if not line.startswith((f'{title}: epoch ', 'epoch '))]
  else:
    told = [line for line in lines if any(word in line for word in _ALWAYS_TOLD)]
  return Outcome(kind, '', '', lines=tuple(told), seconds=clock.seconds)


def _train(
  sweep: Sweep, folder: Path, planned: Plan, number: int, title: str, count: int, held: Lease
) -> None:
  record.enter(folder, number)
  shown = (title, int(count), Board(sweep.measure))
  try:
    loop.train(sweep, folder, planned, number, *shown, may_write=held.check)
  except (Stopped, Lost):
    raise
  except Exception:
    held.check(surely=True)  # who has taken the lease over may have made this one fail
    raise
  finally:
    record.leave(folder)


@functools.lru_cache(maxsize=1)
def _plan(trials: str) -> Plan:
  return rounds.from_text(trials)


@functools.lru_cache(maxsize=1)
def _sweeps(config: str, fingerprint: str) -> dict[Setting, Sweep]:
  """Those of the study; kept, as a process may train many waves of it."""
  keep_compiled_programs()
  own = from_json(json.loads(config))
  settings = rounds.settings(own)
  with progress.heard():  # the driver has said it
    data = prepare.load(own, settings)
    if data.fingerprint != fingerprint:
      raise StudyError(
        f'the images here are not those of the study: their fingerprint is {data.fingerprint}, '
        f'not {fingerprint}; put them on a disk that all machines see'
      )
    return prepare.sweeps(own, settings, data)
