"""Does training settle at the edge of stability?

Gradient descent on all images at once, with momentum 0 and 0.9, and Adam, at rates a factor of 2
apart. After each step: sharpness, and critical sharpness, which needs no Hessian. A multilayer
perceptron with one hidden layer; label smoothing keeps the loss from going to 0, where sharpness
does too.

Published: sharpness rises to 2 (1 + momentum) / rate and stays just above it (Cohen, Kaur, Li,
Kolter and Talwalkar 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of
Stability, arXiv 2103.00065). With Adam, the sharpness after its preconditioner does the same at
2 (1 + b1) / ((1 - b1) rate) = 38 / rate (Cohen et al. 2022, Adaptive Gradient Methods at the Edge of
Stability, arXiv 2207.14484). Critical sharpness shows this too (Kalra et al. 2026, A Scalable
Measure of Loss Landscape Curvature for Analyzing the Training Dynamics of LLMs, arXiv 2601.16979).
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('sgd', 'adam')
_LARGEST = {'sgd': 0.4, 'adam': 0.008}


def get_config(part: str = 'sgd') -> ConfigDict:
  """Three rates for each momentum, or for Adam."""
  config = _letters.get_config(per_class=40)
  config.model.hidden = (32,)
  config.optimizer = {'name': part}
  config.loss = {'name': 'squared_error'}
  config.learning_rates = tuple(_LARGEST[part] / 2**k for k in range(3))
  if part == 'sgd':
    config.axes['optimizer.momentum'] = (0.0, 0.9)
  config.seeds = (0, 1, 2)
  config.batch_size = 200  # all training images
  config.epochs = 500  # of a step each
  config.eval_batch_size = 200
  config.sharpness_images = config.critical_sharpness_images = 200
  config.log_every_steps = 100
  return config
