"""Classifies image files with a trial of a finished study."""

import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.special import softmax

from lr_study import formats, progress
from lr_study.config import flatten
from lr_study.data import checks, folder, images, samples, scanning
from lr_study.data.scanning import printable
from lr_study.errors import StudyError
from lr_study.search import rounds
from lr_study.use import evaluate
from lr_study.use.evaluate import Score, Trained
from lr_study.use.standalone import predict

_TOP = 5  # classes that are printed for an image
_MATRIX = 40  # the most classes for which a confusion matrix is printed: it must be readable
_PAIRS = 20  # pairs of classes, the most confused ones, that are printed instead
_NAMED = 10  # classes that a message names


class File(NamedTuple):
  """A file that may be an image. Links may not leave the roots, if there are any."""

  path: Path
  roots: tuple[Path, ...] = ()


class Seen(NamedTuple):
  """The samples that were read. skipped: the files that were not, and why.

  readable: the file of each sample; `samples.npy[0]` if a file holds several. logits: of each
  sample, (readable, classes). of_file: the index of its file, int (readable,). digests: of each
  sample, as of `checks.digests`.
  """

  readable: Sequence[Path]
  logits: np.ndarray
  of_file: np.ndarray
  skipped: Sequence[tuple[Path, str]]
  digests: np.ndarray


class Answer(NamedTuple):
  """An answer for people, and for programs as JSON."""

  text: str
  content: dict[str, Any]


def find(paths: Sequence[str], classes: Sequence[str]) -> tuple[Sequence[File], np.ndarray | None]:
  """Lists image files, with their labels (files,) if each is in the folder of its class.

  Args:
    paths: files and folders of files; or one folder with a sub-folder per class, named after it.
    classes: those that the trial knows.

  Raises:
    StudyError: a file does not exist, a folder has no files, or a sub-folder is not a class.
  """
  files = []
  for path in map(Path, paths):
    if not os.path.lexists(path):  # Path.exists raises an error if the name is too long
      raise StudyError(f'{path}: no such file or folder')
    if not os.path.isdir(path):
      files.append(File(path))  # a link that the user names may lead anywhere
      continue
    inside = _listing(path)
    if any(map(os.path.isdir, inside)):
      if len(paths) > 1:
        raise StudyError(
          f'{path} has sub-folders, one per class; give only this folder, or only its images'
        )
      return _labelled(path, classes)
    if not inside:
      raise StudyError(f'{path} holds no files')
    files += [File(file, (path.resolve(),)) for file in inside]
  return files, None


def look(trained: Trained, files: Sequence[File]) -> Seen:
  """Reads and classifies the files in batches, with the preprocessing of the trial's study.

  Raises:
    StudyError: none of the files can be read.
  """
  run = evaluate.make_predict(trained, len(files))
  chunk = trained.config.eval_batch_size
  readable, logits, of_file, skipped, digests = [], [], [], [], []
  for start in range(0, len(files), chunk):
    some = files[start : start + chunk]
    found = images.in_threads(lambda file: read(file, trained), some)
    good = [i for i, pixels in enumerate(found) if not isinstance(pixels, str)]
    skipped += [(some[i].path, why) for i, why in enumerate(found) if isinstance(why, str)]
    for i in good:
      readable += _names(some[i].path, len(found[i]))
      of_file += [start + i] * len(found[i])
    if good:
      pixels = np.concatenate([found[i] for i in good])
      logits.append(run(pixels))
      digests.append(checks.digests(pixels))
  if not readable:
    what = 'image' if evaluate.takes_files(trained.config) else 'sample'
    raise StudyError(f'no {what} can be read: {_named(skipped)}')
  joined = np.concatenate(logits), np.asarray(of_file)
  return Seen(readable, *joined, skipped, np.concatenate(digests))


def read(file: File, trained: Trained) -> np.ndarray | str:
  """The content of a file, (n, *shape) as the study stores its samples, or why it cannot be read.

  A file is one image, or an .npy file of samples if the study was trained on arrays.
  """
  config, stored = trained.config, trained.stored
  try:
    content = folder.read(*file)
    if not evaluate.takes_files(config):
      return predict.read_samples(io.BytesIO(content), stored.shape, stored.dtype.name)
    image = images.decode(content, trained.scale)
    return images.resize(image, config.image_size, resize_mode(config))[None]
  except ValueError as error:
    return printable(str(error))


def _names(path: Path, count: int) -> list[Path]:
  return [path] if count == 1 else [Path(f'{path}[{row}]') for row in range(count)]


def resize_mode(config: ConfigDict) -> str:
  """How the study made its images square; rendered images already are."""
  return config.data.get('resize', 'squash')


def answer(
  trained: Trained, paths: Sequence[str], of_study: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Answer:
  """The trial's predictions for images, or its accuracy if the images are in folders by class.

  Args:
    trained: the trial.
    paths: see `find`.
    of_study: as of `evaluate.read_seen`. If some images are among these, the answer says so.

  Raises:
    StudyError: see `find` and `look`; also if an image in a class cannot be read, because the
      accuracy would then be for other images.
  """
  files, labels = find(paths, trained.classes)
  seen = look(trained, files)
  used = {part: int(np.isin(seen.digests, own).sum()) for part, own in of_study.items()}
  noun = samples.noun(trained.stored.shape)
  if labels is None:
    text = '\n'.join([_top_text(trained, seen), *_of_study(used, len(seen.digests), noun)])
    return Answer(text, _trial(trained) | _top_content(trained, seen) | {'of_study': used})
  if seen.skipped:
    raise StudyError(
      f'{len(seen.skipped)} unreadable in {paths[0]}: {_named(seen.skipped)}; repair or remove them'
    )
  score = evaluate.count(trained.classes, labels[seen.of_file], seen.logits.argmax(1))
  found = scored(trained, score, {'dir': printable(paths[0])})
  lines = _of_study(used, len(seen.digests), noun)
  if lines:
    lines.append('So this accuracy is no fair estimate for new ones; it is too high.')
  return Answer('\n'.join([found.text, *lines]), found.content | {'of_study': used})


def of_part(trained: Trained, found: Score, part: str) -> Answer:
  """The score on a part of the study's own images, one of `evaluate.PARTS`."""
  scored_part = scored(trained, found, {'part': part})
  if part != 'validation':
    return scored_part
  line = 'The study compared its rates on this part, so the accuracy is slightly too high.'
  return scored_part._replace(text=f'{scored_part.text}\n{line}')


def _of_study(used: Mapping[str, int], total: int, noun: str) -> list[str]:
  """A line if some of the images were used by the study; `used`: how many by each part."""
  did = {'train': 'trained on', 'validation': 'compared rates on'}
  parts = [f'{did[part]} {count}' for part, count in used.items() if count]
  return [f'The study has seen some of these {total} {noun}: it {" and ".join(parts)}.'] * bool(
    parts
  )


def scored(trained: Trained, found: Score, images_of: dict[str, str]) -> Answer:
  """The confusion matrix, and the share of correct images; null for a class without images.

  A row of the matrix is a true class, a column a predicted class. If there are more than `_MATRIX`
  classes, the text has the most confused pairs instead; see `Score.as_json` for the JSON.
  """
  rows = _matrix(found) if len(found.classes) <= _MATRIX else _confused(found)
  total, parts = int(found.confusion.sum()), []
  noun = samples.noun(trained.stored.shape)
  if len(found.classes) > _MATRIX:
    right = int(np.trace(found.confusion))
    parts = [f'The most confused of {len(found.classes)} classes, of {total - right} wrong {noun}:']
  text = (
    f'{describe(trained)}, on {total} {noun}: accuracy {formats.percent(found.accuracy)}, balanced '
    f'accuracy {formats.percent(found.balanced_accuracy)}'
  )
  content = {
    'images': total,
    'accuracy': found.accuracy,
    'balanced_accuracy': found.balanced_accuracy,
    'classes': list(found.classes),
  }
  text = '\n'.join([*parts, rows, '', text, *of_another_epoch(trained)])
  return Answer(text, images_of | _trial(trained) | content | found.as_json())


def _matrix(found: Score) -> str:
  rows = [['true', *found.classes, 'images', 'right']]
  recall = [None if np.isnan(share) else float(share) for share in found.recall]
  for name, counts, share in zip(found.classes, found.confusion, recall, strict=True):
    rows.append([name, *map(str, counts), str(counts.sum()), formats.percent(share)])
  return _aligned(rows)


def _confused(found: Score) -> str:
  """The pairs of classes that are confused most often, one line per pair."""
  rows = [['true', 'predicted as', 'images', 'of']]
  for true, predicted, images_of_pair in found.confused()[:_PAIRS]:
    names = (found.classes[true], found.classes[predicted])
    rows.append([*names, str(images_of_pair), str(found.confusion[true].sum())])
  return _aligned(rows, left=(0, 1))


def of_another_epoch(trained: Trained) -> list[str]:
  """A line if the study's figures are not for these weights; otherwise []."""
  result = trained.result
  if result.best_epoch in (None, result.epochs):
    return []
  return [
    f'the weights are those of the last epoch, {result.epochs}; the figures of the study are '
    f'those of the best epoch of this trial, {result.best_epoch}'
  ]


def top(classes: Sequence[str], logits: np.ndarray) -> list[tuple[str, float]]:
  """The most likely classes of one image, given its logits (classes,), and their probabilities."""
  probabilities = softmax(logits.astype(np.float64))
  best = np.argsort(-probabilities, kind='stable')[:_TOP]
  return [(classes[i], float(probabilities[i])) for i in best]


def describe(trained: Trained) -> str:
  """The trial in words: its rate, its seed, and its values on the axes of its study."""
  result, config = trained.result, trained.config
  parts = [f'learning rate {formats.rate(result.learning_rate)}']
  axes = flatten(config.axes)
  parts += [f'batch size {result.batch_size}'] * ('batch_size' in axes)
  parts += [f'schedule {rounds.value_text(result.schedule)}'] * ('schedule.name' in axes)
  parts += [f'{name} {rounds.value_text(value)}' for name, value in result.axes.items()]
  return ', '.join([*parts, f'seed {result.seed}'])


def _labelled(root: Path, classes: Sequence[str]) -> tuple[Sequence[File], np.ndarray]:
  files_of = scanning.scan(root, (), 'the images')
  known = list(map(scanning.class_name, classes))
  unknown = [name for name in files_of if name not in known]
  if unknown:
    more = f' and {len(classes) - _NAMED} more' if len(classes) > _NAMED else ''
    raise StudyError(
      f'{root} has the class {unknown[0]!r}, which the study does not know; it knows '
      f'{", ".join(classes[:_NAMED])}{more}'
    )
  roots = (root.resolve(),)
  files = [File(file, roots) for of in files_of.values() for file in of]
  if not files:
    raise StudyError(f'{root} has no files in its sub-folders')
  labels = [known.index(name) for name, of in files_of.items() for _ in of]
  return files, np.asarray(labels, np.int32)


def _listing(path: Path) -> list[Path]:
  try:
    return sorted(inner for inner in path.iterdir() if not scanning.is_litter(inner.name))
  except OSError as error:
    raise StudyError(f'cannot read {path}: {error.strerror}') from error


def _trial(trained: Trained) -> dict[str, Any]:
  result = trained.result
  names = ('learning_rate', 'seed', 'batch_size', 'schedule', 'epochs', 'best_epoch')
  found = {name: getattr(result, name) for name in names}
  return found | ({'axes': result.axes} if result.axes else {})


def _top_text(trained: Trained, seen: Seen) -> str:
  count = min(_TOP, len(trained.classes))
  rows = [['image', *(cell for place in range(count) for cell in (str(place + 1), ''))]]
  for file, logits in zip(seen.readable, seen.logits, strict=True):
    cells = [
      cell
      for name, share in top(trained.classes, logits)
      for cell in (name, formats.percent(share))
    ]
    rows.append([printable(file), *cells])
  lines = [f'{printable(file)} is skipped: {why}' for file, why in seen.skipped]
  table = _aligned(rows, left=range(0, len(rows[0])))
  return '\n'.join([table, *lines, *of_another_epoch(trained)])


def _top_content(trained: Trained, seen: Seen) -> dict[str, Any]:
  found = [
    {
      'file': printable(file),
      'top': [{'class': name, 'probability': share} for name, share in top(trained.classes, of)],
    }
    for file, of in zip(seen.readable, seen.logits, strict=True)
  ]
  skipped = [{'file': printable(file), 'reason': why} for file, why in seen.skipped]
  return {'files': found, 'skipped': skipped}


def _named(skipped: Sequence[tuple[Path, str]]) -> str:
  """The first three files and reasons, for a message."""
  names = '; '.join(f'{printable(file)} ({why})' for file, why in skipped[:3])
  return names + (f' and {len(skipped) - 3} more' if len(skipped) > 3 else '')


def _aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
  """Lines with aligned columns for a terminal; those in `left` are left-aligned."""
  widths = [max(map(progress.width, column)) for column in zip(*rows, strict=True)]

  def cell(text, column):
    blank = ' ' * (widths[column] - progress.width(text))
    return text + blank if column in left else blank + text

  return '\n'.join(
    '  '.join(cell(text, column) for column, text in enumerate(row)).rstrip() for row in rows
  )
