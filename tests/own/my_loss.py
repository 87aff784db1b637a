"""A user's loss and metrics."""

import jax
import jax.numpy as jnp
import optax

from lr_study.trial import Metric


def poly_loss(logits, labels, epsilon: float = 1.0):
  """Poly-1 loss: cross-entropy + epsilon (1 - p) (Leng et al. 2022)."""
  p = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses + epsilon * (1 - p)


def margin(logits, labels, weight):
  """How far the logit of an image's class lies above the largest other one."""
  is_own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
  own = jnp.where(is_own, logits, -jnp.inf).max(1)
  return own - jnp.where(is_own, -jnp.inf, logits).max(1)


def worst_class(classes):
  """The share of correct images of the class with the smallest."""

  def sums(logits, labels, weight):
    of_class = weight[:, None] * jax.nn.one_hot(labels, classes)
    return {'correct': (logits.argmax(1) == labels) @ of_class, 'images': of_class.sum(0)}

  return Metric(sums, lambda sums, images: (sums['correct'] / sums['images']).min(1))
