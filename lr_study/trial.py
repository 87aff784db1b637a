"""One trial: pure functions of (state, learning rate, batch, key). The trial axis is not here."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lr_study import model as models
from lr_study.optimizer import make_optimizer
from lr_study.preprocess import make_preprocess
from lr_study.schedule import make_schedule


class State(NamedTuple):
  """What a step changes: weights, optimiser state, and the number of steps taken (int32)."""

  params: models.Params
  opt_state: optax.OptState
  step: jax.Array


class Batch(NamedTuple):
  """images: uint8 (batch, size, size, 3). labels: int32 (batch,)."""

  images: jax.Array
  labels: jax.Array


class StepMetrics(NamedTuple):
  """Of one training step, before its update: mean loss (nats), accuracy, norm of the gradient."""

  loss: jax.Array
  accuracy: jax.Array
  gradient_norm: jax.Array


class Totals(NamedTuple):
  """Sums over images: of the loss (nats), and of the correct ones."""

  loss: jax.Array
  correct: jax.Array


class Trial(NamedTuple):
  """The functions that make one trial; see `make_trial` for what they take and give."""

  init: Callable[[jax.Array], State]
  train_step: Callable[[State, jax.Array, Batch, jax.Array, jax.Array], tuple[State, StepMetrics]]
  eval_step: Callable[[models.Params, Batch, jax.Array, jax.Array], Totals]


def make_trial(config: ConfigDict, classes: int, steps_per_epoch: int) -> Trial:
  """Builds a trial's functions; nothing in them depends on its learning rate or its seed.

    init(key) -> state
    train_step(state, learning_rate, batch, mean, key) -> state, metrics: one update. The key
      is the trial's own; dropout and augmentation of step t draw from fold_in(key, t).
    eval_step(params, batch, mean, weight) -> totals: no dropout, centre crop; weight (batch,)
      is 1 for an image that counts and 0 for padding.
  """
  model = models.make_model(config.model.preset, classes, config.model.width, config.model.dropout)
  schedule = make_schedule(config.schedule, steps_per_epoch, config.epochs)
  optimizer = make_optimizer(config.optimizer, schedule)
  preprocess = make_preprocess(config.input)

  def init(key):
    params = models.init_params(model, key, config.input.crop or config.image_size)
    return State(params, optimizer.init(params), jnp.zeros([], jnp.int32))

  def train_step(state, learning_rate, batch, mean, key):
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    inputs = preprocess(batch.images, mean, augment_key)

    def loss_of(params):
      logits = models.apply(model, params, inputs, dropout_key)
      return cross_entropy(logits, batch.labels).mean(), logits

    (loss, logits), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params, learning_rate=learning_rate
    )
    params = optax.apply_updates(state.params, updates)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == batch.labels)
    metrics = StepMetrics(loss, accuracy, optax.global_norm(gradient))
    return State(params, opt_state, state.step + 1), metrics

  def eval_step(params, batch, mean, weight):
    logits = models.apply(model, params, preprocess(batch.images, mean, None))
    correct = jnp.argmax(logits, -1) == batch.labels
    # where, not a product: 0 x NaN would be NaN.
    loss = jnp.where(weight > 0, cross_entropy(logits, batch.labels), 0)
    return Totals(jnp.sum(loss), jnp.sum(jnp.where(weight > 0, correct, 0)))

  return Trial(init, train_step, eval_step)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy in nats: logits (batch, classes), labels (batch,) -> (batch,)."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
