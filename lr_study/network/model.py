"""AlexNet, as NVIDIA DIGITS's two back ends and torchvision define it, and a small network."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lr_study.network import convolution, factored
from lr_study.network.convolution import Layout
from lr_study.network.layers import (
  Conv,
  Dense,
  adaptive_average_pool,
  local_response_norm,
  max_pool,
)
from lr_study.network.presets import GAUSSIAN, KERNELS, POOL_AFTER, PRESETS, Preset, smallest_image

Params = Any  # a pytree of float32 arrays
PARTS = CONVOLUTIONS, DENSE = 'convolutions', 'dense'  # from images to rows, from rows to logits


class Network(nn.Module):
  """Convolutions, then dense layers: what every network here is."""

  @nn.compact
  def __call__(self, x: jax.Array | Layout, train: bool, part: str = '') -> jax.Array:
    """Maps images (batch, height, width, channels), float32, to logits (batch, classes).

    They may be laid out for the first layer. In training a 'dropout' rng is needed. `part` names
    one of `PARTS` to run alone.
    """
    if part != DENSE:
      x = self.convolutions(x)
    return x if part == CONVOLUTIONS else self.dense(x, train)

  def convolution(self, i: int) -> dict[str, int]:
    """What `Conv` takes to be the layer conv{i + 1}."""
    raise NotImplementedError

  def convolutions(self, x: jax.Array | Layout) -> jax.Array:
    """Maps images, or the first layer's layout of them, to rows (batch, inputs)."""
    raise NotImplementedError

  def dense(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps rows (batch, inputs) to logits (batch, classes)."""
    raise NotImplementedError


class AlexNet(Network):
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

  def convolution(self, i: int) -> dict[str, int]:
    groups = self.preset.groups[i]
    return {
      'features': scaled(self.preset.features[i], self.width, groups),
      'size': KERNELS[i],
      'stride': 4 if i == 0 else 1,
      'padding': self.preset.padding[i],
      'groups': groups,
    }

  def convolutions(self, x: jax.Array | Layout) -> jax.Array:
    preset = self.preset
    for i, kernel in enumerate(KERNELS):
      name = f'conv{i + 1}'
      fan_in = kernel * kernel * x.shape[-1] // preset.groups[i]
      initializers = _initializers(preset, name, fan_in)
      x = Conv(**self.convolution(i), matmul=self.matmul, name=name, **initializers)(x)
      x = nn.relu(x)
      self.sow('intermediates', f'{name}_output', x)
      if preset.norm and i < 2:
        x = local_response_norm(x)
      if i in POOL_AFTER:
        x = max_pool(x, preset.ceil_pool)
    if preset.adaptive_pool:
      x = adaptive_average_pool(x, 6)
    return x.reshape(x.shape[0], -1)

  def dense(self, x: jax.Array, train: bool) -> jax.Array:
    preset = self.preset
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    for name in ('fc6', 'fc7'):
      if preset.dropout_first:
        x = dropout(x)
      initializers = _initializers(preset, name, x.shape[-1])
      x = Dense(scaled(4096, self.width), name=name, **initializers)(x)
      if preset.head_relu:
        x = nn.relu(x)
      self.sow('intermediates', f'{name}_output', x)
      if not preset.dropout_first:
        x = dropout(x)
    return Dense(self.classes, name='fc8', **_initializers(preset, 'fc8', x.shape[-1]))(x)


class SmallCNN(Network):
  """Blocks of a 3 x 3 convolution, ReLU and pooling, and two dense layers.

  Attributes:
    classes: number of logits.
    width: factor on every hidden layer's features.
    dropout: probability that an input of a dense layer is dropped in training.
    matmul: compute convolutions as matrix products.
  """

  classes: int
  width: float = 1.0
  dropout: float = 0.5
  matmul: bool = False

  def convolution(self, i: int) -> dict[str, int]:
    return {'features': scaled(_SMALL_FEATURES[i], self.width), 'size': 3, 'padding': 1}

  def convolutions(self, x: jax.Array | Layout) -> jax.Array:
    for i in range(len(_SMALL_FEATURES)):
      name = f'conv{i + 1}'
      x = Conv(**self.convolution(i), matmul=self.matmul, kernel_init=_HE, name=name)(x)
      x = nn.relu(x)
      self.sow('intermediates', f'conv{i + 1}_output', x)
      x = max_pool(x, ceil=False)
    return x.reshape(x.shape[0], -1)

  def dense(self, x: jax.Array, train: bool) -> jax.Array:
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    x = dropout(x)
    x = Dense(scaled(256, self.width), kernel_init=_HE, name='dense1')(x)
    x = nn.relu(x)
    self.sow('intermediates', 'dense1_output', x)
    x = dropout(x)
    return Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name='dense2')(x)


_HE = nn.initializers.he_normal()  # He et al., 2015: keeps the size of signals through ReLUs
_SMALL_FEATURES = (32, 64, 128)  # of its convolutions
SMALL = 'small_cnn'
NETWORKS = (*PRESETS, SMALL)


def make_model(config: ConfigDict, classes: int) -> Network:
  """Builds the network of the `model` part of a config."""
  # 'auto': XLA's grouped convolutions, which vmap makes of them, are slow on CPUs only.
  matmul = {'matmul': True, 'grouped': False, 'auto': jax.default_backend() == 'cpu'}
  rest = (classes, config.width, config.dropout, matmul[config.convolution])
  return SmallCNN(*rest) if config.preset == SMALL else AlexNet(PRESETS[config.preset], *rest)


def init_params(model: Network, key: jax.Array, image_size: int, channels: int = 3) -> Params:
  """Draws the initial weights for square images of `image_size` pixels."""
  return model.init(key, jnp.zeros((1, image_size, image_size, channels)), train=False)['params']


def lay_out(model: Network, images: jax.Array) -> jax.Array | Layout:
  """What of the first layer hangs on no weights: `apply` and its kin take it for the images."""
  return convolution.lay_out(images, **model.convolution(0)) if model.matmul else images


def apply(
  model: Network, params: Params, images: jax.Array, dropout_key: jax.Array | None = None
) -> jax.Array:
  """Logits (batch, classes) of images (batch, height, width, 3); a dropout key means training."""
  return model.apply({'params': params}, images, **_mode(dropout_key))


def convolve(model: Network, params: Params, images: jax.Array) -> jax.Array:
  """What the dense layers take, (batch, inputs), of images: `apply` without dropout begins so."""
  return model.apply({'params': params}, images, train=False, part=CONVOLUTIONS)


def classify(model: Network, params: Params, rows: jax.Array) -> jax.Array:
  """Logits (batch, classes) of what `convolve` gives: `apply` without dropout ends so."""
  return model.apply({'params': params}, rows, train=False, part=DENSE)


def outputs(
  model: Network, params: Params, images: jax.Array, dropout_key: jax.Array | None = None
) -> tuple[dict[str, jax.Array], jax.Array]:
  """What each hidden layer gives after its ReLU (if any), in their order; and the logits.

  A layer's is (batch, height, width, features) or (batch, features); a dropout key means training.
  """
  logits, found = model.apply(
    {'params': params}, images, mutable='intermediates', **_mode(dropout_key)
  )
  by_layer = found['intermediates']
  return {name.removesuffix('_output'): of for name, (of,) in by_layer.items()}, logits


def _mode(dropout_key: jax.Array | None) -> dict[str, Any]:
  """What a network is called with, in training or not."""
  return {
    'train': dropout_key is not None,
    'rngs': None if dropout_key is None else {'dropout': dropout_key},
  }


def apply_factored(
  model: Network,
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


def smallest_input(network: str) -> int:
  """The smallest image, in pixels, that one of `NETWORKS` takes."""
  if network == SMALL:
    return 2 ** (len(_SMALL_FEATURES) + 1) - 1  # each pooling leaves (n - 1) // 2
  return smallest_image(PRESETS[network])


def scaled(features: int, width: float, groups: int = 1) -> int:
  """`features` times `width`, at least one a group and a multiple of `groups`."""
  return groups * max(1, round(features * width / groups))


def _initializers(preset: Preset, name: str, fan_in: int) -> dict[str, Callable[..., jax.Array]]:
  """Keyword arguments of a layer: its kernel's and its bias's initialiser."""
  if preset.init == 'xavier':  # Glorot and Bengio, 2010: slim's default
    return {'kernel_init': nn.initializers.xavier_uniform()}
  if preset.init == 'gaussian':
    std, bias = GAUSSIAN[name]
    return {
      'kernel_init': nn.initializers.normal(std),
      'bias_init': nn.initializers.constant(bias),
    }

  # 'torch': uniform within 1 / sqrt(fan in), kernel and bias (torch/nn/modules/linear.py).
  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / np.sqrt(fan_in)

  return {'kernel_init': uniform, 'bias_init': uniform}
