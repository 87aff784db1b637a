"""Optimisers by name: `sgd`, `caffe_sgd`, all of optax and optax.contrib, or your own.

Your own function takes `learning_rate`. It may also take `base_rate`, the trial's rate without the
schedule's height; `mask`, if `optimizer.no_decay` is set; and any fields. It returns an optax
transform, or a pair of that and a function (state, weights) -> weights to evaluate.
"""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lr_study import plugs, shapes
from lr_study.errors import StudyError
from lr_study.optimizers import guard, paths
from lr_study.optimizers.around import check_rate_factors, common, schedule_free_states
from lr_study.optimizers.sgd import caffe_sgd, polyak_sgd, sgd
from lr_study.trial import Optimizer

SUPPLIED = ('learning_rate', 'base_rate', 'mask', 'weight_decay_mask')
_MASKS = SUPPLIED[2:]  # optax's names for the mask of weight decay
_LINEAR = (sgd, caffe_sgd)  # updates are linear in gradients and weights, entry by entry
_FACTOR = 'rate_factors.'  # followed by an expression: its factor is swept
_CLIPS = ('clip_norm', 'clip_value')
_RANDOM = ('key', 'seed')  # of an optimiser's noise: not numbers that can be compared


def _of_optax() -> dict[str, Callable]:
  """All functions of optax and optax.contrib that need only a learning rate."""
  found: dict[str, Callable] = {}
  for name, of in {**vars(optax), **vars(optax.contrib)}.items():
    if not isinstance(of, types.FunctionType | functools.partial):
      continue
    arguments = inspect.signature(of).parameters
    needed = {n for n, p in arguments.items() if p.default is p.empty} - {'learning_rate'}
    if 'learning_rate' in arguments and not needed and not name.startswith(('_', 'scale_by_')):
      found[name] = of
  return found


KNOWN: dict[str, Callable[..., optax.GradientTransformation]] = {
  'sgd': sgd,
  'caffe_sgd': caffe_sgd,
  **dict(sorted({**_of_optax(), 'sgd': sgd, 'polyak_sgd': polyak_sgd}.items())),
}


def find(name: str) -> None:
  """Explains why a name of optax that is not in `KNOWN` cannot be named in a config.

  Raises:
    StudyError: optax has this name.
  """
  for module in (optax.contrib, optax):
    if callable(vars(module).get(name)) and not name.startswith('_'):
      raise StudyError(
        f'optimizer.name is {name!r}; {module.__name__}.{name} is not an optimiser that needs '
        'only a learning rate: use it in your own function, file.py:function'
      )


def build(config: Mapping[str, Any], sweep: Collection[str] = ()) -> Optimizer:
  """Builds the optimiser that a config names.

  Args:
    config: `name`, of `KNOWN` or 'file.py:function', its arguments and those of `common`.
    sweep: names of arguments that differ between trials.

  Returns:
    An optimiser whose `make` takes learning_rate, base_rate and the swept arguments, as arrays or
    as Python numbers. rprop uses the rate only as the size of its first step. For prodigy, dog and
    others that find their own rate, the rate is a factor on that.

  Raises:
    StudyError: an argument is unknown, out of range or cannot be swept; or the optimiser needs more
      than gradients, weights and the loss.
  """
  factory = plugs.find('optimizer', config['name'])
  values = plugs.checked('optimizer', factory, config)
  _check_no_decay(factory, values, sweep)
  own = {n: values[n] for n in inspect.signature(common).parameters}

  def make(learning_rate, base_rate, **swept) -> optax.GradientTransformation:
    swept, factors = _apart(values, swept)
    wrap = common(**{n: swept.get(n, x) for n, x in own.items()} | {'rate_factors': factors})
    transform, _ = _call(factory, learning_rate, base_rate, values | swept)
    return wrap(transform)

  eval_params, state = _try(factory, values)
  for name in sweep:
    _check_sweep(factory, values, name)
  if sweep:  # the user's eval_params may close over swept arguments
    eval_params, _ = _try(factory, values, sweep)
  check_rate_factors(_apart(values, dict.fromkeys(sweep))[1], state)
  clips = any(values[name] or name in sweep for name in _CLIPS)
  linear = factory in _LINEAR and not clips
  return Optimizer(make, _evaluated(factory, eval_params), linear)


def may_sweep(config: Mapping[str, Any], among: Collection[str] = ()) -> tuple[str, ...]:
  """The arguments of an optimiser that can differ between the trials of one program.

  Each argument is tried as an array in a step on a small network, which is traced, not run.
  `among`: if not empty, only these are tried.

  Raises:
    StudyError: see `build`.
  """
  build(config)
  factory = plugs.find('optimizer', config['name'])
  values = plugs.checked('optimizer', factory, config)
  names = [name for name in among if name.startswith(_FACTOR)]
  tried = {*values} & {*among} if among else values
  for name in sorted(tried, key=_CLIPS.__contains__):
    try:
      _check_sweep(factory, values, name)
    except StudyError:
      continue
    names.append(name)
  return tuple(names)


def _apart(values: Mapping[str, Any], swept: Mapping[str, Any]) -> tuple[dict[str, Any], tuple]:
  """Splits swept arguments into those of the optimiser, and all rate_factors.

  'rate_factors.head' is the factor of the expression 'head'; it replaces the one in `values`.
  """
  factors = {n.removeprefix(_FACTOR): x for n, x in swept.items() if n.startswith(_FACTOR)}
  others = tuple(pair for pair in values['rate_factors'] if pair[0] not in factors)
  rest = {n: x for n, x in swept.items() if not n.startswith(_FACTOR)}
  return {n: _as_default(values[n], x) for n, x in rest.items()}, (*others, *factors.items())


def _as_default(default: Any, value: Any) -> Any:
  is_whole = isinstance(default, int) and not isinstance(default, bool)
  return value.astype(jnp.int32) if is_whole and isinstance(value, jax.Array) else value


def _call(
  factory: Callable, learning_rate: Any, base_rate: Any, values: Mapping[str, Any]
) -> tuple[optax.GradientTransformation, Callable | None]:
  """The optimiser, whose errors give its name, and its function of the weights to evaluate."""
  supplied = {'learning_rate': learning_rate, 'base_rate': base_rate}
  if values['no_decay']:
    supplied |= dict.fromkeys(_MASKS, paths.decay_mask(values['no_decay']))
  takes = inspect.signature(factory).parameters
  supplied = {n: x for n, x in supplied.items() if n in {*takes, 'learning_rate'}}
  if factory in _LINEAR or plugs.is_own(factory):
    made = plugs.call('optimizer', factory, supplied, values)
  else:
    with guard.told_by_name(factory, 'rejects its arguments'):
      made = factory(**supplied, **{n: x for n, x in values.items() if n in takes})
  if factory in _LINEAR:
    return made, None
  eval_params = getattr(factory, 'eval_params', None)
  if isinstance(made, tuple) and len(made) == 2 and guard.is_transform(made[0]):
    made, eval_params = made
  if not guard.is_transform(made) or not (eval_params is None or callable(eval_params)):
    raise StudyError(
      f'the optimizer {plugs.title("optimizer", factory)} gave {shapes.words(made)}; it must '
      'return an optax transform, or a pair of that and a function (state, weights) -> weights '
      'to evaluate'
    )
  return guard.guarded(factory, made), eval_params


def _evaluated(factory: Callable, eval_params: Callable | None) -> Callable[[Any, Any], Any]:
  """A function (state, weights) -> weights to evaluate: the user's own, or optax's."""
  if eval_params is not None:
    return guard.guarded_eval_params(factory, eval_params)

  def of_optax(opt_state, params):
    states = schedule_free_states(opt_state)
    if len(states) > 1:
      raise StudyError(
        f'the optimizer {plugs.title("optimizer", factory)} holds several schedule-free states; it '
        'must return its transform and a function (state, weights) -> weights to evaluate'
      )
    return optax.contrib.schedule_free_eval_params(states[0], params) if states else params

  return of_optax


def _check_no_decay(factory: Callable, values: Mapping[str, Any], sweep: Collection[str]) -> None:
  """Raises StudyError if `no_decay` is set but the optimiser has no mask of weight decay."""
  if not values['no_decay']:
    return
  title = plugs.title('optimizer', factory)
  if not {*_MASKS} & {*inspect.signature(factory).parameters}:
    raise StudyError(
      f'optimizer.no_decay is {plugs.shown(values["no_decay"])}; {title} has no mask for weight '
      'decay: leave no_decay empty'
    )
  for name, value in values.items():
    if name.endswith('_weight_decay') and (value or name in sweep):
      raise StudyError(
        f'optimizer.no_decay does not affect optimizer.{name} of {title}; leave one of them out'
      )


def _try(
  factory: Callable, values: Mapping[str, Any], sweep: Collection[str] = ()
) -> tuple[Callable | None, Any]:
  """Traces a step on a small network, with the swept arguments as arrays; nothing is run.

  A user's function is only called, because it may be written for the parameters of one network.

  Returns:
    The optimiser's function of the weights to evaluate, or None, and the shape of its state.
  """
  params = {'dense': {'kernel': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)}}
  found = []

  def step(rate, swept):
    cast, _ = _apart(values, swept)
    transform, eval_params = _call(factory, rate, rate, {**values, **cast})
    found.append(eval_params)
    if plugs.is_own(factory):
      return None
    state = transform.init(params)
    transform = optax.with_extra_args_support(transform)
    return transform.update(params, state, params, value=rate)[1]

  number = jax.ShapeDtypeStruct((), jnp.float32)
  state = jax.eval_shape(step, number, dict.fromkeys(sweep, number))
  return found[-1], state


def _check_sweep(factory: Callable, values: Mapping[str, Any], name: str) -> None:
  """Raises StudyError if this argument cannot be traced."""
  if name.startswith(_FACTOR):
    return
  if name not in values:
    raise StudyError(f'optimizer.{name}: no such field{plugs.nearest(name, values)}')
  if name in _CLIPS:
    return
  if isinstance(values[name], bool | str | tuple) or name in _RANDOM:
    raise StudyError(f'optimizer.{name} cannot be an axis of one program: it is not a number')
  try:
    _try(factory, values, (name,))
  except StudyError as error:
    title = plugs.title('optimizer', factory)
    why = str(error) if plugs.is_own(factory) else f'{title} needs it as a plain number'
    raise StudyError(f'optimizer.{name} cannot be an axis of one program: {why}') from error
