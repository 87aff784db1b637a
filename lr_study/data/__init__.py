"""From image files on disk to the uint8 arrays that a study trains on."""

import hashlib
import math
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study.data import builders, checks, folder, images, lists, named, stream
from lr_study.data.images import RESIZE_MODES
from lr_study.data.letters import render
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.data.stream import Stored
from lr_study.errors import StudyError
from lr_study.progress import note

__all__ = [
  'RESIZE_MODES',
  'SOURCES',
  'SPLITS',
  'Dataset',
  'Part',
  'build',
  'files',
  'load',
  'load_test',
  'split',
]

SPLITS = ('random', 'unseen')


class Part(NamedTuple):
  """images: uint8 (images, size, size, 3), in memory or in files. labels: int32 (images,)."""

  images: np.ndarray | Stored
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
  checks: dict[str, checks.Finding]


def load(config: ConfigDict, image_size: int, room: float = math.inf) -> Dataset:
  """Opens, builds if need be, splits, decodes, resizes and checks the data set of a config.

  Args:
    config: the `data` part of a study's config.
    image_size: height and width of the images in pixels.
    room: bytes that the images may take; if they are more they stay in their files.

  Raises:
    StudyError: for anything the user can mend in the config or in the files.
  """
  source, (train, validation, test) = _open(config, image_size)
  stored = [Stored(source, of, image_size, config.resize) for of in (train, validation)]
  size = sum(math.prod(pixels.shape) for pixels in stored)
  resident = config.resident and size <= room
  if not resident:
    wanted = f'{room / 1e9:.2g} GB may hold them' if config.resident else 'data.resident is False'
    note(f'Images of {size / 1e9:.2g} GB stay in their files and stream: {wanted}')
  labels = [source.labels[of] for of in (train, validation)]
  parts = [
    Part(pixels.load() if resident else pixels, of)
    for pixels, of in zip(stored, labels, strict=True)
  ]
  fingerprint, mean, traits = _survey(source.classes, parts)
  names = [_Names(source.names, of) for of in (train, validation)]
  return Dataset(
    config.name,
    source.classes,
    *parts,
    mean,
    len(test),
    fingerprint,
    source.left_out,
    checks.check(traits, labels, names, source.classes),
  )


def build(config: ConfigDict, image_size: int) -> None:
  """Builds the data set of a config where it is cached, if it is not there yet.

  Raises:
    StudyError: for anything the user can mend in the config or in the files.
  """
  _open(config, image_size)


def load_test(config: ConfigDict, image_size: int) -> Part:
  """The test part, which no sweep reads: what `load` leaves out, with the same arguments."""
  source, (*_, test) = _open(config, image_size)
  return Part(Stored(source, test, image_size, config.resize).load(), source.labels[test])


def files(config: ConfigDict, image_size: int) -> tuple[np.ndarray, np.ndarray]:
  """What the files of a data set are like; with the arguments of `load`.

  Returns:
    Images of each class in each part, int (3, classes), in the order TRAIN, VALIDATION, TEST;
    width and height of the file of each of these images in pixels, int (images, 2).
  """
  source, parts = _open(config, image_size)
  counts = [np.bincount(source.labels[of], minlength=len(source.classes)) for of in parts]
  sizes = images.in_threads(
    lambda item: images.size(source.items[int(item)]['image']), np.concatenate(parts)
  )
  return np.stack(counts), np.asarray(sizes)


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


class _Names(Sequence):
  """Those of some of a source's items."""

  def __init__(self, names: Sequence[str], indices: np.ndarray):
    self._names, self._indices = names, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, i: int) -> str:
    return self._names[int(self._indices[i])]


def _survey(
  classes: Sequence[str], parts: Sequence[Part]
) -> tuple[str, np.ndarray, list[checks.Traits]]:
  """The fingerprint, the training part's mean image, and each part's traits, in one pass."""
  digest = hashlib.sha256(repr(tuple(classes)).encode('utf-8', 'surrogateescape'))
  sums, traits = [], []
  for part in parts:
    digest.update(repr(part.images.shape).encode())
    total, found = np.zeros(part.images.shape[1:], np.float64), []
    for block in stream.blocks(part.images):
      digest.update(block)
      total += block.sum(0, dtype=np.uint32)  # exact: blocks of any size give the same
      found.append(checks.traits(block))
    digest.update(part.labels)
    sums.append(total)
    traits.append(checks.join(found))
  mean = (sums[0] / len(parts[0].labels)).astype(np.float32)
  return digest.hexdigest()[:16], mean, traits
