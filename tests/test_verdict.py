"""Statuses, the best rate, and the sentence, from made-up curves."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import planned

from lr_study.answer import confidence, status, verdict
from lr_study.answer.measure import ACCURACY, BALANCED, LOSS, Measure, curve_of, further, value_of
from lr_study.files.history import History
from lr_study.trial import Metric


def images(count):
  """Labels of validation images, ten balanced classes."""
  return np.arange(count) % 10


def curve(kind, steps=200):
  """A training loss with noise, of a network that has learned."""
  noise = np.random.default_rng(steps).normal(0, 0.01, steps)
  return {'falling': np.linspace(1, 0.5, steps), 'flat': np.ones(steps)}[kind] + noise


@pytest.fixture
def history(tmp_path):
  """200 steps, four epochs, three trials: still improving, at chance, and one to be broken."""
  history = History(tmp_path, 200, 4, 3)
  loss = np.stack([curve('falling'), np.full(200, np.log(10)), curve('flat')], 1)
  history.write_steps(0, dict.fromkeys(history.steps, loss))
  for epoch in range(4):
    history.write_epoch(
      epoch,
      {
        'train_loss': [0.5, np.log(10), 1.0],
        'train_accuracy': [0.9, 0.1, 0.6],
        'validation_loss': [0.6, np.log(10), 1.1],
        'validation_accuracy': [0.8, 0.1, 0.5],
        'validation_balanced_accuracy': [0.7, 0.1, 0.4],
      },
    )
  return history


def judge_all(history, **options):
  trials = planned([1e-3, 1e-4, 1e-5], [0, 0, 0], 4)
  return verdict.results(history, trials, images(1000), [200, 200, 100], **options)


def test_statuses(history):
  history.steps['loss'][3:, 2] = np.nan
  history.steps['loss'][2, 2] = 30
  learned, stuck, broken = judge_all(history)
  assert (learned.status, stuck.status, broken.status) == (
    'still_improving',
    'at_chance',
    'diverged',
  )
  assert learned.validation_accuracy == 0.8
  assert learned.first_bad_step is None
  assert (broken.first_bad_step, broken.last_finite_loss) == (4, 30.0)
  assert broken.train_loss is broken.validation_accuracy is broken.train_loss_at_end is None
  assert (learned.steps, learned.epochs) == (200, 4)
  assert (broken.steps, broken.epochs) == (100, 2)
  assert broken.evidence == 'the loss of step 4 was not finite; the last finite loss was 30'
  assert stuck.evidence == (
    'validation accuracy 10.0 % (90 % interval 8.4 to 11.6 %); guessing reaches 10.0 %; training '
    'loss 2.3 over the last 100 steps, in which it changed by +0 (90 % interval +0 to +0)'
  )
  assert learned.train_loss_at_end == pytest.approx(np.mean(history.steps['loss'][100:, 0]))
  assert learned.train_loss_at_end != learned.train_loss
  assert f'training loss {learned.train_loss_at_end:.3g} over the last 100 steps, in which it ' in (
    learned.evidence
  )
  assert '80.0 % (90 % interval 77.9 to 82.1 %); guessing reaches 10.0 %' in learned.evidence


def test_flat_is_plateaued(history):
  *_, flat = judge_all(history)
  assert flat.status == 'plateaued'
  assert flat.train_loss_change_low < 0 < flat.train_loss_change_high


def test_losses_do_not_say_whether_a_trial_learned(history):
  """An overconfident network has a high loss; one that sits on the plateau may have learned."""
  history.steps['loss'][:, 0] = 2.71 + curve('flat')
  history.epochs['validation_accuracy'][:] = [0.867, 0.135, 0.118]
  assert [r.status for r in judge_all(history)] == ['plateaued', 'plateaued', 'plateaued']
  trials = planned([1e-3, 1e-4, 1e-5], [0, 0, 0], 2)
  fewer = verdict.results(history, trials, images(300), [200] * 3)
  assert [r.status for r in fewer] == ['plateaued', 'plateaued', 'at_chance']
  unbalanced = np.repeat(np.arange(2), [870, 130])  # guessing reaches 87 %
  history.epochs['validation_balanced_accuracy'][:] = [0.9, 0.52, 0.53]
  statuses = [r.status for r in verdict.results(history, trials, unbalanced, [200] * 3)]
  assert statuses == ['at_chance'] * 3
  statuses = [r.status for r in verdict.results(history, trials, unbalanced, [200] * 3, BALANCED)]
  assert statuses == ['plateaued', 'at_chance', 'at_chance']
  statuses = [r.status for r in verdict.results(history, trials, unbalanced, [200] * 3, LOSS)]
  assert statuses == ['plateaued', 'at_chance', 'at_chance']  # by what would lead else


def test_an_infinite_gradient_is_a_bad_step(history):
  history.steps['gradient_norm'][2, 2] = np.inf
  history.steps['loss'][:, 2] = 1.0
  broken = judge_all(history)[2]
  assert (broken.status, broken.first_bad_step, broken.last_finite_loss) == ('diverged', 3, 1.0)
  assert broken.evidence == 'the gradient of step 3 was not finite; the last finite loss was 1'


def test_a_last_update_that_breaks_the_weights_shows_in_the_evaluation(history):
  history.epochs['validation_loss'][-1, 2] = np.nan
  broken = judge_all(history)[2]
  assert (broken.status, broken.first_bad_step) == ('diverged', 200)
  assert broken.evidence.startswith('the evaluation after step 200, the last, was not finite')


def test_bad_from_the_first_step(history):
  history.steps['loss'][:, 2] = np.nan
  broken = judge_all(history)[2]
  assert (broken.first_bad_step, broken.last_finite_loss) == (1, None)


def result(rate, accuracy=None, status='plateaued', seed=0, loss=1.0):
  bad = status == 'diverged'
  figures = [None] * 5 if bad else [loss, accuracy, loss, accuracy, accuracy]
  return verdict.Result(
    rate, seed, 1, 'constant', status, '', 3 if bad else None, 1.0 if bad else None, 10, 1, *figures
  )


LADDER = [
  result(1e-1, status='diverged'),
  result(1e-2, status='diverged'),
  result(1e-3, 0.11, 'at_chance'),
  result(1e-4, 0.91),
  result(1e-5, 0.90),
  result(1e-6, 0.50, 'still_improving'),
  result(1e-7, 0.1, 'at_chance'),
]


@pytest.mark.parametrize('order', [1, -1])
def test_the_sentence_of_a_ladder(order):
  answer = verdict.judge(LADDER[::order], images(1000))
  assert answer.learning_rate == 1e-4
  assert answer.indistinguishable == (1e-4, 1e-5)
  assert answer.largest_stable == 1e-3
  assert not answer.edge_of_ladder
  assert answer.probability_best is None
  assert answer.sentence == (
    'Use 1e-04: validation accuracy 91.0 % (90 % interval 89.5 to 92.5 %, from counting 1000 '
    'images). One seed cannot tell how sure that is: --config.seeds=0,1,2 trains three. 1e-05 may '
    'be just as good: these images cannot separate them. Rates from 1e-02 up diverged. 1e-06 did '
    'worse but was still improving. 1e-03 and 1e-07 cannot be distinguished from guessing.'
  )


def test_more_images_tell_rates_apart():
  assert verdict.judge(LADDER, images(100_000)).indistinguishable == (1e-4,)


def test_edges_say_which_way_to_widen():
  rising = [result(1e-2, 0.9), result(1e-3, 0.5), result(1e-4, 0.3)]
  answer = verdict.judge(rising, images(1000))
  assert answer.edge_of_ladder
  assert 'largest rate tried: add larger ones, such as 1e-01' in answer.sentence
  answer = verdict.judge([result(1e-2, status='diverged'), *LADDER[3:4]], images(1000))
  assert answer.edge_of_ladder
  assert 'smallest rate tried: add smaller ones, such as 1e-05' in answer.sentence
  assert '1e-02 diverged.' in answer.sentence


def test_nothing_works():
  answer = verdict.judge(LADDER[:2], images(1000))
  assert answer.learning_rate is None
  assert answer.largest_stable is None
  assert 'all diverged. Add smaller ones, such as 1e-03' in answer.sentence
  answer = verdict.judge([LADDER[0], LADDER[2]], images(1000))
  assert answer.learning_rate is None
  assert answer.sentence.startswith(
    'No rate can be distinguished from guessing (10.0 %) on these 1000 images: the highest '
    'validation accuracy, 11.0 %, was at 1e-03. 1e-01 diverged. Train for more epochs, validate on '
    'more images, or add rates between those that diverged'
  )
  answer = verdict.judge(LADDER[2:3], images(1000))
  assert 'add larger rates, such as 1e-02' in answer.sentence


def test_trials_that_all_end_at_the_same_accuracy_are_not_told_to_train_longer():
  same = [result(rate, 0.1, status='at_chance') for rate in (1e-1, 1e-2)]
  said = verdict.judge(same, images(1000)).sentence
  assert 'same accuracy, so more epochs may not help: look for a mistake in the network' in said
  assert 'Train for more epochs' not in said
  other = [same[0], result(1e-2, 0.104, status='at_chance')]
  assert 'Train for more epochs' in verdict.judge(other, images(1000)).sentence


def test_ties_go_to_the_lower_loss():
  tied = [result(1e-2, 0.5, loss=1.0), result(1e-3, 0.5, loss=0.5), result(1e-4, 0.5, loss=0.7)]
  assert verdict.judge(tied, images(1000)).learning_rate == 1e-3


def test_seeds_are_averaged_and_one_diverged_seed_disqualifies():
  trials = [
    result(1e-2, 0.99),
    result(1e-2, status='diverged', seed=1),
    result(1e-3, 0.5),
    result(1e-3, 0.9, seed=1),
    result(1e-4, 0.6),
    result(1e-4, 0.6, seed=1),
  ]
  answer = verdict.judge(trials, images(100))
  assert answer.learning_rate == 1e-3
  assert '70.0 %' in answer.sentence
  assert answer.largest_stable == 1e-3


def test_a_single_rate_has_no_edge():
  answer = verdict.judge([result(1e-3, 0.9)], images(100))
  assert answer.learning_rate == 1e-3
  assert not answer.edge_of_ladder


def test_few_images_say_little_even_if_all_are_right():
  """Plus four: 2 of 2 right counts as 4 of 6. 1.645 leaves 5 % on either side."""
  low = 100 - 164.5 * np.sqrt(2 / 3 * 1 / 3 / 6)
  sentence = verdict.judge([result(1e-3, 1.0)], np.array([0, 1])).sentence
  assert f'interval {low:.1f} to 100.0 %, from counting 2 images' in sentence


def test_what_lies_on_either_side_is_named_for_what_it_did():
  odd = [
    result(1e-1, 0.7),
    result(1e-2, status='diverged'),
    result(1e-3, 0.9),
    result(1e-4, status='diverged'),
    result(1e-5, 0.5),
    result(1e-6, 0.1, 'at_chance'),
    result(1e-7, 0.4),
  ]
  assert verdict.judge(odd, images(1000)).sentence.endswith(
    'trains three. 1e-02 and 1e-04 diverged. 1e-01, 1e-05 and 1e-07 did worse. 1e-06 cannot be '
    'distinguished from guessing.'
  )


def test_of_many_rates_a_clause_names_the_first_and_counts_the_rest():
  """Twelve of every second rate did worse; those from the smallest up diverged, and are a range."""
  odd = [
    result(2.0**-k, 0.5, 'plateaued') if k % 2 else result(2.0**-k, 0.1, 'at_chance')
    for k in range(24)
  ]
  best, low = result(4.0, 0.9), [result(1e-8 / 10**k, status='diverged') for k in range(3)]
  said = verdict.judge([best, *odd, *low], images(1000)).sentence
  assert 'Rates from 1e-08 down diverged. 5e-01, 1.25e-01, 3.125e-02, ' in said
  named, more = re.search(r'diverged\. (.*) and (\d+) more did worse\.', said).groups()
  assert len(named.split(', ')) + int(more) == 12
  assert len(named.split(', ')) == 9


def with_seeds(**accuracies):
  """Trials of the rates 1e-2, 1e-3, ... whose seeds ended with these accuracies."""
  return [
    result(rate, a, 'diverged' if a is None else 'plateaued', seed)
    for rate, of_seeds in zip((1e-2, 1e-3, 1e-4, 1e-5), accuracies.values(), strict=False)
    for seed, a in enumerate(of_seeds)
  ]


def test_several_seeds_say_how_sure_they_are():
  answer = verdict.judge(
    with_seeds(a=(0.70, 0.74, 0.71), b=(0.80, 0.84, 0.82), c=(0.79, 0.84, 0.81)), images(2000)
  )
  assert answer.learning_rate == 1e-3
  assert answer.indistinguishable == (1e-3, 1e-4)
  assert answer.sentence.startswith('Use 1e-03: validation accuracy 82.0 % (90 % interval 79.')
  assert 'from 3 seeds and 2000 images)' in answer.sentence
  alike = '1e-04 may be just as good: these seeds and images cannot separate them.'
  assert alike in answer.sentence
  sure = answer.probability_best
  assert list(sure) == ['1e-04', '1e-03', '1e-02']
  assert sum(sure.values()) == pytest.approx(1)
  assert f'with a probability of {100 * sure["1e-03"]:.0f} %' in answer.sentence
  low, high = answer.intervals['1e-03']
  assert low < 0.80
  assert high > 0.84


def test_seeds_are_compared_in_pairs():
  """Seeds that differ by ten times as much as the rates do, but are the same for all rates."""
  paired = with_seeds(a=(0.50, 0.70, 0.90), b=(0.52, 0.72, 0.92), c=(0.50, 0.70, 0.90))
  mixed = with_seeds(a=(0.50, 0.70, 0.90), b=(0.92, 0.52, 0.72), c=(0.70, 0.90, 0.50))
  assert verdict.judge(paired, images(100_000)).indistinguishable == (1e-3,)
  assert len(verdict.judge(mixed, images(100_000)).indistinguishable) == 3


def test_the_same_draws_every_time():
  trials = with_seeds(a=(0.70, 0.74, 0.71), b=(0.72, 0.73, 0.75))
  assert verdict.judge(trials, images(200)) == verdict.judge(trials[::-1], images(200))


def test_a_rate_that_failed_with_one_seed_is_no_answer_and_the_share_is_said():
  trials = with_seeds(a=(0.9, None), b=(0.9, 0.9))
  answer = verdict.judge(trials, images(100))
  assert answer.learning_rate == 1e-3
  assert '1e-02 (1 of 2 seeds) diverged.' in answer.sentence
  assert answer.probability_best == {'1e-03': 1.0, '1e-02': 0.0}
  assert answer.intervals['1e-02'] is None
  assert 'probability' not in answer.sentence  # that of one rate among one
  assert (
    'No rate can be distinguished from guessing with every seed.'
    in verdict.judge(trials[:2], images(100)).sentence
  )


def test_few_images_do_not_turn_the_seeds_of_a_rate_against_it():
  """A seed that 18 images cannot tell from guessing is no failure, unless the others are better."""
  labels = np.arange(18) % 3

  def trials(*accuracies):
    chance = status.chance_of(labels, ACCURACY)
    ends = [confidence.interval(np.asarray([a]), 18) for a in accuracies]
    words = ['at_chance' if status.is_at_chance(e, chance) else 'plateaued' for e in ends]
    pairs = enumerate(zip(accuracies, words, strict=True))
    return [result(1e-3, a, word, seed) for seed, (a, word) in pairs], words

  found, words = trials(11 / 18, 9 / 18, 11 / 18)
  assert words == ['plateaued', 'at_chance', 'plateaued']
  assert verdict.judge(found, labels).learning_rate == 1e-3
  found, words = trials(17 / 18, 6 / 18, 17 / 18)  # one failed
  assert words == ['plateaued', 'at_chance', 'plateaued']
  answer = verdict.judge(found, labels)
  assert answer.learning_rate is None
  assert '1e-03 (1 of 3 seeds) cannot be distinguished from guessing.' in answer.sentence
  found, words = trials(9 / 18, 9 / 18, 9 / 18)  # seeds are no more images
  assert words == ['at_chance'] * 3
  assert verdict.judge(found, labels).learning_rate is None
  found, words = trials(*[17 / 18] * 7, 6 / 18)  # their mean is far above, but who trains once?
  assert verdict.judge(found, labels).learning_rate is None


def test_a_trial_that_was_ended_early_is_not_the_best():
  trials = with_seeds(a=(0.9, 0.9), b=(0.8, 0.8), c=(0.7, 0.7))
  trials = [dataclasses.replace(t, epochs=1 + (t.learning_rate < 1e-2)) for t in trials]
  answer = verdict.judge(trials, images(1000))
  assert answer.learning_rate == 1e-3
  assert '1e-02 was ended early by the search.' in answer.sentence
  assert answer.probability_best['1e-02'] == 0
  trials[-2:] = [result(1e-4, status='diverged', seed=seed) for seed in range(2)]
  assert '1e-04 diverged.' in verdict.judge(trials, images(1000)).sentence


def test_another_measure_leads():
  trials = [
    dataclasses.replace(trial, validation_balanced_accuracy=balanced)
    for trial, balanced in zip(with_seeds(a=(0.9,), b=(0.8,)), (0.5, 0.7), strict=True)
  ]
  labels = np.repeat([0, 1], [180, 20])
  answer = verdict.judge(trials, labels, BALANCED)
  assert answer.learning_rate == 1e-3
  assert 'validation balanced accuracy 70.0 %' in answer.sentence
  # The 20 images of the second class decide half of it: it is as uncertain as of 72 images.
  assert answer.intervals['1e-03'] == pytest.approx(confidence.interval([0.7], 72))


def test_suggested_rates_are_round():
  rising = [result(3e-4, 0.9), result(3e-5, 0.3)]
  assert 'such as 3e-03.' in verdict.judge(rising, images(1000)).sentence


def by_loss(*losses, seeds=1):
  """Trials of the rates 1e-2, 1e-3, ... with these validation losses, one or a tuple of seeds."""
  return [
    dataclasses.replace(result(rate, 0.5, seed=seed), validation_loss=loss)
    for rate, of_rate in zip((1e-2, 1e-3, 1e-4, 1e-5), losses, strict=False)
    for seed, loss in enumerate(of_rate if isinstance(of_rate, tuple) else (of_rate,) * seeds)
  ]


def test_a_loss_leads_the_smallest_first():
  answer = verdict.judge(by_loss(0.9, 0.4567, 0.8), images(1000), LOSS)
  assert answer.learning_rate == 1e-3
  assert answer.leads == LOSS
  assert answer.indistinguishable == (1e-3,)
  assert set(answer.intervals.values()) == {None}  # of one seed nothing is known
  assert answer.sentence == (
    'Use 1e-03: validation loss 0.457. One seed cannot tell how sure that is: '
    '--config.seeds=0,1,2 trains three. 1e-02 and 1e-04 did worse.'
  )


def test_seeds_alone_say_how_sure_a_loss_is():
  trials = by_loss((0.50, 0.54, 0.52), (0.49, 0.52, 0.51), (0.91, 0.95, 0.92))
  answer = verdict.judge(trials, images(1000), LOSS)
  assert answer.learning_rate == 1e-3
  assert answer.indistinguishable[0] == 1e-3
  assert 1e-4 not in answer.indistinguishable
  low, high = answer.intervals['1e-03']
  mean, error = np.mean([0.49, 0.52, 0.51]), np.std([0.49, 0.52, 0.51], ddof=1) / np.sqrt(3)
  # 2.92: of a table of Student's t with two degrees of freedom, 5 % on either side.
  assert (low, high) == pytest.approx((mean - 2.92 * error, mean + 2.92 * error), abs=1e-4)
  assert f'validation loss 0.507 (90 % interval {low:.3g} to {high:.3g}, from 3 seeds).' in (
    answer.sentence
  )
  assert verdict.judge(by_loss((5.0, 9.0), (90.0, 96.0)), images(9), LOSS).intervals['1e-03'][0] > 1


def test_a_share_may_be_the_better_the_smaller_it_is():
  """An error of 1 - accuracy names the same rates with the same certainty, and is in percent."""
  error = Measure('validation_error', larger_is_better=False)
  trials = [
    dataclasses.replace(t, metrics={'validation_error': 1 - t.validation_accuracy})
    for t in with_seeds(a=(0.70, 0.74, 0.71), b=(0.80, 0.84, 0.82), c=(0.79, 0.84, 0.81))
  ]
  ours, theirs = (verdict.judge(trials, images(2000), m) for m in (error, ACCURACY))
  assert ours.learning_rate == theirs.learning_rate
  assert ours.indistinguishable == theirs.indistinguishable
  for rate, sure in theirs.probability_best.items():
    assert ours.probability_best[rate] == pytest.approx(sure, abs=0.02)
  assert 'validation error 18.0 % (90 % interval' in ours.sentence


def test_a_metric_without_a_value_is_no_answer():
  measure = Measure('validation_own', is_share=False)
  values = (np.nan, 3.0, 2.0)
  trials = [
    dataclasses.replace(t, metrics={'validation_own': None if np.isnan(x) else x})
    for t, x in zip(with_seeds(a=(0.9,), b=(0.8,), c=(0.7,)), values, strict=True)
  ]
  answer = verdict.judge(trials, images(100), measure)
  assert answer.learning_rate == 1e-3
  nothing = verdict.judge(trials[:1], images(100), measure)
  assert nothing.learning_rate is None
  assert nothing.sentence == 'No rate that learned has a finite validation own.'


def test_values_of_measures():
  trial = dataclasses.replace(result(1e-3, 0.5), metrics={'validation_top5': 0.9})
  assert value_of(trial, ACCURACY) == 0.5
  assert value_of(trial, Measure('validation_top5')) == 0.9
  assert value_of(trial, Measure('validation_nothing')) is None
  assert (ACCURACY.show(0.5), LOSS.show(0.51234), LOSS.show(None)) == ('50.0 %', '0.512', '–')
  assert ACCURACY.between((0.25, 0.5)) == '25.0 to 50.0 %'
  assert LOSS.between((0.25, 0.5)) == '0.25 to 0.5'
  assert ACCURACY.between(None) == '–'
  assert curve_of('my/metrics.py:recall') == 'validation_recall'
  shares = Metric(None, None)
  metrics = {'loss': shares, 'accuracy': shares, 'error': shares._replace(larger_is_better=False)}
  assert further(metrics) == [Measure('validation_error', True, False)]


def test_further_metrics_and_axes_come_with_a_trial(tmp_path):
  history = History(tmp_path, 6, 2, 1, ['top5', 'accuracy', 'my.py:own'])
  assert history.metrics == ('top5', 'own')
  history.write_steps(0, {name: np.ones((6, 1)) for name in history.steps})
  for epoch in range(2):
    history.write_epoch(epoch, {name: [0.5 + epoch / 4] for name in history.epochs})
  axes = (('optimizer.momentum', 0.9),)
  [trial] = planned([1e-3], [0], 2)
  [found] = verdict.results(history, [trial._replace(axes=axes)], images(100), [6])
  assert found.metrics == {'validation_top5': 0.75, 'validation_own': 0.75}
  assert found.axes == {'optimizer.momentum': 0.9}
  assert found.setting == trial._replace(axes=axes).setting
  assert verdict.judge([found], images(100)).setting == found.setting
  history.steps['loss'][:] = np.nan
  [broken] = verdict.results(history, [trial], images(100), [6])
  assert broken.metrics == {'validation_top5': None, 'validation_own': None}


def test_the_best_epoch_of_each_trial(history):
  history.epochs['validation_accuracy'][:] = [[0.9, 0.1, 0.5], *[[0.8, 0.2, 0.5]] * 3]
  history.epochs['validation_loss'][:] = [[0.4, 2.0, 1.0], *[[0.6, 2.0, 0.9]] * 3]
  history.steps['loss'][:, 2] = np.inf
  first, second, broken = judge_all(history, at_best=True)
  assert [t.best_epoch for t in (first, second, broken)] == [1, 2, None]
  assert (first.validation_accuracy, first.validation_loss) == (0.9, 0.4)
  assert (first.steps, first.epochs) == (200, 4)
  assert 'validation accuracy 90.0 % at its best epoch, 1 (90 % interval' in first.evidence
  assert broken.validation_accuracy is None
  sentence = verdict.judge([first, second, broken], images(100)).sentence
  assert sentence.startswith('Use 1e-03: validation accuracy 90.0 % at its best epoch (90 % inter')
  by_loss = judge_all(history, measure=LOSS, at_best=True)
  assert [t.best_epoch for t in by_loss] == [1, 1, None]
