"""Heights of the learning rate, to the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lr_study import plugs, schedules
from lr_study.errors import StudyError


def heights(steps_per_epoch, epochs, name='step_decay', **arguments):
  schedule = schedules.build({'name': name, **arguments}, steps_per_epoch, epochs)
  return schedules.heights(schedule, steps_per_epoch * epochs)


def by_epoch(found, epochs):
  """One height per epoch; fails if it changes within an epoch."""
  found = found.reshape(epochs, -1)
  assert (found == found[:, :1]).all()
  return found[:, 0]


def test_step_decay_drops_when_every_10th_epoch_is_done():
  expected = np.float32([1.0] * 10 + [0.1] * 10 + [0.01] * 10)
  assert (by_epoch(heights(7, 30), 30) == expected).all()


def test_step_decay_of_digits_drops_a_tenth_of_an_epoch_early():
  found = heights(10, 30, every_epochs=9.9)
  assert (np.flatnonzero(np.diff(found)) + 1 == [99, 198, 297]).all()


def test_step_decay_has_at_most_1000_drops():
  assert heights(1, 1000, every_epochs=1.0, factor=0.999)[-1] == np.float32(0.999**999)
  with pytest.raises(StudyError, match=r'^schedule.every_epochs is 0.5; .* more than 1000 drops'):
    heights(1, 501, every_epochs=0.5)


def test_constant():
  assert (heights(3, 4, name='constant') == 1).all()


def test_piecewise_is_the_published_example():
  expected = np.float32([1.0] * 10 + [0.1] * 9 + [0.01] * 11)
  assert (by_epoch(heights(3, 30, name='piecewise'), 30) == expected).all()


def test_piecewise_may_rise_again_and_go_on_for_ever():
  arguments = {'from_epochs': (2, 4, 2**30), 'heights': (0.5, 2.0, 9.0)}
  found = by_epoch(heights(2, 4, name='piecewise', **arguments), 4)
  assert found.tolist() == [1.0, 0.5, 0.5, 2.0]


@pytest.mark.parametrize(('arguments', 'says'), [
  ({'from_epochs': (2,)}, 'schedule.from_epochs has 1 entries and schedule.heights 2'),
  ({'from_epochs': (3, 2)}, r'schedule.from_epochs is \(3, 2\); it must be epochs in rising order'),
  ({'from_epochs': (1, 2)}, r'schedule.from_epochs is \(1, 2\); it must be .* from 2 on'),
  ({'heights': (0.1, 0.0)}, r'schedule.heights is \(0.1, 0.0\); it must be numbers above 0'),
  ({'height': (0.1, 0.2)}, 'schedule.height: no such field .* did you mean .*heights'),
])  # fmt: skip
def test_what_is_wrong_is_told(arguments, says):
  with pytest.raises(StudyError, match=says):
    heights(2, 9, name='piecewise', **arguments)


def test_exponential_climbs_by_one_factor_to_1():
  found = heights(5, 4, name='exponential', start_height=1e-3)
  np.testing.assert_allclose(found[[0, -1]], [1e-3, 1.0], rtol=1e-6)
  np.testing.assert_allclose(found[1:] / found[:-1], 1e3 ** (1 / 19), rtol=1e-5)


def test_those_that_fall_begin_at_1_and_end_above_their_final_height():
  for name in ('cosine', 'linear', 'polynomial', 'wsd'):
    for final in (0.0, 0.25):
      found = heights(10, 4, name=name, final_height=final)
      assert found[0] == 1
      assert final < found[-1] < final + 0.15
      assert (np.diff(found) <= 0).all()


def test_cosine_linear_and_polynomial_are_half_way_where_they_should_be():
  assert heights(10, 4, name='linear')[20] == 0.5
  np.testing.assert_allclose(heights(10, 4, name='cosine')[20], 0.5, rtol=1e-6)
  np.testing.assert_allclose(heights(10, 4, name='polynomial', power=3.0)[20], 0.125, rtol=1e-6)
  assert heights(10, 4, name='polynomial', power=1.0)[20] == 0.5


def test_inverse_sqrt_is_a_quarter_at_16_times_the_flat_steps():
  found = heights(10, 20, name='inverse_sqrt')
  assert (found[:11] == 1).all()
  np.testing.assert_allclose(found[160], 0.25, rtol=1e-6)
  warm = heights(10, 20, name='inverse_sqrt', warmup_epochs=1.0)  # Vaswani and others, section 5.3
  steps = np.arange(1, 11)
  np.testing.assert_allclose(warm[:10], steps / 10, rtol=1e-6)
  assert (warm[10:] == found[10:]).all()


def test_wsd_rises_stays_and_falls():
  found = heights(10, 10, name='wsd', warmup_epochs=1.0, decay_share=0.2)
  np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert (found[10:81] == 1).all()
  np.testing.assert_allclose(found[80:], np.arange(20, 0, -1) / 20, rtol=1e-5)


def test_one_cycle_is_pytorchs_in_its_corners():
  found = heights(10, 10, name='one_cycle')
  np.testing.assert_allclose(found[[0, 30]], [0.04, 1.0], rtol=1e-6)
  assert (np.diff(found[:31]) > 0).all()
  assert (np.diff(found[30:]) < 0).all()
  assert 4e-6 < found[-1] < 1e-3
  np.testing.assert_allclose(found[15], 0.52, rtol=1e-5)


@pytest.mark.parametrize('warmup', [1.0, 1.5])
def test_warmup_is_linear_and_moves_no_drop(warmup):
  plain = heights(10, 4, every_epochs=2.0)
  warm = heights(10, 4, every_epochs=2.0, warmup_epochs=warmup)
  steps = round(10 * warmup)
  np.testing.assert_allclose(warm[:steps], np.arange(1, steps + 1) / steps, rtol=1e-6)
  assert (warm[steps:] == plain[steps:]).all()
  assert (heights(10, 4, every_epochs=2.0, warmup_steps=steps) == warm).all()


def test_one_warmup_at_most():
  with pytest.raises(StudyError, match='set one to 0'):
    heights(10, 4, warmup_epochs=1.0, warmup_steps=10)
  with pytest.raises(StudyError, match='set one to 0'):
    schedules.build({'name': 'cosine', 'warmup_epochs': 1.0}, 10, 4, ('warmup_steps',))


# What can be swept ----------------------------------------------------------------------------

SWEPT = {
  'constant': {'warmup_epochs': (0.0, 0.25, 2.0)},
  'step_decay': {'every_epochs': (1.0, 0.7, 3.3), 'factor': (0.1, 0.5, 1.0)},
  'piecewise': {'warmup_steps': (0, 1, 7)},
  'exponential': {'start_height': (1e-8, 0.1, 1.0)},
  'cosine': {'warmup_steps': (0, 5, 10), 'final_height': (0.0, 0.1, 0.5)},
  'linear': {'final_height': (0.0, 0.1, 0.5)},
  'polynomial': {'power': (1.0, 2.0, 0.5), 'final_height': (0.0, 0.1, 0.5)},
  'inverse_sqrt': {'flat_epochs': (0.01, 1.0, 3.0)},
  'wsd': {'decay_share': (0.01, 0.5, 1.0), 'final_height': (0.0, 0.1, 0.5)},
  'one_cycle': {'rise_share': (0.01, 0.3, 1.0), 'start_height': (0.0, 0.04, 0.5)},
}


@pytest.mark.parametrize('name', schedules.KNOWN)
def test_what_is_swept_gives_the_heights_of_each_value(name):
  """In one program, to rounding: a power of a Python number is taken in double precision."""
  values = SWEPT[name]
  schedule = schedules.build({'name': name}, 10, 5, tuple(values))
  steps = jnp.arange(50)

  def of_trial(swept):
    return jax.vmap(lambda step: schedule(step, **swept))(steps)

  found = jax.jit(jax.vmap(of_trial))({n: jnp.float32(x) for n, x in values.items()})
  for i in range(3):
    alone = heights(10, 5, name=name, **{n: x[i] for n, x in values.items()})
    np.testing.assert_allclose(found[i], alone, rtol=2e-6, atol=1e-7)
    assert np.isfinite(alone).all()


@pytest.mark.parametrize('name', schedules.KNOWN)
def test_every_number_can_be_swept(name):
  numbers = {
    field
    for field, default in plugs.fields('schedule', schedules.KNOWN[name]).items()
    if not isinstance(default, tuple)
  }
  assert set(schedules.may_sweep({'name': name})) == numbers
  assert {'warmup_epochs', 'warmup_steps'} <= numbers


def test_no_tuple_and_no_unknown_name_is_swept():
  for name in ('heights', 'power'):
    with pytest.raises(StudyError, match=rf'^schedule\.{name}'):
      schedules.build({'name': 'piecewise'}, 10, 5, (name,))


def test_heights_of_chosen_steps_and_of_a_trials_own_numbers():
  schedule = schedules.build({'name': 'cosine'}, 10, 4, ('final_height',))
  found = schedules.heights(schedule, np.asarray([0, 20, 40]), final_height=0.5)
  np.testing.assert_allclose(found, [1.0, 0.75, 0.5], rtol=1e-6)
  assert found.dtype == np.float32


# Functions of the user's own ------------------------------------------------------------------

OWN = """
import jax.numpy as jnp

def sawtooth(steps_per_epoch, teeth=2.0):
  return lambda step: 1 - (teeth * step / steps_per_epoch) % 1

def number(epochs):
  return 0.5

def several(epochs):
  return lambda step: jnp.ones(3)

def broken(epochs):
  return lambda step: step.missing

def branching(epochs, power=1.0):
  if power > 1:
    return lambda step: step * 0.0
  return lambda step: step * 1.0
"""


@pytest.fixture
def own(tmp_path):
  """A function: name -> config of a schedule of the user's own."""
  file = tmp_path / 'my_schedules.py'
  file.write_text(OWN)
  return lambda name: {'name': f'{file}:{name}'}


def test_a_schedule_of_ones_own_with_the_warmup_of_all(own):
  schedule = schedules.build(own('sawtooth') | {'warmup_steps': 2}, 8, 1, ('teeth',))
  found = schedules.heights(schedule, 8, teeth=4.0)
  assert found.tolist() == [0.5, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5]
  assert set(schedules.may_sweep(own('sawtooth'))) == {'teeth', 'warmup_epochs', 'warmup_steps'}


@pytest.mark.parametrize(('name', 'says'), [
  ('number', r'number \(.*my_schedules.py:7\) gave 0.5; it must return a function of the step'),
  ('several', r'several \(.*\) gave heights of shape \(3,\) for a step; it must return one number'),
  ('broken', r'my_schedules.py:14: in broken, .*: AttributeError: .*missing'),
])  # fmt: skip
def test_a_schedule_that_does_not_fit_is_told_in_one_line(own, name, says):
  with pytest.raises(StudyError, match=says) as told:
    schedules.build(own(name), 8, 1)
  assert '\n' not in str(told.value)


def test_what_a_schedule_branches_on_cannot_be_swept(own):
  says = r'schedule.power cannot be an axis of one program: .*my_schedules.py:17'
  with pytest.raises(StudyError, match=says):
    schedules.build(own('branching'), 8, 1, ('power',))
  assert 'power' not in schedules.may_sweep(own('branching'))
