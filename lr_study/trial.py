"""One trial: its data types, and the functions that train it. No trial axis, devices or files."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lr_study import freeze
from lr_study.parts import NO_ORIGIN, Metric, Optimizer, Origin, mode_of

# The scalars that differ between trials of one program: 'learning_rate', and any swept argument of
# the optimiser, schedule or loss by its name, such as 'optimizer.weight_decay'.
Hyper = Mapping[str, jax.Array]


class State(NamedTuple):
  """What a step changes. `model_state`: other collections, such as batch_stats; see freeze.py."""

  params: Any
  model_state: Any
  opt_state: Any


class Batch(NamedTuple):
  """images: (batch, ...). labels: int32 (batch,). mean: an array that inputs may subtract."""

  images: jax.Array
  labels: jax.Array
  mean: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """Everything that the trials of one compiled program share."""

  model: nn.Module  # inputs -> logits; `train` is passed if its __call__ takes it
  optimizer: Optimizer
  schedule: Callable[..., jax.Array]  # step, **own -> height: a factor on the trial's rate
  loss: Callable[..., jax.Array]  # logits, targets, **own -> (batch,)
  inputs: Callable[..., Any]  # Batch, key -> inputs, targets; the key is None in evaluation
  metrics: Mapping[str, Metric]
  shape: tuple[int, ...]  # of one input
  dtype: str = 'float32'  # of activations and products; weights stay float32
  origin: Origin = NO_ORIGIN  # weights to start from, and which of them no step changes


def init(task: Task, hyper: Hyper, key: jax.Array) -> State:
  """The initial state, with float32 weights drawn from the key."""
  return start(task, draw(task, key, task.origin.weights), hyper)


def draw(task: Task, key: jax.Array, weights: Any = None) -> dict[str, Any]:
  """The network's initial collections: those in `weights` as given, the rest drawn from the key."""
  inputs = jnp.zeros((1, *task.shape), task.dtype)
  drawn = dict(task.model.init(key, inputs, **mode_of(task.model, train=False)))
  return freeze.merge(drawn, weights)


def start(task: Task, variables: Mapping[str, Any], hyper: Hyper) -> State:
  """The state before the first step."""
  params, model_state = freeze.apart(variables, task.origin.frozen)
  return State(params, model_state, make_transform(task, hyper, 0).init(params))


def train_step(
  task: Task, state: State, hyper: Hyper, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """Takes step `step` (int32, from 0): one update by the gradient of a batch's mean loss.

  `key` comes from the trial's seed: dropout and augmentation draw from fold_in(key, step).
  Returns the new state and scalars: 'loss', 'accuracy' and 'gradient_norm' before the update, and
  'update_ratio', the norm of the update divided by that of the weights.
  """
  loss = loss_fn(task, state.model_state, hyper, batch, key, step)
  (value, (logits, targets, new)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
  updates, opt_state = update(task, state, grads, value, hyper, step)
  ratio = optax.tree.norm(updates) / optax.tree.norm(state.params)
  metrics = measure(value, logits, targets, optax.tree.norm(grads), ratio)
  return State(optax.apply_updates(state.params, updates), new, opt_state), metrics


def eval_step(task: Task, state: State, batch: Batch, weight: jax.Array) -> dict[str, Any]:
  """The sums of each metric; weight (batch,) is 1 for an image and 0 for padding."""
  inputs, labels = task.inputs(batch, None)
  logits = predict(task, state, inputs)
  return {name: metric.sums(logits, labels, weight) for name, metric in task.metrics.items()}


def predict(task: Task, state: State, inputs: jax.Array) -> jax.Array:
  """Logits (batch, classes) in evaluation, with the optimiser's evaluation weights."""
  params = task.optimizer.eval_params(state.opt_state, state.params)
  return apply(task, params, state.model_state, inputs)[0]


def loss_fn(task: Task, model_state: Any, hyper: Hyper, batch: Batch, key, step) -> Callable:
  """The function of the weights that a step minimises: mean loss, (logits, targets, new state)."""
  of_inputs, of_dropout = jax.random.split(jax.random.fold_in(key, step))
  inputs, targets = task.inputs(batch, of_inputs)

  def loss(params):
    logits, new = apply(task, params, model_state, inputs, of_dropout)
    return task.loss(logits, targets, **own(hyper, 'loss')).mean(), (logits, targets, new)

  return loss


def update(task: Task, state: State, grads: Any, loss, hyper: Hyper, step) -> tuple[Any, Any]:
  """The update that a step adds to the weights, and the optimiser's new state."""
  transform = optax.with_extra_args_support(make_transform(task, hyper, step))
  return transform.update(grads, state.opt_state, state.params, value=loss)


def make_transform(task: Task, hyper: Hyper, step) -> optax.GradientTransformation:
  """The optimiser for one step. Only swept arguments are traced; the rest are Python numbers."""
  base = hyper['learning_rate']
  rate = base * task.schedule(step, **own(hyper, 'schedule'))
  return task.optimizer.make(learning_rate=rate, base_rate=base, **own(hyper, 'optimizer'))


def measure(loss, logits, targets, gradient_norm, update_ratio) -> dict[str, jax.Array]:
  """The metrics of a step; targets are labels (batch,) or shares (batch, classes)."""
  labels = targets if targets.ndim == 1 else targets.argmax(-1)
  # NaN where a logit is NaN: argmax would return that class and sometimes be right by chance.
  hits = jnp.where(jnp.isnan(logits).any(-1), jnp.nan, logits.argmax(-1) == labels)
  found = {'loss': loss, 'accuracy': hits.mean(), 'gradient_norm': gradient_norm}
  return found | {'update_ratio': update_ratio}


def apply(task: Task, params: Any, model_state: Any, inputs: jax.Array, dropout_key=None):
  """Logits, float32 (batch, classes), and the new model_state; a dropout key means training."""
  low = lambda x: x.astype(task.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
  train, mode = dropout_key is not None, mode_of(task.model, dropout_key is not None)
  variables = freeze.whole(params, model_state)
  if not hasattr(task.model, 'dtype'):  # a model with a dtype converts its weights itself
    variables['params'] = jax.tree.map(low, variables['params'])
  rngs = {'dropout': dropout_key, 'params': dropout_key} if train else None
  mutable = [name for name in variables if name != 'params'] if train else []
  with freeze.held(model_state):
    logits, new = task.model.apply(variables, low(inputs), rngs=rngs, mutable=mutable, **mode)
  return logits.astype(jnp.float32), freeze.updated(model_state, new)


def own(hyper: Hyper, part: str) -> dict[str, jax.Array]:
  """The swept arguments of one plug: {'optimizer.momentum': m} -> {'momentum': m}."""
  return {n.removeprefix(f'{part}.'): x for n, x in hyper.items() if n.startswith(f'{part}.')}
