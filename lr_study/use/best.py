"""The best trial on the validation images: the classes it confuses, the images it gets wrong."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy  # its parts, which take long to import, only where they are asked for
from ml_collections import ConfigDict
from PIL import Image

from lr_study.answer.verdict import Result, Verdict
from lr_study.data import Dataset, samples
from lr_study.errors import StudyError, is_full
from lr_study.files import provenance
from lr_study.files.workdir import write_bytes
from lr_study.inputs import subtracted
from lr_study.progress import note
from lr_study.search import rounds
from lr_study.use import evaluate

MISTAKES = Path('figures', 'mistakes')  # a picture of each, in the work directory
_COUNT = 24  # pictures: some rows of a page
NOT_YET = 'not looked at yet; the same command of scripts/sweep.py does it'
_SIDE = 112  # pixels of a picture, at most: a few kB each


def name(workdir: Path, results: Sequence[Result], verdict: Verdict) -> dict[str, Any] | None:
  """What is under "best_trial" in results.json before `examine`; None if no rate learned."""
  if verdict.learning_rate is None:
    return None
  result, _ = evaluate.choose(results, verdict, None, None, rounds.ANY, workdir)
  trial = {'learning_rate': result.learning_rate, 'seed': result.seed}
  return trial | {'missing': NOT_YET}


def examine(
  workdir: Path, config: ConfigDict, data: Dataset, results: Sequence[Result], verdict: Verdict
) -> dict[str, Any] | None:
  """Looks at the best trial with the weights of its last checkpoint, and draws its mistakes.

  Returns:
    What is under "best_trial" in results.json; None if no rate learned.
      learning_rate, seed: which trial it is.
      confusion, recall, images_of, confused: see `evaluate.Score.as_json`.
      mistakes: the images of `MISTAKES`: true and predicted class, probability of the latter.
        Of samples that are no images there are none.
    Or, with learning_rate and seed, `missing`: why there is nothing else.
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
    why = (str(error).strip().splitlines() or [repr(error)])[0]
    note(f'The best trial is not looked at: {why}')
    return trial | {'missing': f'it cannot be looked at: {why}'}
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
    chosen = chosen[:0]  # nothing that a person could see
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
  """Indices of wrong images, by class: the surest of each class first, as many of each as go."""
  wrong = np.flatnonzero(predicted != labels)
  wrong = wrong[np.argsort(-probability[wrong], kind='stable')]
  seen, turn = Counter(), []
  for label in labels[wrong]:
    turn.append(seen[label])
    seen[label] += 1
  chosen = wrong[np.argsort(turn, kind='stable')][:_COUNT]
  return chosen[np.argsort(labels[chosen], kind='stable')]


def _draw(workdir: Path, images: Sequence[np.ndarray]) -> list[str]:
  """Saves small pictures of images, each uint8 (height, width, 3); their paths in `workdir`."""
  folder = workdir / MISTAKES
  folder.mkdir(parents=True, exist_ok=True)
  for file in folder.glob('[0-9][0-9].jpg'):  # those of a run that was stopped
    file.unlink()
  names = [str(MISTAKES / f'{number:02}.jpg') for number in range(len(images))]
  for name, pixels in zip(names, images, strict=True):
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, 'JPEG', quality=85)
    write_bytes(workdir / name, stream.getvalue())
  return names
