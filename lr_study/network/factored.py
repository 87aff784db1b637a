"""Dense kernels as a fixed matrix and the factors of the latest gradients.

The gradient of a dense kernel is a sum of outer products x g', one an image: x is the layer's
input and g the gradient of its output. SGD with momentum and weight decay is linear in the
kernel, so every kernel and every velocity stays a combination

    a base + sum_i c_i x_i g_i'

of one matrix and the latest pairs (x_i, g_i). The optimiser is given the coordinates
(a, c_1, c_2, ...) in the kernel's place and updates them with the same arithmetic; the matrix is
written only when the pairs are folded into it, every `fold_every` steps. No gradient and no
velocity of the kernel's size exists, and at small batches a step reads little but the matrix.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# A pair is forgotten once momentum has shrunk its velocity below this share of what it was:
# float32 resolves 6e-8, so what is lost is lost in rounding anyway, a tenfold drop of the rate
# included.
_FORGOTTEN = 1e-9
_BLOCK = 256  # rows of a kernel that a fold writes at once: they stay in the cache
_PRODUCT_BLOCK = 64  # rows of a kernel in one product of a forward pass
_WINDOW = 64  # pairs from one fold to the next; a fold costs one matrix product


class Factors(NamedTuple):
  """Of one kernel: base (inputs, outputs), x (pairs, inputs), g (pairs, outputs), float32."""

  base: jax.Array
  x: jax.Array
  g: jax.Array


def fold_every(batch_size: int) -> int:
  """Steps from one fold to the next."""
  return max(1, _WINDOW // batch_size)


def pairs(batch_size: int, momentum: float) -> int:
  """Pairs to keep: those since the last fold, and those that momentum still remembers."""
  remembered = math.ceil(math.log(_FORGOTTEN) / math.log(momentum)) if momentum else 0
  window = fold_every(batch_size)
  # A whole number of windows: then a fold always finds the same slots newest.
  return math.ceil((window + remembered) / window) * window * batch_size


def pays(kernel: tuple[int, int], batch_size: int, momentum: float, decay: float) -> bool:
  """True if the pairs of a kernel of this shape are less work than the kernel itself.

  `decay` is the largest share of a kernel that weight decay takes in a step. Where it is large
  the base's coordinate shrinks towards 0 from fold to fold, and dividing by it is no longer exact.
  """
  rows = pairs(batch_size, momentum)
  return fold_every(batch_size) > 1 and rows * sum(kernel) < math.prod(kernel) and decay < 0.01


def split(params: Any, layers: tuple[str, ...], rows: int) -> tuple[Any, dict[str, Factors]]:
  """Takes the kernels of `layers` out of `params`.

  Returns:
    params with the coordinates (1 + rows,) in the kernels' place, and each kernel's factors.
  """
  params, factors = dict(params), {}
  for name in layers:
    base = params[name]['kernel']
    inputs, outputs = base.shape
    factors[name] = Factors(base, jnp.zeros((rows, inputs)), jnp.zeros((rows, outputs)))
    params[name] = params[name] | {'kernel': jnp.zeros(1 + rows).at[0].set(1.0)}
  return params, factors


def merge(params: Any, factors: dict[str, Factors]) -> Any:
  """The plain params again, right after a fold."""
  return params | {name: params[name] | {'kernel': factor.base} for name, factor in factors.items()}


def product(x: jax.Array, coordinates: jax.Array, factors: Factors) -> jax.Array:
  """x (batch, inputs) times the kernel: (batch, outputs)."""
  # dot_general, not x @ factors.x.T: XLA would write the transposed factor to memory.
  along = jax.lax.dot_general(x, factors.x, (((1,), (1,)), ((), ())))
  thin = (along * coordinates[1:]) @ factors.g
  return coordinates[0] * _times(x, factors.base) + thin


def _times(x: jax.Array, base: jax.Array) -> jax.Array:
  """x @ base, as a sum over blocks of the base's rows.

  A CPU reads a large matrix a fifth faster so: a few rows of x make up to twice the difference.
  """
  blocks, rest = divmod(len(base), _PRODUCT_BLOCK)
  if rest:
    return x @ base
  rows = base.reshape(blocks, _PRODUCT_BLOCK, -1)
  return jnp.einsum('bki,kio->kbo', x.reshape(len(x), blocks, _PRODUCT_BLOCK), rows).sum(0)


def norm(of_params: Any, x: dict[str, jax.Array], g: dict[str, jax.Array]) -> jax.Array:
  """The norm of a step's gradient.

  Args:
    of_params: the gradient, without the kernels of factored layers.
    x: input (batch, inputs) of each factored layer.
    g: gradient of its output, (batch, outputs).

  Returns:
    A scalar. The square of such a kernel's norm, that of sum_b x_b g_b', is
    sum_bc (x_b . x_c) (g_b . g_c).
  """
  squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(of_params))
  for name, inputs in x.items():
    # Gradients that cancel leave a sum of 0 and rounding, which may be below it.
    squares += jnp.maximum(jnp.sum((inputs @ inputs.T) * (g[name] @ g[name].T)), 0.0)
  return jnp.sqrt(squares)


def weights_norm(params: Any, factors: dict[str, Factors]) -> jax.Array:
  """The norm of the weights that params, with coordinates, and factors stand for; or of an update.

  With Frobenius's product <x g', y h'> = (x . y) (g . h), the square of a kernel's norm is
  a^2 <base, base> + 2 a sum_i c_i x_i' base g_i + sum_ij c_i c_j (x_i . x_j) (g_i . g_j).
  """
  squares = 0.0
  for name, layer in params.items():
    for key, leaf in layer.items():
      if name in factors and key == 'kernel':
        base, x, g = factors[name]
        a, c = leaf[0], leaf[1:]
        along = jnp.sum(x * (base @ g.T).T, 1)
        gram = (x @ x.T) * (g @ g.T)
        square = a * a * jnp.sum(jnp.square(base)) + 2 * a * (c @ along) + c @ gram @ c
        squares += jnp.maximum(square, 0.0)  # as in `norm`
      else:
        squares += jnp.sum(jnp.square(leaf))
  return jnp.sqrt(squares)


def without_kernels(of_params: Any, layers: Iterable[str]) -> Any:
  """Leaves out the kernels of these layers: gradients of coordinates are of no use."""
  return {
    name: {key: leaf for key, leaf in layer.items() if not (name in layers and key == 'kernel')}
    for name, layer in of_params.items()
  }


def push(
  of_params: Any,
  factors: dict[str, Factors],
  x: dict[str, jax.Array],
  g: dict[str, jax.Array],
  step: jax.Array,
) -> tuple[Any, dict[str, Factors]]:
  """Puts a step's pairs in the place of the oldest, and the gradient as the optimiser sees it.

  Args:
    of_params: the gradient, without the kernels of factored layers.
    factors: before the step.
    x: input (batch, inputs) of each factored layer.
    g: gradient of its output, (batch, outputs).
    step: steps taken before this one, int32.

  Returns:
    The gradient, with coordinates 1 at the step's pairs, and the new factors.
  """
  of_params, factors = dict(of_params), dict(factors)
  for name, factor in factors.items():
    rows, batch = len(factor.x), len(x[name])
    slot = (step * batch) % rows
    factors[name] = factor._replace(
      x=jax.lax.dynamic_update_slice(factor.x, x[name], (slot, 0)),
      g=jax.lax.dynamic_update_slice(factor.g, g[name], (slot, 0)),
    )
    coordinates = jax.lax.dynamic_update_slice(jnp.zeros(1 + rows), jnp.ones(batch), (1 + slot,))
    of_params[name] = of_params[name] | {'kernel': coordinates}
  return of_params, factors


def fold(
  optimizer: optax.GradientTransformation,
  params: Any,
  opt_state: optax.OptState,
  factors: dict[str, Factors],
) -> tuple[Any, optax.OptState, dict[str, Factors]]:
  """Makes each kernel the base of its coordinates, and writes velocities in the new basis.

  With the kernel's coordinates (a, c), what had coordinates (u, v) has (u / a, v - u c / a).
  """

  def new_basis(vector, kernel, is_factored):
    if not is_factored:
      return vector
    scale = vector[0] / kernel[0]
    return jnp.concatenate([scale[None], vector[1:] - scale * kernel[1:]])

  def new_base(factor, kernel):
    return _add_product(kernel[0], factor.base, factor.x * kernel[1:, None], factor.g)

  is_factored = {
    name: {key: name in factors and key == 'kernel' for key in layer}
    for name, layer in params.items()
  }
  folded = {
    name: factor._replace(base=new_base(factor, params[name]['kernel']))
    for name, factor in factors.items()
  }
  opt_state = optax.tree_utils.tree_map_params(optimizer, new_basis, opt_state, params, is_factored)
  return jax.tree.map(new_basis, params, params, is_factored), opt_state, folded


@jax.custom_batching.custom_vmap
def _add_product(scale: jax.Array, base: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
  """scale base + x' g, of base (inputs, outputs), x (pairs, inputs) and g (pairs, outputs)."""
  return _add_products(*(value[None] for value in (scale, base, x, g)))[0]


@_add_product.def_vmap
def _add_product_of_trials(trials, is_batched, *values):
  # A rule of our own: vmap's would make of slices at a moving place gathers, and copy each block.
  values = (
    value if batched else jnp.broadcast_to(value, (trials, *value.shape))
    for value, batched in zip(values, is_batched, strict=True)
  )
  return _add_products(*values), True


def _add_products(scale: jax.Array, base: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
  """As `_add_product`, with a leading axis of trials.

  Block by block of rows, in the place of a donated base: the product is never in memory as a
  whole, which would take as much as the kernel.
  """
  trials, inputs, outputs = base.shape
  blocks, rest = divmod(inputs, _BLOCK)

  def with_block(base, trial, start, rows):
    block = jax.lax.dynamic_slice(base, (trial, start, 0), (1, rows, outputs))
    pairs = jax.lax.dynamic_slice(x, (trial, 0, start), (1, x.shape[1], rows))[0]
    block = scale[trial] * block + pairs.T @ g[trial]
    return jax.lax.dynamic_update_slice(base, block, (trial, start, 0))

  def of_trial(trial, base):
    if blocks:
      base = jax.lax.fori_loop(
        0, blocks, lambda k, base: with_block(base, trial, k * _BLOCK, _BLOCK), base
      )
    return with_block(base, trial, blocks * _BLOCK, rest) if rest else base

  return jax.lax.fori_loop(0, trials, of_trial, base)
