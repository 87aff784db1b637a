"""Optuna, for who has it installed: rates from its sampler, and a study in its database."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lr_study.answer.measure import ACCURACY, Measure
from lr_study.errors import StudyError

if TYPE_CHECKING:
  import optuna

_NAME = 'learning_rate'


def ask(
  told: Sequence[tuple[float, float]], smallest: float, largest: float, count: int
) -> list[float]:
  """Asks Optuna's TPE sampler (Bergstra et al., 2011) for rates.

  The sampler is made again from what is told, and seeded by its number: the same history gives the
  same rates.

  Args:
    told: learning rates, and how good each was: larger is better.
    smallest: of the rates to ask for.
    largest: of the rates to ask for.
    count: how many; none of them knows how the others of the same call will do.

  Raises:
    StudyError: if Optuna is not installed.
  """
  optuna = _optuna()
  # constant_liar: rates of one call keep away from one another.
  sampler = optuna.samplers.TPESampler(seed=len(told), constant_liar=True)
  study = optuna.create_study(direction='maximize', sampler=sampler)
  space = _space(optuna, smallest, largest)
  for rate, value in told:
    if smallest <= rate <= largest:
      study.add_trial(
        optuna.trial.create_trial(params={_NAME: rate}, distributions=space, value=value)
      )
  return [study.ask(space).params[_NAME] for _ in range(count)]


def store(
  url: str, name: str, trials: Sequence[dict[str, Any]], measure: Measure = ACCURACY
) -> int:
  """Adds trials to the study `name` in the database at `url`, which is made if missing.

  Args:
    url: as Optuna takes it: sqlite:///runs/optuna.db, say.
    name: of Optuna's study.
    trials: as in results.json. One that the study has already, by the same rate and the same
      other fields, is not added again.
    measure: what is optimised.

  Returns:
    How many were added.

  Raises:
    StudyError: if Optuna is not installed, the database cannot be opened, or the study in it
      optimises the other way.
  """
  optuna = _optuna()
  way = 'maximize' if measure.larger_is_better else 'minimize'
  try:
    study = optuna.create_study(storage=url, study_name=name, direction=way, load_if_exists=True)
  except Exception as error:  # SQLAlchemy and the databases behind it raise many kinds
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise StudyError(f'--storage cannot be opened: {why}') from error
  if study.direction.name.lower() != way:
    raise StudyError(
      f'--study_name {name} is there already and does not {way} its values; choose another name'
    )
  known = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
  rates = [trial[_NAME] for trial in trials]
  space = _space(optuna, min(rates), max(rates))
  new = [trial for trial in trials if trial not in known]
  for trial in new:
    value = {**trial, **trial.get('metrics', {})}[measure.field]
    state = optuna.trial.TrialState
    study.add_trial(
      optuna.trial.create_trial(
        state=state.FAIL if value is None else state.COMPLETE,
        params={_NAME: trial[_NAME]},
        distributions=space,
        value=value,
        user_attrs=trial,
      )
    )
  return len(new)


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
