"""TensorBoard: a run per trial, the HParams tab over all of them, and the answer."""

import hashlib
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from lr_study import formats
from lr_study.answer.measure import ACCURACY, BALANCED, Measure
from lr_study.files import record
from lr_study.files.points import TRAIN, VALIDATION, Point, best_of, short
from lr_study.search import rounds
from lr_study.search.rounds import Planned, Setting

_FILE = 'events.out.tfevents.{}.lr_study'  # TensorBoard asks for the beginning; with the time
_ANSWER = 'answer'  # a run next to those of the trials
_BAD_STEP = 'diverged_at_step'


class Events:
  """Writes a study's curves as TensorBoard runs `lr_1e-04_seed_0`, ... in a folder.

  Values on validation images are in separate runs, `lr_1e-04_seed_0/validation`: loss of training
  and of validation have one tag, and so one chart.
  """

  def __init__(
    self,
    folder: Path,
    trials: Sequence[Planned],
    labels: Sequence[str] = (),
    measure: Measure = ACCURACY,
  ):
    """Starts again: what a stopped study left of these trials is deleted and written again.

    Args:
      folder: TensorBoard's logdir, or one in it; that which holds it is the study's.
      trials: what each is.
      labels: of each trial's setting, the folder of its run in `folder`; none if there is one
        setting.
      measure: the one that decides; its charts come first.
    """
    self._measure = measure
    self._writers: list[dict[str, _Writer]] = []
    runs = [
      folder / label / f'lr_{formats.rate(trial.learning_rate)}_seed_{trial.seed}'
      for trial, label in zip(trials, labels or [''] * len(trials), strict=True)
    ]
    opened = iter(_writers(*(part for run in runs for part in (run, run / VALIDATION))))
    for trial, *pair in zip(trials, opened, opened, strict=True):
      writers = dict(zip((TRAIN, VALIDATION), pair, strict=True))
      start = _session_start(trial, folder)
      writers[TRAIN].hparams(metadata.SESSION_START_INFO_TAG, start)
      self._writers.append(writers)

  def write(self, points: Iterable[Point], columns: Sequence[int]) -> None:
    """Adds these points of the trials in these columns."""
    for point in points:
      tag = _tag(point.part, point.name, self._measure)
      for trial in columns:
        self._writers[trial][point.part].scalar(tag, point.values[trial], point.step)
    for trial in columns:
      for writer in self._writers[trial].values():
        writer.flush()

  def close(self, bad_steps: Sequence[int]) -> None:
    """Says how each trial ended: it diverged at a step, or 0, and was trained to its end."""
    for writers, bad in zip(self._writers, bad_steps, strict=True):
      status = api_pb2.STATUS_FAILURE if bad else api_pb2.STATUS_SUCCESS
      end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
      end = plugin_data_pb2.HParamsPluginData(session_end_info=end)
      writer = writers[TRAIN]
      writer.hparams(metadata.SESSION_END_INFO_TAG, end)
      if bad:
        writer.text('status', f'diverged at step {bad}')
        writer.scalar(_tag(TRAIN, _BAD_STEP, self._measure), bad, bad)
      writer.flush()


def write_experiment(
  folder: Path,
  trials: int,
  settings: Sequence[Setting] = (),
  metrics: Sequence[str] = (),
  measure: Measure = ACCURACY,
  at_best: bool = False,
) -> None:
  """Tells TensorBoard's HParams tab, in `folder`, what the runs of the trials differ in.

  Args:
    folder: TensorBoard's logdir, or one in it.
    trials: how many.
    settings: those of the study; the tab has a column for each axis that they differ on.
    metrics: fields of further measures of an evaluation, as 'validation_top5'.
    measure: the one that decides, the first metric of the tab.
    at_best: each trial is judged at its best epoch.
  """
  (writer,) = _writers(folder)
  writer.hparams(metadata.EXPERIMENT_TAG, _experiment(trials, settings, metrics, measure, at_best))
  writer.flush()


def write_images(folder: Path, pictures: Mapping[str, bytes]) -> None:
  """Shows PNG or JPEG files, by their names, in TensorBoard's images tab, instead of others."""
  (writer,) = _writers(folder)
  for name, encoded in pictures.items():
    writer.image(name, encoded)
  writer.flush()


def write_answer(folder: Path, texts: Mapping[str, str], pictures: Mapping[str, bytes]) -> None:
  """Shows the answer of the study whose curves are in `folder`, in a run called `answer`.

  Args:
    folder: TensorBoard's logdir, or one in it.
    texts: Markdown by name.
    pictures: PNG or JPEG files by name.
  """
  (writer,) = _writers(folder / _ANSWER)
  for name, text in texts.items():
    writer.text(name, text)
  for name, encoded in pictures.items():
    writer.image(name, encoded)
  writer.flush()


def read(run: Path) -> dict[str, list[tuple[int, float | None]]]:
  """The curves of a trial's run: 'validation/loss' -> (step, value) of each point, NaN as None."""
  found = {}
  for part, folder in ((TRAIN, run), (VALIDATION, run / VALIDATION)):
    if not folder.is_dir():
      continue  # a run of texts and images has one part
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    events.Reload()
    for tag in events.Tags()['scalars']:
      found[f'{part}/{tag.rpartition("/")[2]}'] = [
        (e.step, None if np.isnan(e.value) else e.value) for e in events.Scalars(tag)
      ]
  return found


class _Writer:
  """One event file, open only while it is written: a study may have a thousand of them."""

  def __init__(self, file: Path, now: float):
    """Deletes the event files of the folder. `file`: recorded. `now`: when it begins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in file.parent.glob(_FILE.format('*')):
      old.unlink()
    self._file = file
    self._buffer = io.BytesIO()
    self._add(Event(wall_time=now, file_version='brain.Event:2'))

  def scalar(self, tag: str, value: float, step: int) -> None:
    # float(): NumPy's scalars are refused or dropped by the protocol buffer.
    value = Summary.Value(tag=tag, simple_value=float(value))
    self._add(Event(wall_time=time.time(), step=int(step), summary=Summary(value=[value])))

  def image(self, tag: str, encoded: bytes) -> None:
    with Image.open(io.BytesIO(encoded)) as picture:
      width, height = picture.size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    value = Summary.Value(tag=tag, image=image)
    self._add(Event(wall_time=time.time(), summary=Summary(value=[value])))

  def text(self, tag: str, text: str) -> None:
    """Markdown."""
    found = text_metadata.create_summary_metadata(tag, '').SerializeToString()
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto())
    tensor.string_val.append(text.encode('utf-8', 'backslashreplace'))
    value = Summary.Value(tag=tag, metadata=SummaryMetadata.FromString(found), tensor=tensor)
    self._add(Event(wall_time=time.time(), summary=Summary(value=[value])))

  def hparams(self, tag: str, content: plugin_data_pb2.HParamsPluginData) -> None:
    value = Summary.Value(
      tag=tag,
      metadata=metadata.create_summary_metadata(content),
      tensor=metadata.NULL_TENSOR,
    )
    self._add(Event(wall_time=time.time(), summary=Summary(value=[value])))

  def _add(self, event: Event) -> None:
    RecordWriter(self._buffer).write(event.SerializeToString())

  def flush(self) -> None:
    with self._file.open('ab') as stream:
      stream.write(self._buffer.getvalue())
    self._buffer = io.BytesIO()


def _writers(*folders: Path) -> list[_Writer]:
  """A new event file in each folder. All are recorded at once: there may be twenty thousand."""
  now = time.time()
  files = [folder / _FILE.format(f'{now:.0f}') for folder in folders]
  record.add(*files)
  return [_Writer(file, now) for file in files]


def _tag(part: str, name: str, measure: Measure) -> str:
  """What a curve is called: TensorBoard orders charts by it, and groups them by what is before /.

  The measure that decides comes first.
  """
  if name in (short(measure.field), best_of(measure)):
    return f'answer/{name}'
  is_of_both = part == VALIDATION or name in ('loss', 'accuracy')
  return f'{"curves" if is_of_both else "training"}/{name}'


def _experiment(
  trials: int,
  settings: Sequence[Setting],
  metrics: Sequence[str],
  measure: Measure,
  at_best: bool,
) -> plugin_data_pb2.HParamsPluginData:
  number, text = api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING
  columns = [('learning_rate', number), ('log10_learning_rate', number)]
  for name in rounds.on_axes(settings[0]) if settings else ():
    values = [rounds.on_axes(setting)[name] for setting in settings]
    if any(value != values[0] for value in values):
      columns.append((_column(name), number if all(map(_is_number, values)) else text))
  leading = [best_of(measure)] if at_best else []
  # The tab shows the first five until more are asked for. Where classes are alike, the balanced
  # accuracy is the accuracy.
  own = dict.fromkeys([*leading, short(measure.field), 'accuracy', 'loss', *map(short, metrics)])
  if measure != BALANCED:
    own.pop(short(BALANCED.field), None)
  curves = [(VALIDATION, name) for name in own]
  of_train = [(TRAIN, name) for name in (_BAD_STEP, 'loss', 'accuracy')]
  place = len(leading) + 2
  curves[place:place] = of_train
  infos = [
    api_pb2.MetricInfo(
      name=api_pb2.MetricName(
        tag=_tag(part, name, measure), group=VALIDATION if part == VALIDATION else ''
      ),
      display_name=(name if name == _BAD_STEP else f'{part} {name}').replace('_', ' '),
    )
    for part, name in curves
  ]
  experiment = api_pb2.Experiment(
    description=f'{trials} trials',
    hparam_infos=[api_pb2.HParamInfo(name=name, type=kind) for name, kind in columns],
    metric_infos=infos,
  )
  return plugin_data_pb2.HParamsPluginData(experiment=experiment)


def _column(axis: str) -> str:
  return 'schedule' if axis == 'schedule.name' else axis


def _session_start(trial: Planned, folder: Path) -> plugin_data_pb2.HParamsPluginData:
  # The group is all but the seed, so that the tab averages seeds. Two studies below one logdir may
  # have work directories of one name. The tab's axes are linear, hence log10.
  study = folder.resolve().parent
  place = hashlib.sha256(str(study).encode('utf-8', 'surrogateescape')).hexdigest()[:6]
  group = f'{"/".join(study.parts[-2:])} ({place}): {formats.rate(trial.learning_rate)}'
  group += f' batch {trial.batch_size} {trial.schedule}'
  group += ''.join(f', {name} {rounds.value_text(value)}' for name, value in trial.axes)
  start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
  values = {
    'learning_rate': trial.learning_rate,
    'log10_learning_rate': float(np.log10(trial.learning_rate)),
    'seed': trial.seed,
  }
  values |= {_column(name): value for name, value in rounds.on_axes(trial.setting).items()}
  for name, value in values.items():
    if _is_number(value):
      start.hparams[name].number_value = value
    else:
      start.hparams[name].string_value = str(value)
  return plugin_data_pb2.HParamsPluginData(session_start_info=start)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
