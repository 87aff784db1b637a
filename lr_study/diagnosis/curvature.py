"""Sharpness: the largest eigenvalue of the loss's Hessian, and the edge of stability.

Critical sharpness needs no Hessian: it says at which rate the next update would raise the loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

# Of Lanczos's method. On the quick AlexNet, before and after training, 5 iterations come within 1 %
# of the result of 60, and 10 within 1e-5: a few eigenvalues are far larger than the rest.
ITERATIONS = 20

ABOUT = (
  "Sharpness is the largest eigenvalue of the loss's Hessian on some training images, as many as "
  'sharpness_images. Above the edge of stability, 2 (1 + momentum) / rate, steps of SGD along that '
  'direction overshoot more and more (Cohen et al., 2021). This holds for the gradient of all '
  'images. With a small batch size the edge is only a guide, and training may diverge well below '
  'it. For Adam, it is the sharpness after its preconditioner, and the edge is '
  '2 (1 + b1) / ((1 - b1) rate) (Cohen et al., 2022). Other optimisers have no such edge.'
)

_FACTOR = 2.0**40  # critical sharpness looks for a rate within this factor of the trial's own
_HALVINGS = 6  # of the logarithm of the factor 2 between two rates: 1.1 % are left


def sharpness(
  loss: Callable[[Any], jax.Array],
  params: Any,
  iterations: int = ITERATIONS,
  preconditioner: Any = None,
) -> jax.Array:
  """The largest eigenvalue of the Hessian of `loss` at `params`, a scalar.

  With a diagonal preconditioner P, the largest eigenvalue of P^-1 H.

  Uses the method of Lanczos (1950), which needs only products with the Hessian; each is the
  gradient of the gradient's product with a vector. Unlike power iteration it finds the largest
  eigenvalue, not the largest in magnitude, and with a tenth of the products. Only three vectors are
  kept. Vectors that are no longer orthogonal repeat eigenvalues, which does not change the largest
  one (Paige, 1980).

  Args:
    loss: maps a tree like `params` to a scalar.
    params: a tree of arrays.
    iterations: products with the Hessian.
    preconditioner: a tree like `params` of numbers above 0; None: 1.
  """
  point, unravel = ravel_pytree(params)
  # P^-1 H has the eigenvalues of the symmetric P^-1/2 H P^-1/2, which is the Hessian over P^1/2 x.
  root = 1.0 if preconditioner is None else jnp.sqrt(ravel_pytree(preconditioner)[0])
  gradient = jax.grad(lambda scaled: loss(unravel(scaled / root)))
  point = point * root
  start = jax.random.normal(jax.random.key(0), point.shape, point.dtype)
  start /= jnp.linalg.norm(start)

  def iterate(carry, _):
    before, vector, beta = carry
    # A gradient of a gradient: a network may have custom gradients, which jax.jvp rejects.
    product = jax.grad(lambda flat: gradient(flat) @ vector)(point) - beta * before
    alpha = product @ vector
    product = product - alpha * vector
    beta = jnp.linalg.norm(product)
    # beta is 0 if the Hessian has fewer eigenvalues than there are iterations: avoid 0 / 0.
    return (vector, product / jnp.where(beta > 0, beta, 1), beta), (alpha, beta)

  first = (jnp.zeros_like(start), start, jnp.zeros([], start.dtype))
  _, (alpha, beta) = jax.lax.scan(iterate, first, length=iterations)
  tridiagonal = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
  return jnp.linalg.eigvalsh(tridiagonal)[-1]


def critical_sharpness(
  loss: Callable[[Any], jax.Array], params: Any, updates: Any, rate: jax.Array
) -> jax.Array:
  """2 / the smallest rate at which the next update would raise the loss, a scalar.

  Kalra et al. 2026, A Scalable Measure of Loss Landscape Curvature for Analyzing the Training
  Dynamics of LLMs, arXiv 2601.16979. For gradient descent on a quadratic it is the curvature along
  the gradient, g'Hg / g'g, which is at most the sharpness.

  From the trial's own rate, the rate is doubled while the loss falls, or halved while it rises, and
  the factor of 2 between the last two is then bisected: about ten forward passes.

  Args:
    loss: maps a tree like `params` to a scalar.
    params: a tree of arrays.
    updates: what the optimiser would add to the weights at this rate, a tree like `params`.
    rate: the trial's own, a scalar.

  Returns:
    Critical sharpness, to 1 %; NaN if no such rate lies within a factor of 1e12 of the trial's own,
    for example because the update increases the loss however small it is.
  """
  before = loss(params)

  def after(share):  # of the update
    return loss(jax.tree.map(lambda x, by: x + share * by, params, updates))

  def rises(share):  # a loss that is not finite has risen
    return ~(after(share) <= before)

  at_own = rises(jnp.float32(1))

  def turned(share):
    # Strictly: an update so small that it changes nothing has not lowered the loss.
    return jnp.where(at_own, after(share) < before, rises(share))

  def goes_on(carry):
    share, found = carry
    return ~found & (share < _FACTOR) & (share > 1 / _FACTOR)

  def move(carry):
    share = carry[0] * jnp.where(at_own, 0.5, 2.0)
    return share, turned(share)

  share, found = jax.lax.while_loop(goes_on, move, (jnp.float32(1), jnp.bool_(False)))

  def halve(_, carry):
    low, width = carry  # the loss falls at low, and rises at low x width
    width = jnp.sqrt(width)
    return jnp.where(rises(low * width), low, low * width), width

  first = jnp.where(at_own, share, share / 2)
  low, width = jax.lax.fori_loop(0, _HALVINGS, halve, (first, jnp.float32(2)))
  return jnp.where(found & (rate > 0), 2 / (low * jnp.sqrt(width) * rate), jnp.nan)


def edge(
  learning_rate: float | np.ndarray, momentum: float | np.ndarray, nesterov: bool = False
) -> float | np.ndarray:
  """The sharpness above which SGD with momentum m oscillates on a quadratic.

  It is 2 (1 + m) / rate, divided by 1 + 2 m with Nesterov's momentum: Cohen et al., 2021, Gradient
  Descent on Neural Networks Typically Occurs at the Edge of Stability. This holds for the gradient
  of all images; with small batches it is only a guide. Whether the rate is inside or outside the
  velocity does not matter while the rate is constant.
  """
  found = 2 * (1 + momentum) / learning_rate
  return found / (1 + 2 * momentum) if nesterov else found


def adam_edge(learning_rate: float | np.ndarray, b1: float | np.ndarray) -> float | np.ndarray:
  """The preconditioned sharpness above which Adam oscillates on a quadratic: 38 / rate by default.

  2 (1 + b1) / ((1 - b1) rate): Cohen et al. 2022, Adaptive Gradient Methods at the Edge of
  Stability, arXiv 2207.14484. It holds while the preconditioner changes little.
  """
  return edge(learning_rate, b1) / (1 - b1)


def adam_preconditioner(opt_state: Any, b1: Any, b2: Any, eps: Any) -> Any:
  """What optax's Adam divides the mean gradient by, a tree like the weights (Cohen et al. 2022).

  It includes the correction of the mean gradient's bias, which shrinks early updates. Before the
  first step it is not known, and this is 1.
  """
  state = optax.tree.get(opt_state, 'ScaleByAdamState')
  steps = jnp.maximum(state.count, 1).astype(jnp.float32)
  first, second = 1 - b1**steps, 1 - b2**steps
  divisor = jax.tree.map(lambda nu: first * (jnp.sqrt(nu / second) + eps), state.nu)
  return jax.tree.map(lambda x: jnp.where(state.count > 0, x, 1.0), divisor)


def side(sharpness: float, edge: float) -> str:
  """Where a sharpness lies relative to the edge: 'below', 'at' (to within a fifth) or 'above'."""
  if sharpness < edge / 1.2:
    return 'below'
  return 'above' if sharpness > edge * 1.2 else 'at'
