"""A finished study's trial on a folder of images: what it takes each for, and how often rightly."""

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import factored, formats, parallel, progress, report
from lr_study import model as models
from lr_study.checkpoint import Checkpoints
from lr_study.config import check
from lr_study.data import folder, images
from lr_study.errors import StudyError
from lr_study.history import History, read_waves
from lr_study.preprocess import make_preprocess
from lr_study.trial import make_trial
from lr_study.verdict import Result
from lr_study.workdir import place


class Trained(NamedTuple):
  """A trial as it was at the end of its study."""

  config: ConfigDict
  classes: tuple[str, ...]
  result: Result
  params: models.Params
  mean: np.ndarray  # broadcasts against one image


class Score(NamedTuple):
  """How a trial did. confusion: int (classes, classes), images of class [i] taken for class [j]."""

  classes: tuple[str, ...]
  confusion: np.ndarray

  @property
  def accuracy(self) -> float:
    """The share of the images that were taken for what they are."""
    return float(np.trace(self.confusion) / self.confusion.sum())

  @property
  def recall(self) -> np.ndarray:
    """That share of each class, (classes,); NaN where there are no images of it."""
    counts = self.confusion.sum(1)
    return np.where(counts > 0, np.diag(self.confusion) / np.maximum(counts, 1), np.nan)

  @property
  def balanced_accuracy(self) -> float:
    """The mean of that share over the classes that have images: each counts the same."""
    return float(np.nanmean(self.recall))


def load(workdir: Path, learning_rate: float | None = None, seed: int | None = None) -> Trained:
  """Reads a trial of a finished study from its newest checkpoint.

  Args:
    workdir: the study's.
    learning_rate: of the trial; by default the one that the study recommends.
    seed: of the trial; by default the one with the best validation accuracy.

  Raises:
    StudyError: if the study is not finished, has no such trial, or kept no weights of it.
  """
  config, study, results, best = _read(workdir)
  result, column = _choose(results, best if learning_rate is None else learning_rate, seed, workdir)
  classes = tuple(study['data']['classes'])
  state = _restore(workdir, config, study['data'], column)
  params = factored.merge(state.params, state.factors)
  return Trained(config, classes, result, params, _mean(config, study['data'], workdir))


def read_images(root: Path, trained: Trained) -> datasets.Part:
  """Reads a folder of images, one sub-folder a class, as the trial's study would read them.

  Raises:
    StudyError: if there are none, if a sub-folder is no class of the study, or a file no image.
  """
  if not os.path.isdir(root):  # Path.is_dir raises for too long a name
    raise StudyError(f'--dir {root} is not a folder; name one with a sub-folder a class')
  files_of = [(folder.printable(name), of) for name, of in folder.scan(root, ()).items()]
  unknown = [name for name, _ in files_of if name not in trained.classes]
  if unknown:
    raise StudyError(
      f'--dir {root} has the class {unknown[0]!r}, which the study does not know; it knows '
      f'{", ".join(trained.classes)}'
    )
  files = [(file, trained.classes.index(name)) for name, of in files_of for file in of]
  if not files:
    raise StudyError(f'--dir {root} has no files in its sub-folders')
  size, resize = trained.config.image_size, trained.config.data.resize

  def read(file: Path) -> np.ndarray:
    try:
      return images.resize(images.decode(file.read_bytes()), size, resize)
    except (OSError, ValueError) as error:
      raise StudyError(f'{file} is unreadable ({error}); mend or remove it') from error

  with ThreadPoolExecutor() as pool:
    pixels = np.stack(list(pool.map(read, [file for file, _ in files])))
  return datasets.Part(pixels, np.asarray([label for _, label in files], np.int32))


def predict(trained: Trained, pixels: np.ndarray) -> np.ndarray:
  """Logits, float32 (images, classes), of uint8 images (images, size, size, 3)."""
  config = trained.config
  model = models.make_model(config.model, len(trained.classes))
  preprocess = make_preprocess(config.input)

  @jax.jit
  def logits(params, mean, batch):
    return models.apply(model, params, preprocess(batch, mean, None))

  batch_size, found = config.eval_batch_size, []
  for start in range(0, len(pixels), batch_size):
    batch = pixels[start : start + batch_size]
    # Filled up with copies of the last one, so that all batches run one program.
    index = np.minimum(np.arange(batch_size), len(batch) - 1)
    found.append(np.asarray(logits(trained.params, trained.mean, batch[index]))[: len(batch)])
  return np.concatenate(found)


def score(trained: Trained, part: datasets.Part) -> Score:
  """Takes each image for the class of its largest logit, and counts."""
  confusion = np.zeros((len(trained.classes),) * 2, int)
  np.add.at(confusion, (part.labels, predict(trained, part.images).argmax(1)), 1)
  return Score(trained.classes, confusion)


def table(found: Score) -> str:
  """The confusion matrix: a row a true class, a column for what its images were taken for."""
  head = ['true', *found.classes, 'images', 'right']
  rows = [head]
  for name, counts, recall in zip(found.classes, found.confusion, found.recall, strict=True):
    right = None if np.isnan(recall) else float(recall)
    rows.append([name, *map(str, counts), str(counts.sum()), formats.percent(right)])
  widths = [max(map(progress.width, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(
      ' ' * (width - progress.width(cell)) + cell for cell, width in zip(row, widths, strict=True)
    )
    for row in rows
  )


def as_json(trained: Trained, found: Score, root: Path) -> str:
  """Everything that was found, for a program to read; null where a class has no images."""
  recall = [None if np.isnan(share) else float(share) for share in found.recall]
  content = {
    'dir': str(root),
    'learning_rate': trained.result.learning_rate,
    'seed': trained.result.seed,
    'images': int(found.confusion.sum()),
    'accuracy': found.accuracy,
    'balanced_accuracy': found.balanced_accuracy,
    'classes': list(found.classes),
    'recall': recall,
    'confusion': found.confusion.tolist(),
  }
  return json.dumps(content, indent=1, allow_nan=False) + '\n'


def _read(workdir: Path) -> tuple[ConfigDict, dict[str, Any], Sequence[Result], float | None]:
  if not os.path.isdir(workdir):
    raise StudyError(f'--workdir {workdir} is not a folder; name that of a finished study')
  finished = report.read(workdir)
  if finished is None:
    raise StudyError(
      f'--workdir {workdir} holds no finished study: it has no results.json; run it to its end '
      'with scripts/sweep.py'
    )
  results, verdict = finished
  try:
    study = json.loads((workdir / 'results.json').read_text())['study']
    config = ConfigDict(_tuples(study['config']))
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{workdir / "results.json"} is damaged ({error!r})') from error
  return check(config), study, results, verdict.learning_rate


def _tuples(value: Any) -> Any:
  """JSON has lists where a config has tuples."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


def _choose(
  results: Sequence[Result], rate: float | None, seed: int | None, workdir: Path
) -> tuple[Result, int]:
  """A trial and its column in the history."""
  if rate is None:
    raise StudyError(f'{workdir}: no rate learned, so there is no best trial; give --learning_rate')
  of_rate = [i for i, r in enumerate(results) if np.isclose(r.learning_rate, rate, rtol=1e-5)]
  if not of_rate:
    rates = ', '.join(formats.rate(r) for r in sorted({r.learning_rate for r in results}))
    raise StudyError(f'--learning_rate {formats.rate(rate)} is not in the study, which has {rates}')
  found = [i for i in of_rate if seed in (None, results[i].seed)]
  if not found:
    seeds = ', '.join(str(results[i].seed) for i in of_rate)
    raise StudyError(f'--seed {seed} is not in the study, which has {seeds}')
  left = [i for i in found if results[i].validation_accuracy is not None]
  if not left:
    raise StudyError(f'{formats.rate(rate)} diverged in {workdir}; choose another --learning_rate')
  column = max(left, key=lambda i: results[i].validation_accuracy)
  return results[column], column


def _restore(workdir: Path, config: ConfigDict, data: dict[str, Any], column: int) -> Any:
  """The state of the trial of a column, without the trial axis."""
  per_epoch = data['train'] // config.batch_size
  total = config.epochs * per_epoch
  waves = read_waves(workdir / 'history')
  if waves is None or not (workdir / 'checkpoints').is_dir():
    raise StudyError(f'{workdir} has lost its history/ or checkpoints/; run the study again')
  wave, finished = waves[column], History(workdir / 'history', total, config.epochs, len(waves))
  columns = [i for i in finished.running(total) if waves[i] == wave]
  one = make_trial(config, len(data['classes']), per_epoch)
  saved = place(workdir / 'checkpoints', wave, waves)
  with contextlib.closing(Checkpoints(saved)) as checkpoints:
    done, state_T = checkpoints.newest(lambda _: parallel.state_of(one, len(columns)))
  if done != total:
    raise StudyError(f'{saved} has lost the weights of the end; run the study again')
  return jax.tree.map(lambda x: x[columns.index(column)], state_T)


def _mean(config: ConfigDict, data: dict[str, Any], workdir: Path) -> np.ndarray:
  """What the study subtracted from its images."""
  if config.input.subtract == 'none':
    return np.zeros(3, np.float32)
  room = parallel.room_for_images(config.parallel)
  found = datasets.load(config.data, config.image_size, room)
  if found.fingerprint != data['fingerprint']:
    raise StudyError(
      f'the images that {workdir} was trained on have changed, so the mean image that it '
      'subtracts is lost; run the study again'
    )
  return found.mean if config.input.subtract == 'image' else found.mean.mean((0, 1))
