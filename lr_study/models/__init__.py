"""Networks: one file each, plain Flax Linen. `KNOWN` maps the names in a config to them."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict

from lr_study import plugs
from lr_study.errors import StudyError
from lr_study.models.alexnet import digits_caffe, digits_tensorflow, torchvision
from lr_study.models.convnext import convnext_tiny
from lr_study.models.inspection import check, check_batch, outputs
from lr_study.models.lenet import LeNet
from lr_study.models.mlp import MLP
from lr_study.models.nnx_adapter import FromNNX, is_nnx
from lr_study.models.resnet import resnet18, resnet50
from lr_study.models.small_cnn import SmallCNN
from lr_study.models.vit import vit_small, vit_tiny
from lr_study.optimizers.paths import EXPRESSIONS

KNOWN: dict[str, Callable[..., nn.Module]] = {
  'digits_tensorflow': digits_tensorflow,
  'digits_caffe': digits_caffe,
  'torchvision': torchvision,
  'small_cnn': SmallCNN,
  'mlp': MLP,
  'lenet': LeNet,
  'resnet18': resnet18,
  'resnet50': resnet50,
  'vit_tiny': vit_tiny,
  'vit_small': vit_small,
  'convnext_tiny': convnext_tiny,
}
SUPPLIED = ('classes', 'dtype', 'rngs')  # rngs: only for NNX modules

__all__ = [
  'KNOWN', 'SUPPLIED', 'build', 'check', 'check_batch', 'common', 'origin_fields', 'outputs'
]  # fmt: skip


def common(
  weights: str = '', redraw: tuple[str, ...] = (), freeze: tuple[str, ...] = ()
) -> dict[str, Any]:
  """The weights from which trials start, and which parameters are frozen, for any network.

  Args:
    weights: a file or folder of weights by the names of parameters, the work directory of another
      study, or 'file.py:function'; '': all weights are drawn.
    redraw: parameters whose path, such as 'conv1/bias', matches one of these regular expressions
      are drawn even if `weights` has them.
    freeze: parameters whose path matches one of these do not change.
  """
  return {'weights': weights, 'redraw': redraw, 'freeze': freeze}


def origin_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments of `common` in a config; empty if the network has its own argument of that name.

  Raises:
    StudyError: a regular expression is wrong. `common` has no limit for that, because it would also
      apply to a network's own argument.
  """
  factory = plugs.find('model', config['name'])
  names = (n for n in plugs.common('model') if n in config and not plugs.takes(factory, n))
  values = common(**{name: config[name] for name in names})
  for name in ('redraw', 'freeze'):
    plugs.convert(f'model.{name}', values[name], tuple[str, ...], EXPRESSIONS)
  return values


def build(config: Mapping[str, Any], classes: int, dtype: str) -> nn.Module:
  """Builds the network of the `model` section of a config.

  Args:
    config: `name`, one of `KNOWN` or 'file.py:Name', and arguments. The user's Name is a class of
      Linen or NNX modules, or a function that returns a Linen module, or an NNX module if it takes
      `rngs`. It is passed `classes` and `dtype` if it takes them; one that does not take `classes`
      must return as many logits as there are classes.
    classes: number of logits.
    dtype: of activations and products, 'float32' or 'bfloat16'.

  Raises:
    StudyError: there is no such network, or it does not take these arguments.
  """
  factory = plugs.find('model', config['name'])
  if isinstance(factory, nn.Module | nnx.Module):
    raise StudyError(
      f'model.name is {plugs.shown(config["name"])}, which is a module; name its class, or a '
      'function with an argument classes that returns it'
    )
  values = plugs.checked('model', factory, config)
  supplied = {'classes': classes, 'dtype': jnp.dtype(dtype)}
  if is_nnx(factory):
    of_all = plugs.common('model')
    values = {n: x for n, x in values.items() if n not in of_all or plugs.takes(factory, n)}
    return FromNNX(factory, values=FrozenDict(values), **supplied)
  model = plugs.call('model', factory, supplied, values)
  if isinstance(model, nnx.Module):
    raise StudyError(
      f'{plugs.title("model", factory)} returned an NNX module, but takes no argument rngs, '
      'from which the initial weights must be drawn'
    )
  if not isinstance(model, nn.Module):
    raise StudyError(
      f'{plugs.title("model", factory)} returned {type(model).__name__}; a model must be a Flax '
      'module'
    )
  if getattr(model, 'dtype', dtype) is None:  # a function may not have set it
    model = model.clone(dtype=supplied['dtype'])
  return model
