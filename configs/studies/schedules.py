"""Does it pay to decay the learning rate, and does it matter how?

A small network trains with SGD on batches of 32 letters for ten epochs: at a constant rate, with
the rate divided by 10 after each third as in the published experiment, along a cosine, a straight
line, and with WSD (warm-up, stable, decay: constant, then a straight line over the last fifth).
Each schedule has its own best rate, a factor of 2 apart, from five seeds; gains are means over
pairs of trials with the same seed. Cosines of five and twenty epochs are compared with cool-downs
that branch off one run of WSD at a constant rate: only their last fifth is trained separately.

Published:

- The rate should decay: Mark III Systems, "Hyperparameters for Classifying Images with
  Convolutional Neural Networks - Part 1 - Learning Rate".
- A line to zero does better than a cosine: A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko,
  "Optimal Linear Decay Learning Rate Schedules and Further Refinements", 2023, arXiv 2310.07831.
- Cool-downs that branch off one constant run do as well as a cosine for each length: A. Hägele et
  al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024, arXiv
  2405.18392. WSD itself: S. Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models
  with Scalable Training Strategies", 2024, arXiv 2404.06395.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

PARTS = ('constant', 'step_decay', 'cosine', 'linear', 'wsd', 'cosine_5', 'cosine_20')
HORIZONS = (5, 10, 20)  # epochs
FULL = {'seeds': tuple(range(10)), 'data': {'per_class': 4000}, 'model': {'hidden': (256, 256)}}


def get_config(part: str = 'cosine', epochs: int = 10) -> ConfigDict:
  """The grid of rates for one schedule; `cosine_5` is a cosine of five epochs."""
  config = _letters.get_config(per_class=800, train_fraction=0.8)
  name, _, length = part.rpartition('_') if part[-1].isdigit() else (part, '', epochs)
  config.epochs, config.schedule = int(length), {'name': name}
  if name == 'step_decay':
    config.schedule.every_epochs = config.epochs / 3  # as published
  config.learning_rates = tuple(0.8 / 2**k for k in range(6))
  config.optimizer = {'name': 'sgd'}
  config.seeds, config.batch_size = (0, 1, 2, 3, 4), 32
  return config
