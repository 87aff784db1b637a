"""A residual network with BatchNorm, as a user would write it in Flax Linen."""

import flax.linen as nn
import jax.numpy as jnp


class MyResNet(nn.Module):
  """A stem, `depth` residual blocks and a dense layer."""

  classes: int
  features: int = 8
  depth: int = 2
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train):
    def block(x):
      x = nn.Conv(self.features, (3, 3), use_bias=False, dtype=self.dtype)(x)
      return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)

    x = nn.relu(block(x))
    for _ in range(self.depth):
      x = nn.relu(x + block(nn.relu(block(x))))
    return nn.Dense(self.classes, dtype=self.dtype)(x.mean((1, 2)))
