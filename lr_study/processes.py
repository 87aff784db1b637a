"""Lets several processes, on one machine or many, share a study, by JAX's distributed runtime.

The runtime tells each process its index and lets all start together. Each process then leaves it
before it touches a device. Processes train separate trials, so one that dies does not affect the
others. They share only the work directory.
"""

from typing import NamedTuple

import jax
from jax._src import distributed  # the public module does not say which process this is

from lr_study.errors import StudyError

_START_SECONDS = 300  # for all processes to start
_FIRST_SECONDS = 24 * 3600  # for the first one to build the data


class Process(NamedTuple):
  """One of `count` processes of a study; `index` counts from 0."""

  index: int = 0  # type: ignore[assignment]  # these two hide methods of tuples
  count: int = 1  # type: ignore[assignment]


ALONE = Process()


def join(address: str | None, count: int | None, index: int | None) -> Process:
  """Joins the processes of a study. Call it before any device is touched.

  JAX finds the arguments itself (pass None) under Slurm, Open MPI, Kubernetes and on Cloud TPUs.

  Args:
    address: host:port of process 0.
    count: how many processes there are.
    index: of this process, from 0.

  Raises:
    StudyError: the processes cannot find one another.
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
      f'--distributed: {lines[0]}; if JAX does not detect the cluster, give '
      '--coordinator_address=HOST:PORT --num_processes=N --process_id=K to each process'
    ) from error
  return Process(distributed.global_state.process_id, distributed.global_state.num_processes)


def leave() -> None:
  """Waits until every process has called this. From then on, JAX sees each as a single process."""
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()
    # Otherwise devices would be set up for a runtime that is gone (xla_bridge.py).
    distributed.global_state.process_id, distributed.global_state.num_processes = 0, 1
