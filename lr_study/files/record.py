"""The record of the files that a study writes in its folder. A file is recorded before it exists.

`--overwrite` deletes recorded files and nothing else. On a cluster, each wave k has its own
record, `written_k`, because a file to which two machines append loses lines on some network disks.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

NAME = 'written'
_HEAD = 'What a study of lr_study wrote here, and --overwrite deletes:'  # older studies have it too
_PARTS = '.orbax-checkpoint-tmp'  # follows the name of a checkpoint that is being written
_open: dict[str, tuple[Path, set[str]]] = {}  # folder that was entered -> record, its names


def is_there(folder: Path) -> bool:
  """True if the folder's study keeps a record."""
  try:
    with (folder / NAME).open(encoding='utf-8', errors='replace') as stream:
      return stream.readline() == _HEAD + '\n'  # a file of this name may be the user's
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
    return False


def start_again(file: Path) -> str:
  """What to do about a file of a study that cannot be repaired."""
  if any(map(is_there, file.absolute().parents)):
    return 'start again with --overwrite'
  return 'start again in another --workdir'


def enter(folder: Path, wave: int | None = None) -> None:
  """Makes `add` keep the record of a folder, if its study has one, or that of a worker's wave."""
  file = folder / (NAME if wave is None else f'{NAME}_{wave}')
  _open[os.path.abspath(folder)] = file, set(_lines(file))


def leave(folder: Path) -> None:
  """Ends the effect of `enter`."""
  _open.pop(os.path.abspath(folder), None)


def begin(folder: Path) -> None:
  """Starts the record of a new study, which has not written anything yet."""
  if is_there(folder):
    for file in _files(folder):
      file.unlink()
  with (folder / NAME).open('x', encoding='utf-8') as stream:
    stream.write(_HEAD + '\n')
  if known := _open.get(os.path.abspath(folder)):
    known[1].clear()


def add(*paths: Path, is_folder: bool = False) -> None:
  """Records files, or folders with everything that will be in them. Call it before writing.

  Does nothing outside of folders that were entered. Each call waits for the disk once.
  """
  places = list(map(os.path.abspath, paths))
  for folder, (file, known) in _open.items():
    inside = [place for place in places if place.startswith(folder + os.sep)]
    if not inside or not is_there(Path(folder)):
      continue
    if not file.exists():
      known.clear()  # another process has started another study
    end = '/' if is_folder else ''
    names = dict.fromkeys(os.path.relpath(place, folder) + end for place in inside)
    if new := [name for name in names if name not in known]:
      _append(file, '\n'.join(new))
      known.update(new)


def adopt(folder: Path, wave: int) -> None:
  """Makes the record of a finished wave part of the folder's own."""
  file = folder / f'{NAME}_{wave}'
  own, known = _open[os.path.abspath(folder)]
  if new := [name for name in _lines(file) if name not in known]:
    _append(own, '\n'.join(new))
    known.update(new)
  file.unlink(missing_ok=True)


def delete(folder: Path, keep: Callable[[str], bool]) -> list[str]:
  """Deletes recorded files, and folders that are then empty; the record stays.

  Args:
    folder: the study's.
    keep: returns True for the name of a file, relative to `folder`, that stays.

  Returns:
    The files left in folders that the study had made, relative to `folder`.
  """
  names = {name for file in _files(folder) for name in _lines(file)}
  inside, parents = folder.resolve(), set()
  for name in sorted(name for name in names if not keep(name)):
    path = folder / name
    if not path.parent.resolve().is_relative_to(inside) or path.name in ('', '..'):
      continue  # a link, or a record that another program wrote
    if name.endswith('/'):
      _delete_folder(path)
    else:
      for file in (path, path.with_name(path.name + '.part')):
        if file.is_symlink() or not file.is_dir():
          file.unlink(missing_ok=True)
    parents |= {folder / parent for parent in Path(name).parents if parent.name}
  for parent in sorted(parents, key=lambda path: -len(path.parts)):
    if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
      parent.rmdir()
  left = (file for parent in parents for file in parent.rglob('*') if not file.is_dir())
  return sorted({str(file.relative_to(folder)) for file in left})


def _delete_folder(path: Path) -> None:
  """Deletes a checkpoint, and what an interrupted write of it left."""
  if path.parent.is_dir():
    for found in path.parent.iterdir():
      own = found.name == path.name or found.name.startswith(path.name + _PARTS)
      if own and found.is_dir() and not found.is_symlink():
        shutil.rmtree(found)


def _files(folder: Path) -> list[Path]:
  """The records of the study and of its waves."""
  return [file for file in folder.iterdir() if re.fullmatch(rf'{NAME}(_\d+)?', file.name)]


def _lines(file: Path) -> list[str]:
  """The names on a record, without a last one that a kill truncated: its file does not exist."""
  if not file.is_file():
    return []
  lines = file.read_text('utf-8', 'replace').split('\n')[:-1]
  return [name for name in lines if name not in ('', _HEAD)]


def _append(file: Path, name: str) -> None:
  with file.open('ab+') as stream:
    stream.seek(max(0, stream.tell() - 1))
    torn = stream.read(1) not in (b'', b'\n')
    stream.write(b'\n' * torn + name.encode() + b'\n')
    stream.flush()
    os.fsync(stream.fileno())
