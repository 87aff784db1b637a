"""SGD as in PyTorch and optax, and as in Caffe."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import optax

from lr_study.optimizers.paths import path_of
from lr_study.plugs import AT_LEAST_0, BELOW_1, limits

Mask = Callable[[Any], Any]  # a tree of weights -> a tree of bools: True if the weight decays


@limits(momentum=BELOW_1, weight_decay=AT_LEAST_0)
def sgd(
  learning_rate: Any,
  momentum: float = 0.0,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  mask: Mask | None = None,
) -> optax.GradientTransformation:
  """SGD with momentum. With gradient dL, weights w, momentum m and decay d:

    g = dL + d w,  v = m v + g,  w = w - rate v    (nesterov: w = w - rate (g + m v))

  The rate is that of the current step, so a drop also affects old velocity.

  Args:
    learning_rate: of this step, with the schedule's height.
    momentum: the share of the velocity that each step keeps; 0 is plain SGD.
    nesterov: look ahead by one step of the velocity.
    weight_decay: how much of each weight is added to its gradient.
    mask: a function of a tree that says which of its leaves decay; all if None.
  """
  return optax.chain(
    _add_weight_decay(weight_decay, 1.0, mask),
    _momentum(momentum, nesterov),
    _scale(learning_rate),
    optax.scale(-1.0),
  )


@limits(momentum=BELOW_1, weight_decay=AT_LEAST_0, bias_rate=AT_LEAST_0, bias_decay=AT_LEAST_0)
def caffe_sgd(
  learning_rate: Any,
  base_rate: Any,
  momentum: float = 0.9,
  weight_decay: float = 0.01,
  decay_per_rate: bool = True,
  rate_in_velocity: bool = True,
  bias_rate: float = 2.0,
  bias_decay: float = 0.0,
  mask: Mask | None = None,
) -> optax.GradientTransformation:
  """Caffe's SGD; the defaults are those of DIGITS.

    g = dL + d w
    v = m v + rate g,  w = w - v       rate_in_velocity (Caffe, sgd_solver.cpp: after a drop, v
                                       still contains the earlier, larger rate)
    v = m v + g,       w = w - rate v  otherwise, as `sgd`

  Args:
    learning_rate: of this step, with the schedule's height.
    base_rate: of the trial, without the schedule's height.
    momentum: m, the share of the velocity that each step keeps.
    weight_decay: d, how much of each weight is added to its gradient.
    decay_per_rate: d is weight_decay x base_rate, as in DIGITS.
    rate_in_velocity: multiply gradients by the rate before they enter the velocity, as Caffe does.
    bias_rate: factor on the rate of biases.
    bias_decay: factor on the weight decay of biases.
    mask: a function of a tree that says which of its leaves decay; all if None.
  """
  decay = weight_decay
  if decay_per_rate and not is_number(weight_decay, 0):
    decay = weight_decay * base_rate
  rate, velocity = _scale(learning_rate), _momentum(momentum, nesterov=False)
  return optax.chain(
    _add_weight_decay(decay, bias_decay, mask),
    _scale_biases(bias_rate),
    *((rate, velocity) if rate_in_velocity else (velocity, rate)),
    optax.scale(-1.0),
  )


def polyak_sgd(
  learning_rate: Any,
  scaling: float = 1.0,
  f_min: float = 0.0,
  eps: float = 0.0,
  variant: str = 'sps',
) -> optax.GradientTransformation:
  """`optax.polyak_sgd`, which computes the step from the loss; the rate is the largest step.

  Args:
    learning_rate: the largest step.
    scaling: a factor on the step.
    f_min: the smallest value that the loss can have.
    eps: added to the squared norm of the gradient, in the denominator.
    variant: 'sps' or 'sps+', as in optax.
  """
  return optax.polyak_sgd(learning_rate, scaling, f_min, eps, variant)


def is_number(value: Any, number: float) -> bool:
  """True if the value is this Python number; False for an array, which may have any value."""
  return isinstance(value, numbers.Real) and value == number


def _is_bias(path: tuple[Any, ...]) -> bool:
  return path_of(path).rsplit('/', 1)[-1] == 'bias'


def _momentum(momentum: Any, nesterov: bool) -> optax.GradientTransformation:
  return optax.identity() if is_number(momentum, 0) else optax.trace(momentum, nesterov)


def _scale(rate: Any) -> optax.GradientTransformation:
  return optax.stateless(lambda updates, params: jax.tree.map(lambda u: rate * u, updates))


def _scale_biases(factor: Any) -> optax.GradientTransformation:
  if is_number(factor, 1):
    return optax.identity()
  return optax.stateless(
    lambda updates, params: jax.tree.map_with_path(
      lambda path, u: factor * u if _is_bias(path) else u, updates
    )
  )


def _add_weight_decay(
  decay: Any, bias_decay: Any, mask: Mask | None
) -> optax.GradientTransformation:
  def add(path, u, w, decays):
    factor = bias_decay if _is_bias(path) else 1.0
    return u + decay * factor * w if decays and not is_number(factor, 0) else u

  def update(updates, params):
    decays = mask(params) if mask else jax.tree.map(lambda _: True, params)
    return jax.tree.map_with_path(add, updates, params, decays)

  return optax.identity() if is_number(decay, 0) else optax.stateless(update)
