"""Before training: how many trials fit in memory, and how long the study will take."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lr_study import accelerate, formats, memory, trials
from lr_study.errors import StudyError
from lr_study.files import provenance
from lr_study.progress import note, working
from lr_study.trials import Running, Sweep
from lr_study.vectorize import tree_bytes

_LONG_SECONDS = 3600  # a study that takes longer says so before it starts


def waves(sweep: Sweep, workers: int = 1, beside: int = 1) -> list[int]:
  """The wave of each trial of the sweep, from 0. A wave holds as many trials as fit in memory.

  Args:
    sweep: of these trials.
    workers: how many train waves at the same time.
    beside: how many of these share the memory of this machine, if trials train on its CPUs.

  Raises:
    StudyError: not even one trial fits.
  """
  count = len(sweep.trials)
  line = f'Compiling for {formats.count(count, "trial")} on {provenance.device()}'
  with sweep.clock('start'), working(line):
    need = measure(sweep, trials.running(sweep, np.arange(count)))
  # CPU devices share the memory of their machine.
  shared = need.devices * beside if accelerate.shares_memory() else 1
  free = memory.free_memory() // shared
  if sweep.config.memory_gb:
    free = max(0, sweep.config.memory_gb * 1e9 - need.shared)
  fit = max(0, int((free - need.call) // need.trial)) * need.devices
  once = f'; {need.shared / 1e9:.2g} GB of frozen weights are held once' if need.shared else ''
  note(
    f'A trial needs {need.trial / 1e9:.2g} GB and the program {need.call / 1e9:.2g} GB{once}; '
    f'{free / 1e9:.3g} GB are free{" on each device" if need.devices > 1 else ""}{memory.about()}: '
    f'{formats.count(fit, "trial")} fit{"s" if fit == 1 else ""}'
  )
  if fit < 1:
    raise StudyError(
      f'one trial needs {(need.trial + need.call) / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; '
      'lower model.width, image_size, batch_size or eval_batch_size'
    )
  each = math.ceil(count / (fit * workers))  # waves of a worker
  number = min(each * workers, count)
  if number > 1:
    how = 'one after the other' if workers == 1 else f'on {workers} workers'
    note(f'{count} trials in {number} waves, {how}')
  # Interleaved: the largest rates diverge early, so they should not all be in one wave.
  return [trial % number for trial in range(count)]


def measure(sweep: Sweep, now: Running) -> memory.Memory:
  """The memory that the trials need. Compiles their programs."""
  chunk = next(trials.chunks(sweep, now.seeds, 0, 0, 1))
  window = next(sweep.validation.windows(sweep.config.eval_batch_size))
  need = sweep.spread.memory(len(now.columns), now.hyper_T, now.seeds, chunk, window)
  if sweep.train.resident:
    return need
  # Streamed images are in memory twice: those of this call and of the next one.
  data = 2 * max(tree_bytes(chunk.data), tree_bytes(window.data)) // need.devices
  return need._replace(call=need.call + data)


def announce(sweep: Sweep, now: Running, epochs: float) -> tuple[float, float]:
  """Times a few steps on weights that are then discarded, and prints how long the study will take.

  Args:
    sweep: the study's.
    now: the trials that train first.
    epochs: how many are left to train, over all waves of this process.

  Returns:
    The seconds of a step of all these trials, and of an evaluation.
  """
  with working('Timing a few steps', keep=False):
    step_seconds, eval_seconds = _time(sweep, now)
  seconds = epochs * (sweep.steps_per_epoch * step_seconds + eval_seconds)
  note(
    f'{formats.count(sweep.epochs, "epoch")} of {formats.count(sweep.steps_per_epoch, "step")}, '
    f'{1000 * step_seconds:.3g} ms a step: about {formats.duration(seconds)}'
  )
  if seconds > _LONG_SECONDS:
    shorter = 'Fewer epochs, or a smaller image_size, take less.'
    if sweep.config.data.name == 'tombstone_letters':
      shorter = '--config alexnet_letters:quick is a scaled-down study that takes minutes.'
    note(
      f'This takes {formats.duration(seconds)} on this device. {shorter} A stopped study resumes '
      'with the same command, and --time_limit stops it before a time that you give.'
    )
  return step_seconds, eval_seconds


def _time(sweep: Sweep, now: Running) -> tuple[float, float]:
  """The seconds that a step and an evaluation take; see `announce`."""
  spread, size = sweep.spread, sweep.config.eval_batch_size

  def steps(state_T, count):
    of_epoch = trials.chunks(sweep, now.seeds, 0, 0, count)
    return spread.train(state_T, now.hyper_T, now.seeds, of_epoch)[0]

  def evaluate(state_T):
    window = itertools.islice(sweep.validation.windows(size), 1)
    return spread.evaluate(state_T, window, len(now.columns))

  # Once to warm up: when a study resumes, nothing is compiled yet.
  state_T = spread.settle(steps(spread.init(now.hyper_T, now.seeds), 1))
  evaluate(state_T)
  state_T, seconds = _timed(steps, state_T, 1)
  state_T = spread.settle(state_T)
  most = max(1, min(sweep.engine.every or 64, sweep.steps_per_epoch) - 1)  # steps without settling
  count = int(np.clip(1 / seconds, 1, most))  # about a second
  state_T, seconds = _timed(steps, state_T, count)
  state_T, settle_seconds = _timed(spread.settle, state_T)
  _, eval_seconds = _timed(evaluate, state_T)
  step_seconds = seconds / count + settle_seconds / (sweep.engine.every or 1)
  windows = math.ceil(len(sweep.validation.labels) / size)
  return step_seconds, windows * eval_seconds


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
  """The function's result, and the seconds that it took to compute."""
  started = time.monotonic()
  return jax.block_until_ready(function(*arguments)), time.monotonic() - started
