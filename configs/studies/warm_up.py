"""How much larger a rate does a warm-up allow?

A multilayer perceptron with three hidden layers of 32 ReLUs is trained for 240 steps of 128 images
at target rates a factor of 1.4 apart, with a linear warm-up of 0 to 128 steps: rates, warm-ups and
seeds are one compiled grid. A trial fails if it diverges, or if its training loss ends above that
of guessing. The largest stable rate is the largest one below which no trial of the seed fails. The
source has deeper networks; with one hidden layer, which was tried first, warm-up raised that rate
for neither optimiser.

Published:

- The main benefit of warm-up is that larger target rates can be used: with more steps of warm-up
  the boundary of failure moves to larger rates, for SGD and for Adam. D. Kalra, M. Barkeshli, "Why
  Warmup the Learning Rate? Underlying Mechanisms and Improvements", 2024, arXiv 2406.09405.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('sgd', 'adam')
_LARGEST = {'sgd': 6.4, 'adam': 0.2}
FULL = {
  'seeds': tuple(range(10)),
  'data': {'per_class': 2000},  # 125 steps an epoch
  'axes': {'schedule.warmup_steps': (0, 2, 8, 32, 128, 512)},
}


def get_config(part: str = 'sgd') -> ConfigDict:
  """The grid of rates and warm-ups for one optimiser."""
  config = _letters.get_config(train_fraction=0.8)
  config.model.hidden = (32,) * 3
  config.optimizer = {'name': part}
  config.learning_rates = tuple(_LARGEST[part] / 2 ** (k / 2) for k in range(15))
  config.axes['schedule.warmup_steps'] = (0, 2, 8, 32, 64, 128)
  config.seeds = (0, 1, 2, 3)
  config.batch_size = 128
  config.data.per_class = 200
  config.epochs = 20  # of 12 steps
  return config
