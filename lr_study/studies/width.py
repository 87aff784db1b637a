"""Claims and the figure of configs/studies/width.py."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from lr_study import task, trial
from lr_study.config import check
from lr_study.configs.studies import _letters
from lr_study.configs.studies import width as config
from lr_study.report.style import PALETTE
from lr_study.studies import rates
from lr_study.studies.claims import (
  Claim,
  Power,
  estimated,
  is_above,
  is_below,
  mean_interval,
  power_law,
)
from lr_study.studies.table import Table
from lr_study.trial import Batch

_TITLES = {'standard': 'Standard parametrisation', 'mup': 'muP'}
_LOSS = 'train_loss'  # the mean over the last epoch
_CHECK_STEPS, _CHECK_RATE, _CHECK_SEEDS = 4, 0.01, 3  # of the coordinate check
_FLAT = 0.1  # an exponent of at most this is a factor of 1.3 over the widths here


def by_width(tables: Mapping[str, Table], name: str) -> dict[int, Table]:
  """The trials of a parametrisation by their width."""
  parts = {part.partition('_'): of for part, of in tables.items() if '_' in part}
  return {int(width): of for (own, _, width), of in parts.items() if own == name}


def best_rates(parts: Mapping[int, Table]) -> np.ndarray:
  """The rate with the lowest training loss, (widths, seeds)."""
  return np.stack([rates.best(part, _LOSS) for part in parts.values()])


def carried_over(parts: Mapping[int, Table]) -> np.ndarray:
  """The widest network's loss at the narrowest one's best rate, less its lowest, (seeds,)."""
  narrow, wide = (parts[width] for width in (min(parts), max(parts)))
  _, _, of_narrow = narrow.grid(_LOSS, 'learning_rate', 'seed')
  _, _, of_wide = wide.grid(_LOSS, 'learning_rate', 'seed')
  best = np.argmin(_known(of_narrow).mean(1))
  return (_known(of_wide) - _known(of_wide)[np.argmin(_known(of_wide).mean(1))])[best]


def _known(losses: np.ndarray) -> np.ndarray:
  return np.where(np.isfinite(losses), losses, np.inf)


def measured(folder: Path, full: bool = False) -> dict[str, Table]:
  """The coordinate check: how far a few steps at one rate move the outputs of each layer."""
  del folder  # it trains from the start
  rows = []
  for part in config.FULL_PARTS if full else config.PARTS:
    name, _, width = part.partition('_')
    for seed in range(_CHECK_SEEDS):
      moved = moves(config.get_config(part), seed)
      rows.append({'parametrisation': name, 'width': float(width), 'seed': float(seed), **moved})
  columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
  columns['parametrisation'] = columns['parametrisation'].astype(object)
  return {'coordinates': Table(columns)}


def moves(own: ConfigDict, seed: int) -> dict[str, float]:
  """The root mean square of the change of each layer's outputs after `_CHECK_STEPS` steps.

  The outputs are those before the activation, on the batch that each of the steps takes.
  """
  own = check(own)
  images, labels = _letters.letters(own.data.per_class)
  chosen = np.random.default_rng(seed).permutation(len(labels))[: own.batch_size]
  batch = Batch(jnp.asarray(images[chosen]), jnp.asarray(labels[chosen]), jnp.zeros(()))
  stored = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
  made = task.make_task(own, 10, np.bincount(labels), stored, 1)
  made = dataclasses.replace(made, schedule=lambda step: jnp.float32(1))
  hyper, key = {'learning_rate': jnp.float32(_CHECK_RATE)}, jax.random.key(seed)
  step = jax.jit(functools.partial(trial.train_step, made))
  state = jax.jit(functools.partial(trial.init, made))(hyper, key)

  def outputs(params):
    _, found = made.model.apply(
      {'params': params}, batch.images, train=False, capture_intermediates=True
    )
    return {f'layer {i}': found['intermediates'][f'dense{i}']['__call__'][0] for i in (1, 2, 3)}

  before = outputs(state.params)
  for number in range(_CHECK_STEPS):
    state, _ = step(state, hyper, batch, key, jnp.int32(number))
  after = outputs(state.params)
  return {
    name: float(f'{float(jnp.sqrt(jnp.mean(jnp.square(after[name] - x)))):.6g}')
    for name, x in before.items()
  }


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """The exponent of the best rate, and the loss with the narrowest network's rate."""
  found = []
  for name, title in _TITLES.items():
    parts = by_width(tables, name)
    power = power_law(list(parts), best_rates(parts))
    if name == 'mup':
      agrees = _is_flat(power)
      source = 'Yang et al. 2022: it does not depend on the width'
    else:
      agrees = is_below(0, power.low, power.high)
      source = 'Yang et al. 2022: it falls'
    found.append(
      estimated(
        f'exponent of {name}',
        (power.exponent, power.low, power.high),
        f'{title}: the best rate grows as the width to the power {power.between}.',
        source,
        agrees,
      )
    )
  standard = by_width(tables, 'standard')
  losses = (_loss(name, by_width(tables, name), standard) for name in _TITLES)
  coordinates = (_coordinates(tables['coordinates'], name) for name in _TITLES)
  return [*found, *losses, _wider(tables), *coordinates]


def _is_flat(power: Power) -> bool | None:
  """Whether the exponent is within `_FLAT` of 0; None if that cannot be told."""
  agrees = True if max(-power.low, power.high) <= _FLAT else None
  return False if power.high < -_FLAT or power.low > _FLAT else agrees


def _loss(name: str, parts: Mapping[int, Table], standard: Mapping[int, Table]) -> Claim:
  value, low, high = mean_interval(carried_over(parts))
  source, agrees = '', None
  if name == 'mup':
    source = 'Yang et al. 2022: less than in the standard parametrisation'
    _, least, most = mean_interval(carried_over(parts) - carried_over(standard))
    agrees = is_below(0, least, most)
  return estimated(
    f'loss of {name}',
    (value, low, high),
    f'{_TITLES[name]}: with the best rate of width {min(parts)}, the training loss at width '
    f'{max(parts)} is {value:.3f} nats (95 % interval {low:.3f} to {high:.3f}) above that at its '
    'own best rate.',
    source,
    agrees,
  )


def _coordinates(part: Table, name: str) -> Claim:
  """How the change of the outputs of the hidden layer grows with the width."""
  widths, _, moved = part.where(parametrisation=name).grid('layer 2', 'width', 'seed')
  power = power_law(widths, moved)
  agrees = is_above(0, power.low, power.high)
  if name == 'mup':
    agrees = _is_flat(power)
  return estimated(
    f'coordinates of {name}',
    (power.exponent, power.low, power.high),
    f'{_TITLES[name]}: how far {_CHECK_STEPS} steps at {_CHECK_RATE:g} move the outputs of the '
    f'second hidden layer grows as the width to the power {power.between}.',
    f'Yang et al. 2022: {"not dependent on the width" if name == "mup" else "more when wider"}',
    agrees,
  )


def _wider(tables: Mapping[str, Table]) -> Claim:
  """Whether the widest network is better in muP, each at its best rate."""
  losses = []
  for name in ('standard', 'mup'):
    parts = by_width(tables, name)
    _, _, grid = parts[max(parts)].grid(_LOSS, 'learning_rate', 'seed')
    losses.append(_known(grid)[np.argmin(_known(grid).mean(1))])
  value, low, high = mean_interval(losses[1] - losses[0])
  return estimated(
    'difference at the widest',
    (value, low, high),
    f'At width {max(by_width(tables, "mup"))} and its best rate, muP differs from the standard '
    f'parametrisation by {value:+.3f} nats (95 % interval {low:+.3f} to {high:+.3f}).',
    'Yang et al. 2022: muP is better',
    is_below(0, low, high),
  )


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The training loss over the rate, a curve for each width."""
  figure = Figure(figsize=(6.8, 2.8), layout='constrained')
  for axes, name in zip(figure.subplots(1, 2, sharex=True, sharey=True), _TITLES, strict=True):
    _draw(axes, by_width(tables, name))
    axes.set(title=_TITLES[name], xscale='log', xlabel='learning rate')
  narrowest = best_rates(by_width(tables, 'mup'))[0]
  figure.axes[1].axvline(np.exp(np.nanmean(np.log(narrowest))), color='0.55', linestyle='--')
  left, right = figure.axes
  left.set_ylabel('training loss (nats)')
  left.set_ylim(0, 2.5)
  right.plot([], [], 'v', color='0.4', label='best rate')
  right.plot([], [], '--', color='0.55', label='published: at all widths')
  right.legend(title='width', title_fontsize='small', loc='lower left', ncols=2)
  return {'width': figure}


def _draw(axes: Axes, parts: Mapping[int, Table]) -> None:
  order = (0, 1, 8, 7, 2, 3, 9, 4)
  colours = [PALETTE[place] for place in order[: len(parts)]]
  for colour, (width, part), place in zip(colours, parts.items(), best_rates(parts), strict=True):
    tried, _, losses = part.grid(_LOSS, 'learning_rate', 'seed')
    mean = losses.mean(1)
    axes.plot(tried, mean, '.-', color=colour, label=f'{width}')
    lowest = np.exp(np.nanmean(np.log(place)))
    axes.plot(lowest, np.interp(np.log(lowest), np.log(tried), mean), 'v', color=colour)
