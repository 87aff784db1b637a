"""Lists the classes and files in a folder, and checks that it is the right folder."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lr_study import formats
from lr_study.errors import StudyError
from lr_study.plugs import nearest
from lr_study.progress import note

# Files that systems, network drives and image viewers leave in folders, in lower case. Hidden files
# are left out too.
_LITTER = {
  'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini', '$recycle.bin', 'recycler',
  'system volume information', 'found.000', '__macosx', 'icon\r', 'network trash folder',
  'temporary items', '@eadir', '#recycle', '#snapshot', '@recycle', '@recently-snapshot',
  'lost+found', 'picasa.ini', 'zbthumbnail.info', '__pycache__',
}  # fmt: skip
_SUFFIXES = {
  '.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.heic',
  '.avif', '.jp2',
}  # fmt: skip
# Names of the parts of a data set: for training, and for validation or testing.
_PARTS = ('train', 'training'), ('val', 'valid', 'validation', 'validate', 'dev', 'test', 'testing')
_SHOWN = 3


def printable(name: Path | str, root: Path | None = None) -> str:
  """A name that is safe for a terminal and for JSON, whatever bytes it contains."""
  if root and isinstance(name, Path) and name.is_relative_to(root):
    name = name.relative_to(root)
  return formats.printable(os.fsencode(name).decode('utf-8', 'backslashreplace'))


def class_name(folder: str) -> str:
  """The name of the class in a folder: printable, with normalised Unicode.

  macOS may write é as two characters; most other systems write one.
  """
  return unicodedata.normalize('NFC', printable(folder))


def is_litter(name: str) -> bool:
  """True for hidden files and for those that a system has left: they are not the user's."""
  return name.startswith('.') or name.lower() in _LITTER


def scan(folder: Path, classes: Sequence[str], field: str = 'data.dir') -> dict[str, list[Path]]:
  """Lists the files of each class, sorted, without hidden files and litter of systems.

  Args:
    folder: holds one sub-folder per class, with the name of the class.
    classes: the classes to keep, in the order of their labels; all if empty.
    field: the field of the config that names the folder.

  Returns:
    class -> its files, including those in deeper sub-folders, and anything else that is not a
    folder.

  Raises:
    StudyError: the folder is missing, it has no classes, or a class is missing; or it holds parts
      such as train/ and val/, or a single folder with the classes, and `classes` is empty.
  """
  if not os.path.isdir(folder):  # Path.is_dir raises an error without permission
    raise StudyError(f'{field}: {folder} is not a folder; give one with a sub-folder per class')
  try:
    names = sorted(p.name for p in folder.iterdir() if not is_litter(p.name))
    inside = {name: os.path.isdir(folder / name) for name in names}
  except OSError as error:
    raise StudyError(f'{field}: cannot read {error.filename}: {error.strerror}') from error
  found = _by_class(folder, (name for name in names if inside[name]), field)
  if not found:
    raise StudyError(f'{field}: {folder} has no sub-folders; make one for each class of images')
  _tell_alike(folder, list(found))
  if not classes and field.startswith('data.'):
    _check_meant(folder, list(found.values()), field)
  wanted = [class_name(name) for name in classes]
  missing = [name for name in wanted if name not in found]
  if missing:
    what = 'data.classes' if field == 'data.dir' else field
    raise StudyError(
      f'{what}: {folder} has no class {missing[0]!r}; it has {", ".join(found)}'
      f'{nearest(missing[0], found)}'
    )
  _tell_beside(folder, [name for name in names if not inside[name]])
  # A linked folder is listed as it is, and `read` refuses it because its files lie elsewhere.
  paths = {name: folder / found[name] for name in wanted or found}
  return {name: [of] if of.is_symlink() else files(of) for name, of in paths.items()}


def files(folder: Path) -> list[Path]:
  """All files in a folder and below, without litter, and folders that cannot be listed."""
  # Not os.walk, which recurses: a folder may be deeper than Python's stack.
  found, folders = [], [str(folder)]
  while folders:
    parent = folders.pop()
    try:
      with os.scandir(parent) as listing:
        entries = [entry for entry in listing if not is_litter(entry.name)]
    except OSError:
      found.append(Path(parent))  # reading it will report why
      continue
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        folders.append(entry.path)
      else:
        found.append(Path(entry.path))
  return sorted(found)


def check_alike(train: Collection[str], validation: Path, found: Collection[str]) -> None:
  """Raises StudyError if the validation folder does not have the same classes as training."""
  fewer = [name for name in train if name not in found]
  if fewer:
    raise StudyError(
      f'data.validation_dir: {validation} has no class {fewer[0]!r}; it has {", ".join(found)}'
      f'{nearest(fewer[0], found)}'
    )
  more = [name for name in found if name not in train]
  if more:
    raise StudyError(
      f'data.validation_dir: {validation} has the class {more[0]!r}, which data.dir does not have'
      f'{nearest(more[0], train)}; add images of it, or name the classes to keep with '
      f'--config.data.classes={",".join(train)}'
    )


def _by_class(folder: Path, names: Iterable[str], field: str) -> dict[str, str]:
  """Class -> the name of its folder."""
  found = {}
  for name in names:
    own = class_name(name)
    if own in found:  # for example a line break, and the characters \ and n
      raise StudyError(f'{field}: {folder} has two classes that both read {own}; rename one')
    found[own] = name
  return found


def _check_meant(folder: Path, names: Sequence[str], field: str) -> None:
  """Raises StudyError if these are parts of a data set, or a single folder with the classes."""
  first, second = (
    next((name for name in names if name.lower() in of_part), None) for of_part in _PARTS
  )
  if first and second:
    hint = f'--{"config." + field}={folder / second}'
    if field == 'data.dir':
      hint = f'--config.data.dir={folder / first} --config.data.validation_dir={folder / second}'
    raise StudyError(
      f'{field}: {folder} holds {first} and {second}, which are parts of a data set, not classes; '
      f'give {hint}; if they are classes, name all with --config.data.classes={",".join(names)}'
    )
  if len(names) == 1:
    inner = folder / names[0]
    deeper = [] if inner.is_symlink() else _folders(inner)
    if len(deeper) > 1:
      raise StudyError(
        f'{field}: {folder} has the single sub-folder {names[0]}, which has {_few(deeper)}; '
        f'if those are the classes, give {inner} instead'
      )


def _folders(folder: Path) -> list[str]:
  try:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_litter(p.name))
  except OSError:  # reading its files will report why
    return []


def _tell_alike(folder: Path, classes: Sequence[str]) -> None:
  """Prints which classes may be the same one."""
  lower = [name.lower() for name in classes]
  alike = [name for name in classes if lower.count(name.lower()) > 1]
  if alike:
    note(f'Classes of {folder} that differ only in capitals: {_few(alike)}')


def _tell_beside(folder: Path, names: Sequence[str]) -> None:
  """Prints which images are not in a class, and which links are broken."""
  broken = [name for name in names if not os.path.exists(folder / name)]
  if broken:
    note(f'Not used, because they are broken links, in {folder}: {_few(broken)}')
  beside = [name for name in names if os.path.splitext(name)[1].lower() in _SUFFIXES]
  if beside:
    note(
      f'Not used, because they are not in a class folder of {folder}: '
      f'{formats.count(len(beside), "image")}, {_few(beside)}'
    )


def _few(names: Sequence[str]) -> str:
  more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
  return ', '.join(map(printable, names[:_SHOWN])) + more
