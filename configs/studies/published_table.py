"""Why did the published experiment fail to converge above a rate of 1e-4?

The published network, AlexNet as NVIDIA DIGITS has it, on an eighth of its width, without dropout,
and on 600 letters of 68 pixels: batch size 1, plain SGD for five epochs on pixels from 0 to 255
less their mean, the rate divided by 10 after each third of the run. One thing is changed at a time.
Rates are half a decade apart, from two seeds: stable up to the first at which a seed diverges. As
published, they are compared by the accuracy on training images in the last epoch. The initial
weights of DIGITS's Caffe network do not grow as it gets narrower, so little signal passes here.

Published:

- Rates above 1e-4 did not converge, 1e-4 was best, and lower rates did worse: Mark III Systems,
  "Hyperparameters for Classifying Images with Convolutional Neural Networks - Part 1 - Learning
  Rate", https://www.markiiisys.com/blog/. Pixels, networks and solvers are those of DIGITS 6.1.1.
"""

import dataclasses

from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters
from lr_study.models import alexnet

_DECAY = {'name': 'caffe_sgd', 'momentum': 0.0, 'bias_rate': 1.0, 'weight_decay': 0.01}
# What differs from the first.
CHANGES = {
  'digits_tensorflow': {},
  'scaled': {'input': {'scale': 1 / 255}},
  'standardised': {'input': {'subtract': 'none', 'standardise': True}},
  'mirrored': {'input': {'mirror': True}},
  'relu_head': {'model': {'name': f'{__file__}:relu_head'}},
  'momentum': {'optimizer': {'momentum': 0.9}},
  'decay_of_rate': {'optimizer': _DECAY},
  'decay': {'optimizer': _DECAY | {'decay_per_rate': False}},
  'wider': {'model': {'width': 0.25}},
  'digits_caffe': {'model': {'name': 'digits_caffe'}},
  'torchvision': {'model': {'name': 'torchvision'}},
}
PARTS = tuple(CHANGES)
FULL = {'seeds': tuple(range(5)), 'data': {'per_class': 400}}


def get_config(part: str = 'digits_tensorflow') -> ConfigDict:
  """The grid of rates for one change."""
  config = alexnet_letters.get_config('quick')
  config.image_size, config.model.width, config.data.per_class = 68, 0.125, 80
  config.epochs, config.schedule.every_epochs = 5, 5 / 3
  config.learning_rates = tuple(10 ** (1 - k / 2) for k in range(12))
  config.seeds = (0, 1)
  for section, fields in CHANGES[part].items():
    config[section].update(fields)
  return config


def relu_head(classes: int, width: float = 1.0, dropout: float = 0.5) -> alexnet.AlexNet:
  """DIGITS's network with ReLU after its first two dense layers."""
  variant = alexnet.digits_tensorflow(classes).variant
  return alexnet.AlexNet(dataclasses.replace(variant, head_relu=True), classes, width, dropout)
