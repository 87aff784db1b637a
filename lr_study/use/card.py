"""The model card of an exported model: what it is, how good, of what, and how to run it."""

from collections.abc import Iterable
from typing import Any

import jax

from lr_study import formats
from lr_study.data.letters import faces, render
from lr_study.use import classify
from lr_study.use.evaluate import Study, Trained

_SNIPPET = """\
```python
import json
from pathlib import Path
import numpy as np
from jax import export, nn
import images  # beside this file: needs numpy and Pillow

model = export.deserialize(bytearray(Path('model.jax').read_bytes()))
weights, mean = dict(np.load('weights.npz')), np.load('mean.npy')
square = images.resize(images.decode(Path('photo.jpg').read_bytes()), {size}, {resize!r})
probabilities = nn.softmax(model.call(weights, mean, square[None]))[0]
print(json.loads(Path('labels.json').read_text())[probabilities.argmax()], probabilities.max())
```"""

_FILES = {
  'model.jax': 'the program (weights, mean, images) -> logits, as `jax.export` serialises it',
  'weights.npz': 'the weights by name, float32',
  'mean.npy': 'what the program subtracts from the images',
  'labels.json': 'the classes, in the order of the logits',
  'input.json': 'size and way of resizing',
  'images.py': 'decodes and resizes image files as in training',
  'predict.py': 'the lines above as a command: `python predict.py photo.jpg`',
}


def write(study: Study, trained: Trained) -> str:
  """The card in Markdown. Names that strangers chose stand in code blocks only."""
  config, record, result = trained.config, study.record, trained.result
  size = config.image_size
  parts = [
    f'# A classifier of {len(trained.classes)} classes',
    f'{config.model.preset}, width {config.model.width:g}, for images of {size} x {size} pixels; '
    f'trained by lr_study at {classify.describe(trained)}, one of '
    f'{len({r.learning_rate for r in study.results})} rates.',
    '## How to run it',
    'In this folder, with `pip install jax flatbuffers numpy pillow`:',
    _SNIPPET.format(size=size, resize=config.data.resize),
    f'The program takes uint8 RGB images (any number, {size}, {size}, 3), preprocesses them, and '
    f'runs on CPUs and, by CUDA, on GPUs. It was made with jax {jax.__version__}; newer versions '
    'read it for six months at least (https://docs.jax.dev/en/latest/export/export.html). After '
    'that, export the study again.',
    '\n'.join(['| file | what it holds |', '| --- | --- |', *_rows()]),
    '## How good it is',
    f'Validation accuracy {formats.percent(result.validation_accuracy)} on '
    f'{record["data"]["validation"]} images, training accuracy '
    f'{formats.percent(result.train_accuracy)}; {result.status}. The verdict of the study, on all '
    'its rates:',
    f'> {study.verdict.sentence}',
    'Mind that',
    '\n'.join(f'- {caveat}' for caveat in _caveats(study, trained)),
    '## Classes',
    _block(trained.classes),
    '## Data',
    _data(config.data, record),
    '## Training',
    f'{record["data"]["train"]} images, {result.epochs} epochs, batch size {result.batch_size}, '
    f'momentum {config.optimizer.momentum:g}, weight decay {config.optimizer.weight_decay:g}, '
    f'schedule {result.schedule}, on {record["device"]}. Commit of lr_study: '
    f'{record["commit"] or "unknown"}. Fingerprint of the images: {record["data"]["fingerprint"]}.',
  ]
  return '\n\n'.join(parts) + '\n'


def _rows() -> list[str]:
  return [f'| `{name}` | {what} |' for name, what in _FILES.items()]


def _caveats(study: Study, trained: Trained) -> list[str]:
  found = [
    'the rate was chosen by the same validation images, which flatters it a little'
    + (
      '; the study kept a test part, which `scripts/classify.py --part=test` measures on'
      if study.record['data'].get('test')
      else ''
    ),
    'the figure is of images like those it was trained on; others will do worse',
    'it names one of its classes whatever it is shown, and its probabilities are not calibrated',
  ]
  if len({r.seed for r in study.results}) == 1:
    found.append('one seed was trained: another one gives somewhat other figures')
  if trained.config.data.name == 'tombstone_letters':
    found.append('the images are rendered; photographs are harder')
  return found


def _data(data: Any, record: dict[str, Any]) -> str:
  """What it was trained on and, where that is known, by whose leave."""
  if data.name == 'tombstone_letters':
    return (
      f'`tombstone_letters`, rendered by lr_study: {data.per_class or render.PER_CLASS} images of '
      'each letter.\n\n' + _block(faces.licences().splitlines())
    )
  if data.name in ('image_folder', 'image_list'):
    return 'Images of the folder below. lr_study does not know their licence.\n\n' + _block(
      [formats.printable(data.dir)]
    )
  return (
    'A set of TensorFlow Datasets; its page in the catalogue '
    '(https://www.tensorflow.org/datasets/catalog) names its licence.\n\n'
    + _block([formats.printable(record['data']['name'])])
  )


def _block(lines: Iterable[str]) -> str:
  return '\n'.join(f'    {line}' for line in lines)
