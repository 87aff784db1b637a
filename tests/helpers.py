"""A tiny study's data and trials, for tests that train without the rest of the program."""

import contextlib

import jax
import numpy as np

from lr_study import data, parallel, trial
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
  arrays, mean = parallel.share((parallel.Arrays(*data_set.train), data_set.mean), how)
  images = len(data_set.train.labels)
  orders = [trials.order(seed_T, epoch, images) for epoch in range(-(-steps // per_epoch))]
  state_T, rows = trials.init(seed_T), []
  # The weights and the order are drawn in float32 either way: float64 draws would be others.
  with jax.enable_x64(True) if exact else contextlib.nullcontext():
    if exact:
      state_T = jax.tree.map(lambda x: x.astype(_DOUBLE.get(x.dtype, x.dtype)), state_T)
    for step in range(steps):
      epoch, position = divmod(step, per_epoch)
      batch_S = trials.gather(arrays, orders[epoch], position * config.batch_size)
      state_T, metrics_T = trials.train_step(state_T, rate_T, seed_T, batch_S, mean, step)
      rows.append(metrics_T)
      if (position + 1) % trials.fold_every == 0 or position + 1 == per_epoch:
        state_T = trials.fold(state_T)
    rows = [trials.to_host(row) for row in rows]
    metrics = jax.tree.map(lambda *values: np.stack(values), *rows)
    return metrics, jax.tree.map(np.array, trials.to_host(state_T)), trials


_DOUBLE = {np.dtype(np.float32): np.float64}
