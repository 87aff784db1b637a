"""Inspects a network from outside: whether it fits the data, and what its layers return."""

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from lr_study import freeze, plugs, trial
from lr_study.data import samples
from lr_study.errors import StudyError, is_full, is_out_of_memory
from lr_study.parts import mode_of

_BATCH = 2  # inputs that `check` calls a network with
_LARGEST = 1024  # pixels: larger images are not tried
# Of lr_study and of installed packages: lines in them do not help the user.
_PACKAGES = (Path(__file__).parents[1], Path(nn.__file__).parents[2])


def check(model: nn.Module, shape: Sequence[int], classes: int, dtype: str, name: str) -> None:
  """Checks that a network can be trained, using only shapes: nothing is computed.

  Args:
    model: the network.
    shape: of one input; (height, width, channels) for images.
    classes: of the data.
    dtype: of activations and products.
    name: what the messages call the network.

  Raises:
    StudyError: the network fails on such inputs, has no parameters, or does not return logits
      (batch, classes). If the images may be too small, the message gives a size that works.
  """
  problem = _problem(model, shape, classes, dtype)
  if problem is None:
    return
  hint = ''
  if problem.is_shape and len(shape) == 2 and samples.is_image(shape):
    hint = '; most networks need images with an axis for channels: return x[..., None]'
  elif problem.is_shape and len(shape) != 3:
    hint = '; --config.model.name=mlp takes inputs of any shape'
  elif problem.is_shape and (size := _working_size(model, shape, classes, dtype)):
    hint = (
      f'; images of {size} x {size} pixels work: set --config.image_size={size}, or '
      f'--config.input.size={size} for arrays, or input.crop where it is set'
    )
  raise StudyError(f'model.name={plugs.short(name)}: {problem.text}{hint}')


def check_batch(task: trial.Task, batch_size: int, name: str) -> None:
  """Checks that no BatchNorm of a network computes its statistics over a single value.

  In training it would subtract this value from itself, and so return the same for every input. As
  PyTorch does, this refuses such a network, although other layers might learn around it. Only
  shapes are computed.

  Args:
    task: of the trials.
    batch_size: of a step.
    name: what the message calls the network.

  Raises:
    StudyError: one does; the message names the layer.
  """
  if batch_size > 1:
    return  # every statistic is over at least this many values
  variables = jax.eval_shape(lambda: trial.draw(task, jax.random.key(0)))
  if 'batch_stats' not in variables:
    return
  single: list[str] = []

  def look(layer: Any, x: jax.Array, averages: bool | None, path: Sequence[str]) -> None:
    axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
    trains = not averages and not freeze.is_held(tuple(path)) and layer.axis_name is None
    if trains and np.prod([x.shape[axis] for axis in axes]) == x.size:
      single.append('/'.join(path) or type(layer).__name__)

  with _batch_norms(look):
    params, state = freeze.apart(variables, task.origin.frozen)
    inputs = jax.ShapeDtypeStruct((batch_size, *task.shape), jnp.float32)
    of_training = functools.partial(trial.apply, task, dropout_key=jax.random.key(0))
    jax.eval_shape(of_training, params, state, inputs)
  if single:
    raise StudyError(
      f'model.name={plugs.short(name)}: with batch_size=1, {single[0]} normalises a single value '
      'per channel, so in training it returns the same for every input; set '
      '--config.batch_size=2 or more, such as 32'
    )


@contextlib.contextmanager
def _batch_norms(look: Callable[..., None]) -> Iterator[None]:
  """While entered, calls `look(layer, x, use_running_average, path)` before each BatchNorm."""

  def note(next_call, arguments, keywords, context):
    layer = context.module
    if isinstance(layer, nn.BatchNorm) and context.method_name == '__call__':
      look(layer, *_inputs(layer, *arguments, **keywords), layer.path)
    return next_call(*arguments, **keywords)

  call = nnx.BatchNorm.__call__

  def noted(layer, *arguments, **keywords):
    look(layer, *_inputs(layer, *arguments, **keywords), (type(layer).__name__,))
    return call(layer, *arguments, **keywords)

  with nn.intercept_methods(note):
    nnx.BatchNorm.__call__ = noted
    try:
      yield
    finally:
      nnx.BatchNorm.__call__ = call


def _inputs(
  layer: Any, x: jax.Array, use_running_average: bool | None = None, **_: Any
) -> tuple[jax.Array, bool | None]:
  """The inputs of a BatchNorm, and whether it uses running averages."""
  own = layer.use_running_average
  return x, own if use_running_average is None else use_running_average


def outputs(
  model: nn.Module,
  variables: Mapping[str, Any],
  inputs: jax.Array,
  train: bool = False,
  rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """The values that each layer with its own parameters returns, and the logits.

  Args:
    model: the network.
    variables: all of its collections.
    inputs: (batch, ...).
    train: the mode, if the network has one.
    rngs: needed in training by a network with dropout.

  Returns:
    A dict from paths, such as 'conv1' or 'block0_1/conv1', to arrays (batch, ...), in the order of
    the calls; the last array if a layer is called several times. And the logits, (batch, classes).
    A dict that `jax.jit` or `jax.vmap` returns is sorted by name instead.
  """
  layers = {path[:-1] for path in flatten_dict(variables['params'])} - {()}
  order = []

  def note(next_call, arguments, keywords, context):
    y = next_call(*arguments, **keywords)
    if context.method_name == '__call__' and context.module.path not in order:
      order.append(context.module.path)
    return y

  state = [name for name in variables if name != 'params'] if train else []
  with nn.intercept_methods(note):
    logits, found = model.apply(
      variables,
      inputs,
      **mode_of(model, train),
      rngs=rngs,
      mutable=[*state, 'intermediates'],
      capture_intermediates=lambda module, _: module.path in layers,
    )
  values = {
    path[:-1]: of[-1]
    for path, of in flatten_dict(found.get('intermediates', {})).items()
    if path[-1] == '__call__' and path[:-1] in layers and isinstance(of[-1], jax.Array)
  }
  order = [path for path in order if path in values]
  order += [path for path in values if path not in order]  # of an NNX module
  return {'/'.join(path): values[path] for path in order}, logits


class _Problem(NamedTuple):
  text: str
  is_shape: bool = False  # other inputs may fit


def _problem(model: nn.Module, shape: Sequence[int], classes: int, dtype: str) -> _Problem | None:
  """What is wrong with a network for inputs of this shape; None if it works."""
  asked, given = (_BATCH, classes), f'inputs of shape {(_BATCH, *shape)}'
  empty, returned = [], []  # paths of modules that return no values; what the network returns

  def note(next_call, arguments, keywords, context):
    y = next_call(*arguments, **keywords)
    if any(leaf.size == 0 for leaf in jax.tree.leaves(y) if isinstance(leaf, jax.Array)):
      empty.append('/'.join(context.module.path) or type(context.module).__name__)
    if context.method_name == '__call__' and not context.module.path:
      returned.append(y)
    return y

  try:
    with nn.intercept_methods(note):
      params, logits = _shapes(model, shape, dtype)
  except StudyError:
    raise
  except Exception as error:
    if is_full(error) or is_out_of_memory(error):
      raise
    if returned and not isinstance(returned[-1], jax.Array):
      return _Problem(f'it returns a {type(returned[-1]).__name__}, not an array of logits')
    if empty:
      return _Problem(f'{empty[0]} returns an empty array on {given}', is_shape=True)
    return _Problem(f'it fails on {given}: {_words(error)}', is_shape=True)
  problem = None
  if not params:
    problem = _Problem('it has no parameters')
  elif not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in params):
    problem = _Problem('its parameters are not all floating-point numbers')
  elif empty or not all(leaf.size for leaf in params):
    what = f'{empty[0]} returns an empty array' if empty else 'a layer has no weights'
    problem = _Problem(f'{what} on {given}', is_shape=True)
  elif wrong := [of.shape for of in logits if of.shape != asked]:
    problem = _Problem(
      f'it returns logits of shape {wrong[0]} on {given}; {classes} classes need {asked}'
    )
  return problem


def _shapes(model: nn.Module, shape: Sequence[int], dtype: str) -> tuple[list[Any], list[Any]]:
  """Abstract parameters, and the abstract logits in evaluation and in training."""
  # The parts that are None are not used to call a network.
  task = trial.Task(model, None, None, None, None, {}, tuple(shape), dtype)
  key = jax.random.key(0)

  def logits(variables, inputs, dropout_key):
    state = {name: of for name, of in variables.items() if name != 'params'}
    return trial.apply(task, variables.get('params', {}), state, inputs, dropout_key)[0]

  variables = jax.eval_shape(lambda: trial.draw(task, key))
  inputs = jax.ShapeDtypeStruct((_BATCH, *shape), jnp.float32)
  of_modes = [
    jax.eval_shape(functools.partial(logits, dropout_key=of), variables, inputs)
    for of in (None, key)
  ]
  return jax.tree.leaves(variables.get('params', {})), of_modes


def _working_size(model: nn.Module, shape: Sequence[int], classes: int, dtype: str) -> int | None:
  """The smallest height and width that works, if all larger ones do; None if none is found."""

  def works(size):
    return _problem(model, (size, size, shape[2]), classes, dtype) is None

  low = high = max(shape[:2])
  while not works(high):
    low, high = high, 2 * high
    if high > _LARGEST:
      return None
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if works(middle) else (middle, high)
  return high


def _words(error: BaseException) -> str:
  """One line: the error, and its location unless that is in one of our networks."""
  lines = str(error).strip().splitlines() or ['']
  text = f'{type(error).__name__}: {lines[0]}' if lines[0] else type(error).__name__
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    path = Path(frame.filename)
    if path.is_file() and not any(path.is_relative_to(package) for package in _PACKAGES):
      return f'{text} ({path.name}:{frame.lineno})'
  return text
