"""One trial: pure functions of (state, learning rate, batch, key, step), without a trial axis."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lr_study.diagnosis import curvature
from lr_study.network import factored
from lr_study.network import model as models
from lr_study.network.convolution import Layout
from lr_study.optimizer import make_optimizer
from lr_study.preprocess import input_shape, make_preprocess
from lr_study.schedule import make_schedule

_CONVOLVED = 10  # images whose convolutions are computed at a time in an evaluation on a CPU


class State(NamedTuple):
  """What a step changes. `factors` holds factored dense kernels, and is empty if there are none."""

  params: models.Params
  opt_state: optax.OptState
  factors: dict[str, factored.Factors]


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
  """Sums over images: of the loss (nats), and of the correct ones of each class, (classes,)."""

  loss: jax.Array
  correct: jax.Array


class Trial(NamedTuple):
  """The functions that make one trial; see `make_trial` for what they take and give."""

  init: Callable[[jax.Array], State]
  prepare: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array | Layout]
  train_step: Callable[..., tuple[State, StepMetrics]]
  measured_step: Callable[..., tuple[State, StepMetrics, jax.Array]]
  fold: Callable[[State], State]
  eval_inputs: Callable[[jax.Array, jax.Array], jax.Array | Layout]
  eval_step: Callable[[State, jax.Array | Layout, jax.Array, jax.Array], Totals]
  sharpness: Callable[[State, Batch, jax.Array], jax.Array]
  examine: Callable[..., tuple[dict[str, jax.Array], jax.Array, models.Params]]
  fold_every: int
  steps_per_epoch: int
  image_size: int  # of the stored images, in pixels
  matmul: bool  # convolutions are products of matrices
  computed: str  # how, for people


def make_trial(config: ConfigDict, classes: int, steps_per_epoch: int) -> Trial:
  """Builds a trial's functions; nothing in them depends on its learning rate or its seed.

  `step`, int32, counts the steps taken before this one. It is an argument and no part of the
  state: trials that train together share it, and with it what hangs on nothing else.

  init(key) -> state
  prepare(images, mean, key, step) -> inputs: the network's, augmented, and laid out for its first
    layer. It hangs on no state, so trials of a seed share it.
  train_step(state, learning_rate, inputs, labels, key, step) -> state, metrics: one step, down the
    gradient of the loss of one batch. The key is the seed's; dropout and augmentation of step t
    draw from fold_in(key, t).
  measured_step(state, learning_rate, inputs, labels, key, step) -> state, metrics, ratio: a
    `train_step`, and the norm of what it adds to the weights, by theirs.
  fold(state) -> state: due after every `fold_every` steps of an epoch, and before an
    evaluation. It changes nothing but how dense kernels are written down.
  eval_inputs(images, mean) -> inputs: as `prepare`, but without augmentation and with a centre
    crop; in blocks of images, which are the leading axis. It hangs on no trial.
  eval_step(state, inputs, labels, weight) -> totals: no dropout; weight (batch,) is 1 for an image
    that counts and 0 for padding.
  sharpness(state, batch, mean) -> sharpness: of the loss of one batch, without dropout and
    augmentation; after a fold.
  examine(state, inputs, labels, key, step) -> outputs, logits, gradients: of each layer, in the
    step that `train_step` takes from there; after a fold.
  """
  model = models.make_model(config.model, classes)
  schedule = make_schedule(config.schedule, steps_per_epoch, config.epochs)
  optimizer = make_optimizer(config.optimizer, schedule)
  preprocess = make_preprocess(config.input)
  shape = input_shape(config)

  @jax.jit  # traced once, for the shapes and for the weights
  def init_params(key):
    return models.init_params(model, key, *shape)

  layers = _factored_layers(config, init_params)
  rows = factored.pairs(config.batch_size, config.optimizer.momentum)
  fold_every = factored.fold_every(config.batch_size)
  computed = (
    f'Convolutions as {"matrix products" if model.matmul else "grouped convolutions"}; dense '
    + (
      f'kernels {", ".join(layers)} as factors, folded every {fold_every} steps'
      if layers
      else 'kernels updated every step'
    )
  )

  def init(key):
    params, factors = factored.split(init_params(key), layers, rows)
    return State(params, optimizer.init(params), factors)

  def loss_of(params, taps, factors, inputs, labels, key):
    logits, layer_inputs = models.apply_factored(model, params, factors, taps, inputs, key)
    return cross_entropy(logits, labels).mean(), (logits, layer_inputs)

  def keys(key, step):
    """Of a step: for augmentation, and for dropout."""
    return jax.random.split(jax.random.fold_in(key, step))

  def prepare(images, mean, key, step):
    return models.lay_out(model, preprocess(images, mean, keys(key, step)[0]))

  @jax.jit  # traced once, for this and for `train_step`
  def measured_step(state, learning_rate, inputs, labels, key, step):
    taps = {n: jnp.zeros((len(labels), f.g.shape[1])) for n, f in state.factors.items()}
    (loss, (logits, x)), (of_params, g) = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(
      state.params, taps, state.factors, inputs, labels, keys(key, step)[1]
    )
    of_params = factored.without_kernels(of_params, state.factors)
    accuracy = jnp.mean(correct(logits, labels))
    metrics = StepMetrics(loss, accuracy, factored.norm(of_params, x, g))
    of_params, factors = factored.push(of_params, state.factors, x, g, step)
    updates, opt_state = optimizer.update(
      of_params, state.opt_state, state.params, learning_rate=learning_rate
    )
    norm = factored.weights_norm
    ratio = norm(updates, factors) / norm(state.params, factors)
    return State(optax.apply_updates(state.params, updates), opt_state, factors), metrics, ratio

  def train_step(*of_step):
    # The compiler leaves out the ratio, which is not asked for.
    return measured_step(*of_step)[:2]

  def fold(state):
    return State(*factored.fold(optimizer, state.params, state.opt_state, state.factors))

  def eval_inputs(images, mean):
    # What convolutions leave should stay in a CPU's cache, while a dense layer takes about as long
    # for few images as for many: it reads its kernel.
    few = _CONVOLVED if model.matmul and len(images) % _CONVOLVED == 0 else len(images)
    blocks = images.reshape(-1, few, *images.shape[1:])
    return jax.lax.map(lambda x: models.lay_out(model, preprocess(x, mean, None)), blocks)

  def eval_step(state, inputs, labels, weight):
    params = factored.merge(state.params, state.factors)
    rows = jax.lax.map(lambda x: models.convolve(model, params, x), inputs)
    logits = models.classify(model, params, rows.reshape(len(labels), -1))
    # where, not a product: 0 x NaN would be NaN.
    loss = jnp.where(weight > 0, cross_entropy(logits, labels), 0)
    hits = jnp.where(weight > 0, correct(logits, labels), 0)
    return Totals(jnp.sum(loss), hits @ jax.nn.one_hot(labels, classes))

  def sharpness(state, batch, mean):
    inputs = preprocess(batch.images, mean, None)

    def loss(params):
      return cross_entropy(models.apply(model, params, inputs), batch.labels).mean()

    return curvature.sharpness(loss, factored.merge(state.params, state.factors))

  def examine(state, inputs, labels, key, step):
    def loss(params):
      outputs, logits = models.outputs(model, params, inputs, keys(key, step)[1])
      return cross_entropy(logits, labels).mean(), (outputs, logits)

    params = factored.merge(state.params, state.factors)
    gradients, (outputs, logits) = jax.grad(loss, has_aux=True)(params)
    return outputs, logits, gradients

  return Trial(
    init=init,
    prepare=prepare,
    train_step=train_step,
    measured_step=measured_step,
    fold=fold,
    eval_inputs=eval_inputs,
    eval_step=eval_step,
    sharpness=sharpness,
    examine=examine,
    fold_every=fold_every,
    steps_per_epoch=steps_per_epoch,
    image_size=config.image_size,
    matmul=model.matmul,
    computed=computed,
  )


def _factored_layers(
  config: ConfigDict, init_params: Callable[[jax.Array], models.Params]
) -> tuple[str, ...]:
  """Names of the dense layers whose kernels are kept as factors."""
  if config.model.dense == 'plain':
    return ()
  shapes = jax.eval_shape(init_params, jax.random.key(0))
  batch_size, momentum, largest = (
    config.batch_size,
    config.optimizer.momentum,
    max(config.learning_rates),
  )
  decay = config.optimizer.weight_decay * largest
  decay *= largest if config.optimizer.decay_per_rate else 1.0
  return tuple(
    name
    for name, layer in shapes.items()
    if len(layer['kernel'].shape) == 2
    and (
      config.model.dense == 'factored'
      or factored.pays(layer['kernel'].shape, batch_size, momentum, decay)
    )
  )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy in nats: logits (batch, classes), labels (batch,) -> (batch,)."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """1 where the largest of logits (batch, classes) is the label's, else 0; float32 (batch,).

  NaN where a logit is NaN: argmax would name that class, and be right for one class in ten.
  """
  hits = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
  return jnp.where(jnp.isnan(logits).any(-1), jnp.nan, hits)
