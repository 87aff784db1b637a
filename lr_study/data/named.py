"""Any image classification set of TFDS by its name, once it is prepared as array_record."""

import io
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from lr_study.data import builders, images
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.errors import StudyError

_PARTS = {'train': TRAIN, 'validation': VALIDATION, 'test': TEST}
_CAPITALS = string.ascii_uppercase
# TFDS numbers EMNIST's classes; what the numbers stand for is in the set's own mapping files.
_EMNIST = {
  'letters': ('', *_CAPITALS),
  'byclass': (*string.digits, *_CAPITALS, *string.ascii_lowercase),
  'bymerge': (*string.digits, *_CAPITALS, *'abdefghnqrt'),
  'balanced': (*string.digits, *_CAPITALS, *'abdefghnqrt'),
}


def open_named(config: ConfigDict, image_size: int) -> Source:
  """Opens a TFDS set that data.cache_dir holds, such as 'mnist' or 'emnist/letters'.

  Its `validation` split is validated on if it has one, else its `train` split is split; its
  `test` split is kept out of the study. Nothing is downloaded: that needs the network, most
  often TensorFlow, and can be hundreds of gigabytes.

  Raises:
    StudyError: at once if there is no such set, it is not prepared, or it holds no images with
      a class each.
  """
  del image_size
  with builders.quiet():
    builder = _builder(config)
    _check_prepared(builder, config)
    splits = [name for name in _PARTS if name in builder.info.splits]
    if 'train' not in splits:
      raise StudyError(f'{config.name} has no train split, only {", ".join(builder.info.splits)}')
    sources = [
      builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
      for split in splits
    ]
    labels = [np.asarray([item['label'] for item in of], np.int32) for of in sources]
  parts = np.repeat([_PARTS[split] for split in splits], list(map(len, labels))).astype(np.int8)
  names = [f'{split} {i}' for split, of in zip(splits, labels, strict=True) for i in range(len(of))]
  labels = np.concatenate(labels)
  all_names = _class_names(builder)
  classes = config.classes or tuple(all_names[label] for label in np.unique(labels))
  missing = [name for name in classes if name not in all_names]
  if missing:
    known = ', '.join(filter(None, all_names))
    raise StudyError(f'data.classes: {config.name} has no class {missing[0]!r}; it has {known}')
  new = np.full(len(all_names), -1, np.int32)
  new[[all_names.index(name) for name in classes]] = np.arange(len(classes))
  kept = np.flatnonzero(new[labels] >= 0)
  items = _Items(sources, kept, turned=builder.name == 'emnist')
  return Source(items, new[labels[kept]], tuple(classes), parts[kept], [names[i] for i in kept])


class _Items(Sequence):
  """The chosen items of several splits, one after the other."""

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
    if self._turned:  # EMNIST's images are stored with rows and columns exchanged
      buffer = io.BytesIO()
      images.decode(encoded).transpose(Image.Transpose.TRANSPOSE).save(buffer, 'PNG')
      encoded = buffer.getvalue()
    return {'image': encoded}


def _builder(config: ConfigDict) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(config.name, data_dir=config.cache_dir or None)
    features = builder.info.features
  except Exception as error:  # TFDS raises whatever the code of a set leads it to
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise StudyError(
      f'data.name is {config.name!r}: {why[:200]} It must be tombstone_letters, image_folder, '
      'image_list or the name of a TFDS set'
    ) from error
  image, label = (dict(features.items()).get(name) for name in ('image', 'label'))
  if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
    raise StudyError(f'data.name: {config.name} is no image classification set')
  return builder


def _check_prepared(builder: tfds.core.DatasetBuilder, config: ConfigDict) -> None:
  found = builder.info.file_format if builder.is_prepared() else None
  if found is None or found.value != 'array_record':
    place = f', data_dir={config.cache_dir!r}' if config.cache_dir else ''
    # Not the command `tfds build`, which does not start without Apache Beam.
    raise StudyError(
      f'data.name: {config.name} is not prepared as array_record in {builder.data_dir}; do so '
      'once, where there are a network and TensorFlow: python -c "import tensorflow_datasets as '
      f"tfds; tfds.builder('{config.name}'{place}).download_and_prepare("
      "file_format='array_record')\""
    )


def _class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  label = builder.info.features['label']
  found = tuple(label.int2str(i) for i in range(label.num_classes))
  if builder.name == 'emnist':
    known = _EMNIST.get(builder.builder_config.name, found)
    found = known + ('',) * (len(found) - len(known))
  return found
