"""Stores dense kernels as a fixed matrix and the factors of the latest gradients.

The gradient of a dense kernel is a sum of outer products x g', one for each image, where x is the
layer's input and g the gradient of its output. SGD with momentum and weight decay is linear in the
kernel, so every kernel and every velocity remains a combination

    a base + sum_i c_i x_i g_i'

of one matrix and the latest pairs (x_i, g_i). The optimiser gets the coordinates
(a, c_1, c_2, ...) in place of the kernel and updates them with the same arithmetic. The matrix is
written only when the pairs are folded into it, every `fold_every` steps. There is no gradient or
velocity of the kernel's size, and with small batches a step reads little more than the matrix.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from lr_study import trial
from lr_study.accelerate.watch import Weight, watch
from lr_study.engine import Engine
from lr_study.trial import State, Task

# A pair is dropped once momentum has reduced its velocity to less than this share. float32 resolves
# 6e-8, so the difference is lost in rounding anyway, even after a tenfold drop of the rate.
_FORGOTTEN = 1e-9
_BLOCK = 256  # rows of a kernel that a fold writes at once: they fit in the cache
_PRODUCT_BLOCK = 64  # rows of a kernel in one product of a forward pass
_WINDOW = 64  # pairs from one fold to the next; a fold costs one matrix product


class Factors(NamedTuple):
  """The factors of one kernel: base (inputs, outputs), x (pairs, inputs), g (pairs, outputs)."""

  base: jax.Array
  x: jax.Array
  g: jax.Array


class Factored(NamedTuple):
  """A trial's state with coordinates in place of kernels, and the factors by kernel path."""

  state: State
  factors: dict[str, Factors]


class Bounds(NamedTuple):
  """The largest momentum of a study, and the largest share of a kernel that decays per step."""

  momentum: float
  decay: float


def layers(task: Task, batch_size: int, bounds: Bounds) -> tuple[str, ...]:
  """Paths of the kernels for which factors apply and pay off; none for most optimisers.

  The optimiser must be linear. A kernel must be trained, belong to an `nn.Dense` that is called on
  rows, and be used only in that product: not on tokens, not shared, not inside `nn.scan` or
  `nn.remat`, and not normalised or otherwise changed before.
  """
  if not task.optimizer.linear or task.dtype != 'float32':
    return ()
  called = {}

  def look(next_call, arguments, keywords, context):
    layer = context.module
    if type(layer) is nn.Dense and context.method_name == '__call__':
      plain = _is_plain(layer, arguments, batch_size)
      called[_path(layer)] = (arguments[0].shape[-1], layer.features) if plain else None
    return next_call(*arguments, **keywords)

  weights = watch(task, batch_size, look)
  return tuple(
    path
    for path, shape in called.items()
    if shape
    and ('params', *_keys(path)) not in task.origin.frozen
    and _is_factor(weights[path], shape)
    and pays(shape, batch_size, bounds)
  )


def _is_factor(weight: Weight, shape: tuple[int, int]) -> bool:
  """True if the weight is used only in a product; those of nn.vmap have another shape."""
  operations = [equation.primitive for equation in weight.used_by]
  return weight.shape == shape and operations == [jax.lax.dot_general_p]


def engine(
  task: Task, batch_size: int, bounds: Bounds, paths: tuple[str, ...], names: Iterable[str]
) -> Engine:
  """An engine that stores the kernels at `paths` as factors.

  `names`: of the hyperparameters in which trials differ. They determine the optimiser's state.
  """
  rows = pairs(batch_size, bounds.momentum)
  hyper_of_no_trial = {name: jnp.zeros([]) for name in names}

  def start(variables, hyper):
    params, factors = split(variables['params'], paths, rows)
    return Factored(trial.start(task, {**variables, 'params': params}, hyper), factors)

  def step(factored, hyper, batch, key, step):
    state, factors = factored
    loss = trial.loss_fn(task, state.model_state, hyper, batch, key, step)

    def with_taps(params, taps):
      inputs = {}
      with nn.intercept_methods(_intercept(factors, taps, inputs)):
        value, aux = loss(params)
      return value, (*aux, inputs)

    taps = {path: jnp.zeros((batch_size, f.g.shape[1])) for path, f in factors.items()}
    (value, aux), (grads, g) = jax.value_and_grad(with_taps, (0, 1), has_aux=True)(
      state.params, taps
    )
    logits, targets, model_state, x = aux
    gradient_norm = norm(grads, x, g)
    grads, factors = push(grads, factors, x, g, step)
    updates, opt_state = trial.update(task, state, grads, value, hyper, step)
    ratio = weights_norm(updates, factors) / weights_norm(state.params, factors)
    params = optax.apply_updates(state.params, updates)
    metrics = trial.measure(value, logits, targets, gradient_norm, ratio)
    return Factored(State(params, model_state, opt_state), factors), metrics

  def settle(factored):
    transform = trial.make_transform(task, hyper_of_no_trial, 0)
    return fold(transform, *factored)

  def plain(factored):
    return factored.state._replace(params=merge(factored.state.params, factored.factors))

  return Engine(
    draw=lambda key, weights=None: trial.draw(task, key, weights),
    start=start,
    step=step,
    evaluate=lambda factored, *arguments: trial.eval_step(task, plain(factored), *arguments),
    plain=plain,
    settle=settle,
    every=fold_every(batch_size),
    origin=task.origin,
  )


def fold_every(batch_size: int) -> int:
  """How many steps there are from one fold to the next."""
  return max(1, _WINDOW // batch_size)


def pairs(batch_size: int, momentum: float) -> int:
  """How many pairs to keep: those since the last fold, and those that still affect momentum."""
  remembered = math.ceil(math.log(_FORGOTTEN) / math.log(momentum)) if momentum else 0
  window = fold_every(batch_size)
  # A whole number of windows, so that the newest slots are always the same ones in a fold.
  return math.ceil((window + remembered) / window) * window * batch_size


def pays(kernel: tuple[int, int], batch_size: int, bounds: Bounds) -> bool:
  """True if the pairs of a kernel of this shape are less work than the kernel itself.

  If decay is large, the base's coordinate shrinks towards 0 between folds, and dividing by it is
  no longer exact.
  """
  rows = pairs(batch_size, bounds.momentum)
  less = rows * sum(kernel) < math.prod(kernel)
  return fold_every(batch_size) > 1 and less and bounds.decay < 0.01


def split(params: Any, paths: tuple[str, ...], rows: int) -> tuple[Any, dict[str, Factors]]:
  """Takes the kernels at `paths` out of `params`.

  Returns:
    `params` with coordinates (1 + rows,) in place of the kernels, and each kernel's factors.
  """
  flat, factors = flatten_dict(params), {}
  for path in paths:
    base = flat[_keys(path)]
    factors[path] = Factors(base, *(jnp.zeros((rows, features)) for features in base.shape))
    flat[_keys(path)] = jnp.zeros(1 + rows).at[0].set(1.0)
  return unflatten_dict(flat), factors


def merge(params: Any, factors: Mapping[str, Factors]) -> Any:
  """The plain parameters; valid right after a fold."""
  flat = flatten_dict(params) | {_keys(path): f.base for path, f in factors.items()}
  return unflatten_dict(flat)


def product(x: jax.Array, coordinates: jax.Array, factors: Factors) -> jax.Array:
  """x (batch, inputs) times the kernel: (batch, outputs)."""
  # dot_general, not x @ factors.x.T: XLA would write the transposed factor to memory.
  along = jax.lax.dot_general(x, factors.x, (((1,), (1,)), ((), ())))
  thin = (along * coordinates[1:]) @ factors.g
  return coordinates[0] * _times(x, factors.base) + thin


def _times(x: jax.Array, base: jax.Array) -> jax.Array:
  """x @ base; on a CPU as a sum over blocks of the base's rows.

  A CPU reads a large matrix a fifth faster this way; with a few rows of x, up to twice as fast.
  """
  blocks, rest = divmod(len(base), _PRODUCT_BLOCK)
  if rest or jax.default_backend() != 'cpu':
    return x @ base
  rows = base.reshape(blocks, _PRODUCT_BLOCK, -1)
  return jnp.einsum('bki,kio->kbo', x.reshape(len(x), blocks, _PRODUCT_BLOCK), rows).sum(0)


def norm(grads: Any, x: Mapping[str, jax.Array], g: Mapping[str, jax.Array]) -> jax.Array:
  """The norm of a step's gradient.

  Args:
    grads: the gradient; its values for the kernels of factored layers are not used.
    x: input (batch, inputs) of each factored layer, by its kernel's path.
    g: gradient of its output, (batch, outputs).

  Returns:
    A scalar. The squared norm of a factored kernel's gradient, sum_b x_b g_b', is
    sum_bc (x_b . x_c) (g_b . g_c).
  """
  flat = flatten_dict(grads)
  squares = sum(jnp.vdot(leaf, leaf) for keys, leaf in flat.items() if '/'.join(keys) not in x)
  for path, inputs in x.items():
    # If gradients cancel, rounding may make the sum negative.
    squares += jnp.maximum(jnp.sum((inputs @ inputs.T) * (g[path] @ g[path].T)), 0.0)
  return jnp.sqrt(squares)


def weights_norm(params: Any, factors: Mapping[str, Factors]) -> jax.Array:
  """The norm of the weights, or of an update, given as params with coordinates and factors.

  With Frobenius's product <x g', y h'> = (x . y) (g . h), the square of a kernel's norm is
  a^2 <base, base> + 2 a sum_i c_i x_i' base g_i + sum_ij c_i c_j (x_i . x_j) (g_i . g_j).
  """
  squares = 0.0
  for keys, leaf in flatten_dict(params).items():
    if '/'.join(keys) in factors:
      base, x, g = factors['/'.join(keys)]
      a, c = leaf[0], leaf[1:]
      along = jnp.sum(x * (base @ g.T).T, 1)
      gram = (x @ x.T) * (g @ g.T)
      square = a * a * jnp.sum(jnp.square(base)) + 2 * a * (c @ along) + c @ gram @ c
      squares += jnp.maximum(square, 0.0)  # as in `norm`
    else:
      squares += jnp.sum(jnp.square(leaf))
  return jnp.sqrt(squares)


def push(
  grads: Any,
  factors: Mapping[str, Factors],
  x: Mapping[str, jax.Array],
  g: Mapping[str, jax.Array],
  step: jax.Array,
) -> tuple[Any, dict[str, Factors]]:
  """Replaces the oldest pairs by those of a step, and converts the gradient to coordinates.

  Args:
    grads: the gradient; its values for the kernels of factored layers are not used.
    factors: before the step.
    x: input (batch, inputs) of each factored layer.
    g: gradient of its output, (batch, outputs).
    step: steps taken before this one, int32.

  Returns:
    The gradient, with coordinates 1 at the step's pairs, and the new factors.
  """
  flat, factors = flatten_dict(grads), dict(factors)
  for path, factor in factors.items():
    rows, batch = len(factor.x), len(x[path])
    slot = (step * batch) % rows
    factors[path] = factor._replace(
      x=jax.lax.dynamic_update_slice(factor.x, x[path], (slot, 0)),
      g=jax.lax.dynamic_update_slice(factor.g, g[path], (slot, 0)),
    )
    ones = jnp.ones(batch)
    flat[_keys(path)] = jax.lax.dynamic_update_slice(jnp.zeros(1 + rows), ones, (1 + slot,))
  return unflatten_dict(flat), factors


def fold(
  transform: optax.GradientTransformation, state: State, factors: Mapping[str, Factors]
) -> Factored:
  """Makes each kernel the base of its coordinates, and converts velocities to the new basis.

  If the kernel has coordinates (a, c), then coordinates (u, v) become (u / a, v - u c / a).
  """

  def new_basis(vector, kernel, is_factored):
    if not is_factored:
      return vector
    scale = vector[0] / kernel[0]
    return jnp.concatenate([scale[None], vector[1:] - scale * kernel[1:]])

  flat = flatten_dict(state.params)
  is_factored = unflatten_dict({keys: '/'.join(keys) in factors for keys in flat})
  folded = {}
  for path, f in factors.items():
    kernel = flat[_keys(path)]
    folded[path] = f._replace(base=_add_product(kernel[0], f.base, f.x * kernel[1:, None], f.g))
  opt_state = optax.tree_utils.tree_map_params(
    transform, new_basis, state.opt_state, state.params, is_factored
  )
  params = jax.tree.map(new_basis, state.params, state.params, is_factored)
  return Factored(state._replace(params=params, opt_state=opt_state), folded)


@jax.custom_batching.custom_vmap
def _add_product(scale: jax.Array, base: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
  """scale base + x' g, of base (inputs, outputs), x (pairs, inputs) and g (pairs, outputs)."""
  return _add_products(*(value[None] for value in (scale, base, x, g)))[0]


@_add_product.def_vmap
def _add_product_of_trials(trials, is_batched, *values):
  # A custom rule: vmap's rule would turn slices at a moving place into gathers and copy each block.
  of_trials = (
    value if batched else jnp.broadcast_to(value, (trials, *value.shape))
    for value, batched in zip(values, is_batched, strict=True)
  )
  return _add_products(*of_trials), True


def _add_products(scale: jax.Array, base: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
  """Like `_add_product`, with a leading axis of trials.

  On a CPU it works on blocks of rows, in place in a donated base, so that the product, which is as
  large as the kernel, is never in memory as a whole. A GPU adds the products of all trials in one
  call, and would wait for each of the blocks.
  """
  if jax.default_backend() != 'cpu':
    return scale[:, None, None] * base + jnp.einsum('tpi,tpo->tio', x, g)
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


def _intercept(
  factors: Mapping[str, Factors], taps: Mapping[str, jax.Array], inputs: dict[str, jax.Array]
) -> Any:
  """For `nn.intercept_methods`: computes the layers of `factors`, and stores their inputs.

  A layer's tap is an array of zeros that is added to its output; both have the same gradient.
  """

  def intercept(next_call, arguments, keywords, context):
    layer, path = context.module, _path(context.module)
    if context.method_name != '__call__' or path not in factors:
      return next_call(*arguments, **keywords)
    (inputs[path],) = arguments
    y = product(arguments[0], layer.get_variable('params', 'kernel'), factors[path]) + taps[path]
    return y + layer.get_variable('params', 'bias') if layer.use_bias else y

  return intercept


def _is_plain(layer: nn.Dense, arguments: tuple[Any, ...], batch_size: int) -> bool:
  """True for x @ kernel + bias in float32 on the rows of a batch."""
  usual = nn.Dense(layer.features)
  same = all(
    getattr(layer, name) == getattr(usual, name)
    for name in ('precision', 'dot_general', 'dot_general_cls', 'promote_dtype')
  )
  dtypes = layer.dtype in (None, jnp.float32) and layer.param_dtype == jnp.float32
  rows = len(arguments) == 1 and arguments[0].ndim == 2 and len(arguments[0]) == batch_size
  return same and dtypes and rows and arguments[0].dtype == jnp.float32


def _keys(path: str) -> tuple[str, ...]:
  # Not flatten_dict(sep='/'): nn.WeightNorm uses slashes in names of parameters.
  return tuple(path.split('/'))


def _path(module: nn.Module) -> str:
  return '/'.join((*module.path, 'kernel'))
