"""A range test next to a finished sweep: one trial with a rising rate, and what it suggests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from lr_study import formats, schedules, trials
from lr_study.answer.measure import value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import check
from lr_study.data import Dataset
from lr_study.files.history import window_means
from lr_study.report import drawing, figures, plotting, style
from lr_study.report.plotting import ONE_COLUMN
from lr_study.search.range_test import suggestions

_RULES = {
  'valley': "fastai's valley, its default",
  'steep': "fastai's steepest fall",
  'minimum': "a tenth of fastai's minimum",
  'lightning': "Lightning's steepest fall",
}
_LOSS = '0.45'
_DASHES = ('--', '-.', ':', (0, (6, 1.5, 1, 1.5, 1, 1.5)))


class Climb(NamedTuple):
  """rates, losses: (steps,); a loss is NaN or infinite after the trial has diverged."""

  rates: np.ndarray
  losses: np.ndarray
  suggested: dict[str, float | None]


def climb(config: ConfigDict, data: Dataset) -> Climb:
  """Trains one trial of a study for an epoch, from its smallest rate to its largest.

  Args:
    config: the study's; its first seed is used.
    data: the study's.
  """
  config = config.copy_and_resolve_references().unlock()
  smallest, largest = min(config.learning_rates), max(config.learning_rates)
  config.learning_rates, config.seeds, config.epochs = (largest,), config.seeds[:1], 1
  config.axes = {}
  config.schedule = {'name': 'exponential', 'start_height': smallest / largest}
  config = check(config)
  sweep = trials.prepare(config, data)
  now = trials.running(sweep, np.arange(1))
  state_T = sweep.spread.init(now.hyper_T, now.seeds)
  _, curves, _ = trials.train_steps(sweep, now, state_T, 0, 0, sweep.steps_per_epoch)
  rates = largest * schedules.heights(sweep.task.schedule, sweep.steps_per_epoch)
  losses = curves['loss'][:, 0]
  return Climb(rates, losses, suggestions(rates, losses))


def table(found: Climb, results: Sequence[Result], verdict: Verdict) -> str:
  """A Markdown table of each suggestion, and how the sweep's nearest rate did."""
  lines = [
    f'| rule | suggests | nearest rate of the sweep | its {verdict.leads.name} |',
    '| --- | ---: | ---: | --- |',
  ]
  for rule, name in _RULES.items():
    rate = found.suggested[rule]
    if rate is None:
      lines.append(f'| {name} | – | – | the curve is too short |')
      continue
    near = min({r.learning_rate for r in results}, key=lambda x: abs(np.log(x / rate)))
    lines.append(
      f'| {name} | {formats.rate(float(f"{rate:.2g}"))} | {formats.rate(near)} '
      f'| {_outcome([r for r in results if r.learning_rate == near], verdict)} |'
    )
  best = verdict.learning_rate
  lines.append(
    '| the sweep | – | – | no rate to use |'
    if best is None
    else f'| the sweep | {formats.rate(best)} | {formats.rate(best)} '
    f'| {_outcome([r for r in results if r.learning_rate == best], verdict)} |'
  )
  return '\n'.join(lines)


def as_json(found: Climb) -> dict[str, Any]:
  """All fields for JSON; losses that are not finite are null."""
  losses = [float(x) if np.isfinite(x) else None for x in found.losses]
  return {
    'suggested': found.suggested,
    'learning_rates': [float(rate) for rate in found.rates],
    'losses': losses,
  }


def save(found: Climb, verdict: Verdict, file: Path) -> None:
  """Draws the loss against the rising rate, and the suggested rates."""
  with drawing.style():
    figure, ((axes,),) = plotting.sheet(
      ONE_COLUMN, 2.9, 1, 1, (5, 8, 1.8, 0.8), subplot_kw={'xscale': 'log'}
    )
    axes.set(xlabel='learning rate', ylabel='training loss (nats)')
    known = np.isfinite(found.losses)
    rates, losses = found.rates[known], found.losses[known]
    axes.plot(rates, losses, color=_LOSS, linewidth=0.4, alpha=0.35)
    ends, means = window_means(losses, max(1, len(found.losses) // 100))
    axes.plot(rates[ends - 1], means, color=_LOSS, linewidth=1.2)
    axes.set_ylim(0, 2 * np.median(losses[: max(1, len(losses) // 10)]))
    marks = {_RULES[rule]: rate for rule, rate in found.suggested.items() if rate is not None}
    for number, (name, rate) in enumerate(marks.items()):
      dash, colour = _DASHES[number % len(_DASHES)], style.PALETTE[number]
      axes.axvline(rate, linewidth=1.2, label=name, color=colour, linestyle=dash)
    if verdict.learning_rate is not None:
      ink = matplotlib.rcParams['text.color']
      axes.axvline(verdict.learning_rate, label='the sweep', color=ink, linewidth=1.4)
    plotting.rate_axis(axes.xaxis)
    figure.legend(loc='lower center', ncols=2, columnspacing=1)
  figures.draw(file.parent, {file.stem: figure})


def _outcome(results: Sequence[Result], verdict: Verdict) -> str:
  results = [r for r in results if r.setting == verdict.setting] or results
  if any(result.status == DIVERGED for result in results):
    return DIVERGED
  values = [value_of(result, verdict.leads) for result in results]
  if None in values:
    return '–'
  return verdict.leads.show(float(np.mean(values)))
