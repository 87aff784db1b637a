"""Do I need to sweep the learning rate at all?

A small network trains for five epochs with each of nine optimisers, from five seeds, at rates a
factor of 2 apart around the optimiser's usual one. The rate follows a cosine; with DoG and
schedule-free AdamW, which are made without a schedule, it is constant. For Prodigy, D-Adaptation
and DoG, which find their own rate, the rate is a factor on it. DoG is evaluated at its last
weights, not at their average.

The usual rates: Keras's for SGD and AdamW, 1e-4 for Lion, 0.02 for Muon (K. Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/), and the defaults of optax for the others.

Published:

- Prodigy comes close to hand-tuned Adam: K. Mishchenko, A. Defazio, "Prodigy: An Expeditiously
  Adaptive Parameter-Free Learner", 2023, arXiv 2306.06101.
- D-Adaptation matches hand-tuned rates: A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by
  D-Adaptation", 2023, arXiv 2301.07733.
- DoG is close to SGD with a tuned rate: M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A
  Parameter-Free Dynamic Step Size Schedule", 2023, arXiv 2302.12022.
- Schedule-free matches a schedule: A. Defazio et al., "The Road Less Scheduled", 2024, arXiv
  2405.15682.
- Several optimisers at their defaults do about as well as one that is tuned: R. M. Schmidt,
  F. Schneider, P. Hennig, "Descending through a Crowded Valley", 2020, arXiv 2007.01547.
- Lion needs a rate 3 to 10 times smaller than AdamW's: X. Chen et al., "Symbolic Discovery of
  Optimization Algorithms", 2023, arXiv 2302.06675.
- Rate sensitivity: M. Wortsman et al., "Small-scale proxies for large-scale Transformer training
  instabilities", 2023, arXiv 2309.14322. It is taken over the grid here, 3.3 decades.
"""

from ml_collections import ConfigDict

from lr_study.configs.studies import _letters

# The usual rate, and the powers of 2 from the largest rate to the smallest.
_GRIDS = {
  'sgd': (0.01, 8, -3),
  'momentum': (0.01, 5, -6),
  'adamw': (1e-3, 6, -5),
  'lion': (1e-4, 8, -3),
  'muon': (0.02, 5, -6),
  'schedule_free_adamw': (2.5e-3, 6, -5),
  'prodigy': (1.0, 6, -5),
  'dadapt_adamw': (1.0, 6, -5),
  'dog': (1.0, 6, -5),
}
PARTS = tuple(_GRIDS)
USUAL = {name: usual for name, (usual, *_) in _GRIDS.items()}
FULL = {'seeds': tuple(range(10)), 'data': {'per_class': 4000}, 'model': {'hidden': (256, 256)}}


def get_config(part: str = 'adamw') -> ConfigDict:
  """The grid of rates for one optimiser."""
  config = _letters.get_config(per_class=800, train_fraction=0.8)
  usual, largest, smallest = _GRIDS[part]
  config.learning_rates = tuple(usual * 2.0**k for k in range(largest, smallest - 1, -1))
  config.optimizer = {'name': 'sgd', 'momentum': 0.9} if part == 'momentum' else {'name': part}
  is_constant = part in ('schedule_free_adamw', 'dog')
  config.schedule = {'name': 'constant' if is_constant else 'cosine'}
  config.seeds, config.epochs, config.batch_size = (0, 1, 2, 3, 4), 5, 64
  return config
