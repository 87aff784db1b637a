"""From rendered letters to photographs: trials start from a trained network.

  python scripts/sweep.py --config configs/letters_to_photos.py
  python scripts/sweep.py --config configs/finetune_letters.py --config.data.dir=PHOTOGRAPHS
  python scripts/sweep.py --config configs/finetune_letters.py --config.data.dir=PHOTOGRAPHS \
    --config.model.weights= --workdir runs/from_scratch

The first command trains on rendered letters only. The second starts each trial from the trial that
the first recommends, and trains on a hundred photographs per class. The third draws all weights at
random. --config.model.redraw=dense2 draws the last layer at random, for example for other classes;
--config.model.freeze=conv leaves the convolutions unchanged.
"""

from ml_collections import ConfigDict

from lr_study.configs import letters_to_photos


def get_config() -> ConfigDict:
  """The second study; its results are in the README."""
  config = letters_to_photos.get_config()
  config.learning_rates = (3e-2, 1e-2, 3e-3, 1e-3)
  config.seeds = (0, 1, 2)  # few images: one seed would say little
  config.epochs = 15
  config.model.weights = 'runs/letters_to_photos'  # its network and its `input` are those above
  config.data.name = 'image_folder'
  config.data.per_class = 125  # a hundred to train on, if a class has that many
  config.data.train_fraction = 0.8
  config.schedule = {'name': 'cosine'}
  return config
