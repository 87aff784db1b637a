"""Metrics: what an evaluation measures, as sums over images and a figure computed from them."""

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lr_study import plugs, shapes
from lr_study.errors import StudyError
from lr_study.parts import Metric

# `classes`: how many. The rest are the arguments of a user's plain function.
SUPPLIED = ('classes', 'logits', 'labels', 'weight')

ALWAYS = ('loss', 'accuracy', 'balanced_accuracy')  # in every evaluation

_BINS = 15  # of confidence; as Guo et al. 2017


def per_image(
  values: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], **kind: bool
) -> Metric:
  """The mean over images of values(logits, labels, weight) -> (batch,).

  Args:
    values: called inside the compiled step; its values for padding are ignored.
    **kind: `is_share` and `larger_is_better` of `Metric`.
  """

  def sums(logits, labels, weight):
    return jnp.sum(_counting(values(logits, labels, weight), weight))

  return Metric(sums, lambda sums, images: sums / images, **kind)


def accuracy(classes: int) -> Metric:
  """The share of images whose largest logit is that of their class."""
  del classes
  return per_image(lambda logits, labels, weight: _hits(logits, labels))


def balanced_accuracy(classes: int) -> Metric:
  """The mean over classes of the share of a class's images that are correct.

  Classes without images are left out.
  """

  def sums(logits, labels, weight):
    of_class = jax.nn.one_hot(labels, classes)
    hits, images = _counting(_hits(logits, labels), weight), _counting(1.0, weight)
    return {'correct': hits @ of_class, 'images': images @ of_class}

  def value(sums, images):
    return _mean_where(sums['images'] > 0, _ratio(sums['correct'], sums['images']))

  return Metric(sums, value)


def top_k(classes: int, k: int) -> Metric:
  """The share of images whose class is among the `k` largest logits.

  Raises:
    ValueError: `k` is not less than the number of classes.
  """
  if k >= classes:
    raise ValueError(f'top{k} is always 100 % for {classes} classes; use a smaller one')

  def values(logits, labels, weight):
    # Not by rank: if all logits are equal, each class would be first.
    hits = (jax.lax.top_k(logits, k)[1] == labels[:, None]).any(-1)
    return _nan_where_logits(logits, hits)

  return per_image(values)


def calibration_error(classes: int) -> Metric:
  """Expected calibration error: the distance of the largest probability from the accuracy.

  The mean distance over 15 bins of that probability, weighted by the number of images (Guo et al.
  2017, equation 3).
  """
  del classes

  def sums(logits, labels, weight):
    sure = jax.nn.softmax(logits).max(-1)
    of_bin = jnp.clip(jnp.ceil(_BINS * sure) - 1, 0, _BINS - 1)
    of_bin = jax.nn.one_hot(jnp.nan_to_num(of_bin).astype(jnp.int32), _BINS)
    both = jnp.stack([_counting(x, weight) for x in (sure, _hits(logits, labels))])
    return jnp.matmul(both, of_bin, precision='highest')  # a GPU would round to 10 bits

  def value(sums, images):
    return np.abs(sums[:, 0] - sums[:, 1]).sum(-1) / images

  return Metric(sums, value, is_share=False, larger_is_better=False)


def f1(classes: int) -> Metric:
  """The mean over classes of the harmonic mean of precision and recall.

  Classes that no image has or is predicted as are left out (macro F1 of scikit-learn).
  """

  def sums(logits, labels, weight):
    of_class = jax.nn.one_hot(labels, classes)
    predicted = _nan_where_logits(logits, jax.nn.one_hot(logits.argmax(-1), classes).T).T
    of_class, predicted = (_counting(x.T, weight).T for x in (of_class, predicted))
    return {'correct': (of_class * predicted).sum(0), 'either': (of_class + predicted).sum(0)}

  def value(sums, images):
    del images
    return _mean_where(sums['either'] != 0, 2 * _ratio(sums['correct'], sums['either']))

  return Metric(sums, value, is_share=False)


def find(name: str) -> Callable[..., Metric] | None:
  """The factory of `topK` for any whole number K above 0."""
  found = re.fullmatch(r'top([1-9]\d{0,8})', name)
  return functools.partial(top_k, k=int(found[1])) if found else None


KNOWN: dict[str, Callable[..., Metric]] = {
  'accuracy': accuracy,
  'balanced_accuracy': balanced_accuracy,
  'top3': functools.partial(top_k, k=3),
  'top5': functools.partial(top_k, k=5),
  'calibration_error': calibration_error,
  'f1': f1,
}


def loss_metric(loss: Callable[..., jax.Array]) -> Metric:
  """The mean over images of the study's loss.

  A swept argument of the loss has the config's value here, the same for all trials, so that trials
  can be compared. If label smoothing is swept, whose default is 0, this is plain cross-entropy, as
  in most evaluations.
  """
  return per_image(
    lambda logits, labels, weight: loss(logits, labels), is_share=False, larger_is_better=False
  )


def build(names: Sequence[str], classes: int, loss: Callable[..., jax.Array]) -> dict[str, Metric]:
  """The metrics of an evaluation: `ALWAYS`, then the rest of `names` in order.

  A user's metric, 'file.py:name', is called `name`. It is a function
    name(classes) -> Metric, or name() -> Metric; or
    name(logits, labels, weight) -> (batch,), values whose mean over images is the figure. Such a
    metric is not a share of the images, and larger is better.

  Args:
    names: of known metrics, or of the user's own.
    classes: how many.
    loss: f(logits, labels) -> (batch,).

  Raises:
    StudyError: a name is unknown, two metrics have the same name, or one does not fit.
  """
  made = {'loss': loss_metric(loss)}
  for name in (*ALWAYS[1:], *names):
    short, own = name.rpartition(':')[2], plugs.names_own(name)
    if name in made:
      continue
    if short in made or (own and short in (*KNOWN, *names)):
      raise StudyError(f'metrics: {name} has the name of another metric, {short}; rename one')
    factory = plugs.find('metrics', name)
    make = _own if own else _call
    made[short] = make(factory, classes)
  return made


def _call(factory: Callable, classes: int) -> Metric:
  return plugs.call('metrics', factory, {'classes': classes}, {})


def _own(factory: Callable, classes: int) -> Metric:
  """The metric of a user's function, tested on a batch."""
  title = plugs.title('metrics', factory)
  parameters = inspect.signature(factory).parameters
  needed = sum(p.default is p.empty and p.kind in (0, 1) for p in parameters.values())
  batch = shapes.array((4, classes)), shapes.array((4,), 'int32'), shapes.array((4,))
  if 'classes' not in parameters and needed > 1:
    found = shapes.of('metrics', factory, factory, *batch)
    if not (shapes.is_array(found, (4,)) or shapes.is_array(found, (4,), jnp.bool_)):
      raise StudyError(
        f'{title} gave {shapes.words(found)} for the logits, labels and weights of 4 images; a '
        'metric gives one number per image, (4,), or is a function of classes that returns a Metric'
      )
    return per_image(factory, is_share=False)
  metric = _call(factory, classes)
  if not isinstance(metric, Metric):
    raise StudyError(
      f'{title} gave {shapes.words(metric)} for {classes} classes; it must return an '
      'lr_study.Metric, or take logits, labels and weight'
    )
  sums = shapes.of('metrics', factory, metric.sums, *batch)
  leaves = jax.tree.leaves(sums)
  if not leaves or not all(shapes.is_array(x, getattr(x, 'shape', None)) for x in leaves):
    raise StudyError(f'{title}: its sums are {shapes.words(sums)}; they must be arrays')
  try:
    with np.errstate(all='ignore'), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      value = metric.value(jax.tree.map(lambda x: np.ones((2, *x.shape)), sums), 4)
  except Exception as error:
    raise StudyError(plugs.blame('metrics', factory, error)) from error
  if np.shape(value) != (2,):
    raise StudyError(
      f'{title}: its value for the sums of 2 trials has the shape {np.shape(value)}; it must be '
      'one number per trial, (2,)'
    )
  return metric


def _counting(x: Any, weight: jax.Array) -> jax.Array:
  # Not a product: 0 x NaN would be NaN.
  return jnp.where(weight > 0, x, 0)


def _nan_where_logits(logits: jax.Array, x: jax.Array) -> jax.Array:
  # argmax would return the class of a NaN and sometimes be right by chance.
  return jnp.where(jnp.isnan(logits).any(-1), jnp.nan, x)


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return _nan_where_logits(logits, logits.argmax(-1) == labels)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return a / np.where(b == 0, 1, b)


def _mean_where(occurs: np.ndarray, x: np.ndarray) -> np.ndarray:
  """The mean over those classes (the last axis) that occur."""
  return np.where(occurs, x, 0).sum(-1) / np.maximum(occurs.sum(-1), 1)
