"""What the charts of a page draw, as data for its script: curves, and what trials ended with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats, plugs
from lr_study.answer.measure import ACCURACY, LOSS, Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.files.history import History, open_joined, window_means
from lr_study.report import colours, figures, style
from lr_study.search import rounds
from lr_study.search.rounds import Setting

_POINTS = 150  # per curve; fewer if there are so many trials that the page would grow large
_MOST_POINTS = 40_000  # of a chart
_FEWEST = 3  # of a curve of a trial that diverged: of fewer there is nothing to see
_TRAINING = {'train_loss': 'loss', 'train_accuracy': 'accuracy'}  # chart: curve over steps
_SHARPNESS = Measure('sharpness / edge of stability', is_share=False, larger_is_better=False)


class Trial(NamedTuple):
  """A trial to be drawn, finished or not.

  column: of the history. steps: that it has trained. bad_step: the first one that was not finite,
  from 1; None if there is none. value: of the measure that leads; None if there is none.
  """

  learning_rate: float
  seed: int
  setting: Setting
  history: History
  column: int
  steps: int
  bad_step: int | None
  value: float | None

  @property
  def good_steps(self) -> int:
    """Steps up to the first bad one."""
    return self.steps if self.bad_step is None else self.bad_step - 1


def trials_of(
  workdir: Path, results: Sequence[Result], verdicts: Mapping[Setting, Verdict]
) -> list[Trial]:
  """The trials of a finished study, in the order of its results.

  Raises:
    StudyError: if a curve is lost or damaged.
  """
  found, columns = [], dict.fromkeys(verdicts, 0)
  histories = {s: open_joined(workdir / 'history' / rounds.label(s, verdicts)) for s in verdicts}
  for r in results:
    own, column = r.setting, columns[r.setting]
    columns[own] += 1
    value = value_of(r, verdicts[own].leads)
    at = (r.learning_rate, r.seed, own, histories[own], column, r.steps, r.first_bad_step, value)
    found.append(Trial(*at))
  return found


def content(
  trials: Sequence[Trial],
  measure: Measure,
  metrics: Sequence[Measure],
  guessing_loss: float,
  chance: float | None,
) -> dict[str, Any]:
  """Everything that the script of a page draws, as JSON takes it.

  Args:
    trials: at least one.
    measure: that leads.
    metrics: further ones, each of which has a chart.
    guessing_loss: a level in charts of losses.
    chance: what guessing reaches, a level in charts of accuracies; None if that is not known.
  """
  rates = sorted({trial.learning_rate for trial in trials}, reverse=True)
  settings = list(dict.fromkeys(trial.setting for trial in trials))
  axes = _axis_values(settings)
  of_rates = colours.of_rates(rates)
  levels = {'loss': _level(guessing_loss, 'guessing'), 'share': _level(chance, 'guessing')}
  levels['ratio'] = _level(1.0, 'edge of stability')
  charted = _charted(measure, metrics)
  if any(np.isfinite(trial.history.epochs['sharpness']).any() for trial in trials):
    charted.append(_SHARPNESS)
  return {
    'rates': [
      {'name': formats.rate(r), 'value': r, 'dash': style.dash(r, rates), **of_rates[r]}
      for r in rates
    ],
    'settings': [rounds.title(setting, settings) for setting in settings],
    'axes': [{'name': name, 'values': values} for name, values in axes.items()],
    'trials': [
      {
        'rate': rates.index(trial.learning_rate),
        'seed': trial.seed,
        'setting': settings.index(trial.setting),
        'name': _name(trial, settings),
        'diverged': trial.bad_step,
        'value': _number(trial.value),
        'axes': [rounds.value_text(rounds.on_axes(trial.setting)[name]) for name in axes],
      }
      for trial in trials
    ],
    'measure': {'name': measure.name, 'share': measure.is_share, 'up': measure.larger_is_better},
    'chance': levels['share'] if _is_accuracy(measure.field) else None,
    'charts': [_chart(of, trials, settings, levels) for of in charted],
  }


def _axis_values(settings: Sequence[Setting]) -> dict[str, list[str]]:
  """The values of each axis that has several, as texts in their order, by its name."""
  found = {}
  for name in rounds.on_axes(settings[0]):
    values: list[Any] = list(dict.fromkeys(rounds.on_axes(s).get(name) for s in settings))
    if all(map(plugs.is_number, values)):
      values.sort()
    if len(values) > 1:
      found[name] = list(dict.fromkeys(map(rounds.value_text, values)))
  return found


def undrawn_words(trials: Sequence[Trial]) -> str:
  """Which trials have no curves, since they diverged before there was anything to draw."""
  found = {}
  for trial in _undrawn(trials):
    found.setdefault(trial.learning_rate, []).append(trial.bad_step)
  texts = []
  for rate, steps in found.items():
    seeds = f' ({len(steps)} trials)' if len(steps) > 1 else ''
    texts.append(f'{formats.rate(rate)} {formats.at_steps(steps)}{seeds}')
  return ', '.join(texts)


def _undrawn(trials: Sequence[Trial]) -> list[Trial]:
  """Those that diverged before there was anything to draw."""
  points = _points(len(trials))
  return [t for t in trials if t.bad_step and len(_training(t, 'loss', points)) < _FEWEST]


def _charted(measure: Measure, metrics: Sequence[Measure]) -> list[Measure]:
  """The figures that have a chart: losses, accuracies, what leads, and further metrics."""
  loss = [LOSS._replace(field='train_loss'), LOSS]
  accuracy = [Measure('train_accuracy'), measure if _is_accuracy(measure.field) else ACCURACY]
  return list(dict.fromkeys((*loss, *accuracy, measure, *metrics)))


def _is_accuracy(field: str) -> bool:
  return field.endswith('accuracy')


def _chart(
  of: Measure, trials: Sequence[Trial], settings: Sequence[Setting], levels: Mapping[str, Any]
) -> dict[str, Any]:
  """The curves of one figure of all trials.

  `x` has the epochs of all points of each setting; a line that ended early has fewer.
  """
  points, lines, x = _points(len(trials)), [], {}
  for number, trial in enumerate(trials):
    at = settings.index(trial.setting)
    if of.field in _TRAINING:
      curve = _training(trial, _TRAINING[of.field], points)
      x.setdefault(at, _window_ends(trial.history, points))
    else:
      epochs = _shown_epochs(trial.history, points)
      done = np.searchsorted(epochs, trial.good_steps // trial.history.steps_per_epoch, 'right')
      curve = _epoch_curve(trial, of)[epochs[:done] - 1]
      x.setdefault(at, epochs)
    few = _FEWEST if trial.bad_step else 1
    if len(curve) >= few and np.isfinite(curve).any():
      lines.append({'trial': number, 'y': list(map(_number, curve))})
  kind = 'loss' if of.field in ('train_loss', LOSS.field) else 'number'
  kind = 'share' if of.is_share else 'ratio' if of == _SHARPNESS else kind
  level = None if kind == 'share' and not _is_accuracy(of.field) else levels.get(kind)
  return {
    'name': of.field,
    'title': figures.capital(of.name.replace('train ', 'training ')),
    'kind': kind,
    'level': level,
    'x': [[_number(v) for v in x.get(i, ())] for i in range(len(settings))],
    'lines': lines,
  }


def _epoch_curve(trial: Trial, of: Measure) -> np.ndarray:
  """The curve of a figure over epochs, (epochs,)."""
  curves = {name: curve[:, trial.column] for name, curve in trial.history.epochs.items()}
  if of == _SHARPNESS:
    return curves['sharpness'] / curves['sharpness_edge']
  return curves[of.field]


def _training(trial: Trial, name: str, points: int) -> np.ndarray:
  """Means over windows of steps, (points,): of whole windows before the trial diverged."""
  curve = trial.history.steps[name]
  window, good = _window(len(curve), points), trial.good_steps
  stop = good if good == len(curve) else good // window * window
  if not stop:
    return np.zeros(0)
  return window_means(curve[:stop, trial.column], window)[1]


def _window(steps: int, points: int) -> int:
  return max(1, steps // points)


def _window_ends(history: History, points: int) -> np.ndarray:
  """Epochs at the ends of all windows, (points,)."""
  steps = len(history.steps['loss'])
  window = _window(steps, points)
  ends = np.minimum(np.arange(0, steps, window) + window, steps)
  return ends / history.steps_per_epoch


def _shown_epochs(history: History, points: int) -> np.ndarray:
  """Epochs, from 1, that a curve over epochs has points at; all of them, unless they are many."""
  epochs = len(history.epochs['train_loss'])
  return np.unique(np.linspace(1, epochs, min(epochs, points)).astype(int))


def _points(trials: int) -> int:
  return int(np.clip(_MOST_POINTS // trials, 20, _POINTS))


def _name(trial: Trial, settings: Sequence[Setting]) -> str:
  title = rounds.title(trial.setting, settings)
  text = f'{formats.rate(trial.learning_rate)}, seed {trial.seed}'
  return f'{text}, {title}' if title else text


def _level(value: float | None, name: str) -> dict[str, Any] | None:
  return None if value is None else {'value': _number(value), 'name': name}


def _number(value: float | None) -> float | None:
  """As JSON has it, to five digits; null for what does not exist."""
  return None if value is None or not np.isfinite(value) else float(f'{value:.5g}')


def chance_of(results: Sequence[Result], measure: Measure) -> float | None:
  """What guessing reaches by the accuracy that leads; None where another measure leads."""
  known = (r.chance for r in results if r.status != DIVERGED and r.chance is not None)
  return next(known, None) if _is_accuracy(measure.field) else None
