"""Data sets as TFDS builders, stored as array_record and read without TensorFlow."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from lr_study.data.letters import faces, render, stones, workers
from lr_study.errors import StudyError, is_full


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """Image files with labels and parts, in the order of the data set, and what is recorded."""

  files: tuple[tuple[Path, int, int], ...] = ()
  names: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()
  scale: tuple[float, ...] = ()  # the smallest and largest value, if the values need a scale


class ImageFolder(tfds.core.GeneratorBasedBuilder):
  """Image files, stored byte for byte as they are on disk."""

  VERSION = tfds.core.Version('1.2.0')

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    metadata = {
      'labels': [label for _, label, _ in config.files],
      'parts': [part for _, _, part in config.files],
      'names': list(config.names),
      'left_out': list(config.left_out),
      'scale': list(config.scale),
    }
    return _image_info(self, metadata)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i, (file, label, _) in enumerate(self.builder_config.files):
      yield i, {'image': file, 'label': label}


@dataclasses.dataclass(eq=False)
class LettersConfig(tfds.core.BuilderConfig):
  """`per_class` images of `size` pixels for each letter, rendered from `seed`."""

  letters: str = render.LETTERS
  per_class: int = 700
  size: int = 256
  seed: int = 0


class TombstoneLetters(tfds.core.GeneratorBasedBuilder):
  """Rendered capital letters cut in stone; see lr_study/data/letters/.

  Each example has an image, a label, and the names of its typeface and its stone.
  """

  VERSION = tfds.core.Version(render.VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    labels = [label for label in range(len(config.letters)) for _ in range(config.per_class)]
    names = {'typeface': tfds.features.Text(), 'stone': tfds.features.Text()}
    description = (
      f'{config.per_class} rendered images of {config.size} x {config.size} pixels of each of the '
      f'letters {config.letters}, cut into or raised above gravestones; seed {config.seed}, '
      f'version {render.VERSION}. {stones.describe()} {faces.describe()} Every '
      f'{render.UNSEEN_EVERY}th image of a letter has a typeface and a stone that no other has.'
    )
    return _image_info(self, {'labels': labels}, names, description, faces.licences())

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config

    files = workers.render_files(config.seed, config.letters, config.per_class, config.size)
    for i, file in enumerate(files):
      label, index = divmod(i, config.per_class)
      plan = render.plan(config.seed, config.letters[label], index)
      names = {'typeface': plan.face.family, 'stone': plan.stone.name}
      yield i, {'image': file, 'label': label} | names


def make(
  builder: type[tfds.core.GeneratorBasedBuilder], cache_dir: str, config: tfds.core.BuilderConfig
) -> tfds.core.DatasetBuilder:
  """Makes a builder that keeps its data set in `cache_dir`, or in TFDS's own folder if empty."""
  with quiet():
    return builder(data_dir=cache_dir or None, config=config)


def is_built(builder: tfds.core.DatasetBuilder) -> bool:
  """True if the cache holds the data set."""
  with quiet():
    return builder.is_prepared()


def open_or_build(builder: tfds.core.DatasetBuilder) -> Sequence[dict]:
  """Opens the data set, and builds it first if the cache does not hold it.

  Returns:
    A sequence of {'image': bytes of an image file}, read item by item.
  """
  with quiet():
    builder.download_and_prepare(file_format='array_record')  # the others need TensorFlow
    return Images(builder, 'train')


class Images(Sequence):
  """The encoded images of a split. The other fields are not parsed, to save time.

  TFDS can skip fields (tfds.decode.PartialDecoding) only in as_dataset, which needs TensorFlow.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    self._records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    self._features = tfds.features.FeaturesDict({'image': builder.info.features['image']})
    self._decoders = {'image': tfds.decode.SkipDecoding()}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, i: int) -> dict[str, bytes]:
    return self._features.deserialize_example_np(self._records[i], decoders=self._decoders)

  def __iter__(self) -> Iterator[dict[str, bytes]]:
    return map(self.__getitem__, range(len(self)))  # records do not raise IndexError at their end


@contextlib.contextmanager
def quiet():
  """Silences TFDS; raises StudyError if it cannot write."""
  # TFDS reports each of its steps on standard output and as warnings in the log.
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(
      f'cannot build the data set in data.cache_dir: {error}; name another --config.data.cache_dir'
    ) from error
  finally:
    logging.set_verbosity(verbosity)


class _Info(tfds.core.DatasetInfo):
  def initialize_from_bucket(self) -> None:
    """Does nothing: TFDS has no copy of these data sets, and leaves a folder in /tmp to look."""


def _image_info(
  builder: tfds.core.DatasetBuilder,
  metadata: dict,
  features: dict | None = None,
  description: str = '',
  licence: str = '',
) -> tfds.core.DatasetInfo:
  return _Info(
    builder=builder,
    description=description or None,
    license=licence or None,
    features=tfds.features.FeaturesDict(
      {'image': tfds.features.Image(), 'label': tfds.features.Scalar(np.int32)} | (features or {})
    ),
    disable_shuffling=True,  # item i of the data set is item i of the config
    metadata=tfds.core.MetadataDict(metadata),
  )
