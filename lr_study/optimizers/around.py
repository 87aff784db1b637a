"""Options for any optimiser: clipping, and masks and factors by paths of parameters."""

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
  """Options for any optimiser.

  Args:
    clip_norm: gradients with a larger global norm are scaled down to it; 0: never.
    clip_value: entries of gradients are first clipped to -clip_value .. clip_value; 0: never.
    no_decay: parameters whose path, such as 'conv1/bias', matches one of these regular expressions
      have no weight decay. The optimiser gets this as its mask.
    rate_factors: pairs of a regular expression and a factor. The update of a parameter is
      multiplied by the factors of all expressions that match its path. --axis
      optimizer.rate_factors.head=1,10 tries several factors for the expression 'head'.

  Returns:
    A function that wraps an optimiser.
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
  """The schedule-free states in an optimiser's state; these evaluate averages of the weights."""

  def found(node):
    return isinstance(node, optax.contrib.ScheduleFreeState)

  return [node for node in jax.tree.leaves(opt_state, is_leaf=found) if found(node)]


def check_rate_factors(rate_factors: Collection[Any], opt_state: Any) -> None:
  """Checks that factors on updates are compatible with an optimiser.

  Raises:
    StudyError: the optimiser is schedule-free.
  """
  if rate_factors and schedule_free_states(opt_state):
    raise StudyError(
      'optimizer.rate_factors: a schedule-free optimizer evaluates other weights than it trains, '
      'and a factor on the update would affect only one of them; leave it empty'
    )


def _clipped(updates: Any, limit: Any, clip: Callable) -> Any:
  """The updates, clipped by one of optax's functions; a limit of 0 means none, swept or not."""
  if is_number(limit, 0):
    return updates
  limit = limit if isinstance(limit, float) else jnp.where(limit > 0, limit, jnp.inf)
  return clip(limit).update(updates, optax.EmptyState())[0]
