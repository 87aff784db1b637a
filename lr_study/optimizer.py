"""SGD as Caffe and TensorFlow write it, as optax transforms that take the trial's rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lr_study.schedule import Schedule

Updates = Any  # a pytree shaped like the parameters


def make_optimizer(config: ConfigDict, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
  """Builds the optimiser; its `update` takes the keyword `learning_rate`, a scalar.

  With gradient dL, weights w, rate r times the schedule's height h, momentum m and decay d:

    g = dL + d w
    v = m v + r h g,  w = w - v      rate_in_velocity (Caffe, sgd_solver.cpp: an earlier,
                                     larger rate lives on in v after a drop)
    v = m v + g,      w = w - r h v  otherwise (PyTorch, optax.sgd)

  `config` holds momentum, rate_in_velocity, weight_decay, decay_per_rate (d = weight_decay x
  r, not scheduled, as DIGITS couples them), bias_rate and bias_decay (factors for biases).
  """
  rate = _scale_by_rate(schedule)
  momentum = optax.trace(config.momentum) if config.momentum else optax.identity()
  return optax.chain(
    _add_weight_decay(config.weight_decay, config.decay_per_rate, config.bias_decay),
    _scale_biases(config.bias_rate),
    *((rate, momentum) if config.rate_in_velocity else (momentum, rate)),
    optax.scale(-1.0),
  )


class RateState(NamedTuple):
  """How many steps were taken, int32."""

  step: jax.Array


def _scale_by_rate(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
  def init(params):
    del params
    return RateState(jnp.zeros([], jnp.int32))

  def update(updates, state, params=None, *, learning_rate, **extra):
    del params, extra
    rate = learning_rate * schedule(state.step)
    return jax.tree.map(lambda u: rate * u, updates), RateState(state.step + 1)

  return optax.GradientTransformationExtraArgs(init, update)


def _add_weight_decay(
  decay: float, per_rate: bool, bias_decay: float
) -> optax.GradientTransformationExtraArgs:
  def update(updates, params, *, learning_rate, **extra):
    del extra
    coefficient = decay * learning_rate if per_rate else decay

    def add(path, u, w):
      factor = bias_decay if is_bias(path) else 1.0
      return u + coefficient * factor * w if factor else u

    return jax.tree.map_with_path(add, updates, params)

  if decay == 0:
    return optax.with_extra_args_support(optax.identity())
  return _stateless(update)


def _scale_biases(factor: float) -> optax.GradientTransformationExtraArgs:
  def update(updates, params, **extra):
    del params, extra
    return jax.tree.map_with_path(lambda path, u: factor * u if is_bias(path) else u, updates)

  return optax.with_extra_args_support(optax.identity()) if factor == 1 else _stateless(update)


def _stateless(function) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params=None, **extra):
    return function(updates, params, **extra), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def is_bias(path: tuple[Any, ...]) -> bool:
  """True for the path of a bias in a Flax tree of parameters."""
  return path[-1].key == 'bias'
