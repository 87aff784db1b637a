"""Does training settle at the edge of stability?

A multilayer perceptron with two hidden layers of 32 tanh is trained with all 200 images in each
step, by gradient descent with and without momentum and by Adam, on the squared error. After each
step, sharpness is measured, the largest eigenvalue of the loss's Hessian, and critical sharpness,
2 / the smallest rate at which the next update would raise the loss. It needs no Hessian.

Published:

- Sharpness rises to 2 (1 + momentum) / rate and stays just above it: J. Cohen, S. Kaur, Y. Li,
  Z. Kolter, A. Talwalkar, "Gradient Descent on Neural Networks Typically Occurs at the Edge of
  Stability", 2021, arXiv 2103.00065.
- With Adam, the sharpness after its preconditioner settles at 2 (1 + b1) / ((1 - b1) rate), which
  is 38 / rate: J. Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022, arXiv
  2207.14484.
- Critical sharpness shows this, too: D. Kalra, J.-C. Gagnon-Audet, A. Gromov, I. Mediratta, K. Niu,
  A. Miller, M. Shvartsman, "A Scalable Measure of Loss Landscape Curvature for Analyzing the
  Training Dynamics of LLMs", 2026, arXiv 2601.16979.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('sgd', 'momentum', 'adam')
_RATES = {'sgd': (0.24, 0.2, 0.17), 'momentum': (0.4, 0.34, 0.28), 'adam': (0.04, 0.03, 0.02)}
FULL = {'seeds': tuple(range(10)), 'epochs': 2000}


def get_config(part: str = 'sgd') -> ConfigDict:
  """Three rates of one optimiser."""
  config = _letters.get_config(per_class=40)
  config.model = {'name': 'mlp', 'hidden': (32, 32), 'activation': 'tanh'}
  config.loss = {'name': 'squared_error'}
  config.optimizer = {'name': 'adam' if part == 'adam' else 'sgd'}
  if part == 'momentum':
    config.optimizer.momentum = 0.5
  config.learning_rates = _RATES[part]
  config.seeds = (0, 1, 2)
  config.batch_size = 200  # all training images
  config.epochs = 450  # of a step each
  config.eval_batch_size = 200
  config.sharpness_images = config.critical_sharpness_images = 200
  return config
