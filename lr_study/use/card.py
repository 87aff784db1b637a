"""The model card of an exported model: what it is, how to run it, and how accurate it is."""

from collections.abc import Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from lr_study import formats
from lr_study.answer.measure import ACCURACY, value_of
from lr_study.answer.verdict import Result
from lr_study.data import samples
from lr_study.data.letters import faces, render
from lr_study.objects import OBJECT
from lr_study.report import describe
from lr_study.search import rounds
from lr_study.use import classify, evaluate
from lr_study.use.evaluate import Study, Trained

_SNIPPET = """\
```python
import json
from pathlib import Path
import numpy as np
from jax import export, nn
{read}
model = export.deserialize(bytearray(Path('model.jax').read_bytes()))
weights, mean = dict(np.load('weights.npz')), np.load('mean.npy')
probabilities = nn.softmax(model.call(weights, mean, samples))[0]
print(json.loads(Path('labels.json').read_text())[probabilities.argmax()], probabilities.max())
```"""

_READ_FILE = """\
import images  # next to this file; needs numpy and Pillow

image = images.decode(Path('photo.jpg').read_bytes(){scale})
samples = images.resize(image, {size}, {resize!r})[None]"""

_READ_ARRAY = """
samples = np.load('samples.npy')"""

_FILES = {
  'model.jax': 'the program (weights, mean, images) -> logits, serialised by `jax.export`',
  'weights.npz': 'the weights by name',
  'mean.npy': 'the array that the program subtracts from the images',
  'labels.json': 'the classes, in the order of the logits',
  'input.json': 'size of the images, and how they are resized',
  'images.py': 'decodes and resizes image files as in training',
  'predict.py': 'the lines above as a command: `python predict.py photo.jpg`',
}
_FILES_OF_ARRAYS = {name: what for name, what in _FILES.items() if name != 'images.py'} | {
  'input.json': 'shape and type of a sample',
  'predict.py': 'the lines above as a command: `python predict.py samples.npy`',
}


def write(study: Study, trained: Trained) -> str:
  """The card in Markdown. Names that strangers may have chosen are only in code blocks."""
  config, record, result = trained.config, study.record, trained.result
  files, what = evaluate.takes_files(config), samples.noun(trained.stored.shape)
  rates = len({r.learning_rate for r in study.results})
  parts = [
    f'# A classifier of {len(trained.classes)} classes',
    f'For {what} of {_size(trained)}; trained by lr_study at {classify.describe(trained)}'
    + (f', one of {rates} rates.' if rates > 1 else '.'),
    '## How to run it',
    f'In this folder, with `pip install jax flatbuffers numpy{" pillow" if files else ""}`:',
    _SNIPPET.format(
      read=_READ_FILE.format(
        size=config.image_size,
        resize=classify.resize_mode(config),
        scale=f', images.{trained.scale}' if trained.scale else '',
      )
      if files
      else _READ_ARRAY
    ),
    f'The program takes {trained.stored.dtype.name}{" RGB" if files else ""} {what}, '
    f'({", ".join(["any number", *map(str, trained.stored.shape)])}), preprocesses them, and '
    f'runs on CPUs and, with CUDA, on GPUs. It was made with jax {jax.__version__}; newer versions '
    'can read it for at least six months (https://docs.jax.dev/en/latest/export/export.html). '
    'After that, export the study again.',
    '\n'.join(['| file | content |', '| --- | --- |', *_rows(files)]),
    '## How accurate it is',
    _figures(study, result, what),
    'The verdict of the study, on all its rates:',
    f'> {study.verdict.sentence}',
    'Limitations:',
    '\n'.join(f'- {caveat}' for caveat in _caveats(study, trained, what)),
    '## Classes',
    _block(trained.classes),
    '## Data',
    _data(config, record),
    '## Training',
    f'{record["data"]["train"]} {what}, {formats.count(result.epochs, "epoch")}, batch size '
    f'{result.batch_size}, on {record["device"]}. Commit of lr_study: '
    f'{record["commit"] or "unknown"}. Fingerprint of the {what}: {record["data"]["fingerprint"]}.',
    _block([describe.run(_own(config, result))]),
  ]
  return '\n\n'.join(parts) + '\n'


def _size(trained: Trained) -> str:
  shape = trained.stored.shape
  if samples.is_image(shape):
    return f'{shape[0]} x {shape[1]} pixels'
  return f'shape ({", ".join(map(str, shape))})'


def _rows(files: bool) -> list[str]:
  return [
    f'| `{name}` | {what} |' for name, what in (_FILES if files else _FILES_OF_ARRAYS).items()
  ]


def _figures(study: Study, result: Result, what: str) -> str:
  """The trial's accuracy, and its leading measure if that is another one."""
  leads = study.verdict.leads
  parts = [
    f'Validation accuracy {formats.percent(result.validation_accuracy)} on '
    f'{study.record["data"]["validation"]} {what}, training accuracy '
    f'{formats.percent(result.train_accuracy)}; {result.status.replace("_", " ")}.'
  ]
  if leads != ACCURACY:
    parts.append(
      f'The study compares trials by {leads.name}: {leads.show(value_of(result, leads))}.'
    )
  if result.best_epoch not in (None, result.epochs):
    parts.append(
      f'These figures are those of epoch {result.best_epoch}, its best; the weights are those of '
      f'the end, epoch {result.epochs}.'
    )
  return ' '.join(parts)


def _own(config: ConfigDict, result: Result) -> ConfigDict:
  """The config of this trial alone, without axes."""
  own = rounds.settings(config)[result.setting].copy_and_resolve_references().unlock()
  for name, value in rounds.numbers_of(own, result.setting).items():
    section, _, field = name.partition('.')
    with own[section].ignore_type():
      own[section][field] = value
  own.axes = ConfigDict()
  return own


def _caveats(study: Study, trained: Trained, what: str) -> list[str]:
  found = [
    f'the rate was chosen on the same validation {what}, so its accuracy is slightly optimistic'
    + (
      '; the study kept a test part, which `scripts/classify.py --part=test` uses'
      if study.record['data'].get('test')
      else ''
    ),
    f'the accuracy is for {what} like those in training; on others it is lower',
    'it always predicts one of its classes, whatever the input, and its probabilities are not '
    'calibrated',
  ]
  if len({r.seed for r in study.results}) == 1:
    found.append('one seed was trained: another seed gives slightly different figures')
  if trained.config.data.name == 'tombstone_letters':
    found.append('it was trained on rendered images; photographs are harder')
  return found


def _data(config: ConfigDict, record: dict[str, Any]) -> str:
  """What it was trained on and, if known, under which licence."""
  data = config.data
  if data.name.startswith(OBJECT):
    return 'Arrays that a program passed to lr_study, which does not know their licence.'
  if not evaluate.takes_files(config):
    return 'Arrays from the source below. lr_study does not know their licence.\n\n' + _block(
      [formats.printable(data.name)]
    )
  if data.name == 'tombstone_letters':
    return (
      f'`tombstone_letters`, rendered by lr_study: {data.per_class or render.PER_CLASS} images of '
      'each letter.\n\n' + _block(faces.licences().splitlines())
    )
  if data.name in ('image_folder', 'image_list'):
    return 'Images from the folder below. lr_study does not know their licence.\n\n' + _block(
      [formats.printable(data.dir)]
    )
  return (
    'A data set of TensorFlow Datasets; its page in the catalogue '
    '(https://www.tensorflow.org/datasets/catalog) gives its licence.\n\n'
    + _block([formats.printable(record['data']['name'])])
  )


def _block(lines: Iterable[str]) -> str:
  return '\n'.join(f'    {line}' for line in lines)
