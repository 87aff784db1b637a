"""Which rate for a ResNet-18 with AdamW and a cosine schedule, on a folder of images?

  python scripts/sweep.py --config examples/resnet_folder.py --config.data.dir=PATH

PATH has one sub-folder per class.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Six rates, half a decade apart, with three seeds."""
  config = ConfigDict()
  config.learning_rates = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
  config.seeds = (0, 1, 2)
  config.epochs = 20
  config.batch_size = 32
  config.image_size = 64
  config.data = ConfigDict({'name': 'image_folder'})
  # Each image has mean 0 and variance 1, and is shifted, rotated and zoomed a little each time.
  config.input = ConfigDict({'subtract': 'none', 'standardise': True})
  config.input.rotation, config.input.shift, config.input.zoom = 10.0, 0.05, 0.1
  config.model = ConfigDict({'name': 'resnet18', 'width': 0.5})
  config.optimizer = ConfigDict({'name': 'adamw', 'weight_decay': 0.05})
  config.optimizer.no_decay = ('bias', 'scale')  # biases and the scales of BatchNorm
  config.schedule = ConfigDict({'name': 'cosine', 'warmup_epochs': 1.0})
  return config
