"""What to do next with a finished study, as commands to copy."""

import functools
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lr_study import formats, plugs
from lr_study.answer.status import DIVERGED
from lr_study.answer.verdict import Result, Verdict
from lr_study.config import SECTIONS
from lr_study.objects import OBJECT
from lr_study.use import evaluate

_SEEDS = 3  # with one the verdict cannot say how sure it is, and with two hardly
_MOST_SEEDS = 12  # that are proposed; more images may help more
_OWN_RATES = ('bisect', 'optuna')  # searches that choose rates themselves


class Step(NamedTuple):
  """Words, and the command that does it."""

  words: str
  command: str


def steps(
  workdir: Path,
  study: Mapping[str, Any],
  config: Any,
  results: Sequence[Result],
  verdict: Verdict,
) -> list[Step]:
  """What fits this study: further seeds and rates, then what its best trial is good for.

  Args:
    workdir: the study's, as the user gave it.
    study: as under "study" in results.json; without `command`, as of a study that a program ran,
      there is nothing that trains more.
    config: the study's.
    results: of all trials.
    verdict: of the study.
  """
  found, (program, *arguments) = [], study.get('command', ['python -m lr_study'])
  if study.get('stopped'):  # its folder is so_far/, without weights, in that of the study
    again = _command(program, Path(workdir).parent, 'sweep', *arguments)
    return [Step('Continue the study, which is saved:', again)] * bool(arguments)
  call = functools.partial(_command, program, workdir)
  if arguments:
    found += _more(call, arguments, config, results, verdict)
  if verdict.learning_rate is None:
    return found
  if own := _objects(config):  # which only a program has
    call_read = f'lr_study.read({str(workdir)!r}, {", ".join(own)})'.replace(', )', ')')
    words = 'Save the best trial as a model that runs without lr_study, in Python:'
    return [*found, Step(words, f'{call_read}.best.export({str(workdir) + "_model"!r})')]
  words = 'See what the best trial gets wrong; or name photographs, or a folder of them'
  if not evaluate.takes_files(config):
    words = 'Count what the best trial gets wrong'
  return [
    *found,
    Step(f'{words}:', call('classify', '--part=validation')),
    Step(
      'Save the best trial as a model that runs without lr_study:',
      call('export', f'--out={workdir}_model'),
    ),
  ]


def _objects(config: Any) -> list[str]:
  """The parts that a program passed, as arguments of `lr_study.read`; [''] if only arrays."""
  names = {section: config[section].name for section in SECTIONS}
  passed = {section for section, name in names.items() if name.startswith(OBJECT)}
  own = [f'{section}={plugs.short(names[section])}' for section in names if section in passed]
  if any(name.startswith(OBJECT) for name in config.metrics):
    own.append(f'metrics=[{", ".join(map(_metric, config.metrics))}]')
  return [of for of in own if not of.startswith('data=')] or [''] * bool(own)


def _metric(name: str) -> str:
  return plugs.short(name) if name.startswith(OBJECT) else repr(name)


def _more(
  call: Callable[..., str],
  arguments: Sequence[str],
  config: Any,
  results: Sequence[Result],
  verdict: Verdict,
) -> list[Step]:
  """Further seeds and rates; the study keeps the trials that it has."""
  found = []

  def extended(words: str, field: str, values: Sequence[Any]) -> None:
    text = ','.join(formats.rate(v) if isinstance(v, float) else str(v) for v in values)
    own = [*_without(arguments, field), f'--config.{field}={text}']
    found.append(Step(words, call('sweep', '--extend', *own)))

  seeds = list(config.seeds)
  if verdict.learning_rate is not None and (wanted := _wanted_seeds(len(seeds), verdict)):
    further = [seed for seed in range(len(seeds) + wanted) if seed not in seeds]
    words = f'Train {wanted} seeds, so that the answer can say how sure it is:'
    if len(seeds) > 1:
      words = f'Train {wanted} seeds instead of {len(seeds)}, so that the answer is surer:'
    extended(words, 'seeds', [*seeds, *further][:wanted])
  if config.search.name not in _OWN_RATES:
    words, new = _further_rates(results, verdict)
    rates = {formats.rate(rate): rate for rate in (*config.learning_rates, *new)}
    if len(rates) > len(config.learning_rates):
      extended(words, 'learning_rates', sorted(rates.values(), reverse=True))
  return found


def _wanted_seeds(seeds: int, verdict: Verdict) -> int:
  """More seeds than the study has, where they would tell more; else 0."""
  if seeds == 1:
    return _SEEDS
  unsure = seeds < _SEEDS or len(verdict.indistinguishable) > 1
  return 2 * seeds if unsure and 2 * seeds <= _MOST_SEEDS else 0


def _further_rates(results: Sequence[Result], verdict: Verdict) -> tuple[str, list[float]]:
  """Rates that the study leaves open: beyond its grid, or between the best and its neighbours."""
  rates, best = sorted({r.learning_rate for r in results}), verdict.learning_rate
  if best is None:
    diverged = [r.learning_rate for r in results if r.status == DIVERGED]
    if not diverged:
      return 'Try larger rates:', [_rounded(rates[-1] * 10), _rounded(rates[-1] * 100)]
    if verdict.largest_stable is None:
      return 'Try smaller rates:', [_rounded(rates[0] / 10), _rounded(rates[0] / 100)]
    between = math.sqrt(verdict.largest_stable * min(diverged))
    return 'Try a rate between those that diverged and those that did not:', [_rounded(between)]
  place = rates.index(best)
  new = [
    _rounded(math.sqrt(best * rates[i])) for i in (place - 1, place + 1) if 0 <= i < len(rates)
  ]
  if verdict.edge_of_ladder:
    side = 'larger' if place else 'smaller'
    beyond = _rounded(best * 10 if place else best / 10)
    return f'{best:g} is the end of the grid. Try a {side} rate, and one between:', [beyond, *new]
  return f'Try finer rates around {formats.rate(best)}:', new


def _rounded(rate: float) -> float:
  return float(f'{rate:.3g}')


def _without(arguments: Sequence[str], field: str) -> list[str]:
  """The arguments but for those that set this field; an axis of one seed is called `seed`."""
  axis = field.removesuffix('s')
  sets = (f'--config.{field}=', f'--axis={axis}=', f'--axis={field}=')
  return [argument for argument in arguments if not argument.startswith(sets)]


def _command(program: str, workdir: Path, name: str, *arguments: str) -> str:
  """A command as the user's own: 'lr-study NAME ...', or 'python scripts/NAME.py ...'."""
  start = f'{program}{name}.py' if program.endswith('/') else f'{program} {name}'
  return f'{start} {shlex.join([f"--workdir={workdir}", *arguments])}'
