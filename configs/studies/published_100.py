"""Does the published experiment come out as published, at its full size?

AlexNet as NVIDIA DIGITS has it, with 58 million parameters, on letters of 256 pixels: the seven
published rates for 30 epochs at batch size 1, each divided by 10 every 10th epoch, from one seed.
There are 100 letters of each class instead of 700, so that it takes 22,500 steps instead of
157,500. Which of DIGITS's two back ends had been used was not published, so both are run.

Published:

- Rates above 1e-4 did not converge, 1e-4 was best with about 95 % training accuracy, and lower
  rates did worse: Mark III Systems, "Hyperparameters for Classifying Images with Convolutional
  Neural Networks - Part 1 - Learning Rate", https://www.markiiisys.com/blog/. The networks and
  solvers are those of DIGITS 6.1.1. The letters are rendered: the photographs were not published.
"""

import importlib

from ml_collections import ConfigDict

_CONFIGS = {'tensorflow': 'alexnet_letters', 'caffe': 'alexnet_letters_caffe'}
PARTS = tuple(_CONFIGS)
FULL = {'data': {'per_class': 0}}  # all 700 of each class, as published


def get_config(part: str = 'tensorflow') -> ConfigDict:
  """The published experiment with one of DIGITS's back ends, on fewer letters."""
  config = importlib.import_module(f'lr_study.configs.{_CONFIGS[part]}').get_config()
  config.data.per_class = 100
  return config
