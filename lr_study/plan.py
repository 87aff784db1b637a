"""Before the start: how many trials fit in memory, and how long it will take."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lr_study import formats, memory, parallel
from lr_study.errors import StudyError
from lr_study.progress import note
from lr_study.training import Running, Sweep

_LONG_SECONDS = 3600  # a study that takes longer says so before it starts


def waves(
  trials: parallel.Trials,
  mean: jax.Array,
  chunk: parallel.Chunk,
  count: int,
  processes: int,
  limit: float,
) -> list[int]:
  """The wave of each of `count` trials, from 0: as many in a wave as fit in memory; and says so.

  Args:
    trials: all of them.
    mean: that is subtracted from the images.
    chunk: of the images that they train on.
    count: how many they are.
    processes: that train them; they take the waves in turn.
    limit: bytes that they may take on a device; 0 for what is free.

  Raises:
    StudyError: if not even one fits.
  """
  need = trials.memory(mean, chunk)
  # CPU devices share the memory of their machine.
  shared = need.devices if jax.default_backend() == 'cpu' else 1
  free = limit or memory.free_memory() // shared
  fit = max(0, int((free - need.call) // need.trial)) * need.devices
  note(
    f'A trial needs {need.trial / 1e9:.2g} GB and the program {need.call / 1e9:.2g} GB; '
    f'{free / 1e9:.3g} GB are free{" on each device" if need.devices > 1 else ""}: '
    f'{fit} trials fit'
  )
  if fit < 1:
    raise StudyError(
      f'one trial needs {(need.trial + need.call) / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; '
      'lower model.width, image_size, batch_size or eval_batch_size'
    )
  each = math.ceil(count / (fit * processes))  # waves of a process
  number = min(each * processes, count)
  if number > 1:
    how = 'one after the other' if processes == 1 else f'of {processes} processes'
    note(f'{count} trials in {number} waves, {how}')
  # Not in blocks: the largest rates leave early, and should not all be one wave.
  return [trial % number for trial in range(count)]


def announce(sweep: Sweep, running: Running, epochs: float) -> None:
  """Times a few steps on weights that are thrown away, and says how long the study will take.

  Args:
    sweep: the study's.
    running: the trials that train first.
    epochs: left to train, of all waves of this process.
  """
  (_, trials, rate_T, seed_T), train, mean = running, sweep.train, sweep.mean
  order_S = trials.order(seed_T, 0, len(train.labels))

  def steps(state_T, count):
    chunks = train.chunks(trials, order_S, 0, count)
    return trials.train_steps(state_T, rate_T, seed_T, chunks, mean, 0)[0]

  def first_window():
    return list(itertools.islice(sweep.validation.windows(trials), 1))

  # Once to warm up: where a study goes on nothing is compiled yet.
  state_T, seconds = _timed(steps, trials.init(seed_T), 1)
  state_T, window = trials.fold(state_T), first_window()
  trials.eval_steps(state_T[:1], window, mean)
  most = max(1, min(sweep.trial.fold_every, sweep.steps_per_epoch) - 1)  # steps without a fold
  count = int(np.clip(1 / seconds, 1, most))  # about a second
  state_T, seconds = _timed(steps, state_T, count)
  state_T, fold_seconds = _timed(trials.fold, state_T)
  # Of an evaluation what all trials share, and what runs at once: all would take as many steps do.
  at_once = parallel.calls_at_once(sweep.config.parallel)
  _, read_seconds = _timed(first_window)
  _, shared_seconds = _timed(trials.eval_steps, [], window, mean)
  _, eval_seconds = _timed(trials.eval_steps, state_T[:at_once], window, mean)
  step_seconds = seconds / count + fold_seconds / sweep.trial.fold_every
  own_seconds = max(0, eval_seconds - shared_seconds) * math.ceil(len(state_T) / at_once)
  windows = math.ceil(len(sweep.validation.labels) / trials.eval_batch)
  eval_seconds = windows * (read_seconds + shared_seconds + own_seconds)
  seconds = epochs * (sweep.steps_per_epoch * step_seconds + eval_seconds)
  note(
    f'{sweep.epochs} epochs of {sweep.steps_per_epoch} steps, '
    f'{1000 * step_seconds:.3g} ms a step: about {formats.duration(seconds)}'
  )
  if seconds > _LONG_SECONDS:
    note(
      f'This takes {formats.duration(seconds)} on this device. --config '
      'configs/alexnet_letters.py:quick is the same study made small: minutes. A stopped study '
      'goes on with the same command.'
    )


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
  """What the function gives, and the seconds until that is computed."""
  started = time.monotonic()
  return jax.block_until_ready(function(*arguments)), time.monotonic() - started
