"""What a part of the check starts in a separate process, on its own device.

python -m lr_study.gpu_check.training '{"do": "curves", "out": "curves.npz", ...}'
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lr_study import plan, study, trials
from lr_study.benchmark.jax_sides import dataset
from lr_study.benchmark.side import config_of, data_of
from lr_study.config import check, from_json
from lr_study.environment import ours
from lr_study.files import workdir
from lr_study.time_limit import TimeIsUp, TimeLimit
from lr_study.trials import Sweep
from lr_study.vectorize import keep_compiled_programs


def curves(options: dict[str, Any]) -> dict[str, Any]:
  """Trains each of `runs` for `steps` steps.

  Args:
    options: `network`, see benchmark/side.py; the learning `rates` of all trials; `runs`: of each,
      by its name, which of the trials it trains (`columns`), the `dtype`, and at which step it is
      to `stop` and go on from what a checkpoint would hold, 0 for never; `out`: a file for the
      losses, (steps, trials), by the name of the run.
  """
  keep_compiled_programs()
  sweeps: dict[str, Sweep] = {}
  for name, run in options['runs'].items():
    dtype = run.get('dtype', 'float32')
    if dtype not in sweeps:
      sweeps[dtype] = _sweep_of(options, dtype)
    losses = _losses(sweeps[dtype], options['steps'], run['columns'], run.get('stop', 0))
    file = Path(options['out'])
    found = dict(np.load(file)) if file.exists() else {}
    np.savez(file, **found, **{name: losses})
  return {'device': jax.local_devices()[0].device_kind}


def _sweep_of(options: dict[str, Any], dtype: str) -> Sweep:
  rates = options['rates']
  config = config_of(options | {'trials': len(rates)}).copy_and_resolve_references().unlock()
  config.learning_rates, config.dtype = tuple(rates), dtype
  data = data_of({'images': options['steps'] + 1}, config.image_size)
  return trials.prepare(check(config), dataset(*data))


def _losses(sweep: Sweep, steps: int, columns: list[int], stop: int) -> np.ndarray:
  now = trials.running(sweep, np.asarray(columns))
  state_T, rows = sweep.spread.init(now.hyper_T, now.seeds), []
  stops = [step for step in (stop, steps) if step]
  for first, last in zip([0, *stops], stops, strict=False):
    whole = np.full((last - first, len(sweep.trials)), np.nan)
    state_T, metrics, _ = trials.train_steps(sweep, now, state_T, 0, first, last)
    whole[:, now.columns] = metrics['loss']
    rows.append(whole[:, columns])
    good = np.isfinite(metrics['loss']).all(0)
    if not good.all():
      now, state_T = trials.keep(sweep, now, state_T, good)
    elif last != steps:
      state_T = sweep.spread.put(sweep.spread.get(state_T, len(now.columns)))
  return np.concatenate(rows)


class _AfterCalls(TimeLimit):
  """Is up when it is asked for the n-th time: a study stops at the same step on any machine."""

  def __init__(self, calls: int):
    super().__init__(1e9)
    self._left = calls

  @property
  def is_up(self) -> bool:
    self._left -= 1
    return self._left <= 0


def part_of_a_study(options: dict[str, Any]) -> dict[str, Any]:
  """Runs a study in the folder `workdir`, up to the n-th look at the clock if `calls` is not 0.

  `fields`: of its config.
  """
  keep_compiled_programs()
  config, folder = from_json(options['fields']), Path(options['workdir'])
  limit = _AfterCalls(options['calls']) if options['calls'] else None
  try:
    with workdir.held(folder):
      study.carry_out(study.as_begun(config, folder), folder, reports=False, limit=limit)
    return {'ended': True}
  except TimeIsUp as up:
    return {'ended': False, 'said': str(up)}


def memory(options: dict[str, Any]) -> dict[str, Any]:
  """What the plan says that trials need, and what the device says they took at most, in bytes."""
  config = config_of(options)
  sweep = trials.prepare(config, dataset(*data_of({'images': 80}, config.image_size)))
  now = trials.running(sweep, np.arange(options['trials']))
  device = jax.local_devices()[0]
  before = (device.memory_stats() or {}).get('bytes_in_use')
  need = plan.measure(sweep, now)
  state_T = sweep.spread.init(now.hyper_T, now.seeds)
  state_T, *_ = trials.train_steps(sweep, now, state_T, 0, 0, sweep.steps_per_epoch)
  trials.evaluate(sweep, now, state_T)
  stats = device.memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return {
    'planned': need.trial * options['trials'] + need.call,
    'taken': peak - before if peak else None,
    'limit': stats.get('bytes_limit'),
  }


DO = {'curves': curves, 'study': part_of_a_study, 'memory': memory}


def main() -> None:
  options = json.loads(sys.argv[1])
  with ours():
    print('RESULT ' + json.dumps(DO[options['do']](options)), flush=True)


if __name__ == '__main__':
  main()
