"""A network with BatchNorm and dropout, as a user would write it in Flax NNX."""

from flax import nnx


class MyNNX(nnx.Module):
  """A convolution, BatchNorm, dropout and a dense layer, for images with one channel."""

  def __init__(self, classes: int, features: int = 8, dropout: float = 0.1, *, rngs: nnx.Rngs):
    self.conv = nnx.Conv(1, features, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(features, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(features, classes, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x)))
    return self.head(self.dropout(x).max((1, 2)))
