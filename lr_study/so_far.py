"""What a study knows when its time limit stops it: so_far/, a report of the epochs it has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study import formats, loop, time_limit, waves
from lr_study.answer import axes
from lr_study.errors import StudyError
from lr_study.files import record
from lr_study.files.history import History, join
from lr_study.report import describe, drawing, page, pictures, report
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.time_limit import TimeIsUp, TimeLimit
from lr_study.trials import Sweep

NAME = 'so_far'  # in the work directory; it has the form of one


class Reached(NamedTuple):
  """How far a trial is: its curves, and the epochs that they hold, all of them if it diverged."""

  history: History
  column: int
  epochs: int
  diverged_at: int  # the first bad step, from 1; 0: it did not


def delete(folder: Path) -> None:
  """Deletes the report of an earlier stop."""
  if record.is_there(folder):
    record.delete(folder, keep=lambda name: not name.startswith(f'{NAME}/'))


def stopped(
  config: ConfigDict,
  sweeps: Mapping[Setting, Sweep],
  folder: Path,
  study: Mapping[str, Any],
  labels: np.ndarray,
  limit: TimeLimit,
  reports: bool,
) -> Exception:
  """Writes the report of a study that was stopped and saved.

  Args:
    config: the study's.
    sweeps: of each setting.
    folder: the study's.
    study: what goes under "study" in results.json, but for the time.
    labels: of the validation images, (images,).
    limit: that stopped it.
    reports: False: writes nothing.

  Returns:
    What to raise: TimeIsUp; or StudyError if not a step was taken, as none ever would be.
  """
  if 'steps' not in next(iter(sweeps.values())).clock.seconds:
    return StudyError(
      f'--time_limit={time_limit.told(limit.seconds)} is too short: '
      f'{formats.duration(limit.passed)} passed before the first step; allow more time'
    )
  planned = rounds.read(folder / 'history')
  reached = {t: _reached(sweeps, folder, planned, t) for t in rounds.last(planned, sweeps)}
  told = f'Stopped by --time_limit after {time_limit.told(limit.passed)}'
  goes_on = 'the same command continues the study'
  chosen = _furthest(reached)
  if not chosen:
    return TimeIsUp(f'{told}, in the first epoch. All is saved; {goes_on}.')
  line = f'{told}, {_how_far(sweeps, reached, chosen)}; {goes_on}.'
  if reports:
    delete(folder)
    of_study = {**study, 'stopped': line, 'seconds': round(limit.passed, 1)}
    drawing.attempt(NAME, _write, folder / NAME, config, sweeps, of_study, labels, reached, chosen)
  where = folder / NAME / page.NAME
  return TimeIsUp(f'{line} All is saved' + (f'; results so far: {where}' * where.exists()))


def _reached(
  sweeps: Mapping[Setting, Sweep], folder: Path, planned: Plan, trial: Planned
) -> Reached | None:
  """How far a trial is, in the latest wave of it that has begun; None if none has."""
  at: Planned | None = trial
  while at is not None:
    sweep = sweeps[trial.setting]._replace(trials=planned.of_wave(at.wave))
    try:
      history = loop.curves(folder, planned, at.wave, sweep)
    except StudyError:  # it has not begun
      at = rounds.before(planned, at)
      continue
    column = planned.column(at)
    taken = ~np.isnan(history.steps['loss']).all(1)  # rows that are still to come are NaN
    done = len(taken) if loop.is_finished(folder, at.wave) else int(taken.sum())
    bad = int(history.first_bad_steps(0, done)[column]) if done else 0
    known = np.isfinite(history.epochs['validation_loss']).any(1)
    epochs = at.epochs if bad or done == len(taken) else int(known.sum())
    return Reached(history, column, epochs, bad)
  return None


def _furthest(reached: Mapping[Planned, Reached | None]) -> dict[Planned, int]:
  """The trials to compare, and the epochs, the same for all of a setting, to compare them at.

  Those epochs that most trial-epochs can be had for, of rates all of whose seeds have them. Of
  several settings, those that have come the furthest of their way.
  """
  found: dict[Setting, dict[Planned, int]] = {}
  for setting in dict.fromkeys(trial.setting for trial in reached):
    of_setting = {t: at for t, at in reached.items() if t.setting == setting}
    counts = {
      epochs: sum(at.epochs >= epochs and not at.diverged_at for at in of_setting.values() if at)
      for epochs in {at.epochs for at in of_setting.values() if at} - {0}
    }
    trained = [n for n, count in counts.items() if count]  # diverged ones alone tell of no epoch
    for epochs in sorted(trained, key=lambda n: (n * counts[n], n), reverse=True):
      rates: dict[float, list[bool]] = {}
      for t, at in of_setting.items():
        rates.setdefault(t.learning_rate, []).append(at is not None and at.epochs >= epochs)
      chosen = {t: epochs for t in of_setting if all(rates[t.learning_rate])}
      if chosen:
        found[setting] = chosen
        break
  share = {s: max(n / t.epochs for t, n in chosen.items()) for s, chosen in found.items()}
  most = max(share.values(), default=0)
  return {t: n for s, chosen in found.items() if share[s] == most for t, n in chosen.items()}


def _how_far(
  sweeps: Mapping[Setting, Sweep],
  reached: Mapping[Planned, Reached | None],
  chosen: Mapping[Planned, int],
) -> str:
  """'at epoch 12 of 30', which trials have not come so far, and which diverged since."""
  epochs = next(iter(chosen.values()))
  parts = [f'at epoch {epochs} of {max(t.epochs for t in chosen)}']
  if len(reached) > len(chosen):
    behind = formats.count(len(reached) - len(chosen), 'trial')
    parts.append(f'without {behind} of {len(reached)}, which had not come so far')
  per_epoch = {s: sweep.steps_per_epoch for s, sweep in sweeps.items()}
  since = [
    formats.rate(t.learning_rate)
    for t, n in chosen.items()
    if (at := reached[t]) and at.diverged_at > n * per_epoch[t.setting]
  ]
  if since:
    parts.append(f'after which {", ".join(dict.fromkeys(since))} diverged')
  return ', '.join(parts)


def _write(
  folder: Path,
  config: ConfigDict,
  sweeps: Mapping[Setting, Sweep],
  study: Mapping[str, Any],
  labels: np.ndarray,
  reached: Mapping[Planned, Reached | None],
  chosen: Mapping[Planned, int],
) -> None:
  """Writes curves, results, summary, figures and page of the trials that are `chosen`."""
  results, settings = [], list(dict.fromkeys(t.setting for t in chosen))
  sweep = next(iter(sweeps.values()))
  for setting in settings:
    sweep = sweeps[setting]
    trials = [t._replace(epochs=epochs) for t, epochs in chosen.items() if t.setting == setting]
    found = [at for t, at in reached.items() if at and t in chosen and t.setting == setting]
    columns = [(at.history, at.column) for at in found]
    total = trials[0].epochs * sweep.steps_per_epoch
    place = folder / 'history' / rounds.label(setting, settings)
    history = join(place, columns, total, trials[0].epochs)
    results += waves.results(sweep._replace(trials=tuple(trials)), history, labels)
  edge_only = config.search.name == 'bisect'
  noun = describe.noun(study['data'])
  answer = axes.answer(results, labels, sweep.measure, study['guessing_loss'], edge_only, noun)
  planned = sum(t.epochs * sweeps[t.setting].steps_per_epoch for t in reached)
  of_study = {
    **study,
    'seconds_of': sweep.clock.rounded(),
    'trial_steps': {'planned': planned, 'run': sum(result.steps for result in results)},
    'rounds': [],
  }
  report.write(folder, of_study, results, answer, None)
  best = answer.verdict.setting
  pictures.draw(folder, config, of_study, results, answer.of_setting, None, best)
  page.write(folder)
