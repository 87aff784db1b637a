"""Several studies on one page: their answers side by side, and what differs between them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lr_study import formats
from lr_study.answer.measure import ACCURACY, BALANCED, Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result
from lr_study.config import flatten
from lr_study.paths import Moved
from lr_study.report import colours, drawing, figures, html, plotting, report
from lr_study.search import rounds
from lr_study.use import evaluate
from lr_study.use.evaluate import Study

_MARKERS = 'os^Dv*Px'


def write(workdirs: Sequence[Path], out: Path, moved: Moved = ()) -> None:
  """Writes the comparison of finished studies, in the order in which they are given.

  Args:
    workdirs: the studies'.
    out: the file.
    moved: as of `evaluate.read_study`.

  Raises:
    StudyError: if one is not finished, or the file cannot be written.
  """
  found = [evaluate.read_study(workdir, moved) for workdir in workdirs]
  names = _names(workdirs)
  series, measure = _series(names, workdirs, found), _common(found)
  when = figures.when([result for _, _, results, _ in found for result in results])
  losses = [study['guessing_loss'] for _, study, *_ in found if 'guessing_loss' in study]
  studies = [
    {
      'name': name,
      'folder': str(workdir),
      'sentence': verdict.sentence,
      'rate': '–' if verdict.learning_rate is None else formats.rate(verdict.learning_rate),
      'images': f'{study["data"]["train"]} + {study["data"]["validation"]}',
      'fingerprint': study['data']['fingerprint'],
      'seconds': formats.duration(study['seconds']),
      'device': study['device'],
      'commit': study['commit'] or '–',
    }
    for name, workdir, (_, study, _, verdict) in zip(names, workdirs, found, strict=True)
  ]
  shown = figures.capital(f'{measure.name} {when}')
  drawn = _by_rate(series, measure, when, max(losses, default=1.0))
  stream = io.BytesIO()
  figures.save(drawn, stream)
  text = html.render(
    'compare.html',
    charts=_content(series, measure),
    studies=studies,
    same_images=len({study['fingerprint'] for study in studies}) == 1,
    differences=_differences([flatten(config) for config, *_ in found]),
    series=series,
    rates=_rates([line['results'] for line in series], measure),
    shown=shown,
    why_measure=_why(names, found, measure),
    measured=figures.capital(figures.measured(measure)),
    picture=html.png(stream.getvalue()),
  )
  html.save(out, text)


def _common(found: Sequence[Study]) -> Measure:
  """What all studies go by; if they differ, balanced accuracy, or accuracy where it is missing.

  Where classes are equal both are the same, and where they are not, accuracy misleads.
  """
  leads = {study.verdict.leads for study in found}
  if len(leads) == 1:
    return leads.pop()
  results = [result for study in found for result in study.results if result.status != DIVERGED]
  has_balanced = all(value_of(result, BALANCED) is not None for result in results)
  return BALANCED if has_balanced else ACCURACY


def _why(names: Sequence[str], found: Sequence[Study], measure: Measure) -> str:
  """Why studies that use other measures are compared by this one; empty if all use it."""
  leads = [study.verdict.leads for study in found]
  if set(leads) == {measure}:
    return ''
  each = '; '.join(f'{name}: {of.name}' for name, of in zip(names, leads, strict=True))
  return f'The studies use different measures ({each}), so they are compared by {measure.name}.'


def _names(workdirs: Sequence[Path]) -> list[str]:
  """The folders' own names where they differ, else their paths."""
  own = [workdir.resolve().name for workdir in workdirs]
  names = own if len(set(own)) == len(own) else map(str, workdirs)
  return [formats.printable(name) for name in names]


def _series(
  names: Sequence[str], workdirs: Sequence[Path], found: Sequence[tuple[Any, ...]]
) -> list[dict[str, Any]]:
  """What is compared: the studies; of one with several settings, each of these."""
  series = []
  for name, workdir, (_, _, results, _) in zip(names, workdirs, found, strict=True):
    verdicts = report.of_settings(report.read_content(workdir))
    for setting, verdict in verdicts.items():
      title = rounds.title(setting, verdicts)
      series.append(
        {
          'name': f'{name}, {title}' if title else name,
          'rate': verdict.learning_rate,
          'results': [r for r in results if r.setting == setting],
        }
      )
  return series


def _content(series: Sequence[dict[str, Any]], measure: Measure) -> dict[str, Any]:
  """What charts.js draws of a comparison: in place of settings it has the studies."""
  rates = sorted({r.learning_rate for line in series for r in line['results']}, reverse=True)
  of_rates, trials, by_rate = colours.of_rates(rates), [], []
  for number, line in enumerate(series):
    for r in line['results']:
      value = None if r.status == DIVERGED else value_of(r, measure)
      name = f'{line["name"]}: {formats.rate(r.learning_rate)}, seed {r.seed}'
      at = {'rate': rates.index(r.learning_rate), 'setting': number, 'seed': r.seed}
      trials.append({**at, 'name': name, 'value': value, 'diverged': r.first_bad_step, 'axes': []})
    for place, rate in enumerate(rates):
      own = [r for r in line['results'] if r.learning_rate == rate and r.status != DIVERGED]
      values = [value_of(r, measure) for r in own]
      if values and None not in values:
        at = {'rate': place, 'setting': number, 'low': None, 'high': None}
        by_rate.append({**at, 'mean': float(np.mean(values)), 'best': rate == line['rate']})
  return {
    'rates': [{'name': formats.rate(r), 'value': r, **of_rates[r]} for r in rates],
    'settings': [line['name'] for line in series],
    'series': [
      {scheme: colours.readable(to_hex(f'C{n % 10}'), scheme) for scheme in colours.PAPER}
      for n in range(len(series))
    ],
    'axes': [],
    'trials': trials,
    'measure': {'name': measure.name, 'share': measure.is_share, 'up': measure.larger_is_better},
    'chance': None,
    'charts': [],
    'by_rate': by_rate,
  }


def _differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
  """The fields whose values differ, with the value in each study."""
  fields = sorted({name for config in configs for name in config})
  rows = [
    (name, [repr(config[name]) if name in config else '–' for config in configs]) for name in fields
  ]
  return [(name, values) for name, values in rows if len(set(values)) > 1]


def _rates(columns: Sequence[Sequence[Result]], measure: Measure) -> list[dict[str, Any]]:
  """A row a rate, the largest first: what became of it in each column."""
  rates = sorted({r.learning_rate for results in columns for r in results}, reverse=True)
  return [
    {
      'rate': formats.rate(rate),
      'value': rate,
      'cells': [
        _cell([r for r in results if r.learning_rate == rate], measure) for results in columns
      ],
    }
    for rate in rates
  ]


def _cell(trials: Sequence[Result], measure: Measure) -> dict[str, Any]:
  """The mean over trials of one rate, and how many diverged."""
  if not trials:
    return {'text': '–', 'value': ''}
  left = [value_of(r, measure) for r in trials if r.status != DIVERGED]
  if not left or None in left:
    return {'text': '–' if left else DIVERGED, 'value': ''}
  gone = len(trials) - len(left)
  mean = float(np.mean(left))
  return {
    'text': measure.show(mean) + (f', {gone} of {len(trials)} diverged' if gone else ''),
    'value': mean,
  }


def _by_rate(
  series: Sequence[dict[str, Any]], measure: Measure, when: str, guessing_loss: float
) -> Figure:
  with drawing.style():
    axes = Figure(figsize=(6.4, 3.8)).add_subplot(xscale='log')
    axes.set(xlabel='learning rate', ylabel=f'{measure.name} {when}')
    diverged = []
    for number, (name, results) in enumerate((s['name'], s['results']) for s in series):
      style = {'color': f'C{number % 10}', 'marker': _MARKERS[number % len(_MARKERS)]}
      left = [r for r in results if r.status != DIVERGED and value_of(r, measure) is not None]
      rates = sorted({r.learning_rate for r in left})
      means = [np.mean([value_of(r, measure) for r in left if r.learning_rate == x]) for x in rates]
      axes.plot(rates, means, linewidth=1, markersize=4.5, label=name, **style)
      points = [value_of(r, measure) for r in left]
      axes.scatter([r.learning_rate for r in left], points, s=8, alpha=0.5, **style)
      gone = [r.learning_rate for r in results if r.status == DIVERGED]
      diverged.append((style['color'], gone))
    plotting.limit(axes, measure, guessing_loss)
    bottom, top = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    # Below what is measured, a line a study: the same rate may have diverged in several.
    apart = 0.05 * (top - bottom)
    for number, (colour, rates) in enumerate(diverged, 1):
      heights = np.full(len(rates), bottom - number * apart)
      axes.plot(rates, heights, linestyle='none', marker='x', color=colour, markersize=6)
    axes.axhline(bottom, color='black', linewidth=0.8)
    axes.set_ylim(bottom - (len(series) + 0.8) * apart, top)
    axes.set_yticks(ticks)
    plotting.rate_axis(axes.xaxis)
    legend = axes.legend(frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
      text.set_parse_math(False)  # names of folders may hold dollars
    return axes.figure
