"""Does the best rate depend on the weight decay? Tries every combination in one program.

  python scripts/sweep.py --config examples/weight_decay.py

To add another axis on the command line: --axis optimizer.momentum=0,0.9
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Five rates by four weight decays with two seeds: 40 trials, compiled once."""
  config = ConfigDict()
  config.learning_rates = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)
  config.seeds = (0, 1)
  config.axes = ConfigDict(
    {'optimizer.weight_decay': (0.0, 1e-4, 1e-3, 1e-2)}, allow_dotted_keys=True
  )
  config.epochs = 10
  config.batch_size = 32
  config.image_size = 64
  config.data = ConfigDict({'name': 'tombstone_letters', 'per_class': 100})
  config.input = ConfigDict({'subtract': 'none', 'grey': True, 'standardise': True, 'size': 16})
  config.model = ConfigDict({'name': 'mlp', 'hidden': (128,)})
  config.optimizer = ConfigDict({'name': 'sgd', 'momentum': 0.9})
  config.schedule = ConfigDict({'name': 'cosine'})
  return config
