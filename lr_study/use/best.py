"""Examines the best trial on the validation images: confused classes and wrong images."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy  # imports its parts, which takes long, only when they are used
from ml_collections import ConfigDict
from PIL import Image

from lr_study.answer.verdict import Result, Verdict
from lr_study.data import Dataset, samples
from lr_study.errors import StudyError, first_line, is_full
from lr_study.files import provenance
from lr_study.files.workdir import write_bytes
from lr_study.inputs import subtracted
from lr_study.progress import note
from lr_study.search import rounds
from lr_study.use import evaluate

MISTAKES = Path('figures', 'mistakes')  # a picture of each, in the work directory
_COUNT = 24  # pictures: a few rows on a page
NOT_YET = 'not examined yet; run the same command of scripts/sweep.py again'
_SIDE = 112  # largest side of a picture in pixels: a few kB each


def name(workdir: Path, results: Sequence[Result], verdict: Verdict) -> dict[str, Any] | None:
  """The entry "best_trial" in results.json before `examine`; None if no rate learned."""
  if verdict.learning_rate is None:
    return None
  result, _ = evaluate.choose(results, verdict, None, None, rounds.ANY, workdir)
  trial = {'learning_rate': result.learning_rate, 'seed': result.seed}
  return trial | {'missing': NOT_YET}


def examine(
  workdir: Path, config: ConfigDict, data: Dataset, results: Sequence[Result], verdict: Verdict
) -> dict[str, Any] | None:
  """Examines the best trial with the weights of its last checkpoint, and draws its mistakes.

  Returns:
    The entry "best_trial" in results.json; None if no rate learned.
      learning_rate, seed: of the trial.
      confusion, recall, images_of, confused: see `evaluate.Score.as_json`.
      mistakes: for each picture in `MISTAKES`, the true and the predicted class and the probability
        of the latter; [] if samples are not images.
    Or learning_rate, seed and `missing`, which says why there is nothing else.
  """
  trial = name(workdir, results, verdict)
  if trial is None:
    return None
  try:
    found = _look(workdir, config, data, results, verdict)
  except StudyError as error:
    return trial | {'missing': str(error)}
  except Exception as error:  # of a network, a disk, a device
    if is_full(error):
      raise
    why = first_line(error)
    note(f'The best trial cannot be examined: {why}')
    return trial | {'missing': f'it cannot be examined: {why}'}
  del trial['missing']
  return trial | found


def _look(
  workdir: Path, config: ConfigDict, data: Dataset, results: Sequence[Result], verdict: Verdict
) -> dict[str, Any]:
  result, place = evaluate.choose(results, verdict, None, None, rounds.ANY, workdir)
  variables = evaluate.restore(workdir, config, provenance.describe_data(data), place)
  mean = subtracted(config.input, data.mean)
  images, labels = data.validation
  stored = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
  own = rounds.settings(config)[result.setting]
  trained = evaluate.Trained(own, data.classes, result, variables, mean, stored)
  probabilities = scipy.special.softmax(evaluate.predict(trained, images).astype(np.float64), 1)
  predicted = probabilities.argmax(1)
  score = evaluate.count(data.classes, labels, predicted)
  chosen = _choose_mistakes(labels, predicted, probabilities.max(1))
  if not samples.is_image(images.shape[1:]):
    chosen = chosen[:0]  # they cannot be shown
  files = _draw(workdir, samples.visible(images[chosen]) if len(chosen) else [])
  return {
    **score.as_json(),
    'mistakes': [
      {
        'file': file,
        'true': data.classes[labels[i]],
        'predicted': data.classes[predicted[i]],
        'probability': round(float(probabilities[i, predicted[i]]), 3),
      }
      for i, file in zip(chosen, files, strict=True)
    ],
  }


def _choose_mistakes(
  labels: np.ndarray, predicted: np.ndarray, probability: np.ndarray
) -> np.ndarray:
  """Indices of wrong images, sorted by class; the most confident of each class, in equal shares."""
  wrong = np.flatnonzero(predicted != labels)
  wrong = wrong[np.argsort(-probability[wrong], kind='stable')]
  seen, turn = Counter(), []
  for label in labels[wrong]:
    turn.append(seen[label])
    seen[label] += 1
  chosen = wrong[np.argsort(turn, kind='stable')][:_COUNT]
  return chosen[np.argsort(labels[chosen], kind='stable')]


def _draw(workdir: Path, images: Sequence[np.ndarray]) -> list[str]:
  """Saves small pictures of images, each uint8 (height, width, 3); returns paths in `workdir`."""
  folder = workdir / MISTAKES
  folder.mkdir(parents=True, exist_ok=True)
  for file in folder.glob('[0-9][0-9].jpg'):  # left by a run that was stopped
    file.unlink()
  names = [str(MISTAKES / f'{number:02}.jpg') for number in range(len(images))]
  for name, pixels in zip(names, images, strict=True):
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, 'JPEG', quality=85)
    write_bytes(workdir / name, stream.getvalue())
  return names
