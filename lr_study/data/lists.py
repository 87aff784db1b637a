"""Text files that list images and labels, in the format of NVIDIA DIGITS."""

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lr_study.data import folder, images
from lr_study.data.scanning import printable
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.errors import StudyError
from lr_study.paths import PATH
from lr_study.plugs import limits, nearest, one_of
from lr_study.progress import note

FILES = {'train.txt': TRAIN, 'val.txt': VALIDATION, 'test.txt': TEST}
_DIGITS = 18  # of a label, at most
_SHOWN = 60  # characters of a line in a message


class _Listed(NamedTuple):
  path: Path
  label: int
  part: int
  where: str  # its file and line, for people


@limits(dir=PATH, cache_dir=PATH, resize=one_of(images.RESIZE_MODES))
def image_list(
  image_size: int,
  classes: tuple[str, ...] = (),
  dir: str = '',
  skip_unreadable: bool = False,
  cache_dir: str = '',
  resize: str = 'squash',
  resident: bool = True,
) -> Source:
  """Opens the lists in `dir`: train.txt, and val.txt, test.txt and labels.txt if they exist.

  A line of a list is a path, absolute or relative to `dir`, a blank or a comma, and the number of a
  class. Line n of labels.txt names class n; both count from 0, or from 1 if the numbers do. Without
  labels.txt, classes are named by their numbers. Paths and links may lead anywhere, because the
  lists are the user's own. Other arguments as in `folder.image_folder`.

  Args:
    dir: the folder of the lists.

  Raises:
    StudyError: names the file and the line that cannot be understood.
  """
  if not dir:
    raise StudyError('data.dir is empty; give --config.data.dir=PATH, the folder of train.txt')
  root = Path(os.path.realpath(dir))
  if not os.path.isfile(root / 'train.txt'):
    raise StudyError(f'data.dir: {root} holds no train.txt')
  listed = [line for name, part in FILES.items() for line in _lines(root / name, part)]
  if not listed:
    raise StudyError(f'{root / "train.txt"} lists no images')
  names = _class_names(root / 'labels.txt', listed)
  classes = classes or tuple(dict.fromkeys(names.values()))
  missing = [name for name in classes if name not in names.values()]
  if missing:
    raise StudyError(
      f'data.classes: no class {missing[0]!r} in {root}; it has {", ".join(names.values())}'
      f'{nearest(missing[0], names.values())}'
    )
  files = [
    (line.path, classes.index(names[line.label]), line.part)
    for line in listed
    if names[line.label] in classes
  ]
  options = (image_size, skip_unreadable, cache_dir, resize, resident)
  return folder.store(root, files, classes, (), *options)


def _class_names(file: Path, listed: Sequence[_Listed]) -> dict[int, str]:
  """Label -> name of its class, from labels.txt if it exists.

  Raises:
    StudyError: a label has no name or is too large, or a name occurs twice.
  """
  largest = max(listed, key=lambda line: line.label)
  if not file.exists():
    if largest.label > len(listed):  # then some smaller labels have no image
      raise StudyError(
        f'{largest.where}: the label {largest.label} is larger than the number of images, '
        f'{len(listed)}; number the classes from 0'
      )
    return {label: str(label) for label in sorted({line.label for line in listed})}
  names = [line.strip() for line in _text(file).rstrip().splitlines()]
  for i, name in enumerate(names):
    if not name or name in names[:i]:
      what = f'{printable(name)!r} is already a class' if name else 'the name of a class is missing'
      raise StudyError(f'{file}, line {i + 1}: {what}')
  first = 0
  if largest.label == len(names) and min(line.label for line in listed) == 1:
    note(f'Labels go from 1 to {largest.label}: line 1 of {file} is the name of class 1')
    first = 1
  elif largest.label >= len(names):
    raise StudyError(
      f'{largest.where}: the label is {largest.label}, but {file} names {len(names)} classes, '
      'from 0 on'
    )
  return dict(enumerate(names, first))


def _lines(file: Path, part: int) -> list[_Listed]:
  found = []
  for number, line in enumerate(_text(file).splitlines(), 1):
    where, text = f'{file}, line {number}', line.strip()
    written, label = _divided(text)
    if label:
      found.append(_Listed(_path(where, file.parent, written), int(label), part, where))
    elif text:
      head = number == 1 and not any(map(str.isdigit, text))
      hint = '; delete it if it is a header' if head else ''
      raise StudyError(
        f'{where}: {printable(text[:_SHOWN])!r} is not a path and the number of a class{hint}'
      )
  return found


def _divided(line: str) -> tuple[str, str]:
  """The path and the number in a line, separated by blanks or a comma; two '' if it has none."""
  # Not a regular expression: it would take minutes for a line of 100,000 blanks.
  before = line.rstrip('0123456789')
  path = before.rstrip()
  path = path.removesuffix(path[-1:] if path[-1:] in (',', ';') else '').rstrip()
  number = line[len(before) :]
  if path and number and path != before and len(number) <= _DIGITS:
    return path, number
  return '', ''


def _path(where: str, root: Path, text: str) -> Path:
  """The file of a line, which may have quotes, backslashes or ~.

  Raises:
    StudyError: there is no such file, but there is one without the number at its end.
  """
  others = []
  if len(text) > 1 and text[0] == text[-1] and text[0] in '"\'':
    others.append(text[1:-1])
  if '\\' in text:  # a Windows path
    others += [of.replace('\\', '/') for of in (text, *others)]
  others += [os.path.expanduser(of) for of in (text, *others) if of.startswith('~')]
  if others and not os.path.lexists(root / text):
    return root / next((of for of in others if os.path.lexists(root / of)), others[-1])
  fewer, _ = _divided(text)
  if fewer and os.path.lexists(root / fewer) and not os.path.lexists(root / text):
    raise StudyError(f'{where}: there are several numbers; an image can only have one class')
  return root / text


def _text(file: Path) -> str:
  """The text of a list; file names in it may be any bytes."""
  if not file.exists():
    return ''
  try:
    content = folder.read(file)
  except ValueError as error:
    raise StudyError(f'{file} cannot be read: {error}') from error
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # from Windows
    return content.decode('utf-16', 'backslashreplace')
  return content.decode('utf-8-sig', 'surrogateescape')
