"""Loads a trial of a finished study, predicts the classes of images, and scores predictions."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import (
  environment,
  formats,
  freeze,
  inputs,
  loop,
  models,
  paths,
  plugs,
  trial,
  trials,
  weights,
)
from lr_study.answer.measure import value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import float_type, from_json
from lr_study.data.images import Scale
from lr_study.engine import Engine
from lr_study.errors import StudyError
from lr_study.files.workdir import MEAN, SEEN
from lr_study.paths import Moved
from lr_study.report import report
from lr_study.search import rounds
from lr_study.search.rounds import Planned, Setting
from lr_study.task import make_task
from lr_study.trial import Batch, Task
from lr_study.use import again

PARTS = ('validation', 'test')
SEEN_PARTS = ('train', 'validation')  # that a study used
_DENSE = 100  # the most classes for which the whole confusion matrix is stored


class Study(NamedTuple):
  """A finished study, from its results.json."""

  config: ConfigDict
  record: dict[str, Any]  # the entry "study": data, versions, commit, ...
  results: Sequence[Result]
  verdict: Verdict


class Trained(NamedTuple):
  """A trial at the end of its study.

  variables: all collections of the network as evaluations use them, float32: 'params', and others
  such as 'batch_stats' if the network has them. mean: broadcasts against one image. stored: shape
  and dtype of one stored image. scale: the study's, for image files whose values need one.
  """

  config: ConfigDict
  classes: tuple[str, ...]
  result: Result
  variables: dict[str, Any]
  mean: np.ndarray
  stored: jax.ShapeDtypeStruct
  scale: Scale | None = None


class Score(NamedTuple):
  """A trial's score. confusion: int (classes, classes), images of class [i] predicted as [j]."""

  classes: tuple[str, ...]
  confusion: np.ndarray

  @property
  def accuracy(self) -> float:
    """The share of images that were predicted correctly."""
    return float(np.trace(self.confusion) / self.confusion.sum())

  @property
  def recall(self) -> np.ndarray:
    """The share of correct images of each class, (classes,); NaN if it has no images."""
    counts = self.confusion.sum(1)
    return np.where(counts > 0, np.diag(self.confusion) / np.maximum(counts, 1), np.nan)

  @property
  def balanced_accuracy(self) -> float:
    """The mean of `recall` over the classes that have images."""
    return float(np.nanmean(self.recall))

  def confused(self, most: int = 3) -> list[tuple[int, int, int]]:
    """Confused pairs of classes, the most frequent first: true, predicted, number of images.

    Has at most the `most` frequent pairs of each true class.
    """
    wrong = self.confusion - np.diag(np.diag(self.confusion))
    predicted = np.argsort(-wrong, axis=1, kind='stable')[:, :most]
    found = [
      (label, int(other), int(wrong[label, other]))
      for label, others in enumerate(predicted)
      for other in others
      if wrong[label, other]
    ]
    return sorted(found, key=lambda pair: -pair[2])

  def as_json(self) -> dict[str, Any]:
    """What is stored: a few numbers per class.

    confusion: the whole matrix; null for more than `_DENSE` classes, when it would take megabytes.
    recall: the share of correct images of each class; null if it has no images. images_of: how many
    images each class has. confused: see the method.
    """
    return {
      'confusion': self.confusion.tolist() if len(self.classes) <= _DENSE else None,
      'recall': [None if np.isnan(share) else float(share) for share in self.recall],
      'images_of': self.confusion.sum(1).tolist(),
      'confused': self.confused(),
    }


def load(
  workdir: Path,
  learning_rate: float | None = None,
  seed: int | None = None,
  moved: Moved = (),
  setting: Mapping[str, Any] = rounds.ANY,
) -> Trained:
  """Reads a trial of a finished study from its newest checkpoint.

  Args:
    workdir: the study's.
    learning_rate: of the trial; by default the one that the study recommends for the setting.
    seed: of the trial; by default the best one by the leading measure.
    moved: see `read_study`.
    setting: values on some axes, see `rounds.matching`; by default the best setting.

  Raises:
    StudyError: the study is not finished, has no such trial, or kept no weights of it.
  """
  config, record, results, verdict = read_study(workdir, moved)
  verdicts = report.of_settings(report.read_content(workdir))
  wanted = (learning_rate, seed, setting)
  result, place = choose(results, verdict, *wanted, workdir, verdicts)
  data = record['data']
  variables = restore(workdir, config, data, place)
  stored = _stored(data)
  mean = _mean(config, workdir, stored.shape)
  own = rounds.settings(config)[result.setting]
  scale = Scale(*data['scale']) if data.get('scale') else None
  return Trained(own, tuple(data['classes']), result, variables, mean, stored, scale)


def read_study(workdir: Path, moved: Moved = ()) -> Study:
  """Reads a finished study's results.

  Args:
    workdir: the study's.
    moved: old and new locations of the user's files and images.

  Raises:
    StudyError: there are no results, or they are damaged.
  """
  results, verdict, content = read_results(workdir)
  try:
    record = content['study']
    config = from_json(paths.moved(record['config'], moved))
  except plugs.NotHeld as error:
    raise StudyError(f'the study in {workdir} cannot be read: {error}') from error
  except StudyError as error:  # for example, a file of the user is gone
    raise StudyError(f'the study in {workdir} cannot be read: {error}; {again.MOVED}') from error
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{workdir / "results.json"} is damaged ({error!r})') from error
  return Study(config, record, results, verdict)


def read_results(workdir: Path) -> tuple[Sequence[Result], Verdict, dict[str, Any]]:
  """The results of a finished study, its verdict, and all of results.json.

  Raises:
    StudyError: there are no results, or they are damaged.
  """
  if not os.path.isdir(workdir):
    raise StudyError(f'--workdir {workdir} is not a folder; give that of a finished study')
  finished = report.read(workdir)
  if finished is None:
    raise StudyError(
      f'--workdir {workdir} holds no finished study: it has no results.json; finish it with '
      'scripts/sweep.py'
    )
  return *finished, report.read_content(workdir)


def read_part(workdir: Path, part: str, moved: Moved = ()) -> datasets.Part:
  """Loads the validation images of a study, or its test images, which no trial ever saw.

  Args:
    workdir: the study's.
    part: one of `PARTS`.
    moved: see `read_study`.

  Raises:
    StudyError: the study kept no images for a test, or the images have changed.
  """
  config, record, *_ = read_study(workdir, moved)
  if part == 'test' and not record['data'].get('test'):
    raise StudyError(
      f'{workdir} has no test images; run a study with --config.data.test_fraction=0.2'
    )
  if part == 'test':
    return again.load_test(config, record['data'], workdir)
  return again.load(config, record['data'], workdir).validation


def read_seen(workdir: Path) -> dict[str, np.ndarray]:
  """The digests of the images of each of `SEEN_PARTS`, as of `checks.digests`.

  Empty if the study has none, as those of older versions.
  """
  try:
    with np.load(workdir / SEEN, allow_pickle=False) as found:
      return {part: found[part] for part in SEEN_PARTS}
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
    return {}  # only a line for people depends on it


Logits = Callable[[Any, Any, Any], jax.Array]


def logits_function(trained: Trained) -> Logits:
  """The trial's function (variables, mean, images (batch, ...)) -> logits (batch, classes)."""
  of_inputs = inputs.build(trained.config.input, len(trained.classes))
  # An evaluation does not need the other parts of a task.
  parts = (network(trained), None, None, None, of_inputs, {})
  task = Task(*parts, (), float_type(trained.config))

  def logits(variables, mean, images):
    labels = jnp.zeros(images.shape[0], jnp.int32)
    given, _ = task.inputs(Batch(jnp.asarray(images), labels, mean), None)
    model_state = {name: of for name, of in variables.items() if name != 'params'}
    return trial.apply(task, variables['params'], model_state, given)[0]

  return logits


def network(trained: Trained) -> nn.Module:
  """The trial's network."""
  return models.build(trained.config.model, len(trained.classes), float_type(trained.config))


def takes_files(config: ConfigDict) -> bool:
  """True if a study's images came from image files; False for arrays, which keep their shape."""
  return not (config.data.name.startswith('npz:') or plugs.names_own(config.data.name))


def make_predict(trained: Trained, images: int) -> Callable[[np.ndarray], np.ndarray]:
  """Builds `predict` for a trial, to be called for `images` images in all, or more."""
  batch_size = min(trained.config.eval_batch_size, images)
  function = jax.jit(logits_function(trained))
  variables, mean = jax.device_put((trained.variables, trained.mean))

  def predict(pixels):
    found = []
    for start in range(0, len(pixels), batch_size):
      # Padded with copies of the last image, so that all batches run the same program.
      index = np.minimum(np.arange(start, start + batch_size), len(pixels) - 1)
      found.append(np.asarray(function(variables, mean, pixels[index])))
    return np.concatenate(found)[: len(pixels)]

  return predict


def predict(trained: Trained, pixels: np.ndarray) -> np.ndarray:
  """Logits, float32 (images, classes), of images (images, ...) as the study stores them."""
  return make_predict(trained, len(pixels))(pixels)


def score(trained: Trained, part: datasets.Part) -> Score:
  """Predicts each image as the class of its largest logit, and counts."""
  return count(trained.classes, part.labels, predict(trained, part.images).argmax(1))


def count(classes: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray) -> Score:
  """The score of predictions; labels and predictions are int (images,)."""
  confusion = np.zeros((len(classes),) * 2, int)
  np.add.at(confusion, (labels, predicted), 1)
  return Score(classes, confusion)


def choose(
  results: Sequence[Result],
  verdict: Verdict,
  rate: float | None,
  seed: int | None,
  setting: Mapping[str, Any],
  workdir: Path,
  verdicts: Mapping[Setting, Verdict] = MappingProxyType({}),
) -> tuple[Result, int]:
  """The trial with this rate, seed and setting, and its index in results.json.

  Args:
    results: of all trials.
    verdict: of the study.
    rate: by default the one that the study recommends for the setting.
    seed: by default the best one by the leading measure.
    setting: values on some axes, see `rounds.matching`. If the verdict's setting fits, it is taken.
    workdir: the study's, for messages.
    verdicts: of each setting, if there are several.

  Raises:
    StudyError: there is no such trial, several settings fit, or the trial diverged.
  """
  own = _setting(results, verdict, setting)
  among, where = {result.setting for result in results}, ''
  if len(among) > 1:
    where = f' with {rounds.title(own, among)}'
  if rate is None:
    rate = verdicts.get(own, verdict).learning_rate
  if rate is None:
    raise StudyError(
      f'{workdir}: there is no rate to use{where}, so there is no best trial; give --learning_rate'
    )
  of_setting = [i for i, result in enumerate(results) if result.setting == own]
  of_rate = [i for i in of_setting if np.isclose(results[i].learning_rate, rate, rtol=1e-5)]
  if not of_rate:
    rates = sorted({results[i].learning_rate for i in of_setting})
    raise StudyError(
      f'--learning_rate {formats.rate(rate)} is not in the study{where}, which has '
      f'{", ".join(map(formats.rate, rates))}'
    )
  found = [i for i in of_rate if seed in (None, results[i].seed)]
  if not found:
    seeds = ', '.join(str(results[i].seed) for i in of_rate)
    raise StudyError(f'--seed {seed} is not in the study, which has {seeds}')
  left = [i for i in found if results[i].status != DIVERGED]
  if not left:
    raise StudyError(
      f'{formats.rate(rate)}{where} diverged in {workdir}; choose another --learning_rate'
    )

  def score(i):
    value = value_of(results[i], verdict.leads)
    return -np.inf if value is None else verdict.leads.score(value)

  place = max(left, key=score)
  return results[place], place


def _setting(results: Sequence[Result], verdict: Verdict, wanted: Mapping[str, Any]) -> Setting:
  """The wanted setting: the verdict's if it fits, or the only one that does."""
  fits = rounds.matching(dict.fromkeys(result.setting for result in results), wanted)
  if verdict.setting in fits:
    return verdict.setting
  if len(fits) > 1:
    some = '; '.join(rounds.title(setting, fits) for setting in fits[:4])
    raise StudyError(
      f'{len(fits)} settings fit ({some}{"; ..." if len(fits) > 4 else ""}); choose one with '
      '--axis NAME=VALUE'
    )
  return fits[0]


class _Reader(NamedTuple):
  """The parts of a Sweep that `loop.restore` needs, without images or training."""

  config: ConfigDict
  trials: tuple[Planned, ...]
  steps_per_epoch: int
  engine: Engine


@environment.ours()
def restore(workdir: Path, config: ConfigDict, data: dict[str, Any], place: int) -> dict[str, Any]:
  """The variables of a trial as evaluations use them, from its last checkpoint.

  Args:
    workdir: the study's.
    config: the study's.
    data: the entry "data" in results.json.
    place: the trial's index in results.json.

  Raises:
    StudyError: the checkpoint is lost.
  """
  config = weights.kept(config, workdir)
  settings, planned = rounds.settings(config), rounds.read(workdir / 'history')
  if not planned.trials or not (workdir / 'checkpoints').is_dir():
    raise StudyError(f'{workdir} has lost its history/ or checkpoints/; run the study again')
  wanted = rounds.last(planned, settings)[place]
  own, per_epoch = settings[wanted.setting], data['train'] // wanted.batch_size
  counts = np.asarray(data['counts'])
  task = make_task(own, len(counts), counts, _stored(data), per_epoch)
  # As in training: the form of a state depends on the config, not on the device.
  engine = trials.make_engine(task, own)
  reader = _Reader(own, planned.of_wave(wanted.wave), per_epoch, engine)
  columns, state_T = loop.restore(workdir, planned, wanted.wave, reader)  # type: ignore[arg-type]
  if state_T is None:
    raise StudyError(
      f'{workdir} has lost its final weights; delete its results.json and run the same command of '
      'scripts/sweep.py to train them again'
    )
  column = columns.tolist().index(planned.column(wanted))
  state = engine.plain(jax.tree.map(lambda x: x[column], state_T))
  params = task.optimizer.eval_params(state.opt_state, state.params)
  return jax.tree.map(np.asarray, freeze.whole(params, state.model_state))


def _stored(data: dict[str, Any]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(tuple(data['shape']), data['dtype'])


def _mean(config: ConfigDict, workdir: Path, shape: tuple[int, ...]) -> np.ndarray:
  """The array that the study subtracted from its images."""
  try:
    mean = np.load(workdir / MEAN)
    if mean.shape != shape:
      raise ValueError(f'its shape is {mean.shape}')
  except (EOFError, FileNotFoundError, ValueError) as error:
    raise StudyError(
      f'{workdir / MEAN}, the mean image, is lost or damaged ({error}); run the study again'
    ) from error
  return inputs.subtracted(config.input, mean)
