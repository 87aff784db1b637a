"""Which files and classes a folder holds, and whether it is the folder that was meant."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lr_study import formats
from lr_study.errors import StudyError
from lr_study.plugs import nearest
from lr_study.progress import note

# What systems, network drives and viewers of images leave in folders, in lower case; hidden files
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
# Names of the parts of a data set, of which the first trains.
_PARTS = ('train', 'training'), ('val', 'valid', 'validation', 'validate', 'dev', 'test', 'testing')
_SHOWN = 3


def printable(name: Path | str, root: Path | None = None) -> str:
  """A name fit for a terminal and for JSON: any bytes may be in it, even a terminal's commands."""
  if root and isinstance(name, Path) and name.is_relative_to(root):
    name = name.relative_to(root)
  return formats.printable(os.fsencode(name).decode('utf-8', 'backslashreplace'))


def class_name(folder: str) -> str:
  """What a class is called by its folder: printable, and in one spelling, whatever wrote it.

  macOS may spell é as two characters, where most others write one.
  """
  return unicodedata.normalize('NFC', printable(folder))


def is_litter(name: str) -> bool:
  """True for what is hidden, or what a system has left: it is not the user's."""
  return name.startswith('.') or name.lower() in _LITTER


def scan(folder: Path, classes: Sequence[str], field: str = 'data.dir') -> dict[str, list[Path]]:
  """Lists the files of each class, sorted; what is hidden, and litter of systems, is left out.

  Args:
    folder: holds one sub-folder a class, named by it.
    classes: the classes to keep, in the order of their labels; all if empty.
    field: the config's, that names the folder.

  Returns:
    class -> its files, those of deeper sub-folders included, and all else that is no folder.

  Raises:
    StudyError: if the folder is missing or holds no classes, or a class is missing; if it holds
      parts, as train/ and val/, or another folder of classes, and `classes` does not say that these
      are classes.
  """
  if not os.path.isdir(folder):  # Path.is_dir raises where it may not look
    raise StudyError(f'{field}: {folder} is not a folder; name one with a sub-folder a class')
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
  # A linked folder is kept as it is, and `read` refuses it: its files would lie elsewhere.
  paths = {name: folder / found[name] for name in wanted or found}
  return {name: [of] if of.is_symlink() else files(of) for name, of in paths.items()}


def files(folder: Path) -> list[Path]:
  """All files in a folder and below it but litter, and folders that cannot be listed."""
  # Not os.walk: it recurses, and a folder may be deeper than Python's stack.
  found, folders = [], [str(folder)]
  while folders:
    parent = folders.pop()
    try:
      with os.scandir(parent) as listing:
        entries = [entry for entry in listing if not is_litter(entry.name)]
    except OSError:
      found.append(Path(parent))  # reading it will say why
      continue
    for entry in entries:
      inner = entry.is_dir(follow_symlinks=False)
      (folders.append if inner else found.append)(entry.path if inner else Path(entry.path))
  return sorted(found)


def check_alike(train: Collection[str], validation: Path, found: Collection[str]) -> None:
  """Raises StudyError if the folder to validate on has not the classes that are trained."""
  fewer = [name for name in train if name not in found]
  if fewer:
    raise StudyError(
      f'data.validation_dir: {validation} has no class {fewer[0]!r}; it has {", ".join(found)}'
      f'{nearest(fewer[0], found)}'
    )
  more = [name for name in found if name not in train]
  if more:
    raise StudyError(
      f'data.validation_dir: {validation} has the class {more[0]!r}, of which data.dir has no '
      f'images{nearest(more[0], train)}; add some, or name the classes to keep with '
      f'--config.data.classes={",".join(train)}'
    )


def _by_class(folder: Path, names: Iterable[str], field: str) -> dict[str, str]:
  """Class -> its folder's name."""
  found = {}
  for name in names:
    own = class_name(name)
    if own in found:  # a line break, say, and the two characters that stand for it
      raise StudyError(f'{field}: {folder} has two classes that both read {own}; rename one')
    found[own] = name
  return found


def _check_meant(folder: Path, names: Sequence[str], field: str) -> None:
  """Raises StudyError if these are parts of a data set, or one folder that holds the classes."""
  first, second = (
    next((name for name in names if name.lower() in of_part), None) for of_part in _PARTS
  )
  if first and second:
    hint = f'--{"config." + field}={folder / second}'
    if field == 'data.dir':
      hint = f'--config.data.dir={folder / first} --config.data.validation_dir={folder / second}'
    raise StudyError(
      f'{field}: {folder} holds {first} and {second}, parts of a data set and no classes; '
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
  except OSError:  # whoever reads its files will say why
    return []


def _tell_alike(folder: Path, classes: Sequence[str]) -> None:
  """Says which classes may be one."""
  lower = [name.lower() for name in classes]
  alike = [name for name in classes if lower.count(name.lower()) > 1]
  if alike:
    note(f'Classes of {folder} that differ in capitals alone: {_few(alike)}')


def _tell_beside(folder: Path, names: Sequence[str]) -> None:
  """Says which images are in no class, and which links lead to none."""
  broken = [name for name in names if not os.path.exists(folder / name)]
  if broken:
    note(f'Not used, since links to nowhere, in {folder}: {_few(broken)}')
  beside = [name for name in names if os.path.splitext(name)[1].lower() in _SUFFIXES]
  if beside:
    note(
      f'Not used, since beside the folders of the classes in {folder}: '
      f'{formats.count(len(beside), "image")}, {_few(beside)}'
    )


def _few(names: Sequence[str]) -> str:
  more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
  return ', '.join(map(printable, names[:_SHOWN])) + more
