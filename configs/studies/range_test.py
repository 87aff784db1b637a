"""How good is the rate that a range test suggests?

Five networks and optimisers are trained for 200 steps of 32 images at rates a factor of 2 apart.
The range test of each, from the same weights, has fastai's settings: 100 steps in which the rate
rises from 1e-7 to 10. The rules of fastai and Lightning each suggest a rate from its losses. The
cost of a suggestion is the accuracy lost against the best rate, read off the sweep on straight
lines between rates; a rate outside of the sweep counts as its nearest end.

Published:

- A short run with a rising rate shows which rates to use: L. Smith, "Cyclical Learning Rates for
  Training Neural Networks", 2017, arXiv 1506.01186.
- The rules: fastai, callback/schedule.py (valley, its default; steep; minimum), and Lightning,
  pytorch/tuner/lr_finder.py. They give no figures on how close their rates come to the best one.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

_MLP, _CNN = {'name': 'mlp', 'hidden': (64,)}, {'name': 'small_cnn', 'width': 0.25, 'dropout': 0.0}
_MOMENTUM = {'name': 'sgd', 'momentum': 0.9}
_CASES = {  # the model, the optimiser and the largest rate of the sweep
  'mlp_momentum': (_MLP, _MOMENTUM, 3.2),
  'deep_sgd': (_MLP | {'hidden': (64,) * 4}, {'name': 'sgd'}, 3.2),
  'mlp_adam': (_MLP, {'name': 'adam'}, 0.4),
  'cnn_momentum': (_CNN, _MOMENTUM, 3.2),
  'cnn_adamw': (_CNN, {'name': 'adamw'}, 0.4),
}
PARTS = tuple(f'{case}{end}' for case in _CASES for end in ('', '_test'))
FULL = {'seeds': tuple(range(10)), 'data': {'per_class': 2000}}


def get_config(part: str = 'mlp_adam') -> ConfigDict:
  """The sweep of a network and an optimiser, or its range test."""
  model, optimizer, largest = _CASES[part.removesuffix('_test')]
  config = _letters.get_config(train_fraction=0.8)
  config.model, config.optimizer = model, optimizer
  config.learning_rates = tuple(largest / 2**k for k in range(11))
  config.seeds = (0, 1, 2)
  config.batch_size = 32
  config.data.per_class = 200
  config.epochs = 4  # of 50 steps
  config.schedule = {'name': 'linear'}
  if part.endswith('_test'):
    config.learning_rates, config.epochs = (10.0,), 2
    config.schedule = {'name': 'exponential', 'start_height': 1e-8}
  return config
