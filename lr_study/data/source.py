"""What every kind of data set is opened as, before it is split and decoded."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Of an item: where it belongs. The study splits the training items of a source that has no
# validation items, and keeps test items out of both.
TRAIN, VALIDATION, TEST = range(3)


class Source(NamedTuple):
  """An opened data set: `items[i]['image']` is bytes of an image file."""

  items: Sequence[dict[str, Any]]
  labels: np.ndarray  # int32 (items,)
  classes: tuple[str, ...]
  parts: np.ndarray  # int8 (items,): TRAIN, VALIDATION or TEST
  names: Sequence[str]  # of each item, for people
  left_out: tuple[str, ...] = ()  # files that could not be read, and why
