"""The verdict in words. Each clause states one test of status.py or confidence.py, nothing more."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lr_study import formats
from lr_study.answer import status
from lr_study.answer.confidence import STATED
from lr_study.answer.measure import Measure, value_of
from lr_study.answer.status import (
  AT_CHANCE,
  DIVERGED,
  ENDED_EARLY,
  PLATEAUED,
  STILL_IMPROVING,
  TOO_SHORT,
)

if TYPE_CHECKING:
  from lr_study.answer.verdict import Result

UNMEASURED = 'unmeasured'  # for a rate that learned, but has no figure for a comparison

# What is said about one rate, and about several.
_CLAUSES = {
  DIVERGED: ('diverged', 'diverged'),
  PLATEAUED: ('did worse', 'did worse'),
  STILL_IMPROVING: ('did worse but was still improving', 'did worse but were still improving'),
  AT_CHANCE: ('cannot be distinguished from guessing', 'cannot be distinguished from guessing'),
  ENDED_EARLY: ('was ended early by the search', 'were ended early by the search'),
  UNMEASURED: ('had no finite {}', 'had no finite {}'),
}
_NAMED = 10  # rates that a clause names
_ONE_SEED = 'One seed cannot tell how sure that is: --config.seeds=0,1,2 trains three.'


def use(
  best: Sequence['Result'],
  measure: Measure,
  interval: tuple[float, float] | None,
  images: int,
  probability: float | None,
  alike: Sequence[float],
  did: Mapping[float, Sequence[str]],
  words: Mapping[float, str],
  noun: str,
) -> str:
  """Which rate to use, how sure that is, and how every other rate did.

  Args:
    best: the trials of the recommended rate.
    measure: the leading one.
    interval: of the rate's measure, if there is one.
    images: how many validation images there are.
    probability: that the rate is the best; None if there is only one seed, or no other rate.
    alike: the rates that may be the best, including the recommended one.
    did: for every rate, smallest first, the status of each seed.
    words: likewise, the word for the rate.
    noun: what the samples are called, 'images' or 'samples'.
  """
  rate = best[0].learning_rate
  others = {r: word for r, word in words.items() if r not in alike}
  parts = [
    _reached(best, measure, interval, f'{images} {noun}'),
    _how_sure(len(best), probability),
    _alike([r for r in alike if r != rate], _by(measure, len(best), noun)),
    *_clauses(others, did, measure),
    _edge(rate, list(did)),
  ]
  return ' '.join(part for part in parts if part)


def none_to_use(
  by_rate: Mapping[float, Sequence['Result']],
  did: Mapping[float, Sequence[str]],
  words: Mapping[float, str],
  measure: Measure,
  chance: status.Chance,
  images: int,
  noun: str,
) -> str:
  """Why there is no rate to use, and what to do.

  Args:
    by_rate: the trials of every rate, smallest first.
    did: likewise, the status of each seed.
    words: likewise, the word for the rate.
    measure: the leading one.
    chance: the accuracy of guessing.
    images: how many validation images there are.
    noun: see `use`.
  """
  trials = [trial for found in by_rate.values() for trial in found]
  left = [trial for trial in trials if trial.status != DIVERGED]
  smaller, larger = formats.rate(min(did) / 10), formats.rate(max(did) * 10)
  if not left:
    return f'No rate works: all diverged. Add smaller ones, such as {smaller}.'
  every = ' with every seed' if len(trials) > len(did) else ''
  advice = f'add larger rates, such as {larger}'
  if len(left) < len(trials):
    advice = 'add rates between those that diverged and those that did not'
  if _all_the_same(left, chance):
    advice = (
      'All ended at the same accuracy, so more epochs may not help: look for a mistake in the '
      f'network, its inputs or the labels, or {advice}.'
    )
  else:
    advice = f'Train for more epochs, validate on more {noun}, or {advice}.'
  if any(word in status.LEARNED for word in words.values()):  # but has no figure to compare
    opening, advice = f'No rate that learned has a finite {measure.name}.', ''
    words = {rate: word for rate, word in words.items() if word not in status.LEARNED}
  elif not any(trial.status in status.LEARNED for trial in trials):
    opening = _guesses(left, chance, f'{images} {noun}')
    words = {rate: word for rate, word in words.items() if word != AT_CHANCE}
  elif any(all(t.status in status.LEARNED for t in found) for found in by_rate.values()):
    opening = f'No rate that trained to the last epoch can be distinguished from guessing{every}.'
  else:
    opening = f'No rate can be distinguished from guessing{every}.'
  return ' '.join(part for part in (opening, *_clauses(words, did, measure), advice) if part)


def _reached(
  trials: Sequence['Result'], measure: Measure, interval: tuple[float, float] | None, images: str
) -> str:
  """The rate of these trials, and their result; `images`: '1250 images'."""
  values = [value_of(trial, measure) for trial in trials]
  when = ' at its best epoch' if trials[0].best_epoch else ''
  value = measure.show(sum(values) / len(values))
  said = f'Use {formats.rate(trials[0].learning_rate)}: {measure.name} {value}{when}'
  if interval is None:
    return f'{said}.'
  seeds = [f'{len(trials)} seeds'] if len(trials) > 1 else []
  counted = [images] if measure.is_share else []
  by = ' and '.join(seeds + counted) if seeds else f'counting {counted[0]}'
  return f'{said} ({STATED} interval {measure.between(interval)}, from {by}).'


def _how_sure(seeds: int, probability: float | None) -> str:
  if seeds == 1:
    return _ONE_SEED
  if probability is None:
    return ''  # there is only one rate
  return f'It is the best with a probability of {formats.percent(probability, 0)}.'


def _by(measure: Measure, seeds: int, noun: str) -> str:
  """The sources of noise when rates are compared."""
  parts = ['seeds'] if seeds > 1 else []
  parts += [noun] if measure.is_share else []
  return ' and '.join(parts) or 'figures'


def _alike(others: Sequence[float], by: str) -> str:
  names = [formats.rate(rate) for rate in sorted(others, reverse=True)]
  if not names:
    return ''
  return f'{formats.joined(_few(names))} may be just as good: these {by} cannot separate them.'


def _clauses(
  words: Mapping[float, str], did: Mapping[float, Sequence[str]], measure: Measure
) -> list[str]:
  """A clause for each word, which names all rates with that word, the largest first."""
  clauses = []
  said = {rate: PLATEAUED if word == TOO_SHORT else word for rate, word in words.items()}
  for word, verbs in _CLAUSES.items():
    rates = [rate for rate in did if said.get(rate) == word]
    if rates:
      verb = verbs[len(rates) > 1].format(measure.name)
      clauses.append(f'{_names(rates, word, did)} {verb}.')
  return clauses


def _names(rates: Sequence[float], word: str, did: Mapping[float, Sequence[str]]) -> str:
  """The rates, smallest first, in words: 'Rates from 1e-02 up, 1e-04 and rates from 1e-06 down'.

  'From a rate up' (or down) means at least two rates, and all rates tried from there on, with every
  seed.
  """
  grid = list(did)
  whole = [rate in rates and _every(did[rate], word) for rate in grid]
  up = next((i for i, good in enumerate(whole[::-1]) if not good), len(whole))
  down = next((i for i, good in enumerate(whole) if not good), len(whole)) if up < len(whole) else 0
  top = grid[len(grid) - up :] if up > 1 else []
  bottom = grid[:down] if down > 1 else []
  names = []
  for rate in reversed(rates):
    if rate not in top and rate not in bottom:
      count = did[rate].count(word)
      whole_rate = _every(did[rate], word)
      names.append(
        formats.rate(rate) + ('' if whole_rate else f' ({count} of {len(did[rate])} seeds)')
      )
  said = formats.joined(
    [
      *([f'rates from {formats.rate(top[0])} up'] if top else []),
      *_few(names),
      *([f'rates from {formats.rate(bottom[-1])} down'] if bottom else []),
    ]
  )
  return said[0].upper() + said[1:]


def _every(found: Sequence[str], word: str) -> bool:
  """True if the word applies to every seed; 'did worse' refers to the mean over seeds."""
  return found.count(word) == len(found) or word in (PLATEAUED, UNMEASURED)


def _few(rates: Sequence[str]) -> list[str]:
  """The names of rates; of many, the first ones and how many more there are."""
  if len(rates) <= _NAMED:
    return list(rates)
  return [*rates[: _NAMED - 1], f'{len(rates) - _NAMED + 1} more']


def _edge(best: float, rates: Sequence[float]) -> str:
  if len(rates) == 1:
    return ''
  if best == rates[-1]:
    return f'It is the largest rate tried: add larger ones, such as {formats.rate(best * 10)}.'
  if best == rates[0]:
    return f'It is the smallest rate tried: add smaller ones, such as {formats.rate(best / 10)}.'
  return ''


def _all_the_same(left: Sequence['Result'], chance: status.Chance) -> bool:
  """True if trials of several rates reached the same accuracy, as if all gave one answer."""
  values = {value_of(trial, chance.measure) for trial in left}
  return len(values) == 1 and len({trial.learning_rate for trial in left}) > 1


def _guesses(left: Sequence['Result'], chance: status.Chance, images: str) -> str:
  """The opening if no trial does better than guessing; `images`: '1250 images'."""
  best = max(left, key=lambda trial: value_of(trial, chance.measure) or 0.0)
  value = formats.percent(value_of(best, chance.measure))
  when = ' at its best epoch' if best.best_epoch else ''
  return (
    f'No rate can be distinguished from guessing ({formats.percent(chance.share)}) on these '
    f'{images}: the highest {chance.measure.name}, {value}{when}, was at '
    f'{formats.rate(best.learning_rate)}.'
  )
