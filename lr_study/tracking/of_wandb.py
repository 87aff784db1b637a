"""Weights & Biases: a run per trial in a group per study, and a run with the answer."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from lr_study.files import record
from lr_study.tracking import Ending, Run, Values

_PROJECT = 'lr_study'  # unless WANDB_PROJECT names another
_SECONDS = 15  # that a server may take to answer


class Sender:
  """Sends a study to W&B; with WANDB_MODE=offline, to a folder that `wandb sync` sends later."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._runs: dict[str, wandb.Run] = {}
    self._study = self._name = ''
    self._fields: dict[str, Any] = {}

  def begin(self, study: str, name: str, fields: Mapping[str, Any]) -> None:
    record.add(self._folder / 'wandb', is_folder=True)
    self._study, self._name, self._fields = study, name, dict(fields)

  def steps(self, run: Run, sent: int) -> int:
    del run
    return sent  # offline there is nobody to ask

  def log(self, run: Run, points: Sequence[Values]) -> None:
    own = self._open(run)
    for step, of_step in itertools.groupby(points, key=lambda point: point[1]):
      own.log({name: value for name, _, value in of_step}, step=step)

  def end(self, run: Run, failed: bool, fields: Mapping[str, Any]) -> None:
    own = self._open(run)
    del self._runs[run.key]
    own.summary.update(fields)
    own.finish(exit_code=int(failed))

  def finish(self, ending: Ending) -> None:
    own = self._start('answer', f'{self._name}: answer', 'answer', self._fields)
    own.summary.update(ending.fields)
    own.notes = ending.sentence
    artifact = wandb.Artifact(f'study-{self._study[:8]}', type='study')
    for file in ending.files:
      artifact.add_file(str(file), str(file.relative_to(self._folder)))
    own.log_artifact(artifact)
    pictures = [file for file in ending.files if file.suffix == '.png']
    own.log({f'figures/{file.stem}': wandb.Image(str(file)) for file in pictures})
    own.finish()

  def close(self) -> None:
    for own in self._runs.values():
      own.finish(exit_code=1)  # until the study goes on
    self._runs = {}

  def _open(self, run: Run) -> wandb.Run:
    if run.key not in self._runs:
      self._runs[run.key] = self._start(run.key, run.name, run.group, run.fields)
    return self._runs[run.key]

  def _start(self, key: str, name: str, kind: str, fields: Mapping[str, Any]) -> wandb.Run:
    settings = wandb.Settings(
      console='off', silent=True, x_disable_stats=True, save_code=False,
      init_timeout=_SECONDS, login_timeout=_SECONDS, finish_timeout=4 * _SECONDS,
    )  # fmt: skip
    offline = os.environ.get('WANDB_MODE') == 'offline'
    return wandb.init(
      project=os.environ.get('WANDB_PROJECT', _PROJECT),
      id=f'{self._study[:12]}-{key.replace(":", "-")}',
      group=f'{self._name} {self._study[:6]}',
      job_type=kind,
      name=name,
      config=dict(fields),
      resume=None if offline else 'allow',
      reinit='create_new',
      settings=settings,
      dir=os.environ.get('WANDB_DIR', self._folder),
    )
