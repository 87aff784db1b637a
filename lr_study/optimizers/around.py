"""What any optimiser can have around it: clipping, masks and scales by paths of parameters."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lr_study import plugs
from lr_study.errors import StudyError
from lr_study.optimizers import paths
from lr_study.optimizers.sgd import is_number
from lr_study.plugs import AT_LEAST_0, Limit, limits

_FACTORS: Limit = (
  lambda pairs: all(
    isinstance(pair, tuple)
    and len(pair) == 2
    and paths.are_expressions(pair[:1])
    and plugs.is_number(pair[1])
    and pair[1] >= 0
    for pair in pairs
  ),
  "pairs of a regular expression and a factor from 0 up, such as (('conv', 0.1), ('bias', 2.0))",
)


@limits(
  clip_norm=AT_LEAST_0, clip_value=AT_LEAST_0, no_decay=paths.EXPRESSIONS, rate_factors=_FACTORS
)
def common(
  clip_norm: float = 0.0,
  clip_value: float = 0.0,
  no_decay: tuple[str, ...] = (),
  rate_factors: tuple = (),
) -> Callable[[optax.GradientTransformation], optax.GradientTransformation]:
  """What any optimiser can have around it.

  Args:
    clip_norm: gradients whose global norm is larger are scaled to it; 0: never.
    clip_value: entries of gradients are cut to -clip_value .. clip_value, before that; 0: never.
    no_decay: parameters whose path, as 'conv1/bias', matches one of these regular expressions
      have no weight decay; the optimiser itself takes that as its mask.
    rate_factors: pairs of a regular expression and a factor; the update of a parameter is
      multiplied by those of all expressions that match its path. --axis
      optimizer.rate_factors.head=1,10 tries several factors for the expression 'head'.

  Returns:
    A function of the optimiser.
  """
  expressions = {
    'optimizer.no_decay': no_decay,
    'optimizer.rate_factors': [pattern for pattern, _ in rate_factors],
  }

  def wrap(transform):
    inner = optax.with_extra_args_support(transform)

    def init(params):
      paths.check_matches(params, expressions)
      state = inner.init(params)
      check_rate_factors(rate_factors, state)
      return state

    def update(updates, state, params=None, **extra):
      updates = _clipped(updates, clip_value, optax.clip)
      updates = _clipped(updates, clip_norm, optax.clip_by_global_norm)
      updates, state = inner.update(updates, state, params, **extra)
      return paths.scaled(updates, rate_factors), state

    return optax.GradientTransformationExtraArgs(init, update)

  return wrap


def schedule_free_states(opt_state: Any) -> list[optax.contrib.ScheduleFreeState]:
  """The states of schedule-free optimisers in a state: they evaluate averages of the weights."""

  def found(node):
    return isinstance(node, optax.contrib.ScheduleFreeState)

  return [node for node in jax.tree.leaves(opt_state, is_leaf=found) if found(node)]


def check_rate_factors(rate_factors: Collection[Any], opt_state: Any) -> None:
  """Checks that a factor on an update leaves an optimiser what it is.

  Raises:
    StudyError: the optimiser is schedule-free.
  """
  if rate_factors and schedule_free_states(opt_state):
    raise StudyError(
      'optimizer.rate_factors: a schedule-free optimizer evaluates other weights than it trains, '
      'and a factor on the update would reach only one of them; leave it empty'
    )


def _clipped(updates: Any, limit: Any, clip: Callable) -> Any:
  """The updates, cut by one of optax's functions; a limit of 0 is none, swept or not."""
  if is_number(limit, 0):
    return updates
  limit = limit if isinstance(limit, float) else jnp.where(limit > 0, limit, jnp.inf)
  return clip(limit).update(updates, optax.EmptyState())[0]
