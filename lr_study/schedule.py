"""Learning-rate schedules of height 1: a trial's learning rate at a step is rate x height(step)."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Schedule = optax.Schedule  # step (int32, from 0) -> height (float32)


def make_schedule(config: ConfigDict, steps_per_epoch: int, epochs: int) -> Schedule:
  """Builds `config.name` of `SCHEDULES`, with a linear warm-up if `config.warmup_epochs` > 0.

  Epochs count from 1: a drop "from epoch 11" is in force at step 10 x steps_per_epoch, the
  first of epoch 11. The warm-up multiplies the schedule; it does not shift its drops.
  """
  schedule = SCHEDULES[config.name](config, steps_per_epoch, epochs)
  warmup_steps = round(config.warmup_epochs * steps_per_epoch)
  if warmup_steps == 0:
    return schedule
  # Reaches 1 at the last step of the warm-up; the first step is not lost to a rate of 0.
  warmup = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps - 1)
  return lambda step: warmup(step) * schedule(step)


def _constant(config: ConfigDict, steps_per_epoch: int, epochs: int) -> Schedule:
  del config, steps_per_epoch, epochs
  return optax.constant_schedule(1.0)


def _step_decay(config: ConfigDict, steps_per_epoch: int, epochs: int) -> Schedule:
  """`factor` once every `every_epochs` epochs, to the nearest step where that falls within one."""
  drops = range(1, int(epochs / config.every_epochs) + 1)
  return _piecewise_constant(
    [round(k * config.every_epochs * steps_per_epoch) for k in drops],
    [config.factor**k for k in drops],
  )


def _piecewise(config: ConfigDict, steps_per_epoch: int, epochs: int) -> Schedule:
  """Height `heights[k]` from the first step of epoch `from_epochs[k]` on; 1 before."""
  del epochs
  boundaries = [(epoch - 1) * steps_per_epoch for epoch in config.from_epochs]
  return _piecewise_constant(boundaries, config.heights)


def _exponential(config: ConfigDict, steps_per_epoch: int, epochs: int) -> Schedule:
  """From `start_height` at the first step to 1 at the last, by the same factor every step."""
  last = max(1, steps_per_epoch * epochs - 1)
  return lambda step: jnp.float32(config.start_height) ** (1 - step / last)


SCHEDULES: dict[str, Callable[[ConfigDict, int, int], Schedule]] = {
  'constant': _constant,
  'step_decay': _step_decay,
  'piecewise': _piecewise,
  'exponential': _exponential,
}


def _piecewise_constant(boundaries: Sequence[int], heights: Sequence[float]) -> Schedule:
  # optax.piecewise_constant_schedule multiplies drop by drop, which rounds at each; a
  # drop to 0.01 should be 0.01. Joined constants give the heights as they are written.
  constants = [optax.constant_schedule(jnp.float32(h)) for h in (1.0, *heights)]
  return optax.join_schedules(constants, list(boundaries))
