"""A user's augmentation, schedule and search."""

import jax
import jax.numpy as jnp


def rolled(batch, key, pixels: int = 1):
  """Images from -1 to 1, each shifted sideways by at most `pixels` in training."""
  x = batch.images.astype(jnp.float32) / 127.5 - 1
  if key is not None:
    moves = jax.random.randint(key, x.shape[:1], -pixels, pixels + 1)
    x = jax.vmap(lambda image, move: jnp.roll(image, move, 1))(x, moves)
  return x, batch.labels


def sawtooth(steps_per_epoch, epochs, low: float = 0.1):
  """From 1 down to `low` in each epoch."""
  return lambda step: 1 - (1 - low) * (step % steps_per_epoch) / steps_per_epoch


def halves(config, told, rounds: int = 3):
  """The grid, then half of the smallest rate, so many times."""
  if not told:
    return [(rate, config.epochs) for rate in config.learning_rates]
  if len(told) == len(config.learning_rates) + rounds:
    return []
  return [(min(t.learning_rate for t in told) / 2, config.epochs)]
