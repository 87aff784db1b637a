"""Which rate for a small vision transformer, and is it the same with half the weight decay?

  python scripts/sweep.py --config examples/vit.py

Twelve trials in one program, on letters that are rendered on the first run.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Three rates by two weight decays with two seeds."""
  config = ConfigDict()
  config.learning_rates = (3e-3, 1e-3, 3e-4)
  config.seeds = (0, 1)
  config.axes = ConfigDict({'optimizer.weight_decay': (0.05, 0.1)}, allow_dotted_keys=True)
  config.epochs = 30
  config.batch_size = 64
  config.image_size = 64
  config.data = ConfigDict({'name': 'tombstone_letters', 'per_class': 500})
  config.input = ConfigDict({'subtract': 'none', 'grey': True, 'standardise': True, 'size': 32})
  config.model = ConfigDict({'name': 'vit_tiny', 'width': 0.5, 'depth': 4, 'patch': 8})
  config.optimizer = ConfigDict({'name': 'adamw', 'clip_norm': 1.0})
  config.schedule = ConfigDict({'name': 'cosine', 'warmup_epochs': 2.0})
  config.loss = ConfigDict({'name': 'cross_entropy', 'smoothing': 0.1})
  return config
