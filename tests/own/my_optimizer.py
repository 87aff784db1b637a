"""A user's optimisers: functions of a learning rate that return an optax transform."""

import jax
import optax


def normalised(learning_rate, momentum: float = 0.9, weight_decay: float = 0.0):
  """SGD with momentum on gradients of norm 1, and decoupled weight decay."""
  return optax.chain(
    optax.normalize_by_update_norm(),
    optax.trace(momentum),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def averaged(learning_rate, decay: float = 0.9):
  """Adam, and for evaluations an exponential average of the weights."""

  def init(params):
    return optax.adam(learning_rate).init(params), params

  def update(grads, state, params):
    updates, inner = optax.adam(learning_rate).update(grads, state[0], params)
    new = optax.apply_updates(params, updates)
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state[1], new)
    return updates, (inner, average)

  return optax.GradientTransformation(init, update), lambda state, params: state[1]
