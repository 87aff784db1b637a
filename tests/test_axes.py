"""The answer of a study with several settings, from made-up results."""

import dataclasses

import numpy as np
import pytest

from lr_study.answer import axes
from lr_study.answer.measure import ACCURACY, BALANCED, LOSS
from lr_study.answer.verdict import Result

GUESSING = np.log(10)
RATES = tuple(10.0 ** (-k / 2) for k in range(2, 11))  # 0.1 to 1e-5


def result(rate, accuracy, size=1, schedule='constant', seed=0, **axes):
  of = {name.replace('_', '.', 1): value for name, value in axes.items()}
  if accuracy is None:
    figures = (10, 0, *[None] * 5)
    return Result(rate, seed, size, schedule, 'diverged', '', 3, 1.0, *figures, axes=of)
  figures = (10, 2, 1.0, accuracy, 1 - accuracy, accuracy, accuracy)
  return Result(rate, seed, size, schedule, 'plateaued', '', None, None, *figures, axes=of)


def grid(peak, size, schedule='constant', height=0.9, seed=0, **axes):
  """Accuracy falls off as the square of the distance from the peak, over log10 of the rate."""
  return [
    result(rate, height - 0.1 * np.log10(rate / peak) ** 2, size, schedule, seed, **axes)
    for rate in RATES
  ]


def answer_of(results, measure=ACCURACY):
  return axes.answer(results, np.arange(1000) % 10, measure, GUESSING)


def test_one_setting_has_its_own_verdict():
  answer = answer_of(grid(1e-3, 1))
  assert answer.verdict.learning_rate == pytest.approx(1e-3)
  assert answer.growth == answer.gains == ()
  assert list(answer.of_setting.values()) == [answer.verdict]


def test_the_best_rate_grows_with_the_batch_size():
  """Peaks at 2e-4 sqrt(b), between the rates of the grid."""
  results = [r for b in (1, 4, 16, 64) for r in grid(2e-4 * b**0.5, b, height=0.8 + b / 1000)]
  answer = answer_of(results)
  [growth] = answer.growth
  assert growth.batch_sizes == (1, 4, 16, 64)
  # The curves are parabolas, so three points of each give the peak itself.
  np.testing.assert_allclose(growth.best_rates, 2e-4 * np.sqrt([1, 4, 16, 64]), rtol=1e-6)
  assert growth.exponent == pytest.approx(0.5)
  assert growth.error == pytest.approx(0, abs=1e-6)
  assert answer.verdict.sentence.startswith(
    'Of 4 settings, each at its best rate, the best validation accuracy is with batch size 64 and '
    'the schedule constant. Use '
  )
  assert 'to the power 0.50 ± 0.00' in answer.verdict.sentence


def test_two_batch_sizes_leave_no_interval():
  [growth] = answer_of(grid(1e-3, 1) + grid(1e-2, 10)).growth
  assert growth.exponent == pytest.approx(1.0)
  assert growth.error is None


def test_three_batch_sizes_off_a_line_leave_a_wide_interval():
  """Peaks at 1e-3, 2e-3 and 1e-3: a standard error of 1 / sqrt(3), with one degree of freedom."""
  [growth] = answer_of(grid(1e-3, 1) + grid(2e-3, 2) + grid(1e-3, 4)).growth
  assert growth.exponent == pytest.approx(0, abs=1e-6)
  assert growth.error == pytest.approx(12.7062 / np.sqrt(3), rel=1e-4)  # of a table of Student's t


def test_a_peak_beside_a_diverged_rate_is_the_rate_itself():
  results = [r if r.learning_rate <= 1e-3 else result(r.learning_rate, None)
             for r in grid(1e-2, 1)]  # fmt: skip
  [growth] = answer_of(results + grid(1e-2, 2)).growth
  assert growth.best_rates[0] == pytest.approx(1e-3)


def test_what_decay_gains():
  results = [
    r
    for seed, luck in enumerate((0.0, 0.03, -0.03))
    for r in grid(1e-3, 1, 'constant', 0.8 + luck, seed)
    + grid(1e-2, 1, 'step_decay', 0.9 + luck, seed)
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
    for r in grid(1e-3, 1, 'constant', 0.8, seed) + grid(1e-3, 1, 'step_decay', 0.8 + gain, seed)
  ]
  [gain] = answer_of(results).gains
  counting = 1.96 * np.sqrt((0.8 * 0.2 + 0.9 * 0.1) / 1000)
  of_seeds = 4.30265 * 0.02 / np.sqrt(3)  # two degrees of freedom, of a table of Student's t
  assert gain.error == pytest.approx(np.hypot(counting, of_seeds), rel=1e-4)


def test_what_is_not_told_apart_is_not_claimed():
  results = grid(1e-3, 1) + grid(1e-3, 1, 'step_decay', 0.905)
  assert 'step_decay shows no clear difference: +0.5 ± ' in answer_of(results).verdict.sentence


def test_a_setting_where_all_diverged():
  results = grid(1e-3, 1) + [result(rate, None, 2) for rate in RATES]
  answer = answer_of(results)
  assert answer.verdict.learning_rate == pytest.approx(1e-3)
  assert answer.growth == ()
  nothing = answer_of([result(r, None, b) for b in (1, 2) for r in RATES])
  assert nothing.verdict.learning_rate is None
  assert nothing.verdict.sentence.startswith(
    'None of 2 settings has a rate to use. With batch size 1 and the schedule constant: No rate '
    'works: all diverged.'
  )


def test_short_runs_tell_of_the_edge_alone():
  results = [result(1e-2, None), result(2.05e-3, None), result(1.78e-3, 0.2), result(1e-4, 0.3)]
  sentence = axes.answer(results, np.arange(10), ACCURACY, GUESSING, True).verdict.sentence
  assert sentence.startswith('Training is stable up to 1.78e-03 and diverges at 2.05e-03, a ')
  assert 'factor of 1.15' in sentence
  stable = axes.answer(results[2:], np.arange(10), ACCURACY, GUESSING, True)
  assert stable.verdict.sentence == 'Training is stable up to 1.78e-03 at least, in 2 epochs.'
  broken = axes.answer(results[:2], np.arange(10), ACCURACY, GUESSING, True)
  assert broken.verdict.sentence.startswith('No rate is stable: 2.05e-03 diverges')
  more = [dataclasses.replace(r, batch_size=4) for r in results[2:]]
  both = axes.answer(results + more, np.arange(10), ACCURACY, GUESSING, True)
  assert both.verdict.sentence == (
    f'With batch size 1 and the schedule constant: {sentence} With batch size 4 and the schedule '
    f'constant: {stable.verdict.sentence}'
  )
  assert both.growth == both.gains == ()


def test_a_further_axis_is_named_with_the_best_setting():
  results = grid(1e-3, 1, height=0.8, optimizer_momentum=0.0)
  results += grid(1e-2, 1, height=0.9, optimizer_momentum=0.9)
  answer = answer_of(results)
  assert list(answer.of_setting) == [results[0].setting, results[-1].setting]
  assert answer.verdict.axes == {'optimizer.momentum': 0.9}
  assert answer.verdict.learning_rate == pytest.approx(1e-2)
  assert answer.verdict.sentence.startswith(
    'Of 2 settings, each at its best rate, the best validation accuracy is with '
    'optimizer.momentum 0.9. Use 1'
  )
  assert answer.growth == ()  # 0 has no logarithm
  [gain] = answer.gains
  assert (gain.axis, gain.value, gain.over) == ('optimizer.momentum', 0.9, 0.0)
  assert gain.gain == pytest.approx(0.1)


def test_batch_sizes_and_schedules_are_compared_all_else_equal():
  results = [
    r
    for decay in (0.0, 1e-4)
    for size in (1, 4)
    for schedule, height in (('constant', 0.75), ('step_decay', 0.85))
    for r in grid(1e-3 * size, size, schedule, height + size / 100, optimizer_weight_decay=decay)
  ]
  answer = answer_of(results)
  assert len(answer.of_setting) == 8
  assert answer.verdict.sentence.startswith(
    'Of 8 settings, each at its best rate, the best validation accuracy is with batch size 4, the '
    'schedule step_decay and optimizer.weight_decay 0.'
  )
  assert [(g.schedule, g.axes['optimizer.weight_decay']) for g in answer.growth] == [
    ('constant', 0.0), ('step_decay', 0.0), ('constant', 1e-4), ('step_decay', 1e-4),
  ]  # fmt: skip
  assert all(growth.exponent == pytest.approx(1.0) for growth in answer.growth)
  of_schedules = [g for g in answer.gains if g.axis == 'schedule.name']
  assert [(g.batch_size, g.axes['optimizer.weight_decay']) for g in of_schedules] == [
    (1, 0.0), (4, 0.0), (1, 1e-4), (4, 1e-4),
  ]  # fmt: skip
  assert 'by batch size' not in answer.verdict.sentence  # two points tell no error
  assert 'At batch size 4, optimizer.weight_decay 0, each at its best rate, step_decay ' in (
    answer.verdict.sentence
  )


def test_settings_by_the_loss():
  """Here the loss is 1 - accuracy, so the same settings are best, and gains have the other sign."""
  results = [
    r
    for seed in (0, 1)
    for schedule, height in (('constant', 0.8), ('step_decay', 0.9))
    for size in (1, 4)
    for r in grid(1e-3 * size, size, schedule, height + seed / 50, seed)
  ]
  by_accuracy, by_loss = answer_of(results), answer_of(results, LOSS)
  assert by_loss.verdict.setting == by_accuracy.verdict.setting
  assert [g.exponent for g in by_loss.growth] == [pytest.approx(1.0)] * 2
  gain, _ = by_loss.gains
  assert gain.gain == pytest.approx(-0.1)
  assert gain.error == pytest.approx(0, abs=1e-9)  # the seeds agree, and no images are counted
  assert 'step_decay has a lower validation loss than constant: by -0.1 ± ' in (
    by_loss.verdict.sentence
  )
  assert answer_of([r for r in results if r.seed == 0], LOSS).gains == ()  # nothing tells of noise


def of_decays(*heights, seeds=(0.0,), measure=ACCURACY, images=1000):
  """The answer of a study of so many weight decays, 0, 1, ..., whose best values these are.

  `seeds`: by how much each seed is better with every setting.
  """
  results = [
    r
    for decay, height in enumerate(heights)
    for seed, luck in enumerate(seeds)
    for r in grid(1e-3, 1, height=(height if np.ndim(height) == 0 else height[seed]) + luck,
                  seed=seed, optimizer_decay=decay)
  ]  # fmt: skip
  return axes.answer(results, np.arange(images) % 10, measure, GUESSING)


ALIKE = 'The setting with optimizer.decay 1 may be just as good: these {} cannot separate them.'


def test_settings_are_told_apart_or_not():
  """85.0 against 83.3 % of 1,000 images may be chance; with three seeds that agree it is not."""
  one = of_decays(0.85, 0.833)
  assert ALIKE.format('images') in one.verdict.sentence
  assert [s.may_be_best for s in one.standings] == [True, True]
  assert [s.probability_best for s in one.standings] == [None, None]
  three = of_decays(0.85, 0.833, seeds=(0.0, 0.03, -0.03))  # the luck of a seed drops out
  assert 'The other setting did worse.' in three.verdict.sentence
  assert 'just as good' not in three.verdict.sentence
  best, other = three.standings
  assert (best.may_be_best, other.may_be_best) == (True, False)
  assert best.probability_best + other.probability_best == pytest.approx(1)
  assert best.probability_best > 0.9
  assert (best.learning_rate, best.value) == (pytest.approx(1e-3), pytest.approx(0.85))
  unlike = of_decays((0.88, 0.82, 0.85), (0.81, 0.86, 0.829), seeds=(0.0, 0.0, 0.0))
  assert ALIKE.format('seeds and images') in unlike.verdict.sentence
  assert 'did worse on these images' in of_decays(0.85, 0.6).verdict.sentence


def test_many_settings_are_named_in_part():
  answer = of_decays(0.85, 0.849, 0.848, 0.847, 0.846, 0.5)
  assert (
    'The settings with optimizer.decay 1; optimizer.decay 2; optimizer.decay 3; and 1 more may be '
    'just as good: these images cannot separate them. One other setting did worse on these '
    'images.'
  ) in answer.verdict.sentence


def test_settings_by_a_figure_without_noise_of_counting():
  """The noise of a single loss is unknown; with several seeds, their spread shows it."""
  one = of_decays(0.85, 0.6, measure=LOSS)
  assert ALIKE.format('figures') in one.verdict.sentence
  two = of_decays(0.85, 0.6, measure=LOSS, seeds=(0.0, 0.01, 0.005))
  assert 'The other setting did worse.' in two.verdict.sentence


def test_a_setting_without_a_rate_to_use_is_not_compared():
  broken = [result(rate, None, optimizer_decay=5) for rate in RATES]
  results = grid(1e-3, 1, height=0.9, optimizer_decay=0) + broken
  answer = axes.answer(results, np.arange(1000) % 10, ACCURACY, GUESSING)
  best, other = answer.standings
  assert (best.may_be_best, other.may_be_best, other.value) == (True, False, None)
  assert 'other setting' not in answer.verdict.sentence
  results += grid(1e-3, 1, height=0.5, optimizer_decay=6)
  sentence = axes.answer(results, np.arange(1000) % 10, ACCURACY, GUESSING).verdict.sentence
  assert 'One other setting with a rate to use did worse on these images.' in sentence


def test_a_setting_that_the_search_ended_early_is_not_compared():
  """The figures of such a setting are from a shorter training."""
  results = [
    dataclasses.replace(r, epochs=1 if decay == 0.1 else 2)
    for decay, height in ((0.0, 0.8), (0.1, 0.9), (0.2, 0.6))
    for r in grid(1e-3, 1, height=height, optimizer_decay=decay)
  ]
  answer = answer_of(results)
  ended = next(s for s in answer.of_setting if s.axes[0][1] == 0.1)
  assert answer.verdict.axes == {'optimizer.decay': 0.0}
  assert answer.of_setting[ended].sentence.startswith(
    'The search ended this setting after 1 of 2 epochs, when its answer was: Use 1e-03'
  )
  assert {s.axes['optimizer.decay']: s.may_be_best for s in answer.standings} == {
    0.0: True, 0.1: False, 0.2: False
  }  # fmt: skip
  assert ' One other setting with a rate to use did worse' in answer.verdict.sentence
  assert 'The search ended 1 setting early.' in answer.verdict.sentence
  assert not any(0.1 in (gain.value, gain.over) for gain in answer.gains)


def test_settings_of_unequal_classes_count_fewer_images():
  """With balanced accuracy, a class of 8 images has the noise of 8 images."""
  labels = np.repeat([0, 1, 2], [960, 30, 10])
  results = [r for d, height in ((0, 0.85), (1, 0.78)) for r in grid(1e-3, 1, height=height,
                                                                   optimizer_decay=d)]  # fmt: skip
  apart = axes.answer(results, labels, ACCURACY, GUESSING).standings[1]
  assert not apart.may_be_best
  results = [dataclasses.replace(r, validation_balanced_accuracy=r.validation_accuracy)
             for r in results]  # fmt: skip
  assert axes.answer(results, labels, BALANCED, GUESSING).standings[1].may_be_best


def test_the_best_rate_along_any_axis_of_numbers():
  """Separately for each of two widths; the sentence is about that of the best setting."""
  results = [
    r
    for optimizer, height in (('sgd', 0.8), ('adamw', 0.9))
    for width in (1, 2, 4)
    for r in grid(1e-3 / width, 1, height=height + width / 100, model_width=width,
                  optimizer_name=optimizer)
  ]  # fmt: skip
  answer = answer_of(results)
  assert [(g.axis, g.values, g.axes) for g in answer.growth] == [
    ('model.width', (1, 2, 4), {'optimizer.name': name}) for name in ('sgd', 'adamw')
  ]
  assert all(g.exponent == pytest.approx(-1) for g in answer.growth)
  assert all(g.batch_sizes == (1, 1, 1) for g in answer.growth)
  said = answer.verdict.sentence
  assert 'The best rate with constant, optimizer.name adamw, by model.width: 1e-03 at 1, ' in said
  assert 'it scales as model.width to the power -1.00 ± ' in said
  assert 'optimizer.name sgd, by' not in said
  gains = {(g.axis, g.value, g.over) for g in answer.gains}
  assert gains == {
    ('model.width', 2, 1), ('model.width', 4, 1), ('optimizer.name', 'adamw', 'sgd'),
  }  # fmt: skip


def test_every_setting_has_a_landscape():
  results = grid(2e-3, 1) + grid(1e-2, 4)
  found = answer_of(results).landscapes
  assert [of.batch_size for of in found] == [1, 4]
  assert [of.peak for of in found] == [pytest.approx(2e-3), pytest.approx(1e-2)]
  assert all(of.sensitivity > 0 for of in found)
