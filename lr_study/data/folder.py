"""Image files on disk: which of them can be read, and storing those."""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lr_study.data import builders, images, scanning
from lr_study.data.scanning import printable
from lr_study.data.source import TRAIN, VALIDATION, Source
from lr_study.data.stream import Stored
from lr_study.errors import StudyError
from lr_study.paths import PATH
from lr_study.plugs import limits, one_of
from lr_study.progress import note, working

_LARGEST_FILE = 2**28  # bytes; what Pillow thinks safe to decode is no larger

# A file, its label and its part
File = tuple[Path, int, int]


@limits(dir=PATH, validation_dir=PATH, cache_dir=PATH, resize=one_of(images.RESIZE_MODES))
def image_folder(
  image_size: int,
  classes: tuple[str, ...] = (),
  dir: str = '',
  validation_dir: str = '',
  skip_unreadable: bool = False,
  cache_dir: str = '',
  resize: str = 'squash',
  resident: bool = True,
) -> Source:
  """Opens a folder that has one sub-folder of images a class.

  Args:
    image_size: height and width that images get, in pixels.
    classes: the sub-folders to keep; all if empty.
    dir: the folder.
    validation_dir: another one, with the same classes, to validate on; '' splits `dir`. A class
      that is only there is an error, unless `classes` leaves it out.
    skip_unreadable: leave broken files out, and list them.
    cache_dir: where the files are stored as a TFDS data set, as they are; TFDS's own folder if ''.
    resize: how they become square; DIGITS's default, or 'crop', 'fill', 'half_crop'.
    resident: False leaves the images in their files, to be read step by step.
  """
  if not dir:
    raise StudyError('data.dir is empty; give --config.data.dir=PATH, one sub-folder a class')
  root = Path(os.path.realpath(dir))
  files_of = scanning.scan(root, classes)
  files = [(file, label, TRAIN) for label, of in enumerate(files_of.values()) for file in of]
  roots = [root]
  if validation_dir:
    roots.append(Path(os.path.realpath(validation_dir)))
    _check_apart(*roots)
    of_validation = scanning.scan(roots[1], classes, 'data.validation_dir')
    scanning.check_alike(files_of, roots[1], of_validation)
    files += [
      (file, label, VALIDATION)
      for label, name in enumerate(files_of)
      for file in of_validation[name]
    ]
  options = (image_size, skip_unreadable, cache_dir, resize, resident)
  return store(root, files, tuple(files_of), roots, *options)


def store(
  root: Path,
  files: Sequence[File],
  classes: Sequence[str],
  roots: Sequence[Path],
  image_size: int,
  skip_unreadable: bool,
  cache_dir: str,
  resize: str,
  resident: bool,
) -> Source:
  """Stores the files that can be read as a TFDS data set, once, and opens it.

  Args:
    root: the folder that names are told from.
    files: in the order of the data set.
    classes: their names, in the order of the labels.
    roots: the folders that links may not leave; links may lead anywhere if there are none.
    image_size, skip_unreadable, cache_dir, resize, resident: as in `image_folder`.

  Raises:
    StudyError: if files cannot be read, unless they may be skipped; if two classes cannot be told
      apart in writing.
  """
  written = tuple(map(scanning.class_name, classes))
  for i, name in enumerate(written):
    if name in written[:i]:  # a line break, say, and the two characters that stand for it
      raise StudyError(f'data.dir: {root} has two classes that both read {name}; rename one')
  slug = re.sub(r'[^A-Za-z0-9]+', '_', root.name)[:40]
  key = fingerprint(files)

  def builder(bad: Sequence[str] = (), good: Sequence[File] = (), scale: Sequence[float] = ()):
    names = [printable(file, root) for file, *_ in good]
    files_config = builders.FolderConfig(
      f'{slug}_{key}', files=tuple(good), names=tuple(names), left_out=tuple(bad), scale=scale
    )
    return builders.make(builders.ImageFolder, cache_dir, files_config)

  data_set, storing = builder(), contextlib.nullcontext()
  if not builders.is_built(data_set):
    with working(f'Reading {len(files)} images of {root}', keep=False):
      reasons, scale = look([file for file, *_ in files], roots)
    names = [f'{printable(file, root)} ({why})' for file, why in reasons.items()]
    _check_readable(names, root, skip_unreadable)
    if len(reasons) == len(files):
      raise StudyError(f'data.dir: {root} holds no image that can be read, of {len(files)} files')
    storing = working(f'Storing {len(files) - len(reasons)} images of {root}, once')
    good = [file for file in files if file[0] not in reasons]
    data_set = builder(names, good, tuple(scale or ()))
  with storing:
    items = builders.open_or_build(data_set)
  found = data_set.info.metadata
  _check_readable(found['left_out'], root, skip_unreadable)
  if found['left_out']:
    note(f'{len(found["left_out"])} unreadable files are left out; summary.md will list them')
  labels, parts = (np.asarray(found[n], t) for n, t in (('labels', np.int32), ('parts', np.int8)))
  scale = images.Scale(*found['scale']) if found['scale'] else None
  if scale:
    note(f'Images of floats, or of 32 bits: {scale.low:g} is black and {scale.high:g} white in all')
  pixels = Stored(items, found['names'], image_size, resize, scale)
  left_out = tuple(found['left_out'])
  return Source(pixels, labels, written, parts, found['names'], left_out, resident, scale)


def fingerprint(files: Sequence[File]) -> str:
  """A hash of files, labels, parts, sizes and times of change: another one, and all is rebuilt."""
  digest = hashlib.sha256()
  for file, label, part in files:
    digest.update(os.fsencode(file) + b'\0%d %d ' % (label, part))
    try:
      found = file.stat()
      digest.update(b'%d %d' % (found.st_size, found.st_mtime_ns))
    except (OSError, ValueError) as error:  # a link to nowhere, say; `unreadable` names it
      digest.update(str(error).encode('utf-8', 'replace'))
  return digest.hexdigest()[:16]


def look(
  files: Sequence[Path], roots: Sequence[Path] = ()
) -> tuple[dict[Path, str], images.Scale | None]:
  """Decodes every file.

  Returns:
    The ones that are no whole image, and why; the one scale of those whose values need one.
  """

  def tried(file):
    try:
      return images.needed_scale(read(file, roots))
    except ValueError as error:
      return printable(str(error))

  found = images.in_threads(tried, files)
  reasons = {file: why for file, why in zip(files, found, strict=True) if isinstance(why, str)}
  return reasons, images.widest(scale for scale in found if not isinstance(scale, str))


def read(file: Path, roots: Sequence[Path] = ()) -> bytes:
  """Reads a regular file, and nothing that could block, be endless or lie elsewhere.

  A link that leaves the folder is refused: folders come from strangers, and such a link could put
  any picture that you may read into the study. Who links on purpose names the files in a list.

  Args:
    file: links to a file inside the roots are followed.
    roots: resolved folders that the file must lie in; anywhere if there are none.

  Raises:
    ValueError: saying why it is not read.
  """
  try:
    if roots and file.is_symlink() and not any(map(file.resolve().is_relative_to, roots)):
      raise ValueError('a link out of the folder')
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
      listed = 'a folder that cannot be listed' if roots else 'a folder'
      raise ValueError('a link to a folder' if file.is_symlink() else listed)
    if not stat.S_ISREG(found.st_mode):  # a pipe would wait for a writer, a device never ends
      raise ValueError('not a regular file')
    if found.st_size > _LARGEST_FILE:
      raise ValueError(f'{found.st_size} bytes, more than {_LARGEST_FILE}')
    with file.open('rb') as stream:
      return stream.read(_LARGEST_FILE)
  except OSError as error:
    raise ValueError(error.strerror or str(error)) from error
  except RuntimeError as error:  # so Python 3.11 and 3.12 tell of a link to itself
    raise ValueError('a link to itself') from error


def _check_apart(train: Path, validation: Path) -> None:
  if train.is_relative_to(validation) or validation.is_relative_to(train):
    raise StudyError(
      f'data.validation_dir: {validation} and data.dir {train} share files; name two folders '
      'beside each other'
    )


def _check_readable(names: Sequence[str], root: Path, skip: bool) -> None:
  if names and not skip:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    raise StudyError(
      f'{len(names)} unreadable in {root}: {"; ".join(names[:3])}{more}; mend or remove '
      'them, or go on without them: --config.data.skip_unreadable=True'
    )
