"""From rendered letters to photographs: trials that start from a network that is trained already.

  python scripts/sweep.py --config configs/letters_to_photos.py
  python scripts/sweep.py --config configs/finetune_letters.py --config.data.dir=PHOTOGRAPHS
  python scripts/sweep.py --config configs/finetune_letters.py --config.data.dir=PHOTOGRAPHS \
    --config.model.weights= --workdir runs/from_scratch

The first trains on letters rendered from typefaces alone. The second starts each trial from the
trial that it recommends, on a hundred photographs a class; the third draws all weights at random.
With --config.model.redraw=dense2 the last layer is drawn, for other classes, say; with
--config.model.freeze=conv the convolutions stay as they are.
"""

from ml_collections import ConfigDict

from lr_study.configs import letters_to_photos


def get_config() -> ConfigDict:
  """The study of the README's figures."""
  config = letters_to_photos.get_config()
  config.learning_rates = (3e-2, 1e-2, 3e-3, 1e-3)
  config.seeds = (0, 1, 2)  # few images: one seed would say little
  config.epochs = 15
  config.model.weights = 'runs/letters_to_photos'  # its network and its `input` are those above
  config.data.name = 'image_folder'
  config.data.per_class = 125  # a hundred to train on, where there are as many
  config.data.train_fraction = 0.8
  config.schedule = {'name': 'cosine'}
  return config
