"""From image files on disk to the uint8 arrays that a study trains on."""

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study.data import builders, folder, images
from lr_study.data.images import RESIZE_MODES
from lr_study.data.letters import render
from lr_study.errors import StudyError
from lr_study.progress import note

__all__ = ['RESIZE_MODES', 'SOURCES', 'SPLITS', 'Dataset', 'Part', 'load', 'split', 'split_unseen']

SPLITS = ('random', 'unseen')


class Part(NamedTuple):
  """images: uint8 (images, size, size, 3). labels: int32 (images,)."""

  images: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """What a study trains and validates on."""

  name: str
  classes: tuple[str, ...]
  train: Part
  validation: Part
  mean: np.ndarray  # float32 (size, size, 3), over the training part alone
  fingerprint: str  # of every pixel and label of both parts, and of the classes
  left_out: tuple[str, ...]  # files that could not be read


class Source(NamedTuple):
  """An opened data set: `items[i]` is {'image': bytes of an image file, 'label': int}."""

  items: Sequence[dict]
  labels: np.ndarray
  classes: tuple[str, ...]
  left_out: tuple[str, ...]
  unseen: np.ndarray | None = None  # True for images of typefaces and stones kept for validation


def load(config: ConfigDict, image_size: int) -> Dataset:
  """Opens, builds if need be, splits, decodes and resizes the data set of a config.

  Args:
    config: the `data` part of a study's config.
    image_size: height and width of the images in pixels.

  Raises:
    StudyError: for anything the user can mend in the config or in the files.
  """
  source = SOURCES[config.name](config, image_size)
  labels = source.labels
  if len(source.classes) < 2:
    raise StudyError(f'a single class, {source.classes[0]!r}; a classifier needs at least two')
  for label, name in enumerate(source.classes):
    _check_count(name, int(np.sum(labels == label)), config.name)
  if config.split == 'unseen':
    train, validation = split_unseen(source, config)
  else:
    train, validation = split(labels, config.train_fraction, config.per_class, config.seed)

  def part(indices: np.ndarray) -> Part:
    def image(i):
      return images.resize(images.decode(source.items[i]['image']), image_size, config.resize)

    array = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock
      for k, pixels in enumerate(pool.map(image, indices.tolist())):
        array[k] = pixels
    return Part(array, labels[indices])

  parts = part(train), part(validation)
  mean = parts[0].images.mean(axis=0, dtype=np.float64).astype(np.float32)
  return Dataset(
    config.name, source.classes, *parts, mean, _fingerprint(source.classes, *parts), source.left_out
  )


def split(
  labels: np.ndarray, train_fraction: float, per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits each class by a seeded permutation, so that its share is exact.

  Args:
    labels: int32 (images,); every label from 0 to the largest has at least two images.
    train_fraction: the share of a class that is trained on, to the nearest image, but at
      least one image of every class on either side.
    per_class: images to use of each class; all if 0 or if there are fewer.
    seed: of the permutation.

  Returns:
    Indices of the training and of the validation images, by class.
  """
  train, validation = [], []
  for label in range(labels.max() + 1):
    indices = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
    indices = indices[: per_class or None]
    first = int(np.clip(np.floor(len(indices) * train_fraction + 0.5), 1, len(indices) - 1))
    train.append(indices[:first])
    validation.append(indices[first:])
  return np.concatenate(train), np.concatenate(validation)


def split_unseen(source: Source, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """Splits by what is seen: whole typefaces and stones are in the validation images only.

  Returns:
    Indices of the training and of the validation images, by class.

  Raises:
    StudyError: if the source does not say, or the share it has is not the one asked for.
  """
  if source.unseen is None:
    raise StudyError(
      f"data.split='unseen' goes by typeface and stone, which {config.name} does not name; "
      "leave data.split='random', or use data.name=tombstone_letters"
    )
  share = 1 - 1 / render.UNSEEN_EVERY
  if config.train_fraction != share:
    raise StudyError(
      f"data.train_fraction is {config.train_fraction}; data.split='unseen' trains on {share}"
    )
  if not source.unseen.any():
    raise StudyError(
      f"data.per_class is {config.per_class}; data.split='unseen' needs at least "
      f'{render.UNSEEN_EVERY} images of each class'
    )
  return np.flatnonzero(~source.unseen), np.flatnonzero(source.unseen)


def _image_folder(config: ConfigDict, image_size: int) -> Source:
  del image_size  # the files are stored as they are, and resized when they are loaded
  if not config.dir:
    raise StudyError('data.dir is empty; give --config.data.dir=PATH, one sub-folder a class')
  root = Path(config.dir).expanduser().resolve()
  files_of = folder.scan(root, config.classes)
  files = [(file, label) for label, of in enumerate(files_of.values()) for file in of]
  for name, of in files_of.items():
    _check_count(name, len(of), str(root / name))
  slug = re.sub(r'[^A-Za-z0-9]+', '_', root.name)[:40]
  key = folder.fingerprint([file for file, _ in files])

  def builder(bad: Sequence[str] = (), good: Sequence[tuple[Path, int]] = ()):
    files_config = builders.FolderConfig(f'{slug}_{key}', files=tuple(good), left_out=tuple(bad))
    return builders.make(builders.ImageFolder, config.cache_dir, files_config)

  data_set = builder()
  if not builders.is_built(data_set):
    bad = folder.unreadable([file for file, _ in files])
    names = [f'{file.relative_to(root)} ({why})' for file, why in bad.items()]
    _check_readable(names, root, config.skip_unreadable)
    note(f'Storing {len(files) - len(bad)} images of {root}, once')
    data_set = builder(names, [(file, label) for file, label in files if file not in bad])
  source = _open(data_set, tuple(files_of))
  _check_readable(source.left_out, root, config.skip_unreadable)
  return source


def _tombstone_letters(config: ConfigDict, image_size: int) -> Source:
  smallest, largest = render.SIZES
  if not smallest <= image_size <= largest:
    raise StudyError(
      f'image_size is {image_size}; letters are rendered from {smallest} to {largest} pixels'
    )
  letters = ''.join(config.classes) or render.LETTERS
  if len(config.classes) != len(letters) * bool(config.classes) or set(letters) - set(
    string.ascii_uppercase
  ):
    raise StudyError(f'data.classes: {config.classes} must be single capital letters, A to Z')
  per_class = config.per_class or render.PER_CLASS
  letters_config = builders.LettersConfig(
    name=f'{letters}_{image_size}px_{per_class}_seed{config.seed}',
    letters=letters,
    per_class=per_class,
    size=image_size,
    seed=config.seed,
  )
  data_set = builders.make(builders.TombstoneLetters, config.cache_dir, letters_config)
  if not builders.is_built(data_set):
    note(f'Rendering {per_class * len(letters)} letters of {image_size} px, once')
  source = _open(data_set, tuple(letters))
  index = np.arange(len(source.labels)) % per_class
  return source._replace(unseen=render.is_unseen(index))


def _open(builder: Any, classes: tuple[str, ...]) -> Source:
  items = builders.open_or_build(builder)
  metadata = builder.info.metadata
  labels = np.asarray(metadata['labels'], np.int32)
  return Source(items, labels, classes, tuple(metadata['left_out']))


SOURCES: dict[str, Callable[[ConfigDict, int], Source]] = {
  'tombstone_letters': _tombstone_letters,
  'image_folder': _image_folder,
}


def _check_readable(names: Sequence[str], root: Path, skip: bool) -> None:
  if names and not skip:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    raise StudyError(
      f'{len(names)} unreadable in {root}: {"; ".join(names[:3])}{more}; mend or remove '
      'them, or go on without them: --config.data.skip_unreadable=True'
    )


def _check_count(name: str, images_: int, where: str) -> None:
  if images_ < 2:
    raise StudyError(
      f'class {name!r} has {images_} images in {where}; it needs at least 2, one to train on '
      'and one to validate, or leave it out with --config.data.classes'
    )


def _fingerprint(classes: Sequence[str], *parts: Part) -> str:
  digest = hashlib.sha256(repr(tuple(classes)).encode('utf-8', 'surrogateescape'))
  for part in parts:
    digest.update(repr(part.images.shape).encode())
    digest.update(part.images)
    digest.update(part.labels)
  return digest.hexdigest()[:16]
