"""Parts that do not fit."""

import flax.linen as nn


class PerPixel(nn.Module):
  """Forgets to average over pixels."""

  classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(x)


class NoClasses(nn.Module):
  """Has no argument `classes`, so `features` must be their number."""

  features: int = 10

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.features)(x.reshape(len(x), -1))


def no_transform(learning_rate):
  """Gives a number."""
  return -learning_rate


def scalar_loss(logits, labels):
  """Takes the mean itself."""
  return -nn.log_softmax(logits)[0, labels].mean()


def failing_data():
  """Raises an error."""
  raise KeyError('column label')


def again(config, told, epochs: int = 1):
  """Asks for a rate of the grid, whatever the results."""
  return [(config.learning_rates[0], epochs)]
