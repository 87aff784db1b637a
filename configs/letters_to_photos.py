"""Trains on rendered letters only, to be tested on photographs.

  python scripts/sweep.py --config configs/letters_to_photos.py
  python scripts/classify.py --workdir runs/letters_to_photos PHOTOGRAPHS

A small network on grey, standardised inputs of 40 pixels, with augmentation. It took 11 minutes on
two CPU cores and reached 98 % on rendered letters, and 85.6 % balanced accuracy on the Chars74K
photographs (README).
"""

from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters


def get_config() -> ConfigDict:
  """The study on rendered letters; its result is in the README."""
  config = alexnet_letters.get_config()
  config.learning_rates = (2e-2, 1e-2, 5e-3)
  config.epochs = 13
  config.batch_size = 32  # gradients of single augmented images are too noisy for momentum
  config.image_size = 64
  config.eval_batch_size = 250
  config.data.per_class = 2000
  config.data.train_fraction = 0.9  # the photographs are the test
  config.input.subtract = 'none'  # standardised below
  config.input.grey = True
  config.input.size = 40
  config.input.standardise = True
  config.input.rotation = 20.0
  config.input.shift = 0.08
  config.input.zoom = 0.15
  config.input.stretch = 0.35  # letters on signs are wider, narrower and ...
  config.input.shear = 0.3  # ... more slanted than on stones
  config.input.invert = True
  config.model = {'name': 'small_cnn', 'dropout': 0.3}
  config.schedule = {'name': 'piecewise', 'from_epochs': (9, 12), 'heights': (0.2, 0.04)}
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  return config
