"""Pictures of a data set: a contact sheet, counts, sizes of its files, the mean image."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lr_study import formats
from lr_study.data import Dataset, samples
from lr_study.report import drawing, figures

_COLUMNS = 12  # images of a class on the contact sheet
_ROWS = 50  # classes on one; a thousand would be a picture that nothing can open
_NAME = 24  # characters of a class's name
_PARTS = ('training', 'validation', 'test')


def draw(data: Dataset, counts: np.ndarray, sizes: np.ndarray) -> dict[str, bytes]:
  """Draws a data set.

  Args:
    data: the data set.
    counts: int (3, classes), images of each class for training, validation and test.
    sizes: int (files, 2), width and height of each file in pixels; (0, 2) if there are no files.

  Returns:
    PNG files by their names without ending: contact_sheet, counts, sizes, mean; without the sizes
    where there are no files, and the counts alone where samples are no images.
  """
  with drawing.style(further={'axes.grid': False}):
    what = samples.noun(data.mean.shape)
    pictures = {'counts': _counts(data.classes, counts, what)}
    if len(sizes):
      pictures['sizes'] = _sizes(sizes)
    if samples.is_image(data.mean.shape):
      pictures |= {'contact_sheet': _contact_sheet(data), 'mean': _mean(data)}
    return {name: _png(figure) for name, figure in pictures.items()}


def _png(figure: Figure) -> bytes:
  buffer = BytesIO()
  # A sheet of many classes is long.
  figures.save(figure, buffer, settings={'savefig.dpi': 150})
  return buffer.getvalue()


def _contact_sheet(data: Dataset) -> Figure:
  """A row a class: the first of its training images."""
  shown = data.classes[:_ROWS]
  figure = Figure(figsize=(0.7 * _COLUMNS, 0.7 * len(shown)))
  grid = figure.subplots(
    len(shown), _COLUMNS, squeeze=False, gridspec_kw={'wspace': 0.05, 'hspace': 0.05}
  )
  images = data.train.images
  rows = [np.flatnonzero(data.train.labels == label)[:_COLUMNS] for label in range(len(shown))]
  scale = None if images.dtype == np.uint8 else images[np.concatenate(rows)]
  for of_class, name, row in zip(rows, shown, grid, strict=True):
    for axes in row:
      axes.set_axis_off()
    for axes, image in zip(row, samples.visible(images[of_class], scale), strict=False):
      axes.imshow(image)
    row[0].text(
      -0.15,
      0.5,
      _short(name),
      ha='right',
      va='center',
      transform=row[0].transAxes,
      parse_math=False,
    )
  grid[0][0].set_title(_cut(data.classes), loc='left', fontsize=9)
  return figure


def _counts(classes: Sequence[str], counts: np.ndarray, what: str) -> Figure:
  """A bar a class: the images, or `what` they are, to train, to validate and to test on."""
  shown = counts[:, :_ROWS]
  figure = Figure(figsize=(5.2, 0.22 * shown.shape[1] + 1.2))
  axes = figure.add_subplot(xlabel=what)
  start = np.zeros(shown.shape[1], int)
  for part, found, colour in zip(_PARTS, shown, ('tab:blue', 'tab:red', 'tab:gray'), strict=True):
    if found.any():
      axes.barh(np.arange(len(found)), found, left=start, color=colour, label=part, height=0.75)
      start += found
  axes.set_yticks(
    np.arange(len(start)), [_short(name) for name in classes[:_ROWS]], parse_math=False
  )
  axes.invert_yaxis()
  axes.margins(y=0.01)
  axes.set_ylabel(_cut(classes))
  axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
  axes.legend(frameon=False, loc='lower center', bbox_to_anchor=(0.5, 1), ncols=3)
  return figure


def _sizes(sizes: np.ndarray) -> Figure:
  """Where files of one width and height lie; a larger dot is more of them."""
  figure = Figure(figsize=(4.2, 4))
  axes = figure.add_subplot(
    xscale='log', yscale='log', xlabel='width of the file (pixels)', ylabel='height (pixels)'
  )
  pairs, counts = np.unique(sizes, axis=0, return_counts=True)
  axes.scatter(*pairs.T, s=8 + 200 * counts / len(sizes), color='tab:blue', alpha=0.4, linewidth=0)
  low, high = 0.7 * sizes.min(), 1.4 * sizes.max()
  axes.plot([low, high], [low, high], color='gray', linewidth=0.6, zorder=0)
  axes.set(xlim=(low, high), ylim=(low, high), aspect='equal')
  for axis in (axes.xaxis, axes.yaxis):
    _plain_numbers(axis)
  kinds = 'one size' if len(pairs) == 1 else f'{len(pairs)} sizes'
  axes.set_title(f'{len(sizes)} files of {kinds}', fontsize=9)
  return figure


def _plain_numbers(axis) -> None:
  axis.set_major_formatter(lambda value, _: f'{value:.0f}')
  axis.set_minor_formatter(lambda value, _: '')


def _mean(data: Dataset) -> Figure:
  figure = Figure(figsize=(3, 3))
  axes: Axes = figure.add_subplot()
  mean = data.mean
  if data.train.images.dtype == np.uint8:
    mean = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
  axes.imshow(samples.visible(mean[None])[0])
  axes.set_axis_off()
  channels = np.atleast_1d(data.mean.mean((0, 1)))
  form = '.0f' if mean.dtype == np.uint8 else '.3g'
  colour = ', '.join(f'{value:{form}}' for value in channels)
  names = {1: 'brightness', 3: 'red, green, blue', 4: 'red, green, blue, alpha'}[len(channels)]
  axes.set_title(f'mean of the training images\n{names}: {colour}', fontsize=9)
  return figure


def _short(name: str) -> str:
  name = formats.printable(name)
  return name if len(name) <= _NAME else name[: _NAME - 1] + '…'


def _cut(classes: Sequence[str]) -> str:
  return f'the first {_ROWS} of {len(classes)} classes' if len(classes) > _ROWS else ''
