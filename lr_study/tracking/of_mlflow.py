"""MLflow: a run per study, and below it a run per trial."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# MLflow asks for minutes before it gives up on a server.
os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')
os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '10')
os.environ.setdefault('MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT', 'true')  # a line per trial

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from lr_study.tracking import Ending, Run, Values

_EXPERIMENT = 'lr_study'  # unless MLFLOW_EXPERIMENT_NAME names another
_OWN, _STUDY = 'lr_study.run', 'lr_study.study'  # tags: which trial of which study a run is
_PARENT, _NOTE = 'mlflow.parentRunId', 'mlflow.note.content'  # tags that MLflow's page knows
_METRICS, _PARAMS = 1000, 100  # that a server takes at once
_LONGEST = 500  # characters of a parameter
_LONGEST_TAG = 5000
_CURVE = 'train/learning_rate'  # every trial has a point of it with all others: it is finite


class Sender:
  """Sends a study to the server that MLFLOW_TRACKING_URI names."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._client = MlflowClient()
    self._experiment = self._study = self._parent = ''
    self._runs: dict[str, str] = {}  # ids, by the trials' keys
    self._opened: set[str] = set()  # keys of those that go on

  def begin(self, study: str, name: str, fields: Mapping[str, Any]) -> None:
    experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', _EXPERIMENT)
    found = self._client.get_experiment_by_name(experiment)
    self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
    self._study, token = study, None
    while True:  # page by page
      runs = self._client.search_runs(
        [self._experiment], f"tags.`{_STUDY}` = '{study}'", page_token=token
      )
      self._runs |= {run.data.tags[_OWN]: run.info.run_id for run in runs}
      if not (token := runs.token):
        break
    self._parent = self._id('', name, {})
    self._describe(self._parent, fields)

  def steps(self, run: Run, sent: int) -> int:
    del sent  # the server knows
    if run.key not in self._runs:
      return 0
    history = self._client.get_metric_history(self._runs[run.key], _CURVE)
    return max((metric.step for metric in history), default=0)

  def log(self, run: Run, points: Sequence[Values]) -> None:
    now, own, batch = int(time.time() * 1000), self._open(run), []
    # A batch is there whole or not at all, so a step's points belong in one.
    for step, of_step in itertools.groupby(points, key=lambda point: point[1]):
      metrics = [Metric(name, value, now, step) for name, _, value in of_step]
      if len(batch) + len(metrics) > _METRICS:
        self._client.log_batch(own, metrics=batch)
        batch = []
      batch += metrics
    self._client.log_batch(own, metrics=batch)

  def end(self, run: Run, failed: bool, fields: Mapping[str, Any]) -> None:
    own = self._open(run)
    self._opened.remove(run.key)
    tags = [RunTag(name, str(value)[:_LONGEST_TAG]) for name, value in fields.items()]
    self._client.log_batch(own, tags=tags)
    self._client.set_terminated(own, 'FAILED' if failed else 'FINISHED')

  def finish(self, ending: Ending) -> None:
    known = {name: str(value) for name, value in ending.fields.items() if value is not None}
    tags = [RunTag(name, value[:_LONGEST_TAG]) for name, value in known.items()]
    self._client.log_batch(self._parent, tags=[*tags, RunTag(_NOTE, ending.markdown)])
    for file in ending.files:
      place = str(file.relative_to(self._folder).parent)
      self._client.log_artifact(self._parent, str(file), None if place == '.' else place)
    self._client.set_terminated(self._parent)

  def close(self) -> None:
    """Runs that are not ended stay as running: the study may go on."""

  def _open(self, run: Run) -> str:
    """The id of a trial's run, which goes on from now."""
    is_there = run.key in self._runs
    tags = {_PARENT: self._parent, 'learning_rate': run.group}
    own = self._id(run.key, run.name, tags)
    if run.key not in self._opened:
      self._describe(own, run.fields)
      if is_there:
        self._client.update_run(own, status='RUNNING')
      self._opened.add(run.key)
    return own

  def _id(self, key: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of a run, which is made where there is none; '' is the study's own key."""
    if key not in self._runs:
      tags = {_OWN: key, _STUDY: self._study, **tags}
      made = self._client.create_run(self._experiment, tags=tags, run_name=name)
      self._runs[key] = made.info.run_id
    return self._runs[key]

  def _describe(self, own: str, fields: Mapping[str, Any]) -> None:
    """Adds parameters that the run has not; what it has cannot change."""
    known = self._client.get_run(own).data.params
    new = [Param(n, str(x)[:_LONGEST]) for n, x in fields.items() if n not in known]
    for first in range(0, len(new), _PARAMS):
      self._client.log_batch(own, params=new[first : first + _PARAMS])
