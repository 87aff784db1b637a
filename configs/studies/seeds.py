"""How often does a study of one seed name the wrong learning rate?

A small network trains with SGD and a cosine for six epochs on 375, 1,500 or 6,000 letters, at nine
rates a quarter of a decade apart, from 40 seeds. A third as many letters validate. A study of k
seeds names the rate with the best mean validation accuracy. The right one is the best of all other
seeds on the same images, so what is measured is the luck of seeds (initial weights and the order
of the images), not that of the images. Wilson intervals count a study of k seeds as k of the 40.

Published:

- One run per rate, a decade apart: Mark III Systems, "Hyperparameters for Classifying Images with
  Convolutional Neural Networks - Part 1 - Learning Rate".
- Initial weights and the order of data change results enough to mislead comparisons:
  X. Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", 2021, arXiv
  2103.03098.
- The accuracy on the validation images varies between seeds, and hyperparameters are hard to
  compare for it: K. Jordan, "On the Variance of Neural Network Training with respect to Test Sets
  and Distributions", 2023, arXiv 2304.01910.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('375', '1500', '6000')  # training images
FULL = {'seeds': tuple(range(200))}
FULL_PARTS = (*PARTS, '24000')


def get_config(part: str = '375') -> ConfigDict:
  """The grid of rates and seeds for a number of training images."""
  config = _letters.get_config(per_class=int(part) * 4 // 30, train_fraction=0.75)
  config.learning_rates = tuple(10 ** (0.25 - k / 4) for k in range(9))
  config.optimizer, config.schedule = {'name': 'sgd'}, {'name': 'cosine'}
  config.seeds = tuple(range(40))
  config.epochs, config.batch_size = 6, 32
  return config
