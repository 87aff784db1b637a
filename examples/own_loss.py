"""Which rate is best by your own metric, with your own loss?

  python scripts/sweep.py --config examples/own_loss.py

Both are functions in this file. The study recommends the rate with the largest margin.
"""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def poly_loss(logits, labels, epsilon: float = 1.0):
  """Cross-entropy + epsilon (1 - p), (batch,) (Leng et al. 2022, "PolyLoss")."""
  p = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels) + epsilon * (1 - p)


def margin(logits, labels, weight):
  """How far the logit of an image's class lies above the largest other one, (batch,)."""
  del weight  # (batch,): 0 for padding, which is left out of the mean
  is_own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
  own = jnp.where(is_own, logits, -jnp.inf).max(1)
  return own - jnp.where(is_own, -jnp.inf, logits).max(1)


def get_config() -> ConfigDict:
  """Four rates by two values of epsilon, in one program, on rendered letters, with two seeds."""
  config = ConfigDict()
  config.learning_rates = (3e-2, 1e-2, 3e-3, 1e-3)
  config.seeds = (0, 1)
  config.axes = ConfigDict({'loss.epsilon': (0.0, 2.0)}, allow_dotted_keys=True)
  config.epochs = 10
  config.batch_size = 32
  config.image_size = 64
  config.data = ConfigDict({'name': 'tombstone_letters', 'per_class': 200})
  config.input = ConfigDict({'subtract': 'none', 'grey': True, 'standardise': True, 'size': 32})
  config.model = ConfigDict({'name': 'small_cnn', 'width': 0.5, 'dropout': 0.0})
  config.optimizer = ConfigDict({'name': 'sgd', 'momentum': 0.9})
  config.schedule = ConfigDict({'name': 'cosine'})
  config.loss = ConfigDict({'name': f'{__file__}:poly_loss'})
  config.metrics = (f'{__file__}:margin', 'top3')
  config.verdict = ConfigDict({'measure': 'margin'})
  return config
