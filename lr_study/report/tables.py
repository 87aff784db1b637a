"""What the tables of summary.md, of report.html, of a terminal and a comparison have in common."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats, plugs
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.search import rounds
from lr_study.search.rounds import Setting

MOST = 1000  # trials in a table: a page with ten times as many is slow to open


class OfRate(NamedTuple):
  """What became of a rate, as texts: mean, interval, probability of being the best, statuses."""

  rate: str
  value: str
  interval: str
  probability: str
  status: str
  may_be_best: bool


class Row(NamedTuple):
  """The answer for a setting, as texts: the rate to use, the measure there and its interval."""

  setting: Setting
  rate: str
  value: str
  interval: str


def _value(axis: str, setting: Setting) -> str:
  return rounds.value_text(dict(setting.axes)[axis])


def dimensions(settings: Iterable[Setting]) -> dict[str, Callable[[Setting], str]]:
  """What settings differ in, by its name; each is a function that gives a setting's own."""
  settings = list(settings)
  found: dict[str, Callable[[Setting], str]] = {}
  if len({setting.batch_size for setting in settings}) > 1:
    found['batch size'] = lambda setting: str(setting.batch_size)
  if len({setting.schedule for setting in settings}) > 1:
    found['schedule'] = lambda setting: setting.schedule
  for name in rounds.varied(settings[0], settings):
    found[name] = functools.partial(_value, name)
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


def shown(results: Sequence[Result], measure: Measure) -> list[int]:
  """The places in `results` of the trials that a table shows, in order: the best of very many."""
  if len(results) <= MOST:
    return list(range(len(results)))

  def score(place: int) -> float:
    value = value_of(results[place], measure)
    return -np.inf if value is None else measure.score(value)

  return sorted(sorted(range(len(results)), key=score, reverse=True)[:MOST])


def title(results: Sequence[Result]) -> str:
  """What a table of trials is called."""
  if len(results) <= MOST:
    return f'All {formats.count(len(results), "trial")}'
  return f'The best {MOST:,} of {len(results):,} trials; results.csv has all'


def rates(results: Sequence[Result], verdict: Verdict) -> list[OfRate]:
  """A row for each rate of a setting, in the order of its results."""
  measure, rows = verdict.leads, []
  for rate in dict.fromkeys(r.learning_rate for r in results):
    found = [r for r in results if r.learning_rate == rate]
    name, statuses = formats.rate(rate), Counter(r.status.replace('_', ' ') for r in found)
    status = ', '.join(f'{count} {status}' for status, count in statuses.items())
    rows.append(
      OfRate(
        name,
        measure.show(mean(found, measure)),
        measure.between(verdict.intervals[name]),
        formats.percent(verdict.probability_best[name] if verdict.probability_best else None),
        status if len(statuses) > 1 else next(iter(statuses)),
        rate in verdict.indistinguishable,
      )
    )
  return rows


def grid(results: Sequence[Result], axis: str, measure: Measure) -> dict[str, Any]:
  """The mean over seeds at each rate and value of an axis, as the rows of a table.

  Returns:
    rates: the heads of the columns, the smallest first. rows: of a `value` and `cells`, each with a
    `text`, a `share` from 0 to 1, the larger the better, and whether it is the `best` of its row;
    None for what was not tried.
  """
  rates = sorted({r.learning_rate for r in results})
  value_at = {r.setting: rounds.on_axes(r.setting)[axis] for r in results}
  values = list(dict.fromkeys(value_at.values()))
  if all(map(plugs.is_number, values)):
    values.sort()
  scores, texts = np.full((len(values), len(rates)), np.nan), {}
  for r in results:
    texts.setdefault((values.index(value_at[r.setting]), rates.index(r.learning_rate)), []).append(
      r
    )
  for place, here in texts.items():
    left = [value_of(r, measure) for r in here if r.status != DIVERGED]
    gone = len(here) - len(left)
    texts[place] = DIVERGED if gone else '–'
    if left and None not in left:
      scores[place] = measure.score(float(np.mean(left)))
      texts[place] = measure.show(float(np.mean(left))) + (f', {gone} diverged' if gone else '')
  known = scores[np.isfinite(scores)]
  low, high = (0.0, 1.0) if measure.is_share else (min(known, default=0), max(known, default=0))
  shares = np.nan_to_num((scores - low) / ((high - low) or 1))
  rows = [
    {
      'value': rounds.value_text(value),
      'cells': [
        (row, column) in texts
        and {
          'text': texts[row, column],
          'share': float(shares[row, column]),
          'best': bool(scores[row, column] == np.nanmax(np.append(scores[row], -np.inf))),
        }
        for column in range(len(rates))
      ],
    }
    for row, value in enumerate(values)
  ]
  return {'axis': axis, 'rates': list(map(formats.rate, rates)), 'rows': rows}


def mean(results: Sequence[Result], measure: Measure) -> float | None:
  """The mean over trials; None if one diverged or has no value.

  A mean over the seeds that did not diverge would flatter the rate.
  """
  values = [value_of(result, measure) for result in results]
  if None in values or any(result.status == DIVERGED for result in results):
    return None
  return float(np.mean(values))
