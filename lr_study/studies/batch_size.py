"""Claims and the figure of configs/studies/batch_size.py."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lr_study.studies.claims import Claim, power_law
from lr_study.studies.table import Table

RULES = {'sgd': ('Goyal et al. 2017', 1.0), 'adam': ('Malladi et al. 2022', 0.5)}


def best_rates(part: Table) -> tuple[np.ndarray, np.ndarray]:
  """The batch sizes, (sizes,), and the rate of the lowest validation loss, (sizes, seeds)."""
  sizes, found = [], []
  for size, own in part.by('batch_size'):
    rates, _, losses = own.grid('validation_loss', 'learning_rate', 'seed')
    sizes.append(size)
    found.append(rates[np.nanargmin(losses, 0)])
  return np.asarray(sizes), np.asarray(found)


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """The exponent for each optimiser."""
  found = []
  for name, part in tables.items():
    power, (source, rule) = power_law(*best_rates(part)), RULES[name]
    found.append(
      Claim(
        f'exponent of {name}',
        power.exponent,
        f'With {name}, the best rate grows as the batch size to the power {power.between}.',
        tolerance=(power.high - power.low) / 2,
        low=power.low,
        high=power.high,
        source=f'{source}: {rule:g}',
        agrees=power.low <= rule <= power.high,
      )
    )
  return found


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The best rate over the batch size, with the fitted power."""
  figure = Figure(figsize=(6.8, 2.6), layout='constrained')
  for axes, (name, part) in zip(figure.subplots(1, 2), tables.items(), strict=True):
    sizes, rates = best_rates(part)
    axes.loglog(sizes, rates, 'o', color='C2')
    axes.loglog(sizes, power_law(sizes, rates)(sizes), color='C3')
    axes.set(title=name, xlabel='batch size', ylabel='best learning rate')
  return {'batch_size': figure}
