"""How does the best learning rate grow with the batch size?

The published experiment announced this as its second part. All batch sizes train a small network
on the same number of images, 32,000, at rates a factor of 2 apart. A parabola through the three
lowest validation losses places the best rate between them, for each seed. The steps to a training
loss of 1.2 nats are those of the rate that needs the fewest.

Published:

- With SGD, multiply the rate by k when the batch is multiplied by k: P. Goyal et al., "Accurate,
  Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv 1706.02677.
- With Adam, multiply it by the square root of k: S. Malladi, K. Lyu, A. Panigrahi, S. Arora, "On
  the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022, arXiv 2205.10287.
- Adam's best rate falls again for large batches: S. Li et al., "Surge Phenomenon in Optimal
  Learning Rate and Batch Size Scaling", 2024, arXiv 2405.14578.
- The steps to a loss are S_min (1 + B_crit / B), where B is the batch size: S. McCandlish,
  J. Kaplan, D. Amodei, "An Empirical Model of Large-Batch Training", 2018, arXiv 1812.06162.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('sgd', 'adam')
_RATES = {'sgd': (3.2, 12), 'adam': (0.064, 10)}  # the largest, and how many
FULL = {
  'seeds': tuple(range(10)),
  'data': {'per_class': 4000},
  'epochs': 20,  # 60 steps of the largest batches
  'axes': {'batch_size': tuple(2**k for k in range(3, 14))},
}


def get_config(part: str = 'sgd') -> ConfigDict:
  """The grid of rates and batch sizes for one optimiser."""
  config = _letters.get_config(per_class=800, train_fraction=0.8)
  largest, count = _RATES[part]
  config.learning_rates = tuple(largest / 2**k for k in range(count))
  config.axes = {'batch_size': (8, 16, 32, 64, 128, 256, 512, 1024)}
  config.optimizer = {'name': part}
  config.seeds = (0, 1, 2, 3, 4)
  config.epochs = 5
  return config
