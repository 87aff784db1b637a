"""Sharpness: the largest eigenvalue of the loss's Hessian, and the edge of stability."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

# Of Lanczos's method. On the quick AlexNet, at the start and once it has learned, 5 come within 1 %
# of what 60 find and 10 within 1e-5 of it: a few eigenvalues are far larger than the rest.
ITERATIONS = 20

ABOUT = (
  "Sharpness is the largest eigenvalue of the loss's Hessian, on the training images of "
  'sharpness_images. Above its edge, 2 (1 + momentum) / rate, steps of SGD along that direction '
  'overshoot more each time (Cohen et al., 2021). That is for the gradient of all images: at a '
  'small batch size the edge is a guide, and training may break well below it. Other optimisers '
  'have no such edge.'
)


def sharpness(
  loss: Callable[[Any], jax.Array], params: Any, iterations: int = ITERATIONS
) -> jax.Array:
  """The largest eigenvalue of the Hessian of `loss` at `params`, a scalar.

  By the method of Lanczos (1950), from products with the Hessian alone, each the gradient of the
  gradient's product with a vector. Unlike power iteration it finds the largest eigenvalue and not
  the largest in magnitude, and in a tenth of the products. Only three vectors are kept: those that
  are no longer orthogonal repeat eigenvalues, and the largest stays the largest (Paige, 1980).

  Args:
    loss: of a tree like `params`, a scalar.
    params: a tree of arrays.
    iterations: products with the Hessian.
  """
  point, unravel = ravel_pytree(params)
  gradient = jax.grad(lambda flat: loss(unravel(flat)))
  start = jax.random.normal(jax.random.key(0), point.shape, point.dtype)
  start /= jnp.linalg.norm(start)

  def iterate(carry, _):
    before, vector, beta = carry
    # A gradient of a gradient: a network may have gradients of its own, which jax.jvp refuses.
    product = jax.grad(lambda flat: gradient(flat) @ vector)(point) - beta * before
    alpha = product @ vector
    product = product - alpha * vector
    beta = jnp.linalg.norm(product)
    # 0 where the Hessian has fewer eigenvalues than there are iterations: avoid 0 / 0 then.
    return (vector, product / jnp.where(beta > 0, beta, 1), beta), (alpha, beta)

  first = (jnp.zeros_like(start), start, jnp.zeros([], start.dtype))
  _, (alpha, beta) = jax.lax.scan(iterate, first, length=iterations)
  tridiagonal = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
  return jnp.linalg.eigvalsh(tridiagonal)[-1]


def edge(
  learning_rate: float | np.ndarray, momentum: float | np.ndarray, nesterov: bool = False
) -> float | np.ndarray:
  """The sharpness above which SGD with momentum m oscillates on a quadratic.

  It is 2 (1 + m) / rate, and with Nesterov's momentum that divided by 1 + 2 m: Cohen et al., 2021,
  Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability. That is for the
  gradient of all images: at small batches it is a guide only. Whether the rate is inside the
  velocity or outside does not matter while it stays the same.
  """
  found = 2 * (1 + momentum) / learning_rate
  return found / (1 + 2 * momentum) if nesterov else found


def side(sharpness: float, edge: float) -> str:
  """Where a sharpness lies: 'below' the edge, 'at' it (to within a fifth), or 'above'."""
  if sharpness < edge / 1.2:
    return 'below'
  return 'above' if sharpness > edge * 1.2 else 'at'
