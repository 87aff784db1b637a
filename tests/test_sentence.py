"""Every clause of the verdict, parsed and compared with the made-up curves that it is about.

The parser below knows the sentence's grammar and nothing of how it is built; the tests of each
word are written out again, from the curves.
"""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lr_study import formats
from lr_study.answer import confidence, status, verdict
from lr_study.answer.measure import ACCURACY, BALANCED, LOSS, Measure
from lr_study.files.history import EPOCH_CURVES, STEP_CURVES, History
from lr_study.search.rounds import Planned

OWN = Measure('validation_own', is_share=False)
ERROR = Measure('validation_error', larger_is_better=False)
MEASURES = (ACCURACY, ACCURACY, BALANCED, LOSS, OWN, ERROR)
LABELS = (np.arange(400) % 10, np.arange(30) % 3, np.repeat(np.arange(3), [60, 12, 8]))
BREAKS = ('loss', 'gradient_norm', 'evaluation')
SHAPES = ('flat', 'flat', 'falling', 'falling', 'late', 'rising', 'steep')


@dataclasses.dataclass
class Study:
  """The trials of a made-up study, their curves, and its measure."""

  trials: list[Planned]
  curves: dict[Planned, dict[str, np.ndarray]]
  labels: np.ndarray
  measure: Measure
  at_best: bool
  per_epoch: int
  results: list[verdict.Result]
  answer: verdict.Verdict


def make_curves(draw, shape, breaks, epochs, per_epoch, height, unmeasured):
  """The curves of one trial over steps and over epochs; `breaks`: what becomes infinite, if any."""
  steps = epochs * per_epoch
  at = np.linspace(0, 1, steps)
  fall = {'flat': 0 * at, 'falling': -at, 'late': -np.maximum(at - 0.7, 0), 'rising': at / 4}
  fall['steep'] = -np.exp(-at * 20)
  noise = draw.normal(0, draw.choice([0.0, 0.01, 0.3]), steps)
  loss = 2.3 + fall[shape] + noise
  curves = {name: loss.astype(np.float32) for name in STEP_CURVES}
  chosen = np.clip(height + draw.normal(0, 0.03, epochs), 0, 1)
  curves |= {name: chosen.copy() for name in EPOCH_CURVES}
  curves['validation_balanced_accuracy'] = np.clip(chosen + draw.normal(0, 0.1, epochs), 0, 1)
  curves['validation_loss'] = 3 - 2 * chosen
  curves['validation_error'] = 1 - chosen
  curves['validation_own'] = np.full(epochs, np.nan) if unmeasured else chosen
  if breaks == 'evaluation':
    curves['validation_loss'][-1] = np.nan
  elif breaks:
    curves[breaks] = curves[breaks].copy()
    curves[breaks][draw.integers(steps) :] = np.inf
  return curves


@st.composite
def studies(draw):
  chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  spacing = draw(st.sampled_from([1.0, 0.5, 0.25]))
  rates = [float(f'{10 ** (-k * spacing):.3g}') for k in range(draw(st.integers(1, 8)))]
  seeds = range(draw(st.integers(1, 4)))
  lengths = [(1, 1), (1, 90), (2, 40), (4, 30), (6, 15), (5, 4)]
  epochs, per_epoch = draw(st.sampled_from(lengths))
  labels, measure = draw(st.sampled_from(LABELS)), draw(st.sampled_from(MEASURES))
  # How often a rate diverges, guesses, is ended early, has no figure of its own.
  often = draw(st.sampled_from([0.0, 0.0, 0.2, 0.9])), draw(st.sampled_from([0.0, 0.2, 0.4, 1.0]))
  early, unmeasured = draw(st.sampled_from([0.0, 0.4])), draw(st.sampled_from([0.0, 0.8]))
  trials, curves = [], {}
  for rate in rates:
    diverges, guesses = (chance.random() < share for share in often)
    own_epochs = 1 if chance.random() < early else epochs
    guesses = guesses and (own_epochs == epochs or chance.random() < 0.5)
    shape, height = chance.choice(SHAPES), 0.0 if guesses else chance.choice([0.5, 0.52, 0.6, 0.9])
    differ = chance.choice([0.0, 0.0, 0.4])  # how often a seed fares otherwise
    for seed in seeds:
      broken, other = (chance.random() < differ for _ in range(2))
      trial = Planned(rate, seed, 1, 'constant', own_epochs, 0, 0)
      curves[trial] = make_curves(
        chance,
        chance.choice(SHAPES) if other else shape,
        chance.choice(BREAKS) if diverges != broken else None,
        own_epochs,
        per_epoch,
        (0.9 * guesses if other else height) + 1 / len(set(labels)) * (height == 0),
        chance.random() < unmeasured,
      )
      trials.append(trial)
  at_best, results = draw(st.booleans()), []
  for length in {1, epochs}:
    of_length = [trial for trial in trials if trial.epochs == length]
    if of_length:
      results += judged(of_length, curves, labels, measure, at_best, per_epoch)
  answer = verdict.judge(results, labels, measure)
  return Study(trials, curves, labels, measure, at_best, per_epoch, results, answer)


def judged(trials, curves, labels, measure, at_best, per_epoch):
  """The results of trials of one length, by way of a history that lies in memory."""
  history = History.__new__(History)
  names = curves[trials[0]]
  joined = {name: np.stack([curves[trial][name] for trial in trials], 1) for name in names}
  history.steps = {name: joined.pop(name) for name in STEP_CURVES}
  history.epochs = joined
  steps = [trials[0].epochs * per_epoch] * len(trials)
  return verdict.results(history, trials, labels, steps, measure, at_best)


class Truth:
  """The truth about a study, from its curves alone."""

  def __init__(self, study):
    self.study = study
    self.ladder = sorted({trial.learning_rate for trial in study.trials})
    self.of_rate = {r: [t for t in study.trials if t.learning_rate == r] for r in self.ladder}
    lengths = [t.epochs for t in study.trials if self.bad_step(t) is None]
    self.longest = max(lengths, default=0)
    counts = np.bincount(study.labels)
    self.images, self.guess = len(study.labels), counts.max() / len(study.labels)
    unequal = np.abs(counts / len(study.labels) - 1 / len(counts)).sum() / 2 > 0.05
    self.tells = study.measure if study.measure in (ACCURACY, BALANCED) else None
    self.tells = self.tells or (BALANCED if unequal else ACCURACY)
    if self.tells == BALANCED:
      self.guess = 1 / len(counts)
    self.scores = {r: self._scores(r) for r in self.ladder}
    self.eligible = [r for r, scores in self.scores.items() if scores is not None]

  def rate_learned(self, rate):
    """With the seeds taken together, and no seed that is plainly worse than they are."""
    trials = self.of_rate[rate]
    if any(self.bad_step(t) for t in trials) or any(map(self.ended_early, trials)):
      return False
    guessing = [t for t in trials if self.guesses(t)]
    values = np.asarray([self.figure(t, self.tells) for t in trials])
    if any(self.interval(t)[1] < values.mean() for t in guessing):
      return False
    together = confidence.interval(values, self.counted(self.tells))
    return not guessing or together[0] > self.guess

  def bad_step(self, trial):
    curves = self.study.curves[trial]
    for step, pair in enumerate(zip(curves['loss'], curves['gradient_norm'], strict=True), 1):
      if not all(map(math.isfinite, pair)):
        return step
    return None if math.isfinite(curves['validation_loss'][-1]) else len(curves['loss'])

  def epoch(self, trial):
    """The one that counts, from 0."""
    values = self.study.curves[trial][self.study.measure.field]
    if not self.study.at_best or np.isnan(values).all():
      return trial.epochs - 1
    better = max if self.study.measure.larger_is_better else min
    return list(values).index(better(values))

  def figure(self, trial, measure):
    return self.study.curves[trial][measure.field][self.epoch(trial)]

  def counted(self, measure):
    if measure == BALANCED:
      counts = np.bincount(self.study.labels)
      return len(counts) ** 2 / sum(1 / counts)
    return self.images

  def interval(self, trial):
    """Of the accuracy that tells it from guessing: two more right and two more wrong."""
    share, n = self.figure(trial, self.tells), self.counted(self.tells) + 4
    q = (share * (n - 4) + 2) / n
    half = stats.norm.ppf(0.95) * math.sqrt(q * (1 - q) / n)
    return max(0, share - half), min(1, share + half)

  def guesses(self, trial):
    return self.interval(trial)[0] <= self.guess

  def change(self, trial):
    """Of the last steps' loss: their number, the change and its interval, by dummy variables."""
    loss = self.study.curves[trial]['loss'].astype(float)
    rows, length, places = status._layout(len(loss), self.study.per_epoch)
    if rows * places < 5:
      return rows * length, None, None, None
    last = np.array_split(loss[-rows * length :].reshape(rows, length), places, axis=1)
    means = np.stack([part.mean(1) for part in last], 1).ravel()
    at = np.repeat(np.arange(rows), places)
    design = np.column_stack([at, np.tile(np.eye(places), (rows, 1))])
    found, *_ = np.linalg.lstsq(design, means, rcond=None)
    freedom = len(means) - places - 1
    variance = np.sum((means - design @ found) ** 2) / freedom
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    half = stats.t.ppf(0.95, freedom) * error
    return rows * length, rows * found[0], rows * (found[0] - half), rows * (found[0] + half)

  def falls(self, trial):
    steps, change, _, high = self.change(trial)
    loss = self.study.curves[trial]['loss'][-steps:].mean()
    return change is not None and high < 0 and -change >= 0.01 * abs(loss)

  def ended_early(self, trial):
    return self.bad_step(trial) is None and trial.epochs < self.longest

  def learned(self, trial):
    return self.bad_step(trial) is None and not self.guesses(trial)

  def _scores(self, rate):
    """Of every seed, larger is better; None if the rate cannot be recommended."""
    trials = self.of_rate[rate]
    if not self.rate_learned(rate):
      return None
    scores = self.study.measure.score(
      np.asarray([self.figure(t, self.study.measure) for t in trials])
    )
    return scores if np.isfinite(scores).all() else None


# What a clause about rates says of one trial, or of the rate if it speaks of no single seed.
VERBS = {
  'diverged': lambda truth, trial: truth.bad_step(trial) is not None,
  'cannot be distinguished from guessing': lambda truth, trial: (
    truth.bad_step(trial) is None and truth.guesses(trial)
  ),
  'was ended early by the search': lambda truth, trial: truth.ended_early(trial),
  'did worse but was still improving': lambda truth, trial: (
    truth.learned(trial) and truth.falls(trial)
  ),
  'did worse': lambda truth, trial: truth.bad_step(trial) is None,
  'had no finite': lambda truth, trial: truth.bad_step(trial) is None,
}
RATE = r'\d(?:\.\d+)?e[+-]\d+'
ITEM = rf'(?:{RATE}(?: \(\d of \d seeds\))?|[Rr]ates from {RATE} (?:up|down))'
NAMES = rf'(?P<names>{ITEM}(?:(?:, | and ){ITEM})*)'
ABOUT_RATES = re.compile(
  rf'{NAMES} (?P<verb>diverged|cannot be distinguished from guessing|(?:was|were) ended early by '
  r'the search|did worse but (?:was|were) still improving|did worse|had no finite validation own)\.'
)
ALIKE = re.compile(rf'{NAMES} may be just as good: these (?P<by>[a-z ]+) cannot separate them\.')
USE = re.compile(
  rf'Use (?P<rate>{RATE}): (?P<what>[a-z ]+) (?P<value>[\d.]+(?: %)?)(?P<when> at its best epoch)?'
  r'(?: \(90 % interval (?P<interval>.+?), from (?P<by>[^)]+)\))?\.'
)
SURE = re.compile(r'It is the best with a probability of (?P<share>\d+) %\.')
ONE_SEED = 'One seed cannot tell how sure that is: --config.seeds=0,1,2 trains three.'
EDGE = re.compile(
  rf'It is the (?P<end>largest|smallest) rate tried: add (?:larger|smaller) ones, such as {RATE}\.'
)
GUESSES = re.compile(
  r'No rate can be distinguished from guessing \((?P<chance>[\d.]+ %)\) on these '
  rf'(?P<images>\d+) images: the highest (?P<what>[a-z ]+), (?P<value>[\d.]+ %)'
  r'(?P<when> at its best epoch)?, was at '
  rf'(?P<rate>{RATE})\.'
)
OPENINGS = (
  rf'No rate works: all diverged\. Add smaller ones, such as {RATE}\.',
  r'No rate that learned has a finite validation own\.',
  r'No rate that trained to the last epoch can be distinguished from guessing'
  r'(?: with every seed)?\.',
  r'No rate can be distinguished from guessing(?: with every seed)?\.',
)
ADVICE = re.compile(
  r'(?:(?P<same>All ended at the same accuracy, so more epochs may not help: look for a mistake in '
  r'the network, its inputs or the labels, or add)|Train for more epochs, validate on more images, '
  rf'or add) (?:larger rates, such as {RATE}|rates '
  r'between those that diverged and those that did not)\.'
)


def take(pattern, text):
  """The match at the beginning of the text, and what follows it."""
  found = re.match(pattern, text)
  return found, text[found.end() :].lstrip() if found else text


def parse(names, ladder):
  """The rates of a clause, each with the number of its seeds, or None for all of them."""
  found = {}
  for item in re.findall(ITEM, names):
    way = re.fullmatch(rf'[Rr]ates from ({RATE}) (up|down)', item)
    if way:
      start = float(way[1])
      reach = [r for r in ladder if (r >= start if way[2] == 'up' else r <= start)]
      assert len(reach) > 1
      new = dict.fromkeys(reach)
    else:
      one = re.fullmatch(rf'({RATE})(?: \((\d) of (\d) seeds\))?', item)
      new = {float(one[1]): (int(one[2]), int(one[3])) if one[2] else None}
    assert not new.keys() & found.keys()
    found |= new
  return found


def hold_clauses(truth, text, expected):
  """Takes clauses about rates off the text, and holds each against the curves.

  Args:
    truth: of the study.
    text: that begins with such clauses, or with none.
    expected: the rates that must be in exactly one of them.

  Returns:
    The rest of the text.
  """
  seen, verbs = [], []
  while (match := take(ABOUT_RATES, text))[0]:
    found, text = match
    verb = found['verb'].replace('were', 'was')
    if verb.startswith('had no finite'):
      verb = 'had no finite'
    rates = parse(found['names'], truth.ladder)
    assert (' were ' in found[0]) == (len(rates) > 1 and ' was ' in f' {verb}')
    for rate, count in rates.items():
      trials = truth.of_rate[rate]
      holds = [VERBS[verb](truth, trial) for trial in trials]
      assert sum(holds) == (count[0] if count else len(trials)), (found[0], holds)
      assert count is None or count[1] == len(trials)
      if verb.startswith('did worse'):
        assert rate in truth.eligible
        assert rate not in truth.study.answer.indistinguishable
        improving = all(truth.learned(t) and truth.falls(t) for t in trials)
        assert improving == ('still improving' in verb)
        best = truth.scores[truth.study.answer.learning_rate].mean()
        assert truth.scores[rate].mean() < best
      if verb == 'had no finite':
        assert rate not in truth.eligible
        assert truth.rate_learned(rate)
      if verb == 'cannot be distinguished from guessing':
        assert not truth.rate_learned(rate)
    seen += rates
    verbs.append(verb)
  assert len(verbs) == len(set(verbs))
  assert sorted(seen) == sorted(expected)
  return text


def hold_use(truth, text):
  """A sentence that recommends a rate."""
  study, measure = truth.study, truth.study.measure
  found, text = take(USE, text)
  best, answer, seeds = float(found['rate']), study.answer, len(truth.of_rate[truth.ladder[0]])
  assert best == answer.learning_rate
  assert best in truth.eligible
  means = {r: truth.scores[r].mean() for r in truth.eligible}
  assert means[best] == pytest.approx(max(means.values()), abs=1e-12)
  value = np.mean([truth.figure(t, measure) for t in truth.of_rate[best]])
  assert (found['what'], found['value']) == (measure.name, measure.show(float(value)))
  assert bool(found['when']) == study.at_best
  assert bool(found['interval']) == (measure.is_share or seeds > 1)
  if found['interval']:
    ends = confidence.interval(
      np.asarray([truth.figure(t, measure) for t in truth.of_rate[best]]),
      truth.counted(measure) if measure.is_share else math.inf,
    )
    assert found['interval'] == measure.between(ends)
    by = [f'{seeds} seeds'] * (seeds > 1) + [f'{truth.images} images'] * measure.is_share
    assert found['by'] == ('counting ' * (seeds == 1)) + ' and '.join(by)
  ranked = sorted(truth.eligible, key=lambda r: (r != best, -means[r]))
  images = truth.counted(measure) if measure.is_share else math.inf
  chances, together = confidence.compare(np.stack([truth.scores[r] for r in ranked], 1), images)
  if seeds == 1:
    assert text.startswith(ONE_SEED)
    text = text.removeprefix(ONE_SEED).lstrip()
  elif len(ranked) > 1:
    found, text = take(SURE, text)
    assert int(found['share']) == pytest.approx(100 * chances[0], abs=1)
  alike = {r for r, yes in zip(ranked[1:], together[1:], strict=True) if yes}
  if alike:
    found, text = take(ALIKE, text)
    rates = parse(found['names'], truth.ladder)
    assert alike == set(rates)
    assert ('seeds' in found['by'], 'images' in found['by']) == (seeds > 1, measure.is_share)
  text = hold_clauses(truth, text, [r for r in truth.ladder if r not in {best, *alike}])
  if len(truth.ladder) > 1 and best in (truth.ladder[0], truth.ladder[-1]):
    found, text = take(EDGE, text)
    assert (found['end'] == 'largest') == (best == truth.ladder[-1])
  assert text == ''


def hold_none(truth, text):
  """A sentence that recommends none."""
  study, trials = truth.study, truth.study.trials
  assert not truth.eligible
  broken = [truth.bad_step(t) is not None for t in trials]
  learned = [truth.learned(t) for t in trials]
  every = {r: all(map(truth.learned, found)) for r, found in truth.of_rate.items()}
  whole = [r for r in truth.ladder if not any(map(truth.ended_early, truth.of_rate[r]))]
  found, rest = take(GUESSES, text)
  if found:
    assert not any(learned)
    assert not all(broken)
    assert found['chance'] == formats.percent(truth.guess)
    assert (int(found['images']), found['what']) == (truth.images, truth.tells.name)
    left = [t for t, gone in zip(trials, broken, strict=True) if not gone]
    figures = {t: truth.figure(t, truth.tells) for t in left}
    best = max(figures.values())
    assert found['value'] == formats.percent(best)
    assert float(found['rate']) in {t.learning_rate for t in left if figures[t] == best}
    assert bool(found['when']) == study.at_best
    at_chance = [
      r
      for r, of_rate in truth.of_rate.items()
      if all(truth.bad_step(t) is None and not truth.ended_early(t) for t in of_rate)
    ]
    expected = [r for r in truth.ladder if r not in at_chance]
  else:
    number, found, rest = next(
      (i, *take(opening, text)) for i, opening in enumerate(OPENINGS) if re.match(opening, text)
    )
    expected = truth.ladder
    assert ('with every seed' in found[0]) == (number > 1 and len(trials) > len(truth.ladder))
    if number == 0:
      assert all(broken)
      expected = []
    elif number == 1:
      unmeasured = [r for r in whole if truth.rate_learned(r)]
      assert unmeasured
      expected = [r for r in truth.ladder if r not in unmeasured]
    elif number == 2:
      assert any(every.values())
      assert not any(every[r] for r in whole)
    else:
      assert any(learned)
      assert not any(every.values())
  rest = hold_clauses(truth, rest, expected)
  advice, rest = take(ADVICE, rest)
  if advice:
    assert ('diverged' in advice[0]) == any(broken)
    ended = [t for t, gone in zip(trials, broken, strict=True) if not gone]
    same = len({truth.figure(t, truth.tells) for t in ended}) == 1
    assert bool(advice['same']) == (same and len({t.learning_rate for t in ended}) > 1)
  assert rest == ''


def hold_evidence(truth, trial, result):
  """A trial's status and the numbers in its evidence."""
  bad = truth.bad_step(trial)
  assert result.first_bad_step == bad
  assert (result.status == 'diverged') == (bad is not None)
  if bad is not None:
    assert f'step {bad}' in result.evidence
    return
  low, high = truth.interval(trial)
  assert (result.accuracy_low, result.accuracy_high) == pytest.approx((low, high))
  assert (result.status == 'at_chance') == truth.guesses(trial)
  assert f'{100 * low:.1f} to {100 * high:.1f} %); guessing reaches {100 * truth.guess:.1f} %' in (
    result.evidence
  )
  steps, change, *ends = truth.change(trial)
  loss = truth.study.curves[trial]['loss'][-steps:].mean()
  over = f'the last {steps} steps' if steps > 1 else 'the last step'
  assert f'training loss {loss:.3g} over {over}' in result.evidence
  assert result.train_loss_at_end == pytest.approx(loss, rel=1e-5)
  assert ('too few' in result.evidence) == (change is None)
  if change is not None:
    assert result.train_loss_change == pytest.approx(change, abs=1e-6)
    found = (result.train_loss_change_low, result.train_loss_change_high)
    assert found == pytest.approx(tuple(ends), abs=1e-6)
  assert (result.status == 'still_improving') == (truth.learned(trial) and truth.falls(trial))
  is_short = change is None or trial.epochs < 3
  flat = truth.learned(trial) and not truth.falls(trial)
  assert result.status in ('diverged', 'at_chance', 'still_improving') or flat
  assert (result.status == 'too_short_to_tell') == (flat and is_short)
  assert ('at its best epoch' in result.evidence) == truth.study.at_best


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(studies())
def test_every_clause_holds(study):
  truth = Truth(study)
  results = {(r.learning_rate, r.seed): r for r in study.results}
  for trial in study.trials:
    hold_evidence(truth, trial, results[trial.learning_rate, trial.seed])
  text = study.answer.sentence
  assert '  ' not in text
  if study.answer.learning_rate is None:
    hold_none(truth, text)
  else:
    hold_use(truth, text)
