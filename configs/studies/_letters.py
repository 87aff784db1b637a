"""What the studies share: letters of 16 pixels, which need no download, and a small network."""

from ml_collections import ConfigDict

from lr_study.configs import alexnet_letters


def get_config(per_class: int = 400, train_fraction: float = 0.5) -> ConfigDict:
  """Ten letters in grey, standardised; a multilayer perceptron with one hidden layer."""
  config = alexnet_letters.get_config()
  config.image_size = 64  # the smallest size of rendered letters
  config.data.per_class = per_class
  config.data.train_fraction = train_fraction
  config.input.subtract = 'none'  # standardised below
  config.input.grey = True
  config.input.size = 16
  config.input.standardise = True
  config.model = {'name': 'mlp', 'hidden': (64,)}
  config.schedule = {'name': 'constant'}
  config.eval_batch_size = 500
  return config
