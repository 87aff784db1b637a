"""A tiny study's data and trials, for tests that train without the rest of the program."""

import contextlib
import functools

import jax
import numpy as np

from lr_study import data, feed, parallel, trial
from lr_study.config import check
from lr_study.search.rounds import Planned


def planned(rates, seeds, epochs):
  """Trials of one round and one wave."""
  return [
    Planned(rate, seed, 1, 'constant', epochs, 0, 0)
    for rate, seed in zip(rates, seeds, strict=True)
  ]


def load(config):
  config = check(config)
  return config, data.load(config.data, config.image_size)


def train(config, data_set, rates, seeds, steps, how='vmap', exact=False):
  """Trains `steps` steps of a study's first epochs; in float64 if `exact`.

  Returns:
    Metrics, each (steps, trials), the final state (trials, ...) on the host, and the compiled
    functions.
  """
  per_epoch = len(data_set.train.labels) // config.batch_size
  one = trial.make_trial(config, len(data_set.classes), per_epoch)
  trials = parallel.make_trials(
    one, seeds, how, config.batch_size, config.eval_batch_size, config.trials_per_call
  )
  rate_T = trials.to_devices(np.asarray(rates, np.float32))
  seed_T = trials.to_devices(np.asarray(seeds, np.uint32))
  part, mean = feed.make_feed(data_set.train, how), parallel.share(data_set.mean, how)
  images = len(data_set.train.labels)
  orders = [trials.order(seed_T, epoch, images) for epoch in range(-(-steps // per_epoch))]
  state_T, rows = trials.init(seed_T), []
  # The weights and the order are drawn in float32 either way: float64 draws would be others.
  with _double_precision() if exact else contextlib.nullcontext():
    if exact:
      double = functools.partial(jax.tree.map, lambda x: x.astype(_DOUBLE.get(x.dtype, x.dtype)))
      state_T, mean = double(state_T), double(mean)
    for epoch, order_S in enumerate(orders):
      done = epoch * per_epoch
      chunks = part.chunks(trials, order_S, 0, min(per_epoch, steps - done))
      state_T, of_epoch, _ = trials.train_steps(state_T, rate_T, seed_T, chunks, mean, done)
      rows.append(of_epoch)
    metrics = jax.tree.map(lambda *values: np.concatenate(values), *rows)
    return metrics, jax.tree.map(np.array, trials.to_host(state_T)), trials


@contextlib.contextmanager
def _double_precision():
  """In all threads, those that train among them: jax.enable_x64 is of one alone."""
  jax.config.update('jax_enable_x64', True)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', False)


_DOUBLE = {np.dtype(np.float32): np.float64}
