"""What the tables of summary.md, of report.html and of a comparison have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lr_study import formats
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.search import rounds
from lr_study.search.rounds import Setting


class Row(NamedTuple):
  """The answer for a setting, as texts: the rate to use, the measure there and its interval."""

  setting: Setting
  rate: str
  value: str
  interval: str


def dimensions(settings: Iterable[Setting]) -> dict[str, Callable[[Setting], str]]:
  """What settings differ in, by its name; each is a function that gives a setting's own."""
  settings = list(settings)
  found = {}
  if len({setting.batch_size for setting in settings}) > 1:
    found['batch size'] = lambda setting: str(setting.batch_size)
  if len({setting.schedule for setting in settings}) > 1:
    found['schedule'] = lambda setting: setting.schedule
  for name in rounds.varied(settings[0], settings):
    found[name] = lambda setting, name=name: rounds.value_text(dict(setting.axes)[name])
  return found


def answers(results: Sequence[Result], verdicts: Mapping[Setting, Verdict]) -> list[Row]:
  """A row for each setting of a study."""
  rows = []
  for setting, verdict in verdicts.items():
    rate, measure = verdict.learning_rate, verdict.leads
    if rate is None:
      rows.append(Row(setting, 'none', '–', '–'))
      continue
    found = [r for r in results if (r.setting, r.learning_rate) == (setting, rate)]
    ends = verdict.intervals[formats.rate(rate)]
    shown = measure.show(mean(found, measure))
    rows.append(Row(setting, formats.rate(rate), shown, measure.between(ends)))
  return rows


def mean(results: Sequence[Result], measure: Measure) -> float | None:
  """The mean over trials; None if one diverged or has no value.

  A mean over the seeds that did not diverge would flatter the rate.
  """
  values = [value_of(result, measure) for result in results]
  if None in values or any(result.status == DIVERGED for result in results):
    return None
  return float(np.mean(values))
