"""The rendered letters as a data set that is built once; letters/ draws them."""

import contextlib
import string

import numpy as np

from lr_study.data import builders
from lr_study.data.letters import faces, render
from lr_study.data.source import TRAIN, VALIDATION, Source
from lr_study.data.stream import Stored
from lr_study.errors import StudyError
from lr_study.paths import PATH
from lr_study.plugs import limits
from lr_study.progress import working


@limits(cache_dir=PATH)
def tombstone_letters(
  image_size: int,
  classes: tuple[str, ...] = (),
  per_class: int = 0,
  split: str = 'random',
  seed: int = 0,
  cache_dir: str = '',
  resident: bool = True,
) -> Source:
  """Capital letters cut in stone, rendered at the requested size.

  Args:
    image_size: height and width of the images in pixels.
    classes: capital letters; the ten published ones if empty.
    per_class: images of each letter; 700, as published, if 0.
    split: 'unseen' keeps some typefaces and stones for validation, so that accuracy there is on
      ones that the network never saw.
    seed: of the rendering, and of the split.
    cache_dir: where the images are stored as a TFDS data set; TFDS's own folder if ''.
    resident: False leaves the images in their files and reads them step by step.
  """
  smallest, largest = render.SIZES
  if not smallest <= image_size <= largest:
    raise StudyError(
      f'image_size is {image_size}; letters are rendered from {smallest} to {largest} pixels'
    )
  letters = ''.join(classes) or render.LETTERS
  if len(classes) != len(letters) * bool(classes) or set(letters) - set(string.ascii_uppercase):
    raise StudyError(f'data.classes: {classes} must be single capital letters, A to Z')
  per_class = per_class or render.PER_CLASS
  letters_config = builders.LettersConfig(
    name=f'{letters}_{image_size}px_{per_class}_seed{seed}',
    letters=letters,
    per_class=per_class,
    size=image_size,
    seed=seed,
  )
  data_set = builders.make(builders.TombstoneLetters, cache_dir, letters_config)
  is_built = builders.is_built(data_set)
  if not is_built:
    faces.check_installed()
  line = f'Rendering {per_class * len(letters)} letters of {image_size} px, once'
  with contextlib.nullcontext() if is_built else working(line):
    items = builders.open_or_build(data_set)
  labels = np.asarray(data_set.info.metadata['labels'], np.int32)
  names = [f'{letters[label]} {i % per_class}' for i, label in enumerate(labels)]
  parts = np.full(len(labels), TRAIN, np.int8)
  if split == 'unseen':
    parts[render.is_unseen(np.arange(len(labels)) % per_class)] = VALIDATION
  pixels = Stored(items, names, image_size)
  return Source(pixels, labels, tuple(letters), parts, names, resident=resident)
