"""Which rate for your own network, written in Flax NNX?

python scripts/sweep.py --config examples/nnx_module.py
"""

from flax import nnx
from ml_collections import ConfigDict


class Net(nnx.Module):
  """Two convolutions with BatchNorm, dropout and a dense layer, for images with one channel."""

  def __init__(self, classes: int, features: int = 32, dropout: float = 0.1, *, rngs: nnx.Rngs):
    self.conv1 = nnx.Conv(1, features, (3, 3), strides=2, rngs=rngs)
    self.norm1 = nnx.BatchNorm(features, rngs=rngs)
    self.conv2 = nnx.Conv(features, 2 * features, (3, 3), strides=2, rngs=rngs)
    self.norm2 = nnx.BatchNorm(2 * features, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(2 * features, classes, rngs=rngs)

  def __call__(self, x):
    """Maps images (batch, height, width, 1) to logits (batch, classes)."""
    x = nnx.relu(self.norm1(self.conv1(x)))
    x = nnx.relu(self.norm2(self.conv2(x)))
    return self.head(self.dropout(x.mean((1, 2))))


def get_config() -> ConfigDict:
  """Five rates from three seeds, on rendered letters."""
  config = ConfigDict()
  config.learning_rates = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
  config.seeds = (0, 1, 2)
  config.epochs = 10
  config.batch_size = 32
  config.image_size = 64
  config.data = ConfigDict({'name': 'tombstone_letters', 'per_class': 200})
  config.input = ConfigDict({'subtract': 'none', 'grey': True, 'standardise': True, 'size': 32})
  config.model = ConfigDict({'name': f'{__file__}:Net', 'features': 16})
  config.optimizer = ConfigDict({'name': 'adamw'})
  config.schedule = ConfigDict({'name': 'cosine'})
  return config
