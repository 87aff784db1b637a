"""Extends a study by rates, seeds, axis values or epochs: decides which trials are kept.

A trial is kept if the larger study would train it with the same program. The others are trained
again. The result is that of a study that had all values from the start.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lr_study import formats, loop, paths, schedules, trial, trials
from lr_study.config import GROW, adds, differences, essential, from_json
from lr_study.errors import StudyError
from lr_study.files import record, workdir
from lr_study.progress import note
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Setting
from lr_study.trials import Sweep

_REMADE = ('results.json', 'results.csv', 'summary.md', 'report.html', 'figures', 'tensorboard')


def extend(folder: Path, study: Mapping[str, Any], sweeps: Mapping[Setting, Sweep]) -> None:
  """Turns the study in `folder` into the larger one, and keeps the trials that still fit.

  Nothing changes if it is that study already, or if `adds` says that the other is not larger. If
  this is killed, the same command resumes it.

  Args:
    folder: holds a study.
    study: the larger one, as provenance.describe returns it.
    sweeps: of each setting of the larger study, without trials.

  Raises:
    StudyError: the study has no record of its files.
  """
  new = json.loads(json.dumps(study))
  old = json.loads((folder / 'config.json').read_text())
  before, now = old['config'], new['config']
  same_images = old['data']['fingerprint'] == new['data']['fingerprint']
  same_weights = workdir.weights_of(old) == workdir.weights_of(new)
  same = same_images and same_weights
  if not differences(before, now) or not same or not adds(before, now):
    return
  if not record.is_there(folder):
    raise StudyError(
      f'{folder} holds a study of an older version without a record of its files; choose another '
      '--workdir'
    )
  planned, config = rounds.read(folder / 'history'), from_json(old['config'])
  place = {
    setting: _same(config, setting, own, sweeps) for setting, own in rounds.settings(config).items()
  }
  kept, anew = [], {}
  for t in dict.fromkeys((*planned.earlier, *planned.trials)):
    setting, why = place[t.setting]
    if setting is None:
      anew.setdefault(why, set()).add(t.trial)
    else:
      batch_size, schedule, axes = setting
      kept.append(t._replace(batch_size=batch_size, schedule=schedule, axes=axes, round=-1))
  note(f'Kept: {formats.count(len({t.trial for t in kept}), "trial")}')
  for why, of in anew.items():
    note(f'Trained again: {formats.count(len(of), "trial")}, because {why}')
  # In this order: if this is killed, either command can resume the study.
  rounds.write(folder / 'history', Plan((), False, tuple(dict.fromkeys(kept)), planned.waves))
  _clear(folder, {t.wave for t in kept})
  workdir.write_text(folder / 'config.json', json.dumps(study, indent=1) + '\n')


def _same(
  config: ConfigDict, setting: Setting, own: ConfigDict, sweeps: Mapping[Setting, Sweep]
) -> tuple[Setting | None, str]:
  """The setting of the larger study that trains trials with the same program; else None and why.

  Args:
    config: of the study that is extended.
    setting: one of its settings.
    own: that setting's config.
    sweeps: of the larger study.
  """
  numbers = rounds.numbers_of(own, setting)
  for other, sweep in sweeps.items():
    if _fixed(sweep.config) != _fixed(own) or rounds.numbers_of(sweep.config, other) != numbers:
      continue
    if not trials.same_program(sweep, own):
      return None, 'the larger study computes them in another way'
    heights = [_heights(sweep, other, of, own.epochs) for of in (own, sweep.config)]
    if not np.array_equal(*heights):
      return None, f'{own.schedule.name} depends on the number of epochs'
    return other, ''
  return None, 'numbers that were fixed are now arguments of their program'


def _fixed(config: ConfigDict) -> dict[str, Any]:
  """The fields of a setting's config that must be equal for its trials to be kept."""
  # A user's file may have been moved: `adds` has checked that it is the same.
  fields = {n: paths.short(x) if isinstance(x, str) else x for n, x in essential(config).items()}
  left_out = (*GROW, 'epochs', *(n for n in fields if n.startswith('schedule.')))
  fixed = {n: x for n, x in fields.items() if n not in left_out and not n.startswith('axes.')}
  schedule = paths.short(config.schedule.name)
  return fixed | {'schedule': schedule, 'axes': sorted(rounds.axes_of(config))}


def _heights(sweep: Sweep, setting: Setting, own: ConfigDict, epochs: int) -> np.ndarray:
  """The heights of this config's schedule over the first `epochs` epochs."""
  swept = trial.own(rounds.numbers_of(own, setting), 'schedule')
  schedule = schedules.build(own.schedule, sweep.steps_per_epoch, own.epochs, tuple(swept))
  return schedules.heights(schedule, epochs * sweep.steps_per_epoch, **swept)


def _clear(folder: Path, waves: set[int]) -> None:
  """Deletes files that are made from the trials, and trials that are in none of the waves."""
  names = {loop.place(Path(), number).name for number in waves} | {rounds.FILE}

  def keep(name):
    part, *within = Path(name).parts
    return within[0] in names if part in ('history', 'checkpoints') else part not in _REMADE

  record.delete(folder, keep)
