"""A finished study's trial on a folder of images: what it takes each for, and how often rightly."""

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
from lr_study import factored, formats, progress, report, rounds, wave
from lr_study import model as models
from lr_study.config import check
from lr_study.data import folder, images
from lr_study.errors import StudyError
from lr_study.preprocess import make_preprocess, subtracted
from lr_study.trial import make_trial
from lr_study.verdict import Result, Verdict


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
  config, study, results, verdict = read_study(workdir)
  result, place = choose(results, verdict, learning_rate, seed, workdir)
  params = restore(workdir, config, study['data'], place)
  classes = tuple(study['data']['classes'])
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
  config = trained.config.copy_and_resolve_references()
  with config.unlocked():  # one trial alone: as plain convolutions it compiles ten times faster
    config.model.convolution = 'grouped'
  model = models.make_model(config.model, len(trained.classes))
  preprocess = make_preprocess(config.input)

  @jax.jit
  def logits(params, mean, batch):
    return models.apply(model, params, preprocess(batch, mean, None))

  batch_size, found = config.eval_batch_size, []
  for start in range(0, len(pixels), batch_size):
    # Filled up with copies of the last one, so that all batches run one program.
    index = np.minimum(np.arange(start, start + batch_size), len(pixels) - 1)
    found.append(np.asarray(logits(trained.params, trained.mean, pixels[index])))
  return np.concatenate(found)[: len(pixels)]


def score(trained: Trained, part: datasets.Part) -> Score:
  """Takes each image for the class of its largest logit, and counts."""
  return count(trained.classes, part.labels, predict(trained, part.images).argmax(1))


def count(classes: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray) -> Score:
  """The score of what images were taken for; both int (images,)."""
  confusion = np.zeros((len(classes),) * 2, int)
  np.add.at(confusion, (labels, predicted), 1)
  return Score(classes, confusion)


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


def read_study(workdir: Path) -> tuple[ConfigDict, dict[str, Any], list[Result], Verdict]:
  """The config of a finished study, what results.json has under "study", its results and answer.

  Raises:
    StudyError: if there is none, or it is damaged.
  """
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
    study = report.read_content(workdir)['study']
    config = ConfigDict(_tuples(study['config']))
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{workdir / "results.json"} is damaged ({error!r})') from error
  return check(config), study, results, verdict


def _tuples(value: Any) -> Any:
  """JSON has lists where a config has tuples."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


def choose(
  results: Sequence[Result],
  verdict: Verdict,
  rate: float | None,
  seed: int | None,
  workdir: Path,
) -> tuple[Result, int]:
  """The trial of this rate and seed, and its place in results.json.

  By default of the rate that the verdict names, at the batch size and with the schedule that it
  names; of several seeds, or of several settings, the one with the best validation accuracy.

  Raises:
    StudyError: if there is none, or it diverged.
  """
  of_rate = range(len(results))
  if rate is None:
    rate = verdict.learning_rate
    setting = (verdict.batch_size, verdict.schedule)
    of_rate = [i for i in of_rate if (results[i].batch_size, results[i].schedule) == setting]
  if rate is None:
    raise StudyError(f'{workdir}: no rate learned, so there is no best trial; give --learning_rate')
  of_rate = [i for i in of_rate if np.isclose(results[i].learning_rate, rate, rtol=1e-5)]
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
  place = max(left, key=lambda i: results[i].validation_accuracy)
  return results[place], place


def restore(workdir: Path, config: ConfigDict, data: dict[str, Any], place: int) -> models.Params:
  """The weights of a trial, from its last checkpoint.

  Args:
    workdir: the study's.
    config: the study's.
    data: what is under "data" in results.json.
    place: the trial's in results.json.

  Raises:
    StudyError: if they are lost.
  """
  settings, planned = rounds.settings(config), rounds.read(workdir / 'history')
  if not planned.trials or not (workdir / 'checkpoints').is_dir():
    raise StudyError(f'{workdir} has lost its history/ or checkpoints/; run the study again')
  trial = rounds.last(planned, settings)[place]
  per_epoch = data['train'] // trial.batch_size
  one = make_trial(settings[trial.setting], len(data['classes']), per_epoch)
  columns, state_T = wave.restore(workdir, planned, trial.wave, one, per_epoch)
  if state_T is None:
    raise StudyError(f'{workdir} has lost the weights of the end; run the study again')
  state = jax.tree.map(lambda x: x[columns.tolist().index(planned.column(trial))], state_T)
  return factored.merge(state.params, state.factors)


def _mean(config: ConfigDict, data: dict[str, Any], workdir: Path) -> np.ndarray:
  """What the study subtracted from its images."""
  if config.input.subtract == 'none':
    return np.zeros(3, np.float32)
  found = datasets.load(config.data, config.image_size)
  if found.fingerprint != data['fingerprint']:
    raise StudyError(
      f'the images that {workdir} was trained on have changed, so the mean image that it '
      'subtracts is lost; run the study again'
    )
  return subtracted(config.input, found.mean)
