"""Is Muon or Prodigy better than SGD with momentum, each at its own best rate?

  python scripts/sweep.py --config examples/optimizers.py

Prodigy finds its own rate. The swept rate is a factor on it, and 1 should be good.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Six rates by three optimisers with two seeds; each optimiser gets a verdict."""
  config = ConfigDict()
  config.learning_rates = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3)
  config.seeds = (0, 1)
  config.axes = ConfigDict({'optimizer.name': ('sgd', 'muon', 'prodigy')}, allow_dotted_keys=True)
  config.epochs = 10
  config.batch_size = 32
  config.image_size = 64
  config.data = ConfigDict({'name': 'tombstone_letters', 'per_class': 200})
  config.input = ConfigDict({'subtract': 'none', 'grey': True, 'standardise': True, 'size': 32})
  config.model = ConfigDict({'name': 'small_cnn', 'width': 0.5, 'dropout': 0.0})
  config.optimizer = ConfigDict({'name': 'sgd', 'momentum': 0.9})  # the others have no momentum
  config.schedule = ConfigDict({'name': 'cosine'})
  return config
