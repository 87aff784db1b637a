"""Losses: factories of f(logits (batch, classes), targets) -> (batch,).

Targets are labels, int (batch,), or shares of the classes, float (batch, classes), as from mixup.
"""

import functools
import inspect
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lr_study import plugs, shapes
from lr_study.errors import StudyError
from lr_study.plugs import AT_LEAST_0, BELOW_1, limits

Loss = Callable[..., jax.Array]

# `counts`, int (classes,): the training images of each class. The rest are the arguments of a
# user's loss that is not a factory.
SUPPLIED = ('counts', 'logits', 'targets', 'labels')

_BALANCED = ('balanced',)  # on the command line, `balanced` arrives as a tuple


def _are_weights(weights: tuple[Any, ...]) -> bool:
  return weights == _BALANCED or all(plugs.is_number(w) and w >= 0 for w in weights)


_WEIGHTS = _are_weights, "('balanced',), or a number from 0 up for each class"


@limits(smoothing=BELOW_1, class_weights=_WEIGHTS)
def cross_entropy(
  counts: np.ndarray, smoothing: float = 0.0, class_weights: tuple[Any, ...] = ()
) -> Loss:
  """Softmax cross-entropy, in nats.

  Args:
    counts: training images of each class, (classes,).
    smoothing: the share of each target that is spread over all classes (Szegedy et al. 2016,
      section 7).
    class_weights: a weight for the loss of each class, or ('balanced',) to give all classes the
      same total weight. Weights are scaled to a mean of 1 over the training images, so that the
      learning rate keeps its meaning.

  Raises:
    ValueError: there are not as many weights as classes, or all that count are 0.
  """
  plain = isinstance(smoothing, numbers.Real) and not smoothing

  def loss(logits, targets):
    if plain and targets.ndim == 1:
      return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return optax.softmax_cross_entropy(
      logits, optax.smooth_labels(_shares(logits, targets), smoothing)
    )

  return _weighted(loss, counts, class_weights)


@limits(gamma=AT_LEAST_0, class_weights=_WEIGHTS)
def focal(counts: np.ndarray, gamma: float = 2.0, class_weights: tuple[Any, ...] = ()) -> Loss:
  """Focal loss: -(1 - p)^gamma log p, where p is the softmax of the image's class.

  Lin et al. 2017, equation 4, with a softmax in place of the sigmoid.

  Args:
    counts: training images of each class, (classes,).
    gamma: 0 is cross-entropy; the higher, the less weight images that are already right get.
    class_weights: see `cross_entropy`.

  Raises:
    ValueError: see `cross_entropy`.
  """

  def loss(logits, targets):
    log_p = jax.nn.log_softmax(logits)
    if targets.ndim == 1:
      log_p, targets = jnp.take_along_axis(log_p, targets[:, None], 1), 1.0
    # At least the rounding error of p: the slope of a power below 1 is infinite at 0.
    others = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).eps)
    return -jnp.sum(targets * others**gamma * log_p, -1)

  return _weighted(loss, counts, class_weights)


@limits(class_weights=_WEIGHTS)
def binary_cross_entropy(counts: np.ndarray, class_weights: tuple[Any, ...] = ()) -> Loss:
  """Sigmoid cross-entropy of each class against all others, summed over the classes, in nats.

  Beyer et al. 2020, "Are we done with ImageNet?".

  Args:
    counts: training images of each class, (classes,).
    class_weights: see `cross_entropy`.

  Raises:
    ValueError: see `cross_entropy`.
  """

  def loss(logits, targets):
    return optax.sigmoid_binary_cross_entropy(logits, _shares(logits, targets)).sum(-1)

  return _weighted(loss, counts, class_weights)


@limits(class_weights=_WEIGHTS)
def squared_error(counts: np.ndarray, class_weights: tuple[Any, ...] = ()) -> Loss:
  """Half the squared distance of the logits from 1 for the image's class and 0 for the others.

  Args:
    counts: training images of each class, (classes,).
    class_weights: see `cross_entropy`.

  Raises:
    ValueError: see `cross_entropy`.
  """

  def loss(logits, targets):
    return jnp.square(logits - _shares(logits, targets)).sum(-1) / 2

  return _weighted(loss, counts, class_weights)


KNOWN: dict[str, Callable[..., Loss]] = {
  'cross_entropy': cross_entropy,
  'focal': focal,
  'binary_cross_entropy': binary_cross_entropy,
  'squared_error': squared_error,
}


def may_sweep(config: Mapping[str, Any], among: Collection[str] = ()) -> tuple[str, ...]:
  """The arguments of a loss that can differ between the trials of one program: its numbers.

  `among`: if not empty, only these are considered.
  """
  numbers = {n for n, x in config.items() if x is None or plugs.is_number(x)}
  return tuple(sorted(numbers & {*among} if among else numbers))


def build(config: Mapping[str, Any], counts: np.ndarray, sweep: Collection[str] = ()) -> Loss:
  """The loss of a config: f(logits, targets, **own) -> (batch,).

  A user's loss, 'file.py:name', is either a factory like those here, or the function itself with
  arguments (logits, targets) or (logits, labels). Its other arguments are fields of the config.

  Args:
    config: its name and arguments.
    counts: training images of each class, int (classes,).
    sweep: arguments of which each trial has its own value. The function takes them by name;
      without them, as in an evaluation, it uses the config's values.

  Raises:
    StudyError: an argument does not fit, or the user's function does not return (batch,) numbers.
  """
  factory = plugs.find('loss', config['name'])
  values = plugs.checked('loss', factory, config)
  if unknown := sorted(set(sweep) - set(values)):
    raise StudyError(f'loss.{unknown[0]}: {plugs.title("loss", factory)} has no such argument')
  takes = inspect.signature(factory).parameters if plugs.is_own(factory) else ()
  supplied = {'counts': counts} if 'counts' in takes else {}

  def make(**own):
    if 'logits' in takes:
      return functools.partial(factory, **supplied | values | own)
    return plugs.call('loss', factory, {'counts': counts}, values | own)

  fixed = make()

  def loss(logits, targets, **own):
    return (make(**own) if own else fixed)(logits, targets)

  return _checked(factory, loss, values, len(counts), sweep) if plugs.is_own(factory) else loss


def guessing(loss: Loss, counts: np.ndarray) -> float:
  """The mean loss over the training images of a constant guess.

  The lowest of four guesses: the classes' frequencies, their log frequencies, their log odds, and
  equal logits. For cross-entropy this is the entropy of the frequencies, in nats, to float32
  precision.

  Args:
    loss: from `build`.
    counts: training images of each class, int (classes,).
  """
  counts = np.asarray(counts, np.float64)
  p = counts / counts.sum()
  log_p, log_rest = (np.log(np.maximum(x, 1e-30)) for x in (p, 1 - p))
  occur = np.flatnonzero(counts)
  costs = [
    np.asarray(loss(jnp.tile(jnp.float32(guess), (len(occur), 1)), jnp.int32(occur)), np.float64)
    for guess in (p, log_p, log_p - log_rest, np.zeros(len(p)))
  ]
  return float(min(of_class @ p[occur] for of_class in costs))


def _shares(logits: jax.Array, targets: jax.Array) -> jax.Array:
  return jax.nn.one_hot(targets, logits.shape[-1]) if targets.ndim == 1 else targets


def _weighted(loss: Loss, counts: np.ndarray, class_weights: tuple[Any, ...] | str) -> Loss:
  """The loss with each image weighted by its class, or by its shares of the classes."""
  counts = np.asarray(counts, np.float64)
  if len(class_weights) == 0:
    return loss
  if class_weights in ('balanced', _BALANCED):
    class_weights = 1 / np.maximum(counts, 1)
  if len(class_weights) != len(counts):
    raise ValueError(
      f'class_weights has {len(class_weights)} numbers, but the data has {len(counts)} classes'
    )
  weights = np.asarray(class_weights, np.float64)
  mean = weights @ counts / counts.sum()
  if not mean > 0:
    raise ValueError('class_weights are 0 for every class that has training images')
  weights = jnp.float32(weights / mean)

  def weighted(logits, targets):
    of_image = weights[targets] if targets.ndim == 1 else targets @ weights
    return of_image * loss(logits, targets)

  return weighted


def _checked(
  factory: Callable, loss: Loss, values: Mapping[str, Any], classes: int, sweep: Collection[str]
) -> Loss:
  """The user's loss, with a one-line error if it does not return what it should."""

  def checked(logits, targets, **own):
    kind = 'labels' if targets.ndim == 1 else 'shares of the classes'
    try:
      found = shapes.of('loss', factory, lambda *x: loss(*x, **own), logits, targets)
    except StudyError as error:
      if targets.ndim == 1:
        raise
      raise StudyError(f'{error}; with mixup or cutmix, targets are {kind}') from error
    if not shapes.is_array(found, logits.shape[:1], jnp.floating):
      raise StudyError(
        f'{plugs.title("loss", factory)} gave {shapes.words(found)} for logits {logits.shape} and '
        f'{kind} {targets.shape}; a loss gives one number per image, ({len(logits)},)'
      )
    return loss(logits, targets, **own)

  batch = shapes.array((3, classes)), shapes.array((3,), 'int32')
  jax.eval_shape(checked, *batch)
  if sweep:
    own = {name: shapes.array(()) for name in sweep}
    jax.eval_shape(lambda own, *batch: checked(*batch, **own), own, *batch)
  return checked
