"""A multilayer perceptron, for tables and for images."""

from typing import Any

import flax.linen as nn
import jax

from lr_study.plugs import AT_LEAST_0, BELOW_1, limits, one_of

_HE = nn.initializers.he_normal()  # He et al., 2015: keeps the scale of signals through ReLUs


@limits(
  hidden=(
    lambda sizes: all(type(n) is int and n >= 1 for n in sizes),
    'whole numbers from 1 up, one per hidden layer',
  ),
  dropout=BELOW_1,
  activation=one_of(('relu', 'tanh')),
  output_scale=AT_LEAST_0,
)
class MLP(nn.Module):
  """Dense layers with ReLUs or tanh between them: dense1, dense2, ...

  Attributes:
    classes: number of logits.
    hidden: features of the hidden layers; () is logistic regression.
    dropout: probability of dropping a hidden feature in training.
    activation: relu or tanh.
    output_scale: factor on the initial weights of the last layer; 0: the first logits are all 0.
    dtype: of activations and products.
  """

  classes: int
  hidden: tuple[int, ...] = (256, 256)
  dropout: float = 0.0
  activation: str = 'relu'
  output_scale: float = 1.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps inputs (batch, ...) to logits (batch, classes).

    With dropout, a 'dropout' rng is needed in training.
    """
    x = x.reshape(x.shape[0], -1)
    for i, features in enumerate(self.hidden, 1):
      x = nn.Dense(features, kernel_init=_HE, dtype=self.dtype, name=f'dense{i}')(x)
      x = nn.tanh(x) if self.activation == 'tanh' else nn.relu(x)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    name, init = f'dense{len(self.hidden) + 1}', nn.initializers.lecun_normal()
    kernel_init = lambda *arguments: self.output_scale * init(*arguments)  # noqa: E731
    return nn.Dense(self.classes, kernel_init=kernel_init, dtype=self.dtype, name=name)(x)
