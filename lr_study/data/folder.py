"""Image files on disk: finds those that can be read, and stores them as a data set."""

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

_LARGEST_FILE = 2**28  # bytes; larger than any image that Pillow considers safe to decode

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
  """Opens a folder that has one sub-folder of images per class.

  Args:
    image_size: height and width in pixels to which images are resized.
    classes: the sub-folders to keep; all if empty.
    dir: the folder.
    validation_dir: another folder with the same classes to validate on; '' splits `dir`. A class
      that is only in this folder is an error, unless `classes` leaves it out.
    skip_unreadable: leave unreadable files out, and list them.
    cache_dir: where the files are stored unchanged as a TFDS data set; TFDS's own folder if ''.
    resize: how images become square: 'squash', DIGITS's default, or 'crop', 'fill', 'half_crop'.
    resident: False leaves the images in their files and reads them step by step.
  """
  if not dir:
    raise StudyError(
      'data.dir is empty; give --config.data.dir=PATH, a folder with one sub-folder per class'
    )
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
  """Stores the readable files as a TFDS data set, unless that is done, and opens it.

  Args:
    root: the folder that names of files are relative to.
    files: in the order of the data set.
    classes: their names, in the order of the labels.
    roots: the folders that links may not leave; if empty, links may lead anywhere.
    image_size: see `image_folder`.
    skip_unreadable: see `image_folder`.
    cache_dir: see `image_folder`.
    resize: see `image_folder`.
    resident: see `image_folder`.

  Raises:
    StudyError: files cannot be read, unless they may be skipped; or two classes have the same
      printed name.
  """
  written = tuple(map(scanning.class_name, classes))
  for i, name in enumerate(written):
    if name in written[:i]:  # for example a line break, and the characters \ and n
      raise StudyError(f'data.dir: {root} has two classes that both read {name}; rename one')
  slug = re.sub(r'[^A-Za-z0-9]+', '_', root.name)[:40]
  key = fingerprint(files)

  def builder(bad: Sequence[str] = (), good: Sequence[File] = (), scale: tuple[float, ...] = ()):
    names = [printable(file, root) for file, *_ in good]
    files_config = builders.FolderConfig(
      f'{slug}_{key}', files=tuple(good), names=tuple(names), left_out=tuple(bad), scale=scale
    )
    return builders.make(builders.ImageFolder, cache_dir, files_config)

  data_set = builder()
  storing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
  if not builders.is_built(data_set):
    with working(f'Reading {len(files)} images of {root}', keep=False):
      reasons, scale = look([file for file, *_ in files], roots)
    names = [f'{printable(file, root)} ({why})' for file, why in reasons.items()]
    _check_readable(names, root, skip_unreadable)
    if len(reasons) == len(files):
      raise StudyError(f'data.dir: none of the {len(files)} files in {root} is a readable image')
    storing = working(f'Storing {len(files) - len(reasons)} images of {root}, once')
    good = [file for file in files if file[0] not in reasons]
    data_set = builder(names, good, tuple(scale or ()))
  with storing:
    items = builders.open_or_build(data_set)
  found = data_set.info.metadata
  _check_readable(found['left_out'], root, skip_unreadable)
  if found['left_out']:
    note(f'{len(found["left_out"])} unreadable files are left out; summary.md lists them')
  labels, parts = (np.asarray(found[n], t) for n, t in (('labels', np.int32), ('parts', np.int8)))
  scale = images.Scale(*found['scale']) if found['scale'] else None
  if scale:
    note(f'In images of floats or 32 bits, {scale.low:g} is black and {scale.high:g} is white')
  pixels = Stored(items, found['names'], image_size, resize, scale)
  left_out = tuple(found['left_out'])
  return Source(pixels, labels, written, parts, found['names'], left_out, resident, scale)


def fingerprint(files: Sequence[File]) -> str:
  """A hash of paths, labels, parts, sizes and modification times; if it changes, rebuild."""
  digest = hashlib.sha256()
  for file, label, part in files:
    digest.update(os.fsencode(file) + b'\0%d %d ' % (label, part))
    try:
      found = file.stat()
      digest.update(b'%d %d' % (found.st_size, found.st_mtime_ns))
    except (OSError, ValueError) as error:  # for example a broken link, which `look` reports
      digest.update(str(error).encode('utf-8', 'replace'))
  return digest.hexdigest()[:16]


def look(
  files: Sequence[Path], roots: Sequence[Path] = ()
) -> tuple[dict[Path, str], images.Scale | None]:
  """Decodes every file.

  Returns:
    The files that cannot be read, and why; and one scale for all images whose values need one.
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
  """Reads a regular file; refuses anything that could block, be endless or lie elsewhere.

  A link that leaves the folder is refused: folders may come from strangers, and such a link could
  put any picture that you can read into the study. Use a list of files for intentional links.

  Args:
    file: links to a file inside the roots are followed.
    roots: resolved folders that the file must lie in; if empty, it may lie anywhere.

  Raises:
    ValueError: says why it is not read.
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
  except RuntimeError as error:  # how Python 3.11 and 3.12 report a link to itself
    raise ValueError('a link to itself') from error


def _check_apart(train: Path, validation: Path) -> None:
  if train.is_relative_to(validation) or validation.is_relative_to(train):
    raise StudyError(
      f'data.validation_dir: {validation} and data.dir {train} share files; use two separate '
      'folders'
    )


def _check_readable(names: Sequence[str], root: Path, skip: bool) -> None:
  if names and not skip:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    raise StudyError(
      f'{len(names)} unreadable in {root}: {"; ".join(names[:3])}{more}; repair or remove '
      'them, or leave them out with --config.data.skip_unreadable=True'
    )
