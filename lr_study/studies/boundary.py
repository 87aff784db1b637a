"""Claims and the figure of configs/studies/boundary.py, and its program: 65,536 pairs of rates."""

import base64
import functools
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lr_study.configs.studies import boundary as config
from lr_study.progress import note
from lr_study.studies.claims import Claim, estimated, is_above, mean_interval
from lr_study.studies.table import Table

_AT_ONCE = 512  # pairs whose states fit in the caches of a core
_LAST = 20  # losses whose mean decides
_LEVELS = 8  # of colour, on each side of the boundary
_BOXES = 2 ** np.arange(7)  # pixels along a box


def initial(seed: int, hidden: int) -> tuple[Any, jax.Array, jax.Array]:
  """The weights, the points (points, hidden) and their targets (points,), all normal."""
  keys = jax.random.split(jax.random.key(seed), 4)
  points = hidden * (hidden + 1)
  weights = (jax.random.normal(keys[0], (hidden, hidden)), jax.random.normal(keys[1], (hidden,)))
  return weights, *(
    jax.random.normal(key, shape)
    for key, shape in zip(keys[2:], ((points, hidden), (points,)), strict=True)
  )


@functools.partial(jax.jit, static_argnums=(3, 4))
def train(weights: Any, data: Any, rates: jax.Array, steps: int, at_once: int) -> jax.Array:
  """Trains at pairs of rates, (pairs, 2), and returns a number for each, (pairs,).

  It is negative for a pair that converges: minus the sum of its losses, divided by the first one.
  Otherwise it is the sum of their inverses, which is smaller the sooner the losses grow.
  """
  points, targets = data

  def loss(of):
    hidden, output = of
    width = len(output)
    values = jnp.tanh(points @ hidden * jnp.sqrt(2 / width)) @ output / width
    return jnp.mean(jnp.square(values - targets))

  def one(rate):
    def step(of, _):
      value, slopes = jax.value_and_grad(loss)(of)
      return (of[0] - rate[0] * slopes[0], of[1] - rate[1] * slopes[1]), value

    _, losses = jax.lax.scan(step, weights, length=steps)
    losses = jnp.where(jnp.isfinite(losses), losses / losses[0], 1e6).clip(0, 1e6)
    converges = losses[-_LAST:].mean() < 1
    return jnp.where(converges, -losses.sum(), (1 / losses).sum())

  return jax.lax.map(one, rates, batch_size=at_once)


def grid(corner: tuple[float, float], decades: float, size: int) -> np.ndarray:
  """The pairs of rates of a square with this lower corner, float32 (size x size, 2), by rows.

  A row has one rate of the output layer. All are in log10.
  """
  shares = np.linspace(0, decades, size)
  output, hidden = np.meshgrid(corner[1] + shares, corner[0] + shares, indexing='ij')
  return np.float32(10 ** np.stack([hidden, output], -1).reshape(-1, 2))


def edges(converges: np.ndarray) -> np.ndarray:
  """Where the boundary passes between four neighbours, bool, with the shape of the grid."""
  padded = np.pad(converges, ((0, 1), (0, 1)), 'edge')
  four = np.stack([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]])
  return four.any(0) & ~four.all(0)


def box_counts(marked: np.ndarray) -> np.ndarray:
  """How many boxes of each size of `_BOXES` contain a mark, (sizes,); all sizes divide the grid."""
  found = []
  for box in _BOXES:
    blocks = marked.reshape(len(marked) // box, box, -1, box)
    found.append(blocks.any((1, 3)).sum())
  return np.asarray(found)


def slopes(counts: np.ndarray) -> np.ndarray:
  """The dimension from each size of boxes to the next, (sizes - 1,)."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.log2(counts[:-1] / counts[1:])


def dimension(counts: np.ndarray) -> float:
  """The box-counting dimension: the median slope from one size to the next."""
  return float(np.median(slopes(counts)))


def typical(marked: np.ndarray, factor: int) -> tuple[int, int]:
  """The row and column of a window, 1 / factor of the side, with a typical part of the boundary.

  Of all windows with a point of the boundary in their middle, it is the one that holds the median
  number of such points. The one that holds most would lead to where the boundary fills the plane.
  """
  side = len(marked) // factor
  held = scipy.ndimage.uniform_filter(marked.astype(float), side, mode='constant')
  middle, stop = side // 2, len(marked) - side + side // 2 + 1
  rows, columns = np.nonzero(marked[middle:stop, middle:stop])
  shares = held[middle:stop, middle:stop][rows, columns]
  chosen = np.argsort(shares, kind='stable')[len(shares) // 2]
  return int(rows[chosen]), int(columns[chosen])


def measured(folder: Path, full: bool = False) -> dict[str, Table]:
  """The zooms: where each is, how long it took, its box counts and its image."""
  del folder  # nothing is kept there: a run takes minutes
  hidden, steps, size = config.HIDDEN, config.STEPS, config.SIZE
  if full:
    hidden, steps, size = (config.FULL[name] for name in ('HIDDEN', 'STEPS', 'SIZE'))
  weights, *data = initial(config.SEED, hidden)
  corner, decades, rows = config.LOWEST, config.DECADES, []
  for zoom in range(config.ZOOMS + 1):
    started = time.monotonic()
    rates = grid(corner, decades, size)
    values = np.asarray(train(weights, tuple(data), rates, steps, _AT_ONCE))
    values = values.reshape(size, -1)
    seconds = round(time.monotonic() - started, 1)
    marked = edges(values < 0)
    row, column = typical(marked, config.FACTOR)
    rows.append({
      'magnification': config.FACTOR**zoom, 'seconds': seconds, 'row': row, 'column': column,
      'converge': np.mean(values < 0), 'image': packed(levels(values)),
      **{f'boxes of {box}': n for box, n in zip(_BOXES, box_counts(marked), strict=True)},
    })  # fmt: skip
    note(f'boundary: {zoom} of {config.ZOOMS} zooms, {seconds} s')
    pixel = decades / (size - 1)
    corner = corner[0] + column * pixel, corner[1] + row * pixel
    decades /= config.FACTOR
  columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
  columns['image'] = columns['image'].astype(object)
  columns['converge'] = columns['converge'].round(4)
  return {'zooms': Table(columns, about={'trials': len(rows) * size**2})}


def levels(values: np.ndarray) -> np.ndarray:
  """Values as levels of equal frequency, uint8: below `_LEVELS` where a pair converges."""
  found = np.zeros(values.shape, np.uint8)
  for start, chosen in ((0, values < 0), (_LEVELS, values >= 0)):
    ranks = scipy.stats.rankdata(values[chosen], 'dense')
    found[chosen] = start + (ranks - 1) * _LEVELS // max(ranks.max(initial=1), 1)
  return found


def packed(image: np.ndarray) -> str:
  """An image of levels below 16 as text."""
  pairs = image.reshape(-1, 2)
  return base64.b64encode(zlib.compress((pairs[:, 0] * 16 + pairs[:, 1]).tobytes(), 9)).decode()


def unpacked(text: str) -> np.ndarray:
  """The image that `packed` was given."""
  pairs = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
  flat = np.stack([pairs // 16, pairs % 16], 1).reshape(-1)
  return flat.reshape(int(len(flat) ** 0.5), -1)


def counted(zooms: Table) -> np.ndarray:
  """The box counts at each magnification, (zooms, sizes)."""
  return np.stack([zooms[f'boxes of {box}'] for box in _BOXES], 1)


def dimensions(zooms: Table) -> np.ndarray:
  """The dimension at each magnification, (zooms,)."""
  return np.asarray([dimension(row) for row in counted(zooms)])


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """The dimension, whether it depends on the magnification, and the time."""
  zooms = tables['zooms']
  found = dimensions(zooms)
  value, low, high = mean_interval(found[1:])
  fit = scipy.stats.linregress(range(len(found) - 1), found[1:])
  half = fit.stderr * scipy.special.stdtrit(len(found) - 3, 0.975)
  ends = fit.slope - half, fit.slope + half
  lowest = 1 + int(np.argmin(found[1:]))
  _, *of_lowest = mean_interval(slopes(counted(zooms)[lowest]))
  pairs, seconds = zooms.about['trials'] // len(zooms), float(np.median(zooms['seconds']))
  return [
    estimated(
      'dimension',
      (value, low, high),
      f'Magnified 5 to {zooms["magnification"][-1]:,.0f} times, the boundary has a box-counting '
      f'dimension of {value:.2f} (95 % interval {low:.2f} to {high:.2f}); a smooth line has 1.',
      'Sohl-Dickstein 2024: a fractal, 1.17 to 1.98',
      True if low > 1 else False if high <= 1 else None,
    ),
    estimated(
      'lowest dimension',
      (found[lowest], *of_lowest),
      f'The lowest dimension is {found[lowest]:.2f}, where it is magnified '
      f'{zooms["magnification"][lowest]:,.0f} times (95 % interval over sizes of boxes '
      f'{of_lowest[0]:.2f} to {of_lowest[1]:.2f}).',
      'Sohl-Dickstein 2024: a fractal at all scales',
      is_above(1, *of_lowest),
    ),
    estimated(
      'change of the dimension',
      (fit.slope, *ends),
      f'With each further factor of 5, the dimension changes by {fit.slope:+.3f} (95 % interval '
      f'{ends[0]:+.3f} to {ends[1]:+.3f}).',
    ),
    # Not compared: it is the time of this machine.
    Claim('time', None, f'{pairs:,} pairs of rates take {seconds:.0f} s.', tolerance=0.0),
  ]


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The grid and its five zooms, each with the window of the next."""
  zooms = tables['zooms']
  colours = ['#0b3c49', '#01a3b4', '#d9f0f2', '#ffe3da', '#ff5f38', '#5c1006']
  places = [0, 0.25, 0.499, 0.501, 0.75, 1]
  cmap = LinearSegmentedColormap.from_list('boundary', list(zip(places, colours, strict=True)))
  figure = Figure(figsize=(6.8, 4.9), layout='constrained')
  all_axes = figure.subplots(2, 3).flat
  (x, y), end = config.LOWEST, config.DECADES
  of_zooms = zip(all_axes, zooms['image'], dimensions(zooms), strict=True)
  for zoom, (axes, image, found) in enumerate(of_zooms):
    width, pixels = end / config.FACTOR**zoom, unpacked(image)
    axes.imshow(
      pixels, cmap, origin='lower', extent=(x, x + width, y, y + width),
      vmin=0, vmax=2 * _LEVELS - 1, interpolation='nearest',
    )  # fmt: skip
    axes.grid(False)
    pixel = width / (len(pixels) - 1)
    x, y = x + zooms['column'][zoom] * pixel, y + zooms['row'][zoom] * pixel
    if zoom < config.ZOOMS:
      side = width / config.FACTOR
      axes.add_patch(Rectangle((x, y), side, side, fill=False, color='black', linewidth=1))
    axes.set_title(f'{zooms["magnification"][zoom]:,.0f} ×, dimension {found:.2f}')
    if zoom:
      axes.set(xticks=[], yticks=[])
    else:
      axes.set(xlabel='log10 rate of the hidden layer', ylabel='log10 rate of the output layer')
  figure.supxlabel('blue: converges; orange: does not', fontsize='small', color='0.4')
  return {'boundary': figure}
