"""TensorBoard: one run a trial, and the HParams tab over all of them."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lr_study import formats
from lr_study.history import EPOCH_CURVES, STEP_CURVES, History, window_means
from lr_study.schedule import Schedule


class Events:
  """Writes a study's curves as TensorBoard runs `lr_1e-04_seed_0`, ... in a folder."""

  def __init__(
    self,
    folder: Path,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    schedule: Schedule,
    window: int,
  ):
    """Starts afresh: what a stopped study left in `folder` is deleted and written again.

    Args:
      folder: TensorBoard's logdir.
      learning_rates: of each trial.
      seeds: of each trial.
      schedule: height of the learning rate at a step.
      window: steps that one point of a training curve is the mean of.
    """
    shutil.rmtree(folder, ignore_errors=True)
    self._rates, self._seeds = learning_rates, seeds
    self._schedule, self._window = schedule, window
    self._writers = [
      _Writer(folder / f'lr_{formats.rate(rate)}_seed_{seed}')
      for rate, seed in zip(learning_rates, seeds, strict=True)
    ]
    root = _Writer(folder)
    root.hparams(metadata.EXPERIMENT_TAG, _experiment(learning_rates))
    root.close()
    for writer, rate, seed in zip(self._writers, learning_rates, seeds, strict=True):
      writer.hparams(metadata.SESSION_START_INFO_TAG, _session_start(rate, seed))

  def write_steps(self, history: History, first: int, stop: int, columns: Sequence[int]) -> None:
    """Adds the training curves in rows `first` to `stop` of these trials, a point a window."""
    heights = np.asarray([self._schedule(step) for step in range(first, stop, self._window)])
    for name in STEP_CURVES:
      ends, means = window_means(history.steps[name][first:stop], self._window)
      for end, row, height in zip(first + ends, means, heights, strict=True):
        for trial in columns:
          self._writers[trial].scalar(f'step/{name}', row[trial], end)
          if name == STEP_CURVES[0]:
            self._writers[trial].scalar('step/learning_rate', self._rates[trial] * height, end)

  def write_epoch(
    self, history: History, epoch: int, steps_done: int, columns: Sequence[int]
  ) -> None:
    """Adds row `epoch` of these trials' curves over epochs at `steps_done`."""
    for name in EPOCH_CURVES:
      for trial in columns:
        value = history.epochs[name][epoch, trial]
        self._writers[trial].scalar(f'epoch/{name}', value, steps_done)

  def flush(self) -> None:
    """Hands all events to the operating system."""
    for writer in self._writers:
      writer.flush()

  def close(self, diverged: Sequence[bool]) -> None:
    """Marks each trial as a success or, where it diverged, a failure; closes all files."""
    for writer, failed in zip(self._writers, diverged, strict=True):
      status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
      end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
      writer.hparams(
        metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
      )
      writer.close()


class _Writer:
  """One event file."""

  def __init__(self, folder: Path):
    self._file = EventFileWriter(str(folder))

  def scalar(self, tag: str, value: float, step: int) -> None:
    # float(): NumPy's scalars are refused or dropped by the protocol buffer.
    value = Summary.Value(tag=tag, simple_value=float(value))
    self._add(Event(wall_time=time.time(), step=int(step), summary=Summary(value=[value])))

  def hparams(self, tag: str, content: plugin_data_pb2.HParamsPluginData) -> None:
    value = Summary.Value(
      tag=tag,
      metadata=metadata.create_summary_metadata(content),
      tensor=metadata.NULL_TENSOR,
    )
    self._add(Event(wall_time=time.time(), summary=Summary(value=[value])))

  def _add(self, event: Event) -> None:
    self._file.add_event(event)

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _experiment(learning_rates: Sequence[float]) -> plugin_data_pb2.HParamsPluginData:
  columns = [
    api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64)
    for name in ('learning_rate', 'log10_learning_rate', 'seed')
  ]
  metrics = [
    api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f'epoch/{name}'), display_name=name)
    for name in EPOCH_CURVES
  ]
  experiment = api_pb2.Experiment(
    description=f'{len(learning_rates)} trials', hparam_infos=columns, metric_infos=metrics
  )
  return plugin_data_pb2.HParamsPluginData(experiment=experiment)


def _session_start(rate: float, seed: int) -> plugin_data_pb2.HParamsPluginData:
  # The group is the rate, so that the tab averages its seeds. Its axes are linear, hence log10.
  start = plugin_data_pb2.SessionStartInfo(
    group_name=formats.rate(rate), start_time_secs=time.time()
  )
  start.hparams['learning_rate'].number_value = rate
  start.hparams['log10_learning_rate'].number_value = float(np.log10(rate))
  start.hparams['seed'].number_value = seed
  return plugin_data_pb2.HParamsPluginData(session_start_info=start)
