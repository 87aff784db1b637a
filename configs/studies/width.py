"""How does the best learning rate depend on the width of the network?

Networks with two hidden layers of 32 to 512 ReLUs each are trained by Adam for 200 steps of 32
images, in the standard parametrisation and in muP. The last layer starts at 0 in both, so that
they differ in rates only: in muP, those of a layer whose inputs are a hidden layer are divided by
the width, relative to the width of 32, where both are the same. The coordinate check takes four
steps at one rate, and measures how far they move the outputs of the second hidden layer.

Published:

- In muP the best rate does not depend on the width, so that of a narrow network can be used for a
  wide one; in the standard parametrisation it falls, and the rate of a narrow network is too large
  for a wide one: G. Yang, E. Hu, I. Babuschkin, S. Sidor, X. Liu, D. Farhi, N. Ryder, J. Pachocki,
  W. Chen, J. Gao, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter
  Transfer", 2022, arXiv 2203.03466. In muP, steps move the outputs of all layers equally far at
  any width; in the standard parametrisation, further in wide networks. The factors are those of
  its Table 3 for Adam, and of the authors' code (MuAdam and MuReadout of github.com/microsoft/mup).
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

WIDTHS = (32, 64, 128, 256, 512)
PARTS = tuple(f'{name}_{width}' for name in ('standard', 'mup') for width in WIDTHS)
FULL = {'seeds': tuple(range(10)), 'data': {'per_class': 4000}, 'epochs': 4}
FULL_PARTS = tuple(f'{name}_{2**k}' for name in ('standard', 'mup') for k in range(5, 13))


def get_config(part: str = 'standard_32') -> ConfigDict:
  """The grid of rates for one width in one parametrisation."""
  name, _, width = part.partition('_')
  config = _letters.get_config(train_fraction=0.8)
  config.model = {'name': 'mlp', 'hidden': (int(width), int(width)), 'output_scale': 0.0}
  config.optimizer = {'name': 'adam'}
  if name == 'mup':  # a kernel's fan-in is the width, except that of the first layer
    config.optimizer.rate_factors = (('dense[23]/kernel', WIDTHS[0] / int(width)),)
  config.learning_rates = tuple(0.064 / 2**k for k in range(9))
  config.seeds = (0, 1, 2)
  config.batch_size = 32
  config.data.per_class = 400
  config.epochs = 2
  config.schedule = {'name': 'linear'}
  return config
