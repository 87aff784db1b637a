"""Plans the next round of a study: passes results to the search, and puts its rates into waves."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from lr_study.answer import status
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.verdict import Result, judge
from lr_study.search import rounds
from lr_study.search import strategies as search
from lr_study.search.rounds import Plan, Planned, Setting
from lr_study.trials import Sweep


def next_round(
  sweeps: Mapping[Setting, Sweep],
  planned: Plan,
  results: Mapping[Planned, Result],
  labels: np.ndarray,
  measure: Measure,
  waves_of: Callable[[Sweep], list[int]],
) -> Plan:
  """Asks the search for one more round, program by program.

  Trials share waves if their settings share a program and they train from the same epoch to the
  same epoch. Trials that the study had before it was extended stay in their waves.

  Args:
    sweeps: of each setting, without trials.
    planned: the rounds trained so far.
    results: of all their trials.
    labels: of the validation images, (images,).
    measure: the leading one.
    waves_of: puts the trials of a sweep into waves; see `plan.waves`.

  Returns:
    The plan with the new trials; ended if there are none.
  """
  waves = planned.waves
  number = 1 + max((trial.round for trial in planned.trials), default=-1)
  known = {(t.trial, t.epochs): t.wave for t in planned.earlier}
  place = {setting: i for i, setting in enumerate(sweeps)}
  of_program: dict[int, list[Setting]] = {}
  for setting, sweep in sweeps.items():
    of_program.setdefault(id(sweep.config), []).append(setting)
  asked: list[Planned] = []
  for settings in of_program.values():
    config, told = sweeps[settings[0]].config, []
    for setting in settings:
      of_setting = {t: results[t] for t in planned.trials if t.setting == setting}
      told += [t._replace(setting=setting) for t in tell(of_setting, labels, measure)]
    for rate, epochs, (size, schedule, axes) in search.ask(config, told, settings):
      asked += [
        Planned(rate, seed, size, schedule, epochs, number, waves, axes) for seed in config.seeds
      ]
  asked.sort(key=lambda t: place[t.setting])  # so that the order does not depend on programs
  wave_of_trial, together = {}, {}
  for t in asked:
    if (t.trial, t.epochs) in known:
      wave_of_trial[t] = known[t.trial, t.epochs]
    else:
      # Trials that continue from the same epoch with the same program.
      earlier = rounds.before(planned, t)
      key = id(sweeps[t.setting].config), t.epochs, earlier.epochs if earlier else 0
      together.setdefault(key, []).append(t)
  for new in together.values():
    wave_of = waves_of(sweeps[new[0].setting]._replace(trials=tuple(new)))
    wave_of_trial |= {t: waves + k for t, k in zip(new, wave_of, strict=True)}
    waves += max(wave_of) + 1
  trials = (*planned.trials, *(t._replace(wave=wave_of_trial[t]) for t in asked))
  return dataclasses.replace(planned, trials=trials, ended=not asked)


def tell(
  results: Mapping[Planned, Result], labels: np.ndarray, measure: Measure
) -> list[search.Told]:
  """What a search learns about the trials of one setting: an entry per rate and epochs.

  `accuracy` is the score by the leading measure; larger is better.
  """
  if not results:
    return []
  longest = max(trial.epochs for trial in results)
  furthest = [result for trial, result in results.items() if trial.epochs == longest]
  alike = judge(furthest, labels, measure).indistinguishable
  chance = status.chance_of(labels, measure)
  of_rate = {}
  for trial, result in results.items():
    of_rate.setdefault((trial.learning_rate, trial.epochs), []).append(result)
  told = []
  for (rate, epochs), found in of_rate.items():
    statuses = [result.status for result in found]
    word = status.of_rate(statuses, [value_of(result, chance.measure) for result in found], chance)
    values = np.asarray([value_of(result, measure) for result in found], np.float64)
    diverged, known = status.DIVERGED in statuses, np.isfinite(values).all()
    learned = word in status.LEARNED and bool(known)
    score = measure.score(float(np.mean(values))) if known else -np.inf
    told.append(
      search.Told(rate, epochs, diverged, learned, np.nan if diverged else score, rate in alike)
    )
  return told
