"""From image files on disk to the uint8 arrays that a study trains on."""

import hashlib
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study.data import builders, folder, images, lists, named
from lr_study.data.images import RESIZE_MODES
from lr_study.data.letters import render
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.errors import StudyError
from lr_study.progress import note

__all__ = ['RESIZE_MODES', 'SOURCES', 'SPLITS', 'Dataset', 'Part', 'load', 'load_test', 'split']

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
  test: int  # images that are kept out of both; `load_test` reads them
  fingerprint: str  # of every pixel and label of both parts, and of the classes
  left_out: tuple[str, ...]  # files that could not be read


def load(config: ConfigDict, image_size: int) -> Dataset:
  """Opens, builds if need be, splits, decodes and resizes the data set of a config.

  Args:
    config: the `data` part of a study's config.
    image_size: height and width of the images in pixels.

  Raises:
    StudyError: for anything the user can mend in the config or in the files.
  """
  source, (train, validation, test) = _open(config, image_size)
  parts = [_read(source, indices, image_size, config.resize) for indices in (train, validation)]
  mean = parts[0].images.mean(axis=0, dtype=np.float64).astype(np.float32)
  return Dataset(
    config.name,
    source.classes,
    *parts,
    mean,
    len(test),
    _fingerprint(source.classes, *parts),
    source.left_out,
  )


def load_test(config: ConfigDict, image_size: int) -> Part:
  """The test part, which no sweep reads: what `load` leaves out, with the same arguments."""
  source, (*_, test) = _open(config, image_size)
  return _read(source, test, image_size, config.resize)


def split(
  labels: np.ndarray,
  parts: np.ndarray,
  train_fraction: float,
  test_fraction: float,
  per_class: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits each class by a seeded permutation, so that its share is exact.

  Args:
    labels: int32 (images,).
    parts: int8 (images,): where an image belongs, see source.py. What is TRAIN is split
      here, into training and validation only if no image is VALIDATION.
    train_fraction: the share of a class that is trained on, to the nearest image, but at
      least one image of every class on either side.
    test_fraction: the share of a class that is set aside before that. Which images these
      are hangs on it and on the seed alone.
    per_class: images to use of each class, and of each part that is given; all if 0 or if
      there are fewer.
    seed: of the permutation.

  Returns:
    Indices of the training, the validation and the test images, by class.
  """
  found = ([], [], [])
  given = bool(np.any(parts == VALIDATION))
  for label in range(labels.max() + 1):
    indices = np.flatnonzero((labels == label) & (parts == TRAIN))
    indices = np.random.default_rng([seed, label]).permutation(indices)
    kept = len(indices) - int(np.floor(len(indices) * test_fraction + 0.5))
    first = min(kept, per_class or kept)
    if not given:
      used = first
      first = max(1, min(used - 1, int(np.floor(used * train_fraction + 0.5))))
      found[VALIDATION].append(indices[first:used])
    found[TRAIN].append(indices[:first])
    found[TEST].append(indices[kept:])
    for part in (VALIDATION, TEST):
      own = np.flatnonzero((labels == label) & (parts == part))
      found[part].append(own[: per_class or None] if part == VALIDATION else own)
  return tuple(np.concatenate(part) for part in found)


def _open(
  config: ConfigDict, image_size: int
) -> tuple[Source, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  if config.split == 'unseen':
    _check_unseen(config)
  source = SOURCES.get(config.name, named.open_named)(config, image_size)
  if len(source.classes) < 2:
    raise StudyError(f'a single class, {source.classes[0]!r}; a classifier needs at least two')
  if not len(source.labels):
    raise StudyError(f'{config.name} holds no images')
  parts = split(
    source.labels,
    source.parts,
    config.train_fraction,
    config.test_fraction,
    config.per_class,
    config.seed,
  )
  for label, name in enumerate(source.classes):
    counts = [int(np.sum(source.labels[part] == label)) for part in parts]
    if not (counts[TRAIN] and counts[VALIDATION]):
      raise StudyError(
        f'class {name!r} has {sum(counts)} images in {config.name}, {counts[TRAIN]} of them to '
        f'train on and {counts[VALIDATION]} to validate; it needs one of each at least: add some, '
        'or leave it out with --config.data.classes'
      )
  return source, parts


def _read(source: Source, indices: np.ndarray, image_size: int, mode: str) -> Part:
  array = np.empty((len(indices), image_size, image_size, 3), np.uint8)

  def read(k):
    encoded = source.items[int(indices[k])]['image']
    try:
      array[k] = images.resize(images.decode(encoded), image_size, mode)
    except ValueError as error:  # of a set by its name: files of folders were tried before
      raise StudyError(f'{source.names[int(indices[k])]} cannot be read: {error}') from error

  images.in_threads(read, range(len(indices)))
  return Part(array, source.labels[indices])


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
  items = builders.open_or_build(data_set)
  labels = np.asarray(data_set.info.metadata['labels'], np.int32)
  names = [f'{letters[label]} {i % per_class}' for i, label in enumerate(labels)]
  parts = np.full(len(labels), TRAIN, np.int8)
  if config.split == 'unseen':
    parts[render.is_unseen(np.arange(len(labels)) % per_class)] = VALIDATION
  return Source(items, labels, tuple(letters), parts, names)


def _check_unseen(config: ConfigDict) -> None:
  if config.name != 'tombstone_letters':
    raise StudyError(
      f"data.split='unseen' goes by typeface and stone, which {config.name} does not name; "
      "leave data.split='random', or use data.name=tombstone_letters"
    )
  share = 1 - 1 / render.UNSEEN_EVERY
  if config.train_fraction != share:
    raise StudyError(
      f"data.train_fraction is {config.train_fraction}; data.split='unseen' trains on {share}"
    )
  if 0 < config.per_class < render.UNSEEN_EVERY:
    raise StudyError(
      f"data.per_class is {config.per_class}; data.split='unseen' needs at least "
      f'{render.UNSEEN_EVERY} images of each class'
    )


SOURCES: dict[str, Callable[[ConfigDict, int], Source]] = {
  'tombstone_letters': _tombstone_letters,
  'image_folder': folder.open_folder,
  'image_list': lists.open_lists,
}


def _fingerprint(classes: Sequence[str], *parts: Part) -> str:
  digest = hashlib.sha256(repr(tuple(classes)).encode('utf-8', 'surrogateescape'))
  for part in parts:
    digest.update(repr(part.images.shape).encode())
    digest.update(part.images)
    digest.update(part.labels)
  return digest.hexdigest()[:16]
