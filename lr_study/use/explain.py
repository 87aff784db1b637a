"""Draws what a trial's network computes for one image: filters and activations."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lr_study import formats, models
from lr_study import inputs as of_networks
from lr_study.config import float_type
from lr_study.data import samples, scanning
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.report import drawing
from lr_study.use import classify, evaluate
from lr_study.use.evaluate import Trained

_WIDTH, _HEIGHT = 5.6, 1.5  # of a row's tiles, in inches
_STYLE = {
  'font.size': 8,
  'axes.titlesize': 8,
  'figure.dpi': 150,
  'savefig.bbox': 'tight',
  'axes.spines.top': False,
}
_GAP = 1  # pixels between two tiles
_NAMED = 40  # the most classes that are named below their logits
_UPRIGHT = 2  # names with more characters are rotated
_ROWS = 16  # the most layers that are drawn: a row takes 5 cm
_LINE = 13  # characters of a layer's name in a line
_CAPTION = (
  'The output of each layer with weights, before the activation function and pooling that follow. '
  'A tile is the map of one feature; in a dense\nlayer, one feature; if there are several tokens, '
  'a row is a token. On the right, a histogram of the values with a logarithmic height, in\nthe '
  "tiles' colours. In filters on colours, grey is 0."
)
LOGITS = 'logits'


class Layer(NamedTuple):
  """A layer's activations, or its filters.

  values: float32 (height, width, features), (tokens, features) or (features,) for activations;
  (height, width, channels, features) for the filters of the first layer. kernel: True if the layer
  has a kernel, unlike normalisation.
  """

  name: str
  values: np.ndarray
  kernel: bool = True

  @property
  def figures(self) -> dict[str, Any]:
    """Its shape, mean, standard deviation, range, and the share of zeros."""
    return {
      'layer': self.name,
      'shape': list(self.values.shape),
      'mean': float(self.values.mean(dtype=np.float64)),
      'std': float(self.values.std(dtype=np.float64)),
      'smallest': float(self.values.min()),
      'largest': float(self.values.max()),
      'zeros': float(np.mean(self.values == 0)),
    }


def draw(trained: Trained, paths: Sequence[str], folder: Path) -> None:
  """Writes layers.png and layers.json for one image file into a folder, created if missing.

  If the study was trained on arrays, the file is an .npy file with one sample.

  Raises:
    StudyError: there is not exactly one image or sample.
    OSError: the files cannot be written.
  """
  files, _ = classify.find(paths, trained.classes)
  if len(files) != 1:
    raise StudyError(f'--explain takes one image, not {len(files)}')
  pixels = classify.read(files[0], trained)
  if isinstance(pixels, str):
    raise StudyError(f'{scanning.printable(files[0].path)}: {pixels}')
  if len(pixels) != 1:
    raise StudyError(
      f'{scanning.printable(files[0].path)} holds {len(pixels)} samples; --explain takes one'
    )
  pixels = pixels[0]
  shown, layers, logits = look_inside(trained, pixels)
  folder.mkdir(parents=True, exist_ok=True)
  with drawing.style(_STYLE), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # a character that no font has becomes a box
    name = scanning.printable(files[0].path.name)
    picture(trained, name, pixels, shown, layers, logits).savefig(folder / 'layers.png')
  figures = [layer.figures for layer in (Layer('input', shown), *layers)]
  write_text(folder / 'layers.json', json.dumps(figures, indent=1, allow_nan=False) + '\n')


def look_inside(
  trained: Trained, pixels: np.ndarray
) -> tuple[np.ndarray, Sequence[Layer], np.ndarray]:
  """The network's input, its filters and activations, and the logits, for one stored image."""
  config, model = trained.config, evaluate.network(trained)
  inputs = of_networks.evaluation(config.input, len(trained.classes))(trained.mean, pixels[None])
  variables, given = _in_its_type(model, float_type(config), (trained.variables, inputs))
  by_layer, logits = models.outputs(model, variables, given)
  # Not with jax.tree.map, which would sort the layers by name.
  by_layer = {name: np.asarray(values[0], np.float32) for name, values in by_layer.items()}
  inputs, logits = (np.asarray(values[0], np.float32) for values in (inputs, logits))
  layers = []
  kernels = {name: _kernel(trained.variables['params'], name) for name in by_layer}
  first = next(iter(by_layer), None)
  if np.ndim(kernels.get(first)) == 4:
    layers.append(Layer(f'{first} filters', np.asarray(kernels[first], np.float32)))
  for name, values in by_layer.items():
    kernel = kernels[name]
    layers.append(Layer(name, _shaped(values, kernel), kernel is not None))
  if layers and np.array_equal(layers[-1].values, logits):
    layers.pop()  # the last layer's output is the logits
  return inputs, [*layers, Layer(LOGITS, logits)], logits


def _in_its_type(model: Any, dtype: str, tree: tuple[Any, Any]) -> tuple[Any, Any]:
  """The variables and the input in the dtypes in which `trial.apply` passes them."""
  variables, inputs = tree

  def low(x):
    return jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

  if not hasattr(model, 'dtype'):
    variables = variables | {'params': jax.tree.map(low, variables['params'])}
  return variables, low(inputs)


def _kernel(params: Any, path: str) -> np.ndarray | None:
  """The kernel of the layer at a path; None if it has none."""
  for name in path.split('/'):
    params = params[name]
  return params.get('kernel')


def _shaped(values: np.ndarray, kernel: np.ndarray | None) -> np.ndarray:
  """Activations of an image as maps, as tokens or as one vector."""
  if values.ndim == 3 and np.ndim(kernel) == 3:  # (tokens, heads, features): of attention
    return values.reshape(len(values), -1)
  if values.ndim in (1, 2, 3):
    return values
  return values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1)


def _drawn(layers: Sequence[Layer]) -> Sequence[Layer]:
  """All layers or, if a picture has no room for them, evenly spaced ones of those with kernels."""
  if len(layers) > _ROWS:
    layers = [layer for layer in layers if layer.kernel]
  places = np.linspace(0, len(layers) - 1, min(_ROWS, len(layers))).round().astype(int)
  return [layers[i] for i in places]


def picture(
  trained: Trained,
  name: str,
  pixels: np.ndarray,
  shown: np.ndarray,
  layers: Sequence[Layer],
  logits: np.ndarray,
) -> Figure:
  """The image, the network's input and answer; then one row per layer, at most `_ROWS`.

  A row has every filter or feature map of the layer as a tile, in the same place for every image,
  and a histogram of its values in the tiles' colours.
  """
  drawn = _drawn(layers)
  heights = [2.0] + [_HEIGHT + 0.4] * len(drawn)
  figure = Figure(figsize=(9.6, sum(heights) + 0.6))
  grid = figure.add_gridspec(
    len(heights), 3, height_ratios=heights, width_ratios=[1.1, _WIDTH, 1.7], wspace=0.1, hspace=0.25
  )
  top = grid[0, :].subgridspec(1, 3, width_ratios=[1, 1, 2])
  _draw_top(top, trained, name, pixels, shown, logits)
  for row, layer in enumerate(drawn, 1):
    about, values, spread = (figure.add_subplot(grid[row, column]) for column in range(3))
    _describe(about, layer)
    draw_values = _draw_bars if layer.name == LOGITS else _draw_tiles
    draw_values(values, layer.values, trained.classes)
    _draw_spread(spread, layer.values)
  caption = _CAPTION
  if len(drawn) < len(layers):
    caption += f'\n{len(drawn)} of {len(layers)} layers are drawn; layers.json has figures for all.'
  # Below the names of the classes, which may be rotated; as a share of the figure's height.
  longest = max(map(len, map(_short, trained.classes))) if len(trained.classes) <= _NAMED else 0
  below = 0.4 + (0.07 * longest if longest > _UPRIGHT else 0)
  bottom = figure.subplotpars.bottom - below / figure.get_figheight()
  figure.text(0.125, bottom, caption, va='top', color='0.3', linespacing=1.5)
  return figure


def _draw_top(grid, trained, name, pixels, shown, logits) -> None:
  figure = grid.figure
  image, given, answer = (figure.add_subplot(grid[column]) for column in range(3))
  image.imshow(_visible(pixels), cmap='gray')
  image.set_title(_short(name), parse_math=False)
  span = shown.max() - shown.min()
  given.imshow(_as_picture((shown - shown.min()) / (span or 1)), cmap='gray')
  size = ' x '.join(map(str, shown.shape))
  given.set_title(f'input {size}\nmean {shown.mean():.3g}, sd {shown.std():.3g}')
  for axes in (image, given):
    axes.set_axis_off()
  found = classify.top(trained.classes, logits)[::-1]
  bars = answer.barh(range(len(found)), [share for _, share in found], color='tab:red')
  answer.bar_label(bars, [formats.percent(share) for _, share in found], padding=3)
  answer.set_yticks(range(len(found)), [_short(label) for label, _ in found], parse_math=False)
  answer.set(xlim=(0, 1.2), xticks=[])
  answer.set_title(f'probability; {classify.describe(trained)}')
  answer.spines[['right', 'bottom']].set_visible(False)


def _describe(axes: Axes, layer: Layer) -> None:
  figures = layer.figures
  lines = [
    ' x '.join(map(str, layer.values.shape)),
    f'mean {figures["mean"]:.3g}',
    f'sd {figures["std"]:.3g}',
  ]
  if figures['zeros']:
    lines.append(f'{formats.percent(figures["zeros"])} zero')
  axes.set_axis_off()
  name = layer.name if len(layer.name) <= _LINE else layer.name.replace('/', '/\n')
  heads = [_short(line, _LINE) for line in name.splitlines()]
  bold = {'weight': 'bold', 'va': 'top', 'fontsize': 10, 'parse_math': False}
  axes.text(0, 1, '\n'.join(heads), **bold)
  axes.text(0, 0.94 - 0.12 * len(heads), '\n'.join(lines), va='top', linespacing=1.5)


def _draw_tiles(axes: Axes, values: np.ndarray, classes: Sequence[str]) -> None:
  del classes
  norm, colours = _scale(values)
  mosaic = _mosaic(values)
  if mosaic.ndim == 3:  # filters on colours: grey is 0
    axes.imshow(np.where(np.isnan(mosaic), 1, norm(mosaic)))
  else:
    # There may be many more tokens than features, or far fewer: then cells are not square.
    axes.imshow(mosaic, norm=norm, cmap=colours, aspect='auto' if values.ndim == 2 else 'equal')
  axes.set_anchor('NW')
  axes.set_axis_off()


def _draw_bars(axes: Axes, values: np.ndarray, classes: Sequence[str]) -> None:
  """One bar per class, with its name if there is room."""
  norm, colours = _scale(values)
  axes.bar(range(len(values)), values, color=colours(norm(values)), edgecolor='0.3', linewidth=0.5)
  axes.axhline(0, color='black', linewidth=0.6)
  names = list(map(_short, classes)) if len(classes) <= _NAMED else []
  rotation = 90 if max(map(len, names), default=0) > _UPRIGHT else 0
  axes.set_xticks(range(len(names)), names, parse_math=False, rotation=rotation)
  axes.spines[['right', 'bottom']].set_visible(False)


def _draw_spread(axes: Axes, values: np.ndarray) -> None:
  norm, colours = _scale(values)
  counts, edges = np.histogram(values, 40)
  middles = (edges[1:] + edges[:-1]) / 2
  in_colours = values.ndim == 4 and values.shape[2] == 3  # its tiles have another scale
  axes.bar(middles, counts, np.diff(edges), color='0.4' if in_colours else colours(norm(middles)))
  axes.axvline(0, color='black', linewidth=0.6)
  axes.set(yscale='log', ylim=(0.7, None), facecolor='0.93')
  axes.yaxis.set_visible(False)
  axes.xaxis.set_major_locator(MaxNLocator(3))
  axes.spines[['left', 'right']].set_visible(False)


def _scale(values: np.ndarray) -> tuple[Normalize, Colormap]:
  """A colour scale: dark to bright from 0 if no value is negative, else blue to red around 0."""
  largest = float(np.abs(values).max()) or 1.0
  if values.min() >= 0:
    return Normalize(0, largest), matplotlib.colormaps['magma']
  return Normalize(-largest, largest), matplotlib.colormaps['RdBu_r']


def _mosaic(values: np.ndarray) -> np.ndarray:
  """All features as tiles with NaN between them: (rows, columns), or (rows, columns, 3) in colour.

  Tokens (tokens, features) are returned unchanged, as one tile.
  """
  if values.ndim == 2:
    return values
  tiles = np.moveaxis(values if values.ndim > 1 else values[None, None], -1, 0)
  if tiles.ndim == 4 and tiles.shape[-1] != 3:
    tiles = tiles.mean(-1)  # filters on one channel of brightness
  count, height, width = tiles.shape[:3]
  gap = _GAP if height > 1 else 0
  height, width = height + gap, width + gap
  rows = _rows(count, _WIDTH / width, _HEIGHT / height)
  columns = -(-count // rows)
  mosaic = np.full((rows * height, columns * width, *tiles.shape[3:]), np.nan, np.float32)
  for i, tile in enumerate(tiles):
    y, x = (place * step for place, step in zip(divmod(i, columns), (height, width), strict=True))
    mosaic[y : y + height - gap, x : x + width - gap] = tile
  return mosaic


def _visible(sample: np.ndarray) -> np.ndarray:
  """A stored sample, converted for `imshow`."""
  if samples.is_image(sample.shape):
    return samples.visible(sample[None])[0]
  return _as_picture(sample)


def _as_picture(values: np.ndarray) -> np.ndarray:
  """Any array, converted for `imshow`; an image stays as it is."""
  if values.ndim == 3 and values.shape[2] in (1, 3):
    return values[..., 0] if values.shape[2] == 1 else values
  return _mosaic(_shaped(values, None))


def _rows(count: int, across: float, down: float) -> int:
  """The number of rows that makes `count` tiles largest. across, down: how many of size 1 fit."""
  return max(range(1, count + 1), key=lambda rows: min(across / -(-count // rows), down / rows))


def _short(name: str, longest: int = 24) -> str:
  if len(name) <= longest:
    return name
  return name[: longest // 2] + '…' + name[len(name) - (longest - 1) // 2 :]
