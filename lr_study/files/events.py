"""TensorBoard: one run a trial, and the HParams tab over all of them."""

import io
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from lr_study import formats
from lr_study.answer.measure import ACCURACY, Measure, curve_of
from lr_study.files import record
from lr_study.files.history import EPOCH_CURVES, STEP_CURVES, History, window_means
from lr_study.search import rounds
from lr_study.search.rounds import Planned

_FILE = 'events.out.tfevents.{}.lr_study'  # TensorBoard asks for the beginning; with the time


class Events:
  """Writes a study's curves as TensorBoard runs `lr_1e-04_seed_0`, ... in a folder."""

  def __init__(
    self,
    folder: Path,
    trials: Sequence[Planned],
    height: Callable[[int, int], float],
    window: int,
    labels: Sequence[str] = (),
    at_best: Measure | None = None,
  ):
    """Starts afresh: what a stopped study left of these trials is deleted and written again.

    Args:
      folder: TensorBoard's logdir, or one in it; that which holds it is the study's.
      trials: what each is.
      height: of the learning rate at a step, from 0, in the column of a trial.
      window: steps that one point of a training curve is the mean of.
      labels: of each trial's setting, the folder of its run in `folder`; none if there is one
        setting.
      at_best: the measure that the study goes by, if it goes by each trial's best epoch: its best
        value so far is a curve then, since the HParams tab shows the last point of curves.
    """
    self._at_best = at_best
    self._rates = [trial.learning_rate for trial in trials]
    self._height, self._window = height, window
    # The columns of trials whose schedule is the same.
    self._alike: dict[tuple, list[int]] = {}
    for column, trial in enumerate(trials):
      own = tuple(axis for axis in trial.axes if axis[0].startswith('schedule.'))
      self._alike.setdefault(own, []).append(column)
    self._writers = []
    for trial, label in zip(trials, labels or [''] * len(trials), strict=True):
      run = f'lr_{formats.rate(trial.learning_rate)}_seed_{trial.seed}'
      writer = _Writer(folder / label / run)
      writer.hparams(metadata.SESSION_START_INFO_TAG, _session_start(trial, study_name(folder)))
      self._writers.append(writer)

  def write_steps(self, history: History, first: int, stop: int, columns: Sequence[int]) -> None:
    """Adds the training curves in rows `first` to `stop` of these trials, a point a window."""
    heights = np.empty((len(range(first, stop, self._window)), len(self._rates)))
    for row, step in enumerate(range(first, stop, self._window)):
      for alike in self._alike.values():
        heights[row, alike] = self._height(step, alike[0])
    for name in STEP_CURVES:
      ends, means = window_means(history.steps[name][first:stop], self._window)
      for end, row, height in zip(first + ends, means, heights, strict=True):
        for trial in columns:
          self._writers[trial].scalar(f'step/{name}', row[trial], end)
          if name == STEP_CURVES[0]:
            rate = self._rates[trial] * height[trial]
            self._writers[trial].scalar('step/learning_rate', rate, end)
    self._flush(columns)

  def write_epoch(
    self, history: History, epoch: int, steps_done: int, columns: Sequence[int]
  ) -> None:
    """Adds row `epoch` of these trials' curves over epochs at `steps_done`."""
    for name in history.epochs:
      if np.isnan(history.epochs[name][epoch, columns]).all():
        continue  # not measured
      for trial in columns:
        value = history.epochs[name][epoch, trial]
        self._writers[trial].scalar(f'epoch/{name}', value, steps_done)
    if self._at_best:
      curves = history.epochs[self._at_best.field][: epoch + 1]
      for trial in columns:
        best = max(curves[:, trial], key=lambda x: (not np.isnan(x), self._at_best.score(x)))
        self._writers[trial].scalar(_best_curve(self._at_best), best, steps_done)
    self._flush(columns)

  def _flush(self, columns: Sequence[int]) -> None:
    for trial in columns:
      self._writers[trial].flush()

  def close(self, diverged: Sequence[bool]) -> None:
    """Marks each trial as a success or, where it diverged, a failure."""
    for writer, failed in zip(self._writers, diverged, strict=True):
      status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
      end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
      writer.hparams(
        metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
      )
      writer.flush()


def write_experiment(
  folder: Path,
  trials: int,
  axes: Mapping[str, Sequence[Any]] | None = None,
  metrics: Sequence[str] = (),
  measure: Measure = ACCURACY,
  at_best: bool = False,
) -> None:
  """Tells TensorBoard's HParams tab, in `folder`, what the runs of so many trials differ in.

  Args:
    folder: TensorBoard's logdir, or one in it.
    trials: how many.
    axes: the values of each further axis.
    metrics: names of further metrics, as those of a History.
    measure: what the study goes by, the first metric of the tab.
    at_best: the study goes by each trial's best epoch.
  """
  writer = _Writer(folder)
  writer.hparams(
    metadata.EXPERIMENT_TAG, _experiment(trials, axes or {}, metrics, measure, at_best)
  )
  writer.flush()


def study_name(folder: Path) -> str:
  """What the tab calls the study whose curves are in `folder`: its work directory's last two names.

  In its groups, so that those of two studies below one logdir stay apart.
  """
  return '/'.join(folder.resolve().parent.parts[-2:])


def write_images(folder: Path, pictures: Mapping[str, bytes]) -> None:
  """Shows PNG files, by their names, in TensorBoard's images tab, instead of those before."""
  writer = _Writer(folder)
  for name, encoded in pictures.items():
    writer.image(name, encoded)
  writer.flush()


def read(run: Path) -> dict[str, list[tuple[int, float]]]:
  """The curves of one run: tag -> (step, value) of each point, NaN as None."""
  events = EventAccumulator(str(run), size_guidance={'scalars': 0})
  events.Reload()
  return {
    tag: [(e.step, None if np.isnan(e.value) else e.value) for e in events.Scalars(tag)]
    for tag in events.Tags()['scalars']
  }


class _Writer:
  """One event file, open only while it is written: a study may have a thousand of them."""

  def __init__(self, folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob(_FILE.format('*')):
      file.unlink()
    now = time.time()
    self._file = folder / _FILE.format(f'{now:.0f}')
    record.add(self._file)
    self._buffer = io.BytesIO()
    self._add(Event(wall_time=now, file_version='brain.Event:2'))

  def scalar(self, tag: str, value: float, step: int) -> None:
    # float(): NumPy's scalars are refused or dropped by the protocol buffer.
    value = Summary.Value(tag=tag, simple_value=float(value))
    self._add(Event(wall_time=time.time(), step=int(step), summary=Summary(value=[value])))

  def image(self, tag: str, encoded: bytes) -> None:
    width, height = struct.unpack('>II', encoded[16:24])  # of a PNG's first chunk
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    value = Summary.Value(tag=tag, image=image)
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


def _experiment(
  trials: int,
  axes: Mapping[str, Sequence[Any]],
  metrics: Sequence[str],
  measure: Measure,
  at_best: bool,
) -> plugin_data_pb2.HParamsPluginData:
  columns = [
    api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64)
    for name in ('learning_rate', 'log10_learning_rate', 'batch_size')
  ]
  columns += [
    api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_STRING) for name in ('schedule', 'study')
  ]
  columns += [
    api_pb2.HParamInfo(
      name=name,
      type=api_pb2.DATA_TYPE_FLOAT64 if all(map(_is_number, values)) else api_pb2.DATA_TYPE_STRING,
    )
    for name, values in axes.items()
  ]
  tags = [_best_curve(measure)] if at_best else []
  curves = dict.fromkeys((measure.field, *EPOCH_CURVES, *map(curve_of, metrics)))
  infos = [
    api_pb2.MetricInfo(
      name=api_pb2.MetricName(tag=tag), display_name=tag.partition('/')[2].replace('_', ' ')
    )
    for tag in (*tags, *(f'epoch/{name}' for name in curves))
  ]
  experiment = api_pb2.Experiment(
    description=f'{trials} trials', hparam_infos=columns, metric_infos=infos
  )
  return plugin_data_pb2.HParamsPluginData(experiment=experiment)


def _best_curve(measure: Measure) -> str:
  return f'epoch/best_{measure.field}'


def _session_start(trial: Planned, study: str) -> plugin_data_pb2.HParamsPluginData:
  # The group is all but the seed, so that the tab averages seeds. Its axes are linear, hence log10.
  group = f'{study}: {formats.rate(trial.learning_rate)} batch {trial.batch_size} {trial.schedule}'
  group += ''.join(f', {name} {rounds.value_text(value)}' for name, value in trial.axes)
  start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
  start.hparams['learning_rate'].number_value = trial.learning_rate
  start.hparams['log10_learning_rate'].number_value = float(np.log10(trial.learning_rate))
  start.hparams['seed'].number_value = trial.seed
  start.hparams['batch_size'].number_value = trial.batch_size
  start.hparams['schedule'].string_value = trial.schedule
  start.hparams['study'].string_value = study
  for name, value in trial.axes:
    if _is_number(value):
      start.hparams[name].number_value = value
    else:
      start.hparams[name].string_value = str(value)
  return plugin_data_pb2.HParamsPluginData(session_start_info=start)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
