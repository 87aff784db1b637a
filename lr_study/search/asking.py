"""The next round of a study: the search is told what came out, and its rates go into waves."""

from collections.abc import Mapping

import numpy as np

from lr_study import plan, progress
from lr_study.answer.verdict import CONVERGED, DIVERGED, Result, judge
from lr_study.files import provenance
from lr_study.search import strategies as search
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.training import Sweep, chunks, run_together


def next_round(
  sweeps: Mapping[Setting, Sweep],
  planned: Plan,
  results: Mapping[Planned, Result],
  labels: np.ndarray,
  measure: str,
  processes: int,
) -> Plan:
  """Asks the search for one more round, setting by setting.

  Args:
    sweeps: of each setting, without trials.
    planned: the rounds that were trained.
    results: of all their trials.
    labels: of the validation images, (images,).
    measure: the field of a result that leads.
    processes: that train the trials.

  Returns:
    The plan with the new trials; ended if there are none.
  """
  trials, waves = list(planned.trials), planned.waves
  number = 1 + max((trial.round for trial in trials), default=-1)
  for setting, sweep in sweeps.items():
    told = tell({t: results[t] for t in planned.trials if t.setting == setting}, labels, measure)
    asked = search.ask(sweep.config, told)
    for epochs in dict.fromkeys(ask.epochs for ask in asked):
      new = tuple(
        Planned(ask.learning_rate, seed, *setting, epochs, number, waves)
        for ask in asked
        if ask.epochs == epochs
        for seed in sweep.config.seeds
      )
      wave_of = _waves(sweep._replace(trials=new), processes)
      trials += [t._replace(wave=waves + k) for t, k in zip(new, wave_of, strict=True)]
      waves += max(wave_of) + 1
  return Plan(tuple(trials), ended=len(trials) == len(planned.trials))


def tell(results: Mapping[Planned, Result], labels: np.ndarray, measure: str) -> list[search.Told]:
  """What a search is told of the trials of one setting: a line for each rate and its epochs."""
  if not results:
    return []
  longest = max(trial.epochs for trial in results)
  furthest = [result for trial, result in results.items() if trial.epochs == longest]
  alike = judge(furthest, labels, measure).indistinguishable
  of_rate = {}
  for trial, result in results.items():
    of_rate.setdefault((trial.learning_rate, trial.epochs), []).append(result)
  told = []
  for (rate, epochs), found in of_rate.items():
    statuses = {result.status for result in found}
    diverged = DIVERGED in statuses
    accuracy = np.nan if diverged else float(np.mean([getattr(r, measure) for r in found]))
    told.append(
      search.Told(rate, epochs, diverged, statuses == {CONVERGED}, accuracy, rate in alike)
    )
  return told


def _waves(sweep: Sweep, processes: int) -> list[int]:
  """The wave of each trial of the sweep, from 0: those of a wave fit in memory together."""
  count = len(sweep.trials)
  with sweep.clock('start'):
    progress.note(f'Compiling for {count} trials on {provenance.device()}')
    running = run_together(sweep, np.arange(count))
    chunk = next(chunks(sweep, running, 0, 0, 1))
    limit = sweep.config.memory_gb * 1e9
    return plan.waves(running.trials, sweep.mean, chunk, count, processes, limit)
