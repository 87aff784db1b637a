"""AlexNet in Flax Linen, as NVIDIA DIGITS's two back ends and torchvision define it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lr_study import convolution, factored

Params = Any  # a pytree of float32 arrays
KERNELS = (11, 5, 3, 3, 3)  # of the five convolutions, in every preset
POOL_AFTER = (0, 1, 4)  # max pooling, 3 x 3 with stride 2, follows these convolutions


@dataclasses.dataclass(frozen=True)
class Preset:
  """What the three AlexNets differ in. Five entries where a field holds one a convolution."""

  features: tuple[int, ...]
  padding: tuple[int, ...]
  groups: tuple[int, ...]
  init: str  # 'xavier' | 'gaussian' | 'torch'
  norm: bool  # local response normalisation after the first two
  ceil_pool: bool  # pooling windows may hang over the edge
  head_relu: bool  # ReLU after fc6 and fc7
  dropout_first: bool  # dropout before fc6 and fc7, not after them
  adaptive_pool: bool  # average to 6 x 6 before fc6


PRESETS = {
  # DIGITS 6.1.1, standard-networks/tensorflow/alexnet.py. Its head is linear: DIGITS left
  # the activations out.
  'digits_tensorflow': Preset(
    features=(96, 256, 384, 384, 256),
    padding=(0, 2, 1, 1, 1),
    groups=(1, 1, 1, 1, 1),
    init='xavier',
    norm=False,
    ceil_pool=False,
    head_relu=False,
    dropout_first=False,
    adaptive_pool=False,
  ),
  # DIGITS 6.1.1, standard-networks/caffe/alexnet.prototxt; layers as in Caffe.
  'digits_caffe': Preset(
    features=(96, 256, 384, 384, 256),
    padding=(0, 2, 1, 1, 1),
    groups=(1, 2, 1, 2, 2),
    init='gaussian',
    norm=True,
    ceil_pool=True,
    head_relu=True,
    dropout_first=False,
    adaptive_pool=False,
  ),
  # torchvision.models.alexnet: the single tower of "One weird trick" (Krizhevsky, 2014).
  'torchvision': Preset(
    features=(64, 192, 384, 256, 256),
    padding=(2, 2, 1, 1, 1),
    groups=(1, 1, 1, 1, 1),
    init='torch',
    norm=False,
    ceil_pool=False,
    head_relu=True,
    dropout_first=True,
    adaptive_pool=True,
  ),
}

# standard deviation of the kernel and value of the bias, layer by layer, in alexnet.prototxt
_GAUSSIAN = {
  'conv1': (0.01, 0.0),
  'conv2': (0.01, 0.1),
  'conv3': (0.01, 0.0),
  'conv4': (0.01, 0.1),
  'conv5': (0.01, 0.1),
  'fc6': (0.005, 0.1),
  'fc7': (0.005, 0.1),
  'fc8': (0.01, 0.0),
}


class Dense(nn.Module):
  """A dense layer whose kernel is a matrix, or factors (lr_study/factored.py) if given those.

  With factors its input and, as the gradient of a tap that is added to it, the gradient of its
  output can be had from outside.
  """

  features: int
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps (batch, inputs) to (batch, features)."""
    if self.has_variable('factors', 'kernel'):
      coordinates = self.get_variable('params', 'kernel')
      self.sow('inputs', 'x', x, reduce_fn=lambda _, value: value)
      x = factored.product(x, coordinates, self.get_variable('factors', 'kernel'))
      x = x + self.get_variable('taps', 'kernel')
    else:
      x = x @ self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
    return x + self.param('bias', self.bias_init, (self.features,))


class AlexNet(nn.Module):
  """Five convolutions and three dense layers.

  Attributes:
    preset: one of `PRESETS`.
    classes: number of logits.
    width: factor on every hidden layer's features; 1 is the published network.
    dropout: probability that a feature of fc6 and fc7 is dropped in training.
    matmul: compute convolutions as matrix products.
  """

  preset: Preset
  classes: int
  width: float = 1.0
  dropout: float = 0.5
  matmul: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps images (batch, height, width, 3), float32, to logits (batch, classes).

    In training a 'dropout' rng is needed.
    """
    preset = self.preset
    for i, kernel in enumerate(KERNELS):
      name, groups = f'conv{i + 1}', preset.groups[i]
      fan_in = kernel * kernel * x.shape[-1] // groups
      x = nn.Conv(
        scaled(preset.features[i], self.width, groups),
        (kernel, kernel),
        strides=4 if i == 0 else 1,
        padding=preset.padding[i],
        feature_group_count=groups,
        conv_general_dilated=convolution.as_matmul if self.matmul else jax.lax.conv_general_dilated,
        name=name,
        **_initializers(preset, name, fan_in),
      )(x)
      x = nn.relu(x)
      if preset.norm and i < 2:
        x = local_response_norm(x)
      if i in POOL_AFTER:
        x = max_pool(x, preset.ceil_pool)
    if preset.adaptive_pool:
      x = adaptive_average_pool(x, 6)
    x = x.reshape(x.shape[0], -1)
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    for name in ('fc6', 'fc7'):
      if preset.dropout_first:
        x = dropout(x)
      initializers = _initializers(preset, name, x.shape[-1])
      x = Dense(scaled(4096, self.width), name=name, **initializers)(x)
      if preset.head_relu:
        x = nn.relu(x)
      if not preset.dropout_first:
        x = dropout(x)
    return Dense(self.classes, name='fc8', **_initializers(preset, 'fc8', x.shape[-1]))(x)


def make_model(config: ConfigDict, classes: int) -> AlexNet:
  """Builds the network of the `model` part of a config."""
  # 'auto': XLA's grouped convolutions, which vmap makes of them, are slow on CPUs only.
  matmul = {'matmul': True, 'grouped': False, 'auto': jax.default_backend() == 'cpu'}
  return AlexNet(
    PRESETS[config.preset], classes, config.width, config.dropout, matmul[config.convolution]
  )


def init_params(model: AlexNet, key: jax.Array, image_size: int) -> Params:
  """Draws the initial weights for square images of `image_size` pixels."""
  return model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)['params']


def apply(
  model: AlexNet, params: Params, images: jax.Array, dropout_key: jax.Array | None = None
) -> jax.Array:
  """Logits (batch, classes) of images (batch, height, width, 3); a dropout key means training."""
  rngs = None if dropout_key is None else {'dropout': dropout_key}
  return model.apply({'params': params}, images, train=dropout_key is not None, rngs=rngs)


def apply_factored(
  model: AlexNet,
  params: Params,
  factors: dict[str, factored.Factors],
  taps: dict[str, jax.Array],
  images: jax.Array,
  dropout_key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Logits in training with factored dense kernels.

  Args:
    model: the network.
    params: with coordinates in the place of the kernels of `factors`.
    factors: of dense layers by name.
    taps: zeros (batch, outputs) for each of these layers, added to its output.
    images: (batch, height, width, 3).
    dropout_key: of dropout.

  Returns:
    Logits (batch, classes), and the input (batch, inputs) of each layer of `factors`.
  """
  variables = {'params': params} | {
    collection: {name: {'kernel': value} for name, value in by_layer.items()}
    for collection, by_layer in (('factors', factors), ('taps', taps))
  }
  logits, found = model.apply(
    variables, images, train=True, rngs={'dropout': dropout_key}, mutable=['inputs']
  )
  return logits, {name: found['inputs'][name]['x'] for name in factors}


def feature_size(preset: Preset, image_size: int) -> int:
  """Height and width of the last pooling's output for an image, 0 if the image is too small."""
  size = image_size
  for i, kernel in enumerate(KERNELS):
    size = (size + 2 * preset.padding[i] - kernel) // (4 if i == 0 else 1) + 1
    if i in POOL_AFTER:
      size = (size - 3 + (1 if preset.ceil_pool else 0)) // 2 + 1
    if size < 1:
      return 0
  return size


def smallest_image(preset: Preset) -> int:
  """The smallest image, in pixels, that leaves at least one feature."""
  return next(size for size in range(1, 1000) if feature_size(preset, size) > 0)


def scaled(features: int, width: float, groups: int = 1) -> int:
  """`features` times `width`, at least one a group and a multiple of `groups`."""
  return groups * max(1, round(features * width / groups))


def local_response_norm(x: jax.Array) -> jax.Array:
  """x / (1 + alpha / n * sum of x^2 over n channels)^beta, as Caffe's lrn_layer.cpp does it.

  n = 5, alpha = 1e-4, beta = 0.75 (Krizhevsky et al., 2012, section 3.3, with k = 1).
  """
  padded = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (2, 2)))
  channels = x.shape[-1]
  total = sum(padded[..., k : k + channels] for k in range(5))
  return x * (1 + 1e-4 / 5 * total) ** -0.75


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
  """Averages (batch, h, w, channels) to (batch, size, size, channels).

  Cell i covers rows floor(i h / size) to ceil((i + 1) h / size), as torch's
  AdaptiveAveragePool.cpp does it, so cells overlap where `size` does not divide h.
  """

  def weights(n: int) -> np.ndarray:
    matrix = np.zeros((size, n), np.float32)
    for i in range(size):
      start, stop = i * n // size, -(-(i + 1) * n // size)
      matrix[i, start:stop] = 1 / (stop - start)
    return matrix

  return jnp.einsum('ph,qw,bhwc->bpqc', weights(x.shape[1]), weights(x.shape[2]), x)


def max_pool(x: jax.Array, ceil: bool) -> jax.Array:
  """Maxima of 3 x 3 windows, 2 apart, of (batch, h, w, channels); `ceil`: they may hang over.

  The gradient goes to the first of equal maxima, row by row, as in Caffe's pooling_layer.cpp.
  Written as comparisons of slices: the gradient of XLA's reduce_window takes ten times as long
  on CPUs.
  """
  for axis in (2, 1):  # within the rows first: then ties go to the first row
    size = x.shape[axis]
    if ceil and (size - 3) % 2:
      overhang = [(0, 1) if i == axis else (0, 0) for i in range(4)]
      x = jnp.pad(x, overhang, constant_values=-jnp.inf)
    count = (x.shape[axis] - 3) // 2 + 1
    first, *others = (
      jax.lax.slice_in_dim(x, k, k + 2 * count - 1, stride=2, axis=axis) for k in range(3)
    )
    for other in others:
      first = jnp.where(other > first, other, first)
    x = first
  return x


def _initializers(preset: Preset, name: str, fan_in: int) -> dict[str, Callable[..., jax.Array]]:
  """Keyword arguments of a layer: its kernel's and its bias's initialiser."""
  if preset.init == 'xavier':  # Glorot and Bengio, 2010: slim's default
    return {'kernel_init': nn.initializers.xavier_uniform()}
  if preset.init == 'gaussian':
    std, bias = _GAUSSIAN[name]
    return {
      'kernel_init': nn.initializers.normal(std),
      'bias_init': nn.initializers.constant(bias),
    }

  # 'torch': uniform within 1 / sqrt(fan in), kernel and bias (torch/nn/modules/linear.py).
  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / np.sqrt(fan_in)

  return {'kernel_init': uniform, 'bias_init': uniform}
