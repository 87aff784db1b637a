"""The common form in which every data set is opened, before it is split, and common fields."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lr_study.data.images import Scale
from lr_study.plugs import BELOW_1, COUNT_OR_0, limits, one_of

# The part that an item belongs to. If a source has no validation items, the study splits its
# training items. Test items are kept out of both.
TRAIN, VALIDATION, TEST = range(3)
SPLITS = ('random', 'unseen')


class Pixels(Protocol):
  """The images or other samples of a source: `Stored` in files, `Joined` in memory."""

  @property
  def shape(self) -> tuple[int, ...]:
    """(items, *shape of one)."""

  def at(self, indices: np.ndarray) -> 'np.ndarray | Pixels':
    """The items at `indices`, int (some,)."""

  def sizes(self, indices: np.ndarray) -> np.ndarray:
    """Width and height of their files in pixels, int (some, 2); (0, 2) if there are no files."""


class Source(NamedTuple):
  """An opened data set."""

  images: Pixels
  labels: np.ndarray  # int32 (items,)
  classes: tuple[str, ...]
  parts: np.ndarray  # int8 (items,): TRAIN, VALIDATION or TEST
  names: Sequence[str]  # of each item, for people
  left_out: tuple[str, ...] = ()  # files that could not be read, and why
  resident: bool = True  # to be kept in memory if there is room
  scale: Scale | None = None  # of image files whose values need one


class Common(NamedTuple):
  """The fields of `config.data` that every data set has: the arguments of `common`."""

  classes: tuple[str, ...]
  per_class: int
  train_fraction: float
  split: str
  test_fraction: float
  seed: int
  reshuffle: bool


@limits(
  classes=(lambda of: all(isinstance(n, str) and n for n in of), 'names of classes'),
  per_class=(lambda n: n == 0 or 2 <= n < 2**31, '0 (all) or a whole number from 2 up'),
  train_fraction=(lambda x: 0 < x < 1, 'a number between 0 and 1'),
  split=one_of(SPLITS),
  test_fraction=BELOW_1,
  seed=COUNT_OR_0,
)
def common(
  classes: tuple[str, ...] = (),
  per_class: int = 0,
  train_fraction: float = 0.75,
  split: str = 'random',
  test_fraction: float = 0.0,
  seed: int = 0,
  reshuffle: bool = True,
) -> Common:
  """The fields that all data sets have; a function that opens a data set may also take them.

  Args:
    classes: the classes to keep, in the order of their labels; all if empty.
    per_class: images of each class; all if 0.
    train_fraction: the share of the images to train on; the rest is for validation. A set that has
      a validation part is not split. The default is that of the published experiment.
    split: 'random', or 'unseen': some typefaces and stones of the rendered letters occur only in
      validation images, so that accuracy there is on what the network never saw.
    test_fraction: the share kept out of the study, for an unbiased test of its answer.
    seed: of the split, and of rendered letters.
    reshuffle: use a new order each epoch. With one order for all epochs, the images that
      `batch_size` leaves over would always be the same ones.
  """
  return Common(classes, per_class, train_fraction, split, test_fraction, seed, reshuffle)
