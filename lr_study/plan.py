"""Before the start: how many trials fit in memory, and how long it will take."""

import math
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import formats, parallel
from lr_study.errors import StudyError
from lr_study.progress import note

_LONG_SECONDS = 3600  # a study that takes longer says so before it starts


def waves(
  trials: parallel.Trials, arrays: parallel.Arrays, count: int, processes: int, limit: float
) -> list[int]:
  """The wave of each of `count` trials, from 0: as many in a wave as fit in memory; and says so.

  Args:
    trials: all of them.
    arrays: what they train on.
    count: how many they are.
    processes: that train them; they take the waves in turn.
    limit: bytes that they may take on a device; 0 for what is free.

  Raises:
    StudyError: if not even one fits.
  """
  need, free = trials.memory(arrays), limit or parallel.free_memory()
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


def announce(
  config: ConfigDict,
  trials: parallel.Trials,
  rate_T: jax.Array,
  seed_T: jax.Array,
  arrays: parallel.Arrays,
  images: tuple[int, int],
  epochs: float,
) -> None:
  """Compiles, times a few steps on weights that are thrown away, and says how long it will take.

  Args:
    config: the study's.
    trials: those that train first.
    rate_T: their rates.
    seed_T: their seeds.
    arrays: what they train on.
    images: how many for training, and for validation.
    epochs: left to train, of all waves of this process.
  """
  steps_per_epoch = images[0] // config.batch_size
  state_T = trials.init(seed_T)
  order_T = trials.order(seed_T, 0, arrays)
  step_seconds = np.inf
  for _ in range(3):  # the first round compiles, the second warms up
    count = int(np.clip(2 / step_seconds, 1, trials.fold_every))  # about two seconds
    clock = [time.monotonic()]
    for _ in range(count):
      state_T, _ = trials.train_step(state_T, rate_T, seed_T, arrays, order_T, 0)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    state_T = trials.fold(state_T)
    clock.append(jax.block_until_ready(state_T) and time.monotonic())
    jax.block_until_ready(trials.eval_step(state_T, arrays, 0))
    clock.append(time.monotonic())
    step_seconds, fold_seconds, eval_seconds = np.diff(clock) / (count, 1, 1)
  step_seconds += fold_seconds / trials.fold_every
  batches = -(-images[1] // config.eval_batch_size)
  seconds = epochs * (steps_per_epoch * step_seconds + batches * eval_seconds)
  note(
    f'{config.epochs} epochs of {steps_per_epoch} steps, '
    f'{1000 * step_seconds:.3g} ms a step: about {formats.duration(seconds)}'
  )
  if seconds > _LONG_SECONDS:
    note(
      f'This takes {formats.duration(seconds)} on this device. --config '
      'configs/alexnet_letters.py:quick is the same study made small: minutes. A stopped study '
      'goes on with the same command.'
    )
