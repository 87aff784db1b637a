"""How does the best learning rate grow with the batch size?

The published experiment announced this as its second part. Each batch size trains for the same
number of epochs, at rates a factor of 2 apart.

Published: proportionally for SGD (Goyal et al. 2017, arXiv 1706.02677), and as the square root for
Adam (Malladi et al. 2022, arXiv 2205.10287).
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('sgd', 'adam')
_LARGEST = {'sgd': 0.8, 'adam': 0.05}


def get_config(part: str = 'sgd') -> ConfigDict:
  """The grid of rates and batch sizes for one optimiser."""
  config = _letters.get_config()
  config.optimizer = {'name': part}
  config.learning_rates = tuple(_LARGEST[part] / 2**k for k in range(11))
  config.axes = {'batch_size': (4, 8, 16, 32, 64, 128)}
  config.seeds = (0, 1, 2)
  config.epochs = 5
  return config
