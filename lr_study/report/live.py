"""The page of a study that still trains, so that it can be watched; page.py has the final one."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats, loop
from lr_study.answer import status
from lr_study.answer.measure import Measure
from lr_study.errors import StudyError
from lr_study.files.history import History
from lr_study.report import charts, describe, drawing, html
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Setting
from lr_study.trials import Sweep

NAME = 'report.html'
_MARK = '<html lang="en" data-training>'  # of a page that is not the final one
_SHARE = 0.01  # of the time, at most, goes into the page
_SECONDS = 30  # after which a browser loads it again


class Study(NamedTuple):
  """What the page needs besides the curves. study: as under "study" in results.json."""

  folder: Path
  study: Mapping[str, Any]
  sweeps: Mapping[Setting, Sweep]
  labels: np.ndarray
  guessing_loss: float
  metrics: Sequence[Measure]


class Page:
  """Writes the page after an epoch, but no oftener than a hundredth of the time allows."""

  def __init__(self, study: Study):
    self._study = study
    self._due = 0.0

  def __call__(self, planned: Plan) -> None:
    """Writes the page of all trials that were asked for so far."""
    started = time.monotonic()
    if started < self._due:
      return
    drawing.attempt(NAME, write, self._study, planned)
    took = time.monotonic() - started
    self._due = started + took / _SHARE


def is_live(file: Path) -> bool:
  """True if a page is that of a study that still trains."""
  with file.open(encoding='utf-8', errors='replace') as stream:
    return _MARK in stream.read(200)


def write(study: Study, planned: Plan) -> None:
  """Writes the page of a study of which at least one epoch has been trained."""
  trials = _trials(study, planned)
  asked = [t.epochs for t in rounds.last(planned, study.sweeps)]
  measure = next(iter(study.sweeps.values())).measure
  chance = status.chance_of(study.labels, measure)
  shown = chance.share if chance.measure == measure else None
  seen = _up_to_now(trials)
  drawn = charts.content(seen, measure, study.metrics, study.guessing_loss, shown)
  training = [t for t in trials if _status(t) == 'training']
  done, last = max(map(_epochs, training or trials)), max(asked)
  text = html.render(
    'live.html',
    charts={**drawn, 'setting': None, 'by_rate': []},
    scripts=('reload.js',),
    name=study.folder.resolve().name,
    about=_about(study.study),
    epoch=f'Epoch {done} of {last}',
    ended=len(trials) - len(training),
    planned=len(asked),
    rounds=1 + max(trial.round for trial in planned.trials),
    seconds=_SECONDS,
    written=datetime.now().astimezone().strftime('%H:%M:%S'),
    measure=measure.name,
    rows=_rows(trials, asked, study.sweeps, measure),
    several=len(study.sweeps) > 1,
    undrawn=charts.undrawn_words(seen),
  )
  html.save(study.folder / NAME, text)


def _about(study: Mapping[str, Any]) -> str:
  config = study['config']
  return f'{describe.part(config, "model")}, on {describe.data(config, study["data"])}.'


def _trials(study: Study, planned: Plan) -> list[charts.Trial]:
  """All trials that were asked for so far, as far as they have trained."""
  found: list[charts.Trial] = []
  waves: dict[int, tuple[History, int, np.ndarray] | None] = {}
  for trial in rounds.last(planned, study.sweeps):
    sweep = study.sweeps[trial.setting]
    if trial.wave not in waves:
      waves[trial.wave] = _wave(study.folder, planned, trial.wave, sweep)
    of_wave = waves[trial.wave]
    if of_wave is None:
      continue
    history, steps, bad = of_wave
    column = planned.column(trial)
    bad_step = int(bad[column]) or None
    epochs = steps // history.steps_per_epoch
    value = (
      None if bad_step or not epochs else history.epochs[sweep.measure.field][epochs - 1, column]
    )
    at = (trial.learning_rate, trial.seed, trial.setting, history, column, steps, bad_step)
    found.append(charts.Trial(*at, None if value is None else float(value)))
  return found


def _wave(
  folder: Path, planned: Plan, number: int, sweep: Sweep
) -> tuple[History, int, np.ndarray] | None:
  """The curves of a wave, steps done and the first bad ones; None if it has not begun."""
  if not loop.place(folder / 'history', number).is_dir():
    return None
  try:
    history = loop.curves(folder, planned, number, sweep._replace(trials=planned.of_wave(number)))
  except (StudyError, OSError, ValueError):
    return None  # a worker of a cluster is just creating its files
  total = len(history.steps['loss'])
  if loop.is_finished(folder, number):
    return history, total, history.first_bad_steps(0, total, evaluated=True)
  known = np.isfinite(history.steps['loss']).any(1)
  steps = int(np.flatnonzero(known)[-1]) + 1 if known.any() else 0
  return history, steps, history.first_bad_steps(0, steps)


class _Begun(NamedTuple):
  """The first rows of a `History`."""

  steps: dict[str, np.ndarray]
  epochs: dict[str, np.ndarray]
  steps_per_epoch: int


def _up_to_now(trials: Sequence[charts.Trial]) -> list[charts.Trial]:
  """The trials, with curves that end at the last epoch of their setting that has begun."""
  ends: dict[Setting, int] = {}
  for trial in trials:
    epochs = -(-trial.steps // trial.history.steps_per_epoch)
    ends[trial.setting] = max(1, epochs, ends.get(trial.setting, 0))
  found = []
  for trial in trials:
    whole, end = trial.history, ends[trial.setting]
    steps = {name: curve[: end * whole.steps_per_epoch] for name, curve in whole.steps.items()}
    epochs_of = {name: curve[:end] for name, curve in whole.epochs.items()}
    begun = _Begun(steps, epochs_of, whole.steps_per_epoch)
    found.append(trial._replace(history=begun))  # type: ignore[arg-type]  # has what is drawn
  return found


def _status(trial: charts.Trial) -> str:
  if trial.bad_step:
    return 'diverged'
  return 'training' if trial.steps < len(trial.history.steps['loss']) else 'finished'


def _epochs(trial: charts.Trial) -> int:
  """Whole epochs that it has trained; where it diverged, those before."""
  return trial.good_steps // trial.history.steps_per_epoch


def _rows(
  trials: Sequence[charts.Trial],
  asked: Sequence[int],
  sweeps: Mapping[Setting, Sweep],
  measure: Measure,
) -> list[dict[str, str]]:
  """A row for each setting and rate: how far it is, and the mean over the seeds that train."""
  of_rate, last = {}, max(asked)
  for trial in trials:
    of_rate.setdefault((trial.setting, trial.learning_rate), []).append(trial)
  rows = []
  for (setting, rate), own in of_rate.items():
    values = [t.value for t in own if t.value is not None]
    counts = Counter(map(_status, own))
    words = ', '.join(f'{n} {word}' if len(counts) > 1 else word for word, n in counts.items())
    rows.append(
      {
        'setting': rounds.title(setting, sweeps),
        'rate': formats.rate(rate),
        'epoch': f'{max(map(_epochs, own))} of {last}',
        'value': measure.show(float(np.mean(values)) if values else None),
        'status': words,
      }
    )
  return rows
