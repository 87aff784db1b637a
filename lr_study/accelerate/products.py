"""Computes `nn.Conv` and `nn.Dense` of any network as matrix products, which are fast on CPUs."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from lr_study.accelerate import convolution
from lr_study.accelerate.watch import watch
from lr_study.trial import Task

_MOST_GROUPS = 8  # each is a separate product
_MOST_OUTPUTS = 6000
_SMALL_STRIDE = 2


class Convolutions(NamedTuple):
  """A network's convolutions: how many can be products, how many cannot, and the most outputs.

  Outputs are images x height x width. They ignore convolutions with a stride above 2, such as
  AlexNet's first, whose windows are a few slices of blocks.
  """

  fit: int
  left: int
  outputs: int


NONE = Convolutions(0, 0, 0)


def survey(task: Task, batch_size: int) -> Convolutions:
  """The convolutions of one step."""
  fit, left, outputs = [], [], []

  def look(next_call, arguments, keywords, context):
    layer = context.module
    found = next_call(*arguments, **keywords)
    if isinstance(layer, nn.Conv) and context.method_name == '__call__':
      plain = _is_plain(layer, arguments, keywords)
      (fit if plain else left).append(layer)
      if plain and _single(layer.strides) <= _SMALL_STRIDE:
        outputs.append(math.prod(found.shape[:3]))
    return found

  watch(task, batch_size, look)
  return Convolutions(len(fit), len(left), max(outputs, default=0))


def applies(convolutions: Convolutions, how: str) -> bool:
  """True if products are faster on a CPU. `how`: the way in which trials run side by side.

  With a trial axis, convolutions become grouped ones, which XLA computes 6 to 20 times slower.
  Without one, products are faster if there are few outputs. The time of products divided by that of
  XLA's convolutions, on two cores, by the number of outputs: small_cnn 0.68 with 1,600, 1.14 with
  6,400; LeNet 0.61 with 3,136; AlexNet of a quarter of the width 0.55 with 1,296, 0.67 with 5,184;
  ResNet-18 of a quarter of the width 0.73 with 1,024, 1.06 with 2,048, 1.69 with 8,192.
  """
  if not convolutions.fit or convolutions.left:
    return False
  return how != 'threads' or convolutions.outputs <= _MOST_OUTPUTS


def intercept(next_call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
  """For `nn.intercept_methods`: computes a layer as products, with its own weights."""
  layer = context.module
  # While weights are drawn, the layer runs as usual.
  if context.method_name != '__call__' or not layer.has_variable('params', 'kernel'):
    return next_call(*arguments, **keywords)
  if type(layer) is nn.Conv and _is_plain(layer, arguments, keywords):
    (x,), kernel = arguments, layer.get_variable('params', 'kernel')
    stride = _single(layer.strides)
    x = jnp.pad(x, ((0, 0), *_padding(layer, x.shape[1:3], stride), (0, 0)))
    y = convolution.convolve(x, kernel, stride, 0, layer.feature_group_count)
  elif type(layer) is nn.Dense and _is_rows(layer, arguments, keywords):
    y = convolution.product(arguments[0], layer.get_variable('params', 'kernel'))
  else:
    return next_call(*arguments, **keywords)
  return y + layer.get_variable('params', 'bias') if layer.use_bias else y


def _is_plain(layer: nn.Conv, arguments: Any, keywords: Any) -> bool:
  """True for a square kernel without dilation on float32 images (batch, h, w, channels)."""
  if type(layer) is not nn.Conv or keywords or len(arguments) != 1:
    return False
  x, sizes = arguments[0], layer.kernel_size
  return (
    x.ndim == 4
    and x.dtype == jnp.float32
    and layer.dtype in (None, jnp.float32)
    and layer.param_dtype == jnp.float32
    and not isinstance(sizes, int)
    and len(sizes) == 2
    and sizes[0] == sizes[1]
    and _single(layer.strides) is not None
    and _single(layer.kernel_dilation) == 1
    and _single(layer.input_dilation) == 1
    and layer.feature_group_count <= _MOST_GROUPS
    and (layer.padding in ('VALID', 'SAME') or not isinstance(layer.padding, str))
    and layer.mask is None
    and layer.precision is None
    and layer.conv_general_dilated is None
    and layer.conv_general_dilated_cls is None
  )


def _is_rows(layer: nn.Dense, arguments: Any, keywords: Any) -> bool:
  return (
    not keywords
    and len(arguments) == 1
    and arguments[0].ndim == 2
    and arguments[0].dtype == jnp.float32
    and layer.dtype in (None, jnp.float32)
    and layer.precision is None
    and layer.dot_general is None
    and layer.dot_general_cls is None
    and layer.get_variable('params', 'kernel').ndim == 2
  )


def _single(value: Any) -> int | None:
  """One number for both directions, for example of strides; None if they differ."""
  if value is None or isinstance(value, int):
    return 1 if value is None else value
  return value[0] if len(set(value)) == 1 else None


def _padding(
  layer: nn.Conv, shape: tuple[int, int], stride: int
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Zeros before and after the rows and the columns."""
  padding, size = layer.padding, layer.kernel_size[0]
  if padding == 'VALID':
    return (0, 0), (0, 0)
  if padding == 'SAME':
    total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in shape]
    rows, columns = ((t // 2, t - t // 2) for t in total)
    return rows, columns
  if isinstance(padding, int):
    return ((padding, padding),) * 2
  rows, columns = ((p, p) if isinstance(p, int) else tuple(p) for p in padding)
  return rows, columns
