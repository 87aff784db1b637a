"""Opens any TFDS image classification set by its name, if it is prepared as array_record."""

import io
import string
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from lr_study.data import builders, images
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.data.stream import Stored
from lr_study.errors import StudyError, first_line
from lr_study.paths import PATH
from lr_study.plugs import limits, nearest, one_of

_PARTS = {'train': TRAIN, 'validation': VALIDATION, 'test': TEST}
_CAPITALS = string.ascii_uppercase
# TFDS only numbers EMNIST's classes; their names are in the set's mapping files.
_EMNIST = {
  'letters': ('', *_CAPITALS),
  'byclass': (*string.digits, *_CAPITALS, *string.ascii_lowercase),
  'bymerge': (*string.digits, *_CAPITALS, *'abdefghnqrt'),
  'balanced': (*string.digits, *_CAPITALS, *'abdefghnqrt'),
}


def find(name: str, known: Collection[str]) -> Callable[..., Source]:
  """A function that opens the TFDS set of this name; `known` are the names of other data sets."""

  @limits(cache_dir=PATH, resize=one_of(images.RESIZE_MODES))
  def named(
    image_size: int,
    classes: tuple[str, ...] = (),
    cache_dir: str = '',
    resize: str = 'squash',
    resident: bool = True,
  ) -> Source:
    return open_named(name, known, image_size, classes, cache_dir, resize, resident)

  named.__name__ = name
  return named


def open_named(
  name: str,
  known: Collection[str],
  image_size: int,
  classes: tuple[str, ...],
  cache_dir: str,
  resize: str,
  resident: bool,
) -> Source:
  """Opens a TFDS set that `cache_dir` holds, such as 'mnist' or 'emnist/letters'.

  The study validates on its `validation` split, or splits its `train` split if it has none. Its
  `test` split is kept out of the study. Nothing is downloaded: that needs the network, usually
  TensorFlow, and can be hundreds of gigabytes. For the arguments see `folder.image_folder`.

  Raises:
    StudyError: there is no such set, it is not prepared, or it is not for image classification.
  """
  with builders.quiet():
    builder = _builder(name, known, cache_dir)
    _check_prepared(builder, name, cache_dir)
    splits = [split for split in _PARTS if split in builder.info.splits]
    if 'train' not in splits:
      raise StudyError(f'{name} has no train split, only {", ".join(builder.info.splits)}')
    sources = [
      builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
      for split in splits
    ]
    labels = [np.asarray([item['label'] for item in of], np.int32) for of in sources]
  parts = np.repeat([_PARTS[split] for split in splits], list(map(len, labels))).astype(np.int8)
  names = [f'{split} {i}' for split, of in zip(splits, labels, strict=True) for i in range(len(of))]
  labels = np.concatenate(labels)
  all_names = _class_names(builder)
  classes = classes or tuple(all_names[label] for label in np.unique(labels))
  missing = [of for of in classes if of not in all_names]
  if missing:
    others = ', '.join(filter(None, all_names))
    raise StudyError(f'data.classes: {name} has no class {missing[0]!r}; it has {others}')
  new = np.full(len(all_names), -1, np.int32)
  new[[all_names.index(of) for of in classes]] = np.arange(len(classes))
  kept = np.flatnonzero(new[labels] >= 0)
  items = _Items(sources, kept, turned=builder.name == 'emnist')
  names = [names[i] for i in kept]
  pixels = Stored(items, names, image_size, resize)
  return Source(pixels, new[labels[kept]], tuple(classes), parts[kept], names, resident=resident)


class _Items(Sequence):
  """The selected items of several splits, concatenated."""

  def __init__(self, sources: Sequence[Sequence[Any]], indices: np.ndarray, turned: bool):
    self._sources, self._indices, self._turned = sources, indices, turned
    self._ends = np.cumsum([len(source) for source in sources])

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, i: int) -> dict[str, bytes]:
    index = int(self._indices[i])
    split = int(np.searchsorted(self._ends, index, 'right'))
    source = self._sources[split]
    encoded = source[index - int(self._ends[split]) + len(source)]['image']
    if self._turned:  # EMNIST's images are stored transposed
      buffer = io.BytesIO()
      images.decode(encoded).transpose(Image.Transpose.TRANSPOSE).save(buffer, 'PNG')
      encoded = buffer.getvalue()
    return {'image': encoded}


def _builder(name: str, known: Collection[str], cache_dir: str) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(name, data_dir=cache_dir or None)
    features = builder.info.features
  except Exception as error:  # the code of a data set may raise anything
    raise StudyError(
      f'data.name is {name!r}: {first_line(error)[:200]} It must be {", ".join(known)}, '
      f'my_file.py:function, npz:FILE or the name of a TFDS set{nearest(name, known)}'
    ) from error
  image, label = (dict(features.items()).get(of) for of in ('image', 'label'))
  if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
    raise StudyError(f'data.name: {name} is not an image classification set')
  return builder


def _check_prepared(builder: tfds.core.DatasetBuilder, name: str, cache_dir: str) -> None:
  found = builder.info.file_format if builder.is_prepared() else None
  if found is None or found.value != 'array_record':
    place = f', data_dir={cache_dir!r}' if cache_dir else ''
    # Not the command `tfds build`, which needs Apache Beam to start.
    raise StudyError(
      f'data.name: {name} is not prepared as array_record in {builder.data_dir}; do this '
      'once on a machine with a network and TensorFlow: python -c "import tensorflow_datasets as '
      f"tfds; tfds.builder('{name}'{place}).download_and_prepare("
      "file_format='array_record')\""
    )


def _class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  label = builder.info.features['label']
  found = tuple(label.int2str(i) for i in range(label.num_classes))
  if builder.name == 'emnist':
    known = _EMNIST.get(builder.builder_config.name, found)
    found = known + ('',) * (len(found) - len(known))
  return found
