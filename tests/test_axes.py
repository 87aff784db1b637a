"""What a study of several batch sizes or schedules says, from results made for the purpose."""

import numpy as np
import pytest

from lr_study.answer import axes
from lr_study.answer.verdict import Result

RATES = tuple(10.0 ** (-k / 2) for k in range(2, 11))  # 0.1 to 1e-5


def result(rate, accuracy, size=1, schedule='constant', seed=0):
  if accuracy is None:
    return Result(rate, seed, size, schedule, 'diverged', '', 3, 1.0, 10, 0, *[None] * 5)
  figures = (1.0, accuracy, 1.0, accuracy, accuracy)
  return Result(rate, seed, size, schedule, 'converged', '', None, None, 10, 2, *figures)


def ladder(peak, size, schedule='constant', height=0.9, seed=0):
  """Accuracy falls off as the square of the distance from the peak, over log10 of the rate."""
  return [
    result(rate, height - 0.1 * np.log10(rate / peak) ** 2, size, schedule, seed) for rate in RATES
  ]


def answer_of(results):
  return axes.answer(results, np.arange(1000) % 10, 'validation_accuracy')


def test_one_setting_has_its_own_verdict():
  answer = answer_of(ladder(1e-3, 1))
  assert answer.verdict.learning_rate == pytest.approx(1e-3)
  assert answer.growth == answer.gains == ()
  assert list(answer.of_setting.values()) == [answer.verdict]


def test_the_best_rate_grows_with_the_batch_size():
  """Peaks at 2e-4 sqrt(b), which lie between the rates of the ladder."""
  results = [r for b in (1, 4, 16, 64) for r in ladder(2e-4 * b**0.5, b, height=0.8 + b / 1000)]
  answer = answer_of(results)
  [growth] = answer.growth
  assert growth.batch_sizes == (1, 4, 16, 64)
  # The curves are parabolas, so three points of each give the peak itself.
  np.testing.assert_allclose(growth.best_rates, 2e-4 * np.sqrt([1, 4, 16, 64]), rtol=1e-6)
  assert growth.exponent == pytest.approx(0.5)
  assert growth.error == pytest.approx(0, abs=1e-6)
  assert answer.verdict.sentence.startswith('Best with batch size 64 and the schedule constant')
  assert 'to the power 0.50 ± 0.00' in answer.verdict.sentence


def test_two_batch_sizes_leave_no_interval():
  [growth] = answer_of(ladder(1e-3, 1) + ladder(1e-2, 10)).growth
  assert growth.exponent == pytest.approx(1.0)
  assert growth.error is None


def test_three_batch_sizes_off_a_line_leave_a_wide_interval():
  """Peaks at 1e-3, 2e-3 and 1e-3: a standard error of 1 / sqrt(3), with one degree of freedom."""
  [growth] = answer_of(ladder(1e-3, 1) + ladder(2e-3, 2) + ladder(1e-3, 4)).growth
  assert growth.exponent == pytest.approx(0, abs=1e-6)
  assert growth.error == pytest.approx(12.7062 / np.sqrt(3), rel=1e-4)  # of a table of Student's t


def test_a_peak_beside_a_diverged_rate_is_the_rate_itself():
  results = [r if r.learning_rate <= 1e-3 else result(r.learning_rate, None)
             for r in ladder(1e-2, 1)]  # fmt: skip
  [growth] = answer_of(results + ladder(1e-2, 2)).growth
  assert growth.best_rates[0] == pytest.approx(1e-3)


def test_what_decay_gains():
  results = [
    r
    for seed, luck in enumerate((0.0, 0.03, -0.03))
    for r in ladder(1e-3, 1, 'constant', 0.8 + luck, seed)
    + ladder(1e-2, 1, 'step_decay', 0.9 + luck, seed)
  ]
  answer = answer_of(results)
  [gain] = answer.gains
  assert (gain.schedule, gain.over) == ('step_decay', 'constant')
  assert gain.gain == pytest.approx(0.1)
  # In pairs the luck of a seed drops out; what is left is counting 1,000 images, twice.
  assert gain.error == pytest.approx(1.96 * np.sqrt((0.8 * 0.2 + 0.9 * 0.1) / 1000), rel=1e-3)
  assert 'step_decay gains +10.0 ± ' in answer.verdict.sentence


def test_seeds_that_gain_unlike_each_other_widen_the_interval():
  results = [
    r
    for seed, gain in enumerate((0.08, 0.1, 0.12))
    for r in ladder(1e-3, 1, 'constant', 0.8, seed)
    + ladder(1e-3, 1, 'step_decay', 0.8 + gain, seed)
  ]
  [gain] = answer_of(results).gains
  counting = 1.96 * np.sqrt((0.8 * 0.2 + 0.9 * 0.1) / 1000)
  of_seeds = 4.30265 * 0.02 / np.sqrt(3)  # two degrees of freedom, of a table of Student's t
  assert gain.error == pytest.approx(np.hypot(counting, of_seeds), rel=1e-4)


def test_what_is_not_told_apart_is_not_claimed():
  results = ladder(1e-3, 1) + ladder(1e-3, 1, 'step_decay', 0.905)
  assert 'step_decay is not told apart: +0.5 ± ' in answer_of(results).verdict.sentence


def test_a_setting_where_all_diverged():
  results = ladder(1e-3, 1) + [result(rate, None, 2) for rate in RATES]
  answer = answer_of(results)
  assert answer.verdict.learning_rate == pytest.approx(1e-3)
  assert answer.growth == ()
  nothing = answer_of([result(r, None, b) for b in (1, 2) for r in RATES])
  assert nothing.verdict.learning_rate is None


def test_short_runs_tell_of_the_edge_alone():
  results = [result(1e-2, None), result(2.05e-3, None), result(1.78e-3, 0.2), result(1e-4, 0.3)]
  sentence = axes.answer(results, np.arange(10), 'validation_accuracy', True).verdict.sentence
  assert sentence.startswith('Training is stable up to 1.78e-03 and diverges from 2.05e-03 on, a ')
  assert 'factor of 1.15' in sentence
  stable = axes.answer(results[2:], np.arange(10), 'validation_accuracy', True)
  assert stable.verdict.sentence == 'Training is stable up to 1.78e-03 at least, in 2 epochs.'
  broken = axes.answer(results[:2], np.arange(10), 'validation_accuracy', True)
  assert broken.verdict.sentence.startswith('No rate is stable: 2.05e-03 diverges')
