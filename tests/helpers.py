"""A tiny study's data and trials, for tests that train without the rest of the program."""

import contextlib
import functools

import jax
import numpy as np

from lr_study import data, trials
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


def prepare(config, data_set, rates, seeds=None):
  """The sweep of these trials, and all of them as running trials."""
  sweep = trials.prepare(config, data_set)
  sweep = sweep._replace(trials=tuple(planned(rates, seeds or [0] * len(rates), config.epochs)))
  return sweep, trials.running(sweep, np.arange(len(rates)))


def train(config, data_set, rates, seeds, steps, how=None, exact=False):
  """Trains `steps` steps of a study's first epochs; in float64 if `exact`.

  Returns:
    Metrics, each (steps, trials), the final state (trials, ...) on the host, and the sweep.
  """
  config = config.copy_and_resolve_references().unlock()
  config.parallel = how or config.parallel
  # The weights and the order are drawn in float32 either way: float64 draws would be others.
  sweep, now = prepare(check(config), data_set, rates, seeds)
  per_epoch, spread = sweep.steps_per_epoch, sweep.spread
  state_T, rows = spread.init(now.hyper_T, now.seeds), []
  list(trials.chunks(sweep, now.seeds, 0, 0, 1))
  with _double_precision() if exact else contextlib.nullcontext():
    if exact:
      double = functools.partial(jax.tree.map, lambda x: x.astype(_DOUBLE.get(x.dtype, x.dtype)))
      state_T = spread.put(double(spread.get(state_T, len(rates))))
      now = now._replace(hyper_T=double(now.hyper_T))
    for epoch in range(-(-steps // per_epoch)):
      last = min(per_epoch, steps - epoch * per_epoch)
      state_T, of_epoch, _ = trials.train_steps(sweep, now, state_T, epoch, 0, last)
      rows.append(of_epoch)
    metrics = jax.tree.map(lambda *values: np.concatenate(values), *rows)
    return metrics, jax.tree.map(np.array, spread.get(state_T, len(rates))), sweep


@contextlib.contextmanager
def _double_precision():
  """Enables float64 in all threads, including those that train; jax.enable_x64 affects only one."""
  jax.config.update('jax_enable_x64', True)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', False)


_DOUBLE = {np.dtype(np.float32): np.float64}
