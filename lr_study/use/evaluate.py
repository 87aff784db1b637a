"""A finished study's trial, what it makes of images, and how often rightly."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import formats, memory, wave
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import from_json
from lr_study.errors import StudyError
from lr_study.files.workdir import MEAN
from lr_study.network import factored
from lr_study.network import model as models
from lr_study.preprocess import make_preprocess, subtracted
from lr_study.report import report
from lr_study.search import rounds
from lr_study.trial import make_trial

PARTS = ('validation', 'test')


class Study(NamedTuple):
  """A finished study, as its results.json has it."""

  config: ConfigDict
  record: dict[str, Any]  # what is under "study": data, versions, commit, ...
  results: Sequence[Result]
  verdict: Verdict


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
  config, record, results, verdict = read_study(workdir)
  result, place = choose(results, verdict, learning_rate, seed, workdir)
  params = restore(workdir, config, record['data'], place)
  classes = tuple(record['data']['classes'])
  return Trained(config, classes, result, params, _mean(config, workdir))


def read_study(workdir: Path) -> Study:
  """Reads a finished study's results.

  Raises:
    StudyError: if there are none, or they are damaged.
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
    record = report.read_content(workdir)['study']
    config = from_json(record['config'])
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{workdir / "results.json"} is damaged ({error!r})') from error
  return Study(config, record, results, verdict)


def read_part(workdir: Path, part: str) -> datasets.Part:
  """The images of the study that its trials were judged by, or that none of them ever saw.

  Args:
    workdir: the study's.
    part: one of `PARTS`.

  Raises:
    StudyError: if the study kept no images for a test, or if they are not the same any more.
  """
  config, record, *_ = read_study(workdir)
  if part == 'test' and not record['data'].get('test'):
    raise StudyError(
      f'{workdir} kept no images for a test; run a study with --config.data.test_fraction=0.2'
    )
  found = datasets.load(config.data, config.image_size, memory.room_for_images(config.parallel))
  if found.fingerprint != record['data']['fingerprint']:
    raise StudyError(
      f'the images that {workdir} was trained on have changed, so nobody knows which of them it '
      'has seen; run the study again'
    )
  return (
    found.validation if part == 'validation' else datasets.load_test(config.data, config.image_size)
  )


Logits = Callable[[models.Params, Any, Any], jax.Array]


def logits_function(trained: Trained) -> Logits:
  """The trial's function (params, mean, uint8 images (batch, size, size, 3)) -> logits."""
  model = network(trained)
  preprocess = make_preprocess(trained.config.input)
  return lambda params, mean, batch: models.apply(model, params, preprocess(batch, mean, None))


def network(trained: Trained) -> models.Network:
  """The trial's network."""
  config = trained.config.model.copy_and_resolve_references()
  # With no trial axis XLA's own convolution is as fast as a matrix product, and compiles sooner.
  config.convolution = 'grouped'
  return models.make_model(config, len(trained.classes))


def make_predict(trained: Trained, images: int) -> Callable[[np.ndarray], np.ndarray]:
  """Builds `predict` for a trial, which will be called for so many images in all or more."""
  batch_size = min(trained.config.eval_batch_size, images)
  function = jax.jit(logits_function(trained))
  params, mean = jax.device_put((trained.params, trained.mean))

  def predict(pixels):
    found = []
    for start in range(0, len(pixels), batch_size):
      # Filled up with copies of the last one, so that all batches run one program.
      index = np.minimum(np.arange(start, start + batch_size), len(pixels) - 1)
      found.append(np.asarray(function(params, mean, pixels[index])))
    return np.concatenate(found)[: len(pixels)]

  return predict


def predict(trained: Trained, pixels: np.ndarray) -> np.ndarray:
  """Logits, float32 (images, classes), of uint8 images (images, size, size, 3)."""
  return make_predict(trained, len(pixels))(pixels)


def score(trained: Trained, part: datasets.Part) -> Score:
  """Takes each image for the class of its largest logit, and counts."""
  return count(trained.classes, part.labels, predict(trained, part.images).argmax(1))


def count(classes: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray) -> Score:
  """The score of what images were taken for; both int (images,)."""
  confusion = np.zeros((len(classes),) * 2, int)
  np.add.at(confusion, (labels, predicted), 1)
  return Score(classes, confusion)


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


def _mean(config: ConfigDict, workdir: Path) -> np.ndarray:
  """What the study subtracted from its images."""
  try:
    mean = np.load(workdir / MEAN)
    if mean.shape != (config.image_size, config.image_size, 3):
      raise ValueError(f'its shape is {mean.shape}')
  except (EOFError, OSError, ValueError) as error:
    raise StudyError(
      f'{workdir / MEAN}, the mean image, is lost or damaged ({error}); run the study again'
    ) from error
  return subtracted(config.input, mean)
