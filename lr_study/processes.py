"""Several processes, on one machine or many, that share a study: by JAX's distributed runtime.

The runtime tells the processes who they are and lets them start together. Then each leaves it,
before it touches a device: what a process trains concerns no other, so one that dies takes
nobody with it. They share the work directory, and nothing else.
"""

from typing import NamedTuple

import jax
from jax._src import distributed  # the public module does not say which process this is

from lr_study.errors import StudyError

_START_SECONDS = 300  # for all processes to turn up
_FIRST_SECONDS = 24 * 3600  # for the first one to build the data


class Process(NamedTuple):
  """One of `count` processes of a study; `index` counts from 0."""

  index: int = 0
  count: int = 1


ALONE = Process()


def join(address: str | None, count: int | None, index: int | None) -> Process:
  """Joins the processes of a study; no device may have been touched before.

  Args:
    address: host:port of process 0; None where JAX finds it out, as the other two: under Slurm,
      Open MPI, Kubernetes and on Cloud TPUs.
    count: how many processes there are.
    index: which one this is, from 0.

  Raises:
    StudyError: if the processes do not find one another.
  """
  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      initialization_timeout=_START_SECONDS,
      shutdown_timeout_seconds=_FIRST_SECONDS,
    )
  except (ValueError, TypeError, RuntimeError) as error:
    lines = str(error).strip().splitlines() or [repr(error)]
    raise StudyError(
      f'--distributed: {lines[0]}; where JAX does not find its cluster out, give '
      '--coordinator_address=HOST:PORT --num_processes=N --process_id=K to each process'
    ) from error
  return Process(distributed.global_state.process_id, distributed.global_state.num_processes)


def leave() -> None:
  """Waits until every process has called this; from then on each is one of its own to JAX."""
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()
    # Else devices would be set up for a runtime that is gone (xla_bridge.py).
    distributed.global_state.process_id, distributed.global_state.num_processes = 0, 1
