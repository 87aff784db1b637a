"""A finished study's trial, what it makes of images, and how often rightly."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
from lr_study.config import from_json
from lr_study.data.images import Scale
from lr_study.engine import Engine
from lr_study.errors import StudyError
from lr_study.files.workdir import MEAN
from lr_study.paths import Moved
from lr_study.report import report
from lr_study.search import rounds
from lr_study.search.rounds import Planned, Setting
from lr_study.task import make_task
from lr_study.trial import Batch, Task
from lr_study.use import again

PARTS = ('validation', 'test')
_DENSE = 100  # classes up to which a confusion matrix is written whole


class Study(NamedTuple):
  """A finished study, as its results.json has it."""

  config: ConfigDict
  record: dict[str, Any]  # what is under "study": data, versions, commit, ...
  results: Sequence[Result]
  verdict: Verdict


class Trained(NamedTuple):
  """A trial as it was at the end of its study.

  variables: all collections of the network as evaluations use them, float32: 'params', and
  'batch_stats' and others where there are any. mean: broadcasts against one image. stored: the form
  of one image as it is stored. scale: of image files whose values need one, as the study had it.
  """

  config: ConfigDict
  classes: tuple[str, ...]
  result: Result
  variables: dict[str, Any]
  mean: np.ndarray
  stored: jax.ShapeDtypeStruct
  scale: Scale | None = None


class Score(NamedTuple):
  """How a trial did. confusion: int (classes, classes), images of class [i] predicted as [j]."""

  classes: tuple[str, ...]
  confusion: np.ndarray

  @property
  def accuracy(self) -> float:
    """The share of the images that were predicted right."""
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

  def confused(self, most: int = 3) -> list[tuple[int, int, int]]:
    """Pairs of classes that are confused, most often first: true, predicted, how many images.

    Of each true class the `most` frequent ones.
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
    """What of it is kept, a few numbers a class however many there are.

    confusion: the whole matrix; null for more classes than `_DENSE`, of which it would be MBs.
    recall: the share of each class that is predicted right; null if there are no images of it.
    images_of: of each class. confused: see the method.
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
    seed: of the trial; by default the best one, by the figure that the study goes by.
    moved: as of `read_study`.
    setting: of the trial, as far as it is named, see `rounds.matching`; by default the best one.

  Raises:
    StudyError: if the study is not finished, has no such trial, or kept no weights of it.
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
    moved: where files of the user's own and images lie now, by where they lay.

  Raises:
    StudyError: if there are none, or they are damaged.
  """
  results, verdict, content = read_results(workdir)
  try:
    record = content['study']
    config = from_json(paths.moved(record['config'], moved))
  except StudyError as error:  # a file of the user's own has gone, say
    raise StudyError(f'the study in {workdir} cannot be read: {error}; {again.MOVED}') from error
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{workdir / "results.json"} is damaged ({error!r})') from error
  return Study(config, record, results, verdict)


def read_results(workdir: Path) -> tuple[Sequence[Result], Verdict, dict[str, Any]]:
  """The results of a finished study, its verdict, and all that results.json holds.

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
  return *finished, report.read_content(workdir)


def read_part(workdir: Path, part: str, moved: Moved = ()) -> datasets.Part:
  """The images of the study that its trials were judged by, or that none of them ever saw.

  Args:
    workdir: the study's.
    part: one of `PARTS`.
    moved: as of `read_study`.

  Raises:
    StudyError: if the study kept no images for a test, or if they are not the same any more.
  """
  config, record, *_ = read_study(workdir, moved)
  if part == 'test' and not record['data'].get('test'):
    raise StudyError(
      f'{workdir} kept no images for a test; run a study with --config.data.test_fraction=0.2'
    )
  if part == 'test':
    return again.load_test(config, record['data'], workdir)
  return again.load(config, record['data'], workdir).validation


Logits = Callable[[Any, Any, Any], jax.Array]


def logits_function(trained: Trained) -> Logits:
  """The trial's function (variables, mean, images (batch, ...)) -> logits (batch, classes)."""
  of_inputs = inputs.build(trained.config.input, len(trained.classes))
  # What the network is applied with; an evaluation does without the rest of a task.
  parts = (network(trained), None, None, None, of_inputs, {})
  task = Task(*parts, (), trained.config.dtype)

  def logits(variables, mean, images):
    labels = jnp.zeros(images.shape[0], jnp.int32)
    given, _ = task.inputs(Batch(jnp.asarray(images), labels, mean), None)
    model_state = {name: of for name, of in variables.items() if name != 'params'}
    return trial.apply(task, variables['params'], model_state, given)[0]

  return logits


def network(trained: Trained) -> nn.Module:
  """The trial's network."""
  return models.build(trained.config.model, len(trained.classes), trained.config.dtype)


def takes_files(config: ConfigDict) -> bool:
  """True if a study's images came from image files; False for arrays, which keep their shape."""
  return not (config.data.name.startswith('npz:') or plugs.names_own(config.data.name))


def make_predict(trained: Trained, images: int) -> Callable[[np.ndarray], np.ndarray]:
  """Builds `predict` for a trial, which will be called for so many images in all or more."""
  batch_size = min(trained.config.eval_batch_size, images)
  function = jax.jit(logits_function(trained))
  variables, mean = jax.device_put((trained.variables, trained.mean))

  def predict(pixels):
    found = []
    for start in range(0, len(pixels), batch_size):
      # Filled up with copies of the last one, so that all batches run one program.
      index = np.minimum(np.arange(start, start + batch_size), len(pixels) - 1)
      found.append(np.asarray(function(variables, mean, pixels[index])))
    return np.concatenate(found)[: len(pixels)]

  return predict


def predict(trained: Trained, pixels: np.ndarray) -> np.ndarray:
  """Logits, float32 (images, classes), of images (images, ...) as the study stores them."""
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
  setting: Mapping[str, Any],
  workdir: Path,
  verdicts: Mapping[Setting, Verdict] = rounds.ANY,
) -> tuple[Result, int]:
  """The trial of this rate, seed and setting, and its place in results.json.

  Args:
    results: of all trials.
    verdict: of the study.
    rate: by default the one that the study recommends for the setting.
    seed: by default the best one, by the verdict's measure.
    setting: as far as it is named, see `rounds.matching`. Of those that fit, it is the one that
      the verdict names.
    workdir: the study's, for messages.
    verdicts: of each setting, where there are several.

  Raises:
    StudyError: if there is no such trial, or several settings fit, or the trial diverged.
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
  """The one that is wanted: of those that fit, the verdict's."""
  fits = rounds.matching(dict.fromkeys(result.setting for result in results), wanted)
  if verdict.setting in fits:
    return verdict.setting
  if len(fits) > 1:
    some = '; '.join(rounds.title(setting, fits) for setting in fits[:4])
    raise StudyError(
      f'{len(fits)} settings fit ({some}{"; ..." if len(fits) > 4 else ""}); name one, by '
      '--axis NAME=VALUE'
    )
  return fits[0]


class _Reader(NamedTuple):
  """What of a sweep `loop.restore` asks for: here are no images, and nothing trains."""

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
    data: what is under "data" in results.json.
    place: the trial's in results.json.

  Raises:
    StudyError: if they are lost.
  """
  config = weights.kept(config, workdir)
  settings, planned = rounds.settings(config), rounds.read(workdir / 'history')
  if not planned.trials or not (workdir / 'checkpoints').is_dir():
    raise StudyError(f'{workdir} has lost its history/ or checkpoints/; run the study again')
  wanted = rounds.last(planned, settings)[place]
  own, per_epoch = settings[wanted.setting], data['train'] // wanted.batch_size
  counts = np.asarray(data['counts'])
  task = make_task(own, len(counts), counts, _stored(data), per_epoch)
  # As when it trained: the form of a state depends on the config and not on the device.
  engine = trials.make_engine(task, own)
  reader = _Reader(own, planned.of_wave(wanted.wave), per_epoch, engine)
  columns, state_T = loop.restore(workdir, planned, wanted.wave, reader)
  if state_T is None:
    raise StudyError(
      f'{workdir} has lost the weights of the end; delete its results.json, and the same command '
      'of scripts/sweep.py trains them again'
    )
  column = columns.tolist().index(planned.column(wanted))
  state = engine.plain(jax.tree.map(lambda x: x[column], state_T))
  params = task.optimizer.eval_params(state.opt_state, state.params)
  return jax.tree.map(np.asarray, freeze.whole(params, state.model_state))


def _stored(data: dict[str, Any]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(tuple(data['shape']), data['dtype'])


def _mean(config: ConfigDict, workdir: Path, shape: tuple[int, ...]) -> np.ndarray:
  """What the study subtracted from its images."""
  try:
    mean = np.load(workdir / MEAN)
    if mean.shape != shape:
      raise ValueError(f'its shape is {mean.shape}')
  except (EOFError, FileNotFoundError, ValueError) as error:
    raise StudyError(
      f'{workdir / MEAN}, the mean image, is lost or damaged ({error}); run the study again'
    ) from error
  return inputs.subtracted(config.input, mean)
