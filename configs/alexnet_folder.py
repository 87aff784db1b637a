"""A study of your own images, in a folder with one sub-folder per class, small enough for a CPU.

  python scripts/sweep.py --config configs/alexnet_folder.py --config.data.dir=PATH
  python scripts/sweep.py --config configs/alexnet_folder.py:full --config.data.dir=PATH

It takes about 5 minutes for 2,000 images on two CPU cores. `full` is the published network at its
published size, for a GPU.
"""

from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters


def get_config(variant: str = '') -> ConfigDict:
  """The quick study on a folder, for the published number of epochs."""
  if variant not in ('', 'full'):
    raise ValueError(f'there is no variant {variant!r} of this config, only full')
  config = alexnet_letters.get_config('' if variant else 'quick')
  config.data.name = 'image_folder'
  config.data.per_class = 0  # all
  config.epochs = 30
  config.schedule.every_epochs = 10.0
  return config
