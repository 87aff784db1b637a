"""The published experiment on DIGITS's other back end, Caffe: its network and its solver.

  python scripts/sweep.py --config configs/alexnet_letters_caffe.py

The differences: local response normalisation, grouped convolutions and a ReLU head; momentum 0.9
with the rate inside the velocity; weight decay of a hundredth of the rate, so that a sweep over the
rate also sweeps the decay; biases at twice the rate and without decay; random 227-pixel crops; the
same order of the images every epoch. DIGITS also mirrors images at random by default, which is
wrong for letters; --config.input.mirror=True turns that on. DIGITS drops the rate after each 33 %
of all steps, a tenth of an epoch before epochs 10 and 20.
"""

from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters


def get_config() -> ConfigDict:
  """The experiment with DIGITS's Caffe back end (model/tasks/caffe_train.py)."""
  config = alexnet_letters.get_config()
  config.input.crop = 227
  config.input.bgr = True
  config.data.reshuffle = False
  config.model = {'name': 'digits_caffe', 'dropout': 0.5}
  config.schedule.every_epochs = 9.9
  config.optimizer = {'name': 'caffe_sgd'}
  config.optimizer.momentum = 0.9
  config.optimizer.rate_in_velocity = True
  config.optimizer.weight_decay = 0.01
  config.optimizer.decay_per_rate = True
  config.optimizer.bias_rate = 2.0
  config.optimizer.bias_decay = 0.0
  return config
