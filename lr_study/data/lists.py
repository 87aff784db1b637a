"""Text files that list images and labels, as NVIDIA DIGITS writes and takes them."""

import re
from pathlib import Path

from lr_study.data import folder, images
from lr_study.data.source import PATH, TEST, TRAIN, VALIDATION, Source
from lr_study.errors import StudyError
from lr_study.plugs import limits, one_of

FILES = {'train.txt': TRAIN, 'val.txt': VALIDATION, 'test.txt': TEST}
_LINE = re.compile(r'(.+)\s+(\d+)')  # a path may hold blanks


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
  """Opens the lists in `dir`: train.txt, and val.txt, test.txt and labels.txt if there.

  A line of a list is a path, from `dir` on unless it is absolute, and the number of a class; line n
  of labels.txt, from 0, names class n. Paths and links may lead anywhere: the lists are the user's
  own. The other arguments are those of `folder.image_folder`.

  Raises:
    StudyError: naming the file and the line that cannot be understood.
  """
  if not dir:
    raise StudyError('data.dir is empty; give --config.data.dir=PATH, the folder of train.txt')
  root = Path(dir).expanduser().resolve()
  if not (root / 'train.txt').is_file():
    raise StudyError(f'data.dir: {root} holds no train.txt')
  listed = [(*line, part) for name, part in FILES.items() for line in _lines(root / name) if line]
  if not listed:
    raise StudyError(f'{root / "train.txt"} lists no images')
  names = [line.strip() for line in _text(root / 'labels.txt').splitlines() if line.strip()]
  largest = max(label for _, label, _ in listed)
  names = names or [str(label) for label in range(largest + 1)]
  if largest >= len(names):
    raise StudyError(f'{root / "labels.txt"} names {len(names)} classes; a list has {largest}')
  classes = classes or tuple(dict.fromkeys(names))
  missing = [name for name in classes if name not in names]
  if missing:
    raise StudyError(f'data.classes: no class {missing[0]!r} in {root}; it has {", ".join(names)}')
  files = [
    (path, classes.index(names[label]), part)
    for path, label, part in listed
    if names[label] in classes
  ]
  options = (image_size, skip_unreadable, cache_dir, resize, resident)
  return folder.store(root, files, classes, (), *options)


def _lines(file: Path) -> list[tuple[Path, int]]:
  found = []
  for number, line in enumerate(_text(file).splitlines(), 1):
    match = _LINE.fullmatch(line.strip())
    if match:
      found.append((file.parent / match[1].strip(), int(match[2])))
    elif line.strip():
      text = folder.printable(line.strip()[:60])
      raise StudyError(f'{file}, line {number}: {text!r} is no path and number of a class')
  return found


def _text(file: Path) -> str:
  if not file.exists():
    return ''
  try:
    # Names of files may be any bytes.
    return folder.read(file).decode('utf-8', 'surrogateescape')
  except ValueError as error:
    raise StudyError(f'{file} cannot be read: {error}') from error
