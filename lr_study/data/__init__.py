"""Loads files, or your own arrays, into the arrays that a study trains on.

`config.data.name` is one of `KNOWN`; `'npz:PATH'`; the name of a TFDS set, such as 'mnist'; or
`'my_data.py:load'`, your own function. It is called with the fields of `config.data` that are among
its arguments, and with `image_size` if it takes that. It returns labelled arrays in a form that
`arrays.to_source` describes, for example `return x, y`, and must return the same each time. Mark a
path argument with `@plugs.limits(file=paths.PATH)`, so that it is found from any folder.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats, plugs
from lr_study.data import arrays, checks, folder, lists, named, rendered, samples, stream
from lr_study.data.images import RESIZE_MODES, Scale
from lr_study.data.letters import render
from lr_study.data.source import SPLITS, TEST, TRAIN, VALIDATION, Common, Source, common
from lr_study.data.stream import Stored
from lr_study.errors import StudyError
from lr_study.progress import note

__all__ = [
  'KNOWN',
  'RESIZE_MODES',
  'SPLITS',
  'SUPPLIED',
  'Dataset',
  'Opened',
  'Part',
  'check_apart',
  'common',
  'find',
  'load',
  'opened',
  'split',
]

KNOWN: dict[str, Callable[..., Source]] = {
  'tombstone_letters': rendered.tombstone_letters,
  'image_folder': folder.image_folder,
  'image_list': lists.image_list,
}
SUPPLIED = ('image_size',)


def find(name: str) -> Callable[..., Source]:
  """The factory of a name that is not in `KNOWN`: 'npz:PATH', or the name of a TFDS set."""
  return arrays.npz(name) if name.startswith('npz:') else named.find(name, KNOWN)


class Part(NamedTuple):
  """images: (images, *shape), uint8 or float32, in memory or in files. labels: int32 (images,)."""

  images: np.ndarray | Stored
  labels: np.ndarray


class Dataset(NamedTuple):
  """What a study trains and validates on. Any sample is called an image, even a row of a table.

  Images from files are uint8 (size, size, 3); arrays keep their shape.
  """

  name: str
  classes: tuple[str, ...]
  train: Part
  validation: Part
  mean: np.ndarray  # float32, with the shape of one image, over the training part only
  test: int  # how many images are kept out of both; `Opened.test` reads them
  fingerprint: str  # of all images and labels of both parts, and of the classes
  left_out: tuple[str, ...]  # files that could not be read
  checks: dict[str, checks.Finding]
  scale: Scale | None = None  # of image files whose values need one
  is_arrays: bool = False  # it did not come from image files
  # Of each image of the training and of the validation part; see `checks.digests`.
  digests: tuple[np.ndarray, ...] = ()


class Opened(NamedTuple):
  """A data set that is opened and split, but not read yet."""

  name: str
  source: Source
  parts: tuple[np.ndarray, np.ndarray, np.ndarray]  # indices, in the order TRAIN, VALIDATION, TEST

  def load(self, room: float = math.inf) -> Dataset:
    """Decodes, resizes and checks the training and the validation part.

    Args:
      room: bytes that the images may take; if they take more, they stay in their files. Arrays are
        always in memory.

    Raises:
      StudyError: an image cannot be read.
    """
    source, (train, validation, test) = self.source, self.parts
    found = [source.images.at(of) for of in (train, validation)]
    labels = [source.labels[of] for of in (train, validation)]
    parts = [
      Part(images, of) for images, of in zip(_placed(source, found, room), labels, strict=True)
    ]
    of_training, of_validation = parts
    fingerprint, mean, traits = _survey(source.classes, parts)
    names = [_Names(source.names, of) for of in (train, validation)]
    return Dataset(
      self.name,
      source.classes,
      of_training,
      of_validation,
      mean,
      len(test),
      fingerprint,
      source.left_out,
      checks.check(traits, labels, names, source.classes, samples.noun(mean.shape)),
      source.scale,
      is_arrays=not isinstance(source.images, Stored),
      digests=tuple(found.digest for found in traits),
    )

  def test(self) -> Part:
    """The test part, which `load` leaves out and no sweep reads."""
    source, (*_, test) = self.source, self.parts
    (images,) = _placed(source._replace(resident=True), [source.images.at(test)], math.inf)
    return Part(images, source.labels[test])

  def files(self) -> tuple[np.ndarray, np.ndarray]:
    """Counts images and measures their files.

    Returns:
      The number of images of each class in each part, int (3, classes), in the order TRAIN,
      VALIDATION, TEST; and the width and height of each image's file in pixels, int (images, 2), or
      (0, 2) for arrays.
    """
    classes = len(self.source.classes)
    counts = [np.bincount(self.source.labels[of], minlength=classes) for of in self.parts]
    return np.stack(counts), self.source.images.sizes(np.concatenate(self.parts))


def check_apart(config: Mapping[str, Any], folder: Path, what: str) -> None:
  """Checks that nothing is written into a folder of images, where sub-folders are classes.

  Args:
    config: see `opened`.
    folder: the folder that would be written to.
    what: the flag that sets it.

  Raises:
    StudyError: the folder lies among the images, or the cache does.
  """
  if config['name'] != 'image_folder':
    return
  for field in ('dir', 'validation_dir'):
    images = config.get(field) and os.path.realpath(config[field])
    cache = config.get('cache_dir')
    for path, name in ((folder, what), (cache, '--config.data.cache_dir')):
      if images and path and Path(os.path.realpath(path)).is_relative_to(images):
        raise StudyError(
          f'{path} lies in data.{field}, {images}, where it would count as a class of images; '
          f'set another folder with {name}'
        )


def load(config: Mapping[str, Any], image_size: int, room: float = math.inf) -> Dataset:
  """Opens and loads a data set; see `opened` and `Opened.load` for the arguments."""
  return opened(config, image_size).load(room)


def opened(config: Mapping[str, Any], image_size: int) -> Opened:
  """Opens and splits the data set of a config, and builds it if necessary.

  Args:
    config: the `data` part of a study's config: a name, and fields that differ from their defaults.
    image_size: height and width of images from files in pixels; arrays keep their shape.

  Raises:
    StudyError: the config, the files or the user's function need fixing.
  """
  return Opened(config['name'], *_open(config, image_size))


def split(
  labels: np.ndarray,
  parts: np.ndarray,
  train_fraction: float,
  test_fraction: float,
  per_class: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Splits each class by a seeded permutation, so that the shares of each class are exact.

  Args:
    labels: int32 (images,).
    parts: int8 (images,), the given part of each image, see source.py. Images in TRAIN are split
      here: test images are taken from them, and validation images only if none are given.
    train_fraction: the share of a class to train on, rounded to the nearest image, but with at
      least one image of every class on either side.
    test_fraction: the share of a class to set aside first. These images depend only on the
      fraction and the seed.
    per_class: images to use of each class, and of each given part; all if 0 or if there are fewer.
    seed: of the permutation.

  Returns:
    Indices of the training, validation and test images, class by class.
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
  config: Mapping[str, Any], image_size: int
) -> tuple[Source, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  name = config['name']
  factory = plugs.find('data', name)
  fields = plugs.checked('data', factory, config)
  own = {field: fields[field] for field in Common._fields}  # a user's defaults may differ in type
  shared = common(**plugs.checked('data', common, own))
  if shared.split == 'unseen':
    _check_unseen(name, shared)
  source = plugs.call('data', factory, {'image_size': image_size}, fields)
  if not isinstance(source, Source):
    source = arrays.to_source(plugs.title('data', factory), source, shared.classes)
  if len(source.classes) < 2:
    raise StudyError(f'there is only one class, {source.classes[0]!r}; a study needs at least two')
  what = samples.noun(source.images.shape[1:])
  if not len(source.labels):
    raise StudyError(f'{name} holds no {what}')
  parts = split(
    source.labels,
    source.parts,
    shared.train_fraction,
    shared.test_fraction,
    shared.per_class,
    shared.seed,
  )
  _tell_unused(name, source, shared, parts)
  where = fields.get('dir') or name
  for label, of in enumerate(source.classes):
    counts = [int(np.sum(source.labels[part] == label)) for part in parts]
    if not (counts[TRAIN] and counts[VALIDATION]):
      raise StudyError(
        f'class {of!r} has {formats.count(sum(counts), what[:-1])} in {where}, {counts[TRAIN]} to '
        f'train on and {counts[VALIDATION]} to validate; it needs at least one of each: add some, '
        'or leave it out with --config.data.classes'
      )
  return source, parts


def _tell_unused(name: str, source: Source, shared: Common, parts: Sequence[np.ndarray]) -> None:
  """Prints how many images are not used, and whether train_fraction is not used."""
  used, there = sum(map(len, parts)), len(source.labels)
  if used < there:
    what = samples.noun(source.images.shape[1:])
    note(f'{used} of {there} {what} of {name} are used: data.per_class is {shared.per_class}')
  given = bool(np.any(source.parts == VALIDATION))
  if given and shared.split != 'unseen' and shared.train_fraction != common().train_fraction:
    note(
      f'data.train_fraction, {shared.train_fraction}, is not used: {name} has its own validation '
      f'{samples.noun(source.images.shape[1:])}'
    )


def _check_unseen(name: str, shared: Common) -> None:
  if name != 'tombstone_letters':
    raise StudyError(
      f"data.split='unseen' splits by typeface and stone, which {name} does not record; "
      "use data.split='random', or data.name=tombstone_letters"
    )
  share = 1 - 1 / render.UNSEEN_EVERY
  if shared.train_fraction != share:
    raise StudyError(
      f"data.train_fraction is {shared.train_fraction}; data.split='unseen' trains on {share}"
    )
  if 0 < shared.per_class < render.UNSEEN_EVERY:
    raise StudyError(
      f"data.per_class is {shared.per_class}; data.split='unseen' needs at least "
      f'{render.UNSEEN_EVERY} images of each class'
    )


def _placed(
  source: Source, found: Sequence[np.ndarray | Stored], room: float
) -> Sequence[np.ndarray | Stored]:
  """The images of the parts: in memory, or in their files if they must be or do not fit."""
  size = sum(images.nbytes for images in found)
  if not isinstance(found[0], Stored):
    if size > room:
      note(f'Arrays of {size / 1e9:.2g} GB stay in memory; images may use {room / 1e9:.2g} GB')
    return found
  if source.resident and size <= room:
    return [images.load() for images in found]
  why = f'they may use {room / 1e9:.2g} GB' if source.resident else 'data.resident is False'
  note(f'Images of {size / 1e9:.2g} GB are streamed from their files: {why}')
  return found


class _Names(Sequence):
  """The names of some of a source's items."""

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
    shape, dtype = part.images.shape, part.images.dtype
    digest.update((repr(shape) if dtype == np.uint8 else f'{shape} {dtype}').encode())
    # Exact for uint8, so that the size of blocks does not matter.
    exact = np.uint32 if dtype == np.uint8 else np.float64
    total, found = np.zeros(shape[1:], np.float64), []
    for block in stream.blocks(part.images):
      digest.update(block)
      total += block.sum(0, dtype=exact)
      found.append(checks.traits(block))
    digest.update(part.labels)
    sums.append(total)
    traits.append(checks.join(found))
  mean = (sums[0] / len(parts[0].labels)).astype(np.float32)
  return digest.hexdigest()[:16], mean, traits
