"""Optuna, if installed: rates from its sampler, and export of a study to its database."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_study import plugs
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.errors import StudyError, first_line
from lr_study.search.rounds import Setting, value_text, varied

if TYPE_CHECKING:
  import optuna

_NAME = 'learning_rate'


def ask(
  told: Sequence[tuple[float, Setting | None, float]],
  grid: Sequence[float],
  settings: Sequence[Setting | None],
  count: int,
) -> list[tuple[float, Setting | None]]:
  """Asks Optuna's TPE sampler (Bergstra et al., 2011) for rates, each with a setting.

  The sampler is created from the history each time, and its seed is the length of the history, so
  the same history gives the same points. It searches rates continuously, and the values of each
  axis by their rank.

  Args:
    told: learning rates and settings, and how good each was: larger is better.
    grid: rates; the new ones lie between its ends.
    settings: every combination of values on axes of numbers; or a single one.
    count: how many points; they are chosen without knowing how the others of this call will do.

  Raises:
    StudyError: Optuna is not installed.
  """
  optuna = _optuna()
  # constant_liar keeps the points of one call apart.
  sampler = optuna.samplers.TPESampler(seed=len(told), constant_liar=True)
  study = optuna.create_study(direction='maximize', sampler=sampler)
  smallest, largest = min(grid), max(grid)
  space, ranks = _space(optuna, smallest, largest), _ranks(settings)
  for name in ranks[settings[0]]:
    most = max(of[name] for of in ranks.values())
    space[name] = optuna.distributions.IntDistribution(0, most)
  for rate, setting, value in told:
    if smallest <= rate <= largest:
      params = {_NAME: rate, **ranks[setting]}
      study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
  asked = [dict(study.ask(space).params) for _ in range(count)]
  of_ranks = {tuple(of.items()): setting for setting, of in ranks.items()}
  return [(own[_NAME], of_ranks[tuple((n, own[n]) for n in ranks[settings[0]])]) for own in asked]


def _ranks(settings: Sequence[Setting | None]) -> dict[Setting | None, dict[str, int]]:
  """The rank, from 0, of each setting's value on each axis that varies."""
  if len(settings) == 1:
    return {settings[0]: {}}
  values: dict[str, set[float]] = {}
  for setting in settings:
    for name, value in varied(setting, settings).items():
      values.setdefault(name, set()).add(value)
  order = {name: sorted(of) for name, of in values.items()}
  return {
    s: {name: order[name].index(value) for name, value in varied(s, settings).items()}
    for s in settings
  }


def store(url: str, name: str, results: Sequence[Result], verdict: Verdict) -> tuple[int, int]:
  """Adds a finished study to the Optuna study `name` in the database at `url`.

  There is one Optuna trial per rate and setting, because seeds are repetitions of one point. Its
  value is the mean over seeds of the leading measure, and its user attributes have the figures of
  each seed. Optuna's best trial is then the rate that the verdict recommends. A rate that diverged
  with any seed has the state FAIL. A rate that a search ended early is PRUNED, and so is one that
  is better than the recommended rate but did not learn with every seed.

  Args:
    url: of the database, created if missing, such as sqlite:///runs/optuna.db.
    name: of Optuna's study.
    results: of all trials. Trials that Optuna's study already has are not added again.
    verdict: of the study.

  Returns:
    How many Optuna trials were added, and how many there are for this study.

  Raises:
    StudyError: Optuna is not installed, the database cannot be opened, or the study in it has
      another measure or other parameters.
  """
  optuna, measure = _optuna(), verdict.leads
  study = _open(optuna, url, name, measure)
  known = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
  space = _space_of(optuna, results)
  points: dict[tuple[Setting, float], list[Result]] = {}
  for result in results:
    points.setdefault((result.setting, result.learning_rate), []).append(result)
  named = (verdict.setting, verdict.learning_rate)
  # The recommended rate first: of equal values, Optuna considers the first one best.
  added = 0
  for point in sorted(points, key=lambda point: point != named):
    state, value = _state_and_value(points, point, named, measure)
    about = _about(points[point], measure)
    if about in known:
      continue
    own = {name: of(points[point][0]) for name, (_, of) in space.items()}
    pruned = state == 'PRUNED'
    trial = optuna.trial.create_trial(
      state=optuna.trial.TrialState[state],
      params=own,
      distributions={name: distribution for name, (distribution, _) in space.items()},
      value=value,
      user_attrs=about,
      intermediate_values={points[point][0].epochs: value} if pruned else {},
    )
    try:
      study.add_trial(trial)
    except ValueError as error:
      raise StudyError(
        f'--study_name {name} has trials with other parameters ({error}); choose another name'
      ) from error
    added += 1
  return added, len(points)


def _open(optuna: Any, url: str, name: str, measure: Measure) -> 'optuna.Study':
  way = 'maximize' if measure.larger_is_better else 'minimize'
  try:
    study = optuna.create_study(storage=url, study_name=name, direction=way, load_if_exists=True)
    goes_by = study.metric_names
  except Exception as error:  # SQLAlchemy and the databases behind it raise many kinds
    raise StudyError(f'--storage cannot be opened: {first_line(error)}') from error
  if study.direction.name.lower() != way:
    raise StudyError(
      f'--study_name {name} already exists and does not {way} its values; choose another name'
    )
  if goes_by is None and not study.get_trials(deepcopy=False):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # an experimental feature of Optuna
      study.set_metric_names([measure.field])
  elif goes_by != [measure.field]:
    other = goes_by[0] if goes_by else 'an unnamed measure'
    raise StudyError(
      f'--study_name {name} uses {other}, but this study uses {measure.field}; choose another name'
    )
  return study


def _space_of(
  optuna: Any, results: Sequence[Result]
) -> dict[str, tuple[Any, Callable[[Result], Any]]]:
  """Optuna's parameters: the rate and what settings differ in, with functions that read them."""
  distributions = optuna.distributions
  rates = [result.learning_rate for result in results]
  found = {_NAME: (*_space(optuna, min(rates), max(rates)).values(), lambda r: r.learning_rate)}
  sizes = sorted({result.batch_size for result in results})
  if len(sizes) > 1:
    found['batch_size'] = (
      distributions.IntDistribution(sizes[0], sizes[-1]),
      lambda r: r.batch_size,
    )
  schedules = sorted({result.schedule for result in results})
  if len(schedules) > 1:
    found['schedule'] = (distributions.CategoricalDistribution(schedules), lambda r: r.schedule)
  for axis in results[0].axes:
    values = [result.axes[axis] for result in results]
    if all(map(plugs.is_number, values)):
      distribution = distributions.FloatDistribution(min(values), max(values))
      found[axis] = (distribution, lambda r, axis=axis: float(r.axes[axis]))
    else:
      names = tuple(dict.fromkeys(map(value_text, values)))
      found[axis] = (
        distributions.CategoricalDistribution(names),
        lambda r, axis=axis: value_text(r.axes[axis]),
      )
  return found


def _state_and_value(
  points: Mapping[tuple[Setting, float], Sequence[Result]],
  point: tuple[Setting, float],
  named: tuple[Setting, float | None],
  measure: Measure,
) -> tuple[str, float | None]:
  """The state and the value of the Optuna trial for one rate of a setting."""
  values = {key: [value_of(r, measure) for r in found] for key, found in points.items()}
  if None in values[point]:
    return 'FAIL', None
  mean = float(np.mean(values[point]))
  longest = max(
    result.epochs
    for (setting, _), found in points.items()
    for result in found
    if setting == point[0] and result.status != DIVERGED
  )
  if any(result.epochs < longest for result in points[point]):
    return 'PRUNED', mean
  leads = named not in points or measure.score(mean) > measure.score(np.mean(values[named]))
  return 'PRUNED' if point != named and leads else 'COMPLETE', mean


def _about(trials: Sequence[Result], measure: Measure) -> dict[str, Any]:
  """User attributes of the Optuna trial for the trials of one rate: the figures of each seed."""
  first = trials[0]
  return {
    'measure': measure.field,
    'learning_rate': first.learning_rate,
    'batch_size': first.batch_size,
    'schedule': first.schedule,
    'axes': first.axes,
    'epochs': first.epochs,
    'seeds': [trial.seed for trial in trials],
    'values': [value_of(trial, measure) for trial in trials],
    'statuses': [trial.status for trial in trials],
    'validation_loss': [trial.validation_loss for trial in trials],
    'validation_accuracy': [trial.validation_accuracy for trial in trials],
  }


def _space(optuna: Any, smallest: float, largest: float) -> dict[str, Any]:
  return {_NAME: optuna.distributions.FloatDistribution(smallest, largest, log=True)}


def _optuna() -> 'optuna':
  try:
    import optuna  # noqa: PLC0415 - optional
  except ModuleNotFoundError as error:
    raise StudyError(
      'Optuna is not installed; pip install -r requirements-optuna.txt, or choose another '
      '--config.search.name'
    ) from error
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  return optuna
