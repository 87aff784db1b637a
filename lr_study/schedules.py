"""Learning-rate schedules: a trial's learning rate at a step is its rate x height(step)."""

import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lr_study import formats, plugs
from lr_study.errors import StudyError
from lr_study.plugs import AT_LEAST_0, COUNT_OR_0, FACTOR, POSITIVE, Limit, is_number, limits

Schedule = Callable[..., jax.Array]  # step (int32, from 0), **swept -> height (float32)

SUPPLIED = ('steps_per_epoch', 'epochs')
_MOST_DROPS = 1000

_EPOCHS: Limit = (
  lambda epochs: (
    all(type(e) is int and e >= 2 for e in epochs) and list(epochs) == sorted(set(epochs))
  ),
  'epochs in rising order, from 2 on',
)
_HEIGHTS: Limit = lambda h: all(is_number(x) and x > 0 for x in h), 'numbers above 0'


def build(
  config: Mapping[str, Any], steps_per_epoch: int, epochs: int, sweep: Collection[str] = ()
) -> Schedule:
  """Builds the schedule `config['name']` with its warm-up.

  Epochs count from 1: a drop "from epoch 11" takes effect at step 10 x steps_per_epoch, the first
  of epoch 11. The warm-up multiplies the schedule; it does not shift its drops.

  Args:
    config: `name`, of `KNOWN` or 'file.py:function', its arguments and those of `common`.
    steps_per_epoch: of the study.
    epochs: of the whole run.
    sweep: names of arguments that differ between trials.

  Returns:
    A function of the step (int32) and of the swept arguments by name that returns the height
    (float32).

  Raises:
    StudyError: an argument is unknown, out of range or cannot be swept, or the user's function
      does not fit.
  """
  factory = plugs.find('schedule', config['name'])
  values = plugs.checked('schedule', factory, config)
  _check_warmup(values, sweep)
  supplied = {'steps_per_epoch': steps_per_epoch, 'epochs': epochs}

  def make(**swept) -> Schedule:
    of = values | swept
    warmup = common(steps_per_epoch, of['warmup_epochs'], of['warmup_steps'])
    schedule = plugs.call('schedule', factory, supplied, of)
    return lambda step: warmup(step) * _height(factory, schedule, step)

  schedule = make()
  jax.eval_shape(schedule, jnp.int32(0))  # reports errors in the user's function now
  for name in sweep:
    _check_sweep(make, factory, values, name)
  return (lambda step, **swept: make(**swept)(step)) if sweep else schedule


def may_sweep(config: Mapping[str, Any], among: Collection[str] = ()) -> tuple[str, ...]:
  """The arguments of a schedule that can differ between the trials of one program.

  `among`: if not empty, only these are tried.
  """
  factory = plugs.find('schedule', config['name'])
  names = []
  for name, default in plugs.fields('schedule', factory).items():
    if isinstance(default, bool | str | tuple) or (among and name not in among):
      continue
    other = {'warmup_steps': 'warmup_epochs', 'warmup_epochs': 'warmup_steps'}.get(name)
    try:
      build({n: x for n, x in config.items() if n != other}, 1, 1, (name,))
    except StudyError:
      continue
    names.append(name)
  return tuple(names)


def heights(schedule: Schedule, steps: int | np.ndarray, **swept: float) -> np.ndarray:
  """Heights as a host array, float32: of the first `steps` steps, or of the steps given."""
  steps = np.arange(steps) if isinstance(steps, int) else np.asarray(steps)
  at = jax.jit(jax.vmap(lambda step, own: schedule(step, **own), in_axes=(0, None)))
  return np.asarray(at(steps.astype(np.int32), swept))


@limits(warmup_epochs=AT_LEAST_0, warmup_steps=COUNT_OR_0)
def common(steps_per_epoch: int, warmup_epochs: float = 0.0, warmup_steps: int = 0) -> Schedule:
  """A linear rise that reaches 1 at the last step of the warm-up.

  With w steps, the height of step t is (t + 1) / w, so that the first step is not wasted on a rate
  of 0.

  Args:
    steps_per_epoch: how many steps an epoch has.
    warmup_epochs: the length of the warm-up in epochs, which need not be whole; 0: none.
    warmup_steps: the length of the warm-up in steps, in place of epochs; 0: none.
  """
  nearest = round if _is_static(warmup_epochs) else jnp.round
  steps = warmup_steps + nearest(warmup_epochs * steps_per_epoch)
  return lambda step: jnp.minimum(1.0, (step + 1) / jnp.maximum(steps, 1.0))


def constant(steps_per_epoch: int, epochs: int) -> Schedule:
  """Height 1."""
  del steps_per_epoch, epochs
  return lambda step: jnp.ones_like(step, jnp.float32)


@limits(every_epochs=POSITIVE, factor=FACTOR)
def step_decay(
  steps_per_epoch: int, epochs: int, every_epochs: float = 10.0, factor: float = 0.1
) -> Schedule:
  """Multiplies by `factor` every `every_epochs` epochs, rounded to the nearest step.

  The defaults are those of the published experiment. There are at most 1000 drops.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    every_epochs: epochs from one drop to the next, which need not be whole.
    factor: what the rate is multiplied by at each drop.
  """
  if not _is_static(every_epochs):
    drops = jnp.round(jnp.arange(1, _MOST_DROPS + 1) * (every_epochs * steps_per_epoch))
  elif epochs / every_epochs > _MOST_DROPS:
    raise ValueError(
      f'every_epochs is {every_epochs}; with {formats.count(epochs, "epoch")} that is more than '
      f'{_MOST_DROPS} drops'
    )
  else:
    count = int(epochs / every_epochs)
    drops = np.asarray([round(k * every_epochs * steps_per_epoch) for k in range(1, count + 1)])
  if _is_static(factor):
    return _steps(drops, [factor**k for k in range(1, len(drops) + 1)])
  return lambda step: factor ** jnp.sum(step >= drops).astype(jnp.float32)


@limits(from_epochs=_EPOCHS, heights=_HEIGHTS)
def piecewise(
  steps_per_epoch: int,
  epochs: int,
  from_epochs: tuple[int, ...] = (11, 20),
  heights: tuple[float, ...] = (0.1, 0.01),
) -> Schedule:
  """1 at first, then `heights[k]` from the first step of epoch `from_epochs[k]` on.

  The defaults are the published example: 1e-3, then 1e-4 from epoch 11 and 1e-5 from epoch 20.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    from_epochs: the epochs, from 1, at whose first steps the height changes.
    heights: the height from each of these epochs on.
  """
  del epochs
  if len(from_epochs) != len(heights):
    raise ValueError(
      f'from_epochs has {len(from_epochs)} entries and schedule.heights {len(heights)}; give one '
      'height per epoch'
    )
  return _steps(np.asarray([(epoch - 1) * steps_per_epoch for epoch in from_epochs]), heights)


@limits(start_height=FACTOR)
def exponential(steps_per_epoch: int, epochs: int, start_height: float = 1e-8) -> Schedule:
  """Rises from `start_height` at the first step to 1 at the last, by a constant factor.

  This is the learning rate range test; the default is fastai's range.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    start_height: the height at the first step.
  """
  last = max(1, steps_per_epoch * epochs - 1)
  return lambda step: jnp.float32(start_height) ** (1 - step / last)


@limits(final_height=AT_LEAST_0)
def cosine(steps_per_epoch: int, epochs: int, final_height: float = 0.0) -> Schedule:
  """Half a cosine from 1 at the first step to `final_height` after the last (SGDR, 2016).

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    final_height: the height after the last step.
  """
  total = steps_per_epoch * epochs
  return lambda step: _between(final_height, 0.5 * (1 - jnp.cos(jnp.pi * _left(step, total))))


@limits(final_height=AT_LEAST_0)
def linear(steps_per_epoch: int, epochs: int, final_height: float = 0.0) -> Schedule:
  """A straight line from 1 at the first step to `final_height` after the last.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    final_height: the height after the last step.
  """
  total = steps_per_epoch * epochs
  return lambda step: _between(final_height, _left(step, total))


@limits(power=POSITIVE, final_height=AT_LEAST_0)
def polynomial(
  steps_per_epoch: int, epochs: int, power: float = 2.0, final_height: float = 0.0
) -> Schedule:
  """(1 - share of the run done) ^ `power`, scaled to go from 1 to `final_height` at the end.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    power: 1 is a straight line; larger powers fall sooner.
    final_height: the height after the last step.
  """
  total = steps_per_epoch * epochs
  return lambda step: _between(final_height, _left(step, total) ** jnp.float32(power))


@limits(flat_epochs=POSITIVE)
def inverse_sqrt(steps_per_epoch: int, epochs: int, flat_epochs: float = 1.0) -> Schedule:
  """1 for `flat_epochs`, then falling as 1 / sqrt(step).

  With a warm-up of the same length this is the schedule of Attention Is All You Need (2017).

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    flat_epochs: epochs at height 1 before the fall.
  """
  del epochs
  flat = jnp.maximum(jnp.float32(flat_epochs) * steps_per_epoch, 1.0)
  return lambda step: jnp.sqrt(flat / jnp.maximum(step, flat))


@limits(decay_share=FACTOR, final_height=AT_LEAST_0)
def wsd(
  steps_per_epoch: int, epochs: int, decay_share: float = 0.2, final_height: float = 0.0
) -> Schedule:
  """Warm-up, stable, decay (MiniCPM, 2024): 1, then a straight line to `final_height`.

  The warm-up is the one that all schedules have.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    decay_share: the share of the run, at its end, in which the rate falls.
    final_height: the height after the last step.
  """
  total = steps_per_epoch * epochs
  decay = jnp.maximum(jnp.float32(decay_share) * total, 1.0)
  return lambda step: _between(final_height, jnp.minimum(1.0, (total - step) / decay))


@limits(rise_share=FACTOR, start_height=AT_LEAST_0, final_height=AT_LEAST_0)
def one_cycle(
  steps_per_epoch: int,
  epochs: int,
  rise_share: float = 0.3,
  start_height: float = 0.04,
  final_height: float = 4e-6,
) -> Schedule:
  """Half a cosine up from `start_height` to 1, then half a cosine down to `final_height`.

  Smith and Topin's Super-Convergence (2017), with the shape and the defaults of PyTorch's
  OneCycleLR, but constant momentum.

  Args:
    steps_per_epoch: how many steps an epoch has.
    epochs: of the trial.
    rise_share: the share of the run, at its start, in which the rate rises.
    start_height: the height at the first step.
    final_height: the height after the last step.
  """
  total = steps_per_epoch * epochs
  peak = jnp.maximum(jnp.float32(rise_share) * total, 1.0)

  def height(step):
    up = 0.5 * (1 - jnp.cos(jnp.pi * (step / peak)))
    fallen = (step - peak) / jnp.maximum(total - peak, 1.0)
    down = 0.5 * (1 + jnp.cos(jnp.pi * fallen))
    return jnp.where(step < peak, _between(start_height, up), _between(final_height, down))

  return height


KNOWN: dict[str, Callable[..., Schedule]] = {
  of.__name__: of
  for of in (
    constant, step_decay, piecewise, exponential, cosine, linear, polynomial, inverse_sqrt, wsd,
    one_cycle,
  )
}  # fmt: skip


def _steps(boundaries: Any, heights: Collection[float]) -> Schedule:
  """1, and `heights[k]` from step `boundaries[k]` on. Heights are absolute, not multiplied."""
  table = np.asarray([1.0, *heights], np.float32)
  if isinstance(boundaries, np.ndarray):
    boundaries = np.minimum(boundaries, np.iinfo(np.int32).max).astype(np.int32)
  return lambda step: jnp.asarray(table)[jnp.sum(step >= boundaries)]


def _between(end: Any, share: jax.Array) -> jax.Array:
  """1 where the share is 1, `end` where it is 0."""
  return end + (1 - end) * share


def _left(step: jax.Array, total: int) -> jax.Array:
  """The share of a run that is left before a step: 1 at the first step, above 0 at the last."""
  return jnp.maximum(1 - step / total, 0.0)


def _is_static(value: Any) -> bool:
  return isinstance(value, numbers.Real)


def _height(factory: Callable, schedule: Any, step: jax.Array) -> jax.Array:
  """A schedule's height, float32; errors in the user's function are reported with its name."""
  if not plugs.is_own(factory):
    return schedule(step).astype(jnp.float32)
  title = plugs.title('schedule', factory)
  if not callable(schedule):
    raise StudyError(
      f'the schedule {title} gave {plugs.shown(schedule)}; it must return a function of the step'
    )
  try:
    height = jnp.asarray(schedule(step), jnp.float32)
  except Exception as error:
    raise StudyError(plugs.blame('schedule', factory, error)) from error
  if height.shape != jnp.shape(step):
    raise StudyError(
      f'the schedule {title} gave heights of shape {height.shape} for a step; it must return one '
      'number'
    )
  return height


def _check_warmup(values: Mapping[str, Any], sweep: Collection[str]) -> None:
  both = [name for name in ('warmup_epochs', 'warmup_steps') if values[name] or name in sweep]
  if len(both) == 2:
    raise StudyError('schedule.warmup_epochs and schedule.warmup_steps are both set; set one to 0')


def _check_sweep(make: Callable, factory: Callable, values: Mapping[str, Any], name: str) -> None:
  """Raises StudyError if this argument cannot be traced."""
  if name not in values:
    raise StudyError(f'schedule.{name}: no such field{plugs.nearest(name, values)}')
  title = plugs.title('schedule', factory)
  if isinstance(values[name], bool | str | tuple):
    raise StudyError(f'schedule.{name} cannot be an axis of one program: it is not a number')
  try:
    jax.eval_shape(lambda step, x: make(**{name: x})(step), jnp.int32(0), jnp.float32(1))
  except (StudyError, jax.errors.JAXTypeError, TypeError, ValueError) as error:
    why = str(error) if plugs.is_own(factory) else f'{title} needs it as a plain number'
    raise StudyError(f'schedule.{name} cannot be an axis of one program: {why}') from error
