"""Many trials at once: each is what it would be alone, whatever runs beside it, and wherever."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import make_tiny
from helpers import load, planned, train

from lr_study import data, feed, memory, parallel, plan, training, trial
from lr_study.programs import Arrays, compiled_programs

RATES = (1e-3, 1e-4, 1e-5)  # stable ones: near the edge of stability rounding is amplified
# Sooner or later rounding makes a maximum of a pooling change place, and a loss jumps by 1e-3.
STEPS = 25


def assert_same(curve, other):
  """To rounding, by the curve's largest value: a small loss is what large logits leave."""
  np.testing.assert_allclose(curve, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


@pytest.fixture
def tiny(tiny):
  tiny.model.convolution = 'matmul'  # with it a call takes up to 16 steps
  return tiny


@pytest.fixture(scope='module')
def solo(cache_dir):
  config = make_tiny(cache_dir)
  config.model.convolution = 'matmul'
  config, data_set = load(config)
  return [train(config, data_set, [rate], [0], STEPS)[0] for rate in RATES]


@pytest.mark.parametrize('how', parallel.HOW)
def test_curves_are_those_of_solo_runs(tiny, solo, how):
  """Three trials: with pmap on four devices one device trains a copy, which is not reported."""
  config, data_set = load(tiny)
  together, _, _ = train(config, data_set, RATES, [0] * 3, STEPS, how)
  for name, curves in together._asdict().items():
    assert curves.shape == (STEPS, 3)
    for curve, alone in zip(curves.T, solo, strict=True):
      assert_same(curve, getattr(alone, name)[:, 0])


def test_pmap_spreads_trials_evenly_and_drops_the_filling(tiny):
  config, data_set = load(tiny)
  one = trial.make_trial(config, 10, 60)
  trials = parallel.make_trials(one, [0] * 6, 'pmap', 1, 8, trials_per_call=2)
  x_T = trials.to_devices(np.arange(6.0))
  assert [x.shape for x in x_T] == [(4, 2)]
  assert {shard.data.shape for shard in x_T[0].addressable_shards} == {(1, 2)}
  assert np.asarray(x_T).ravel().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
  assert trials.to_host(x_T).tolist() == [0, 1, 2, 3, 4, 5]
  assert len(data_set.classes) == 10


def test_a_trial_that_goes_to_nan_is_alone_in_it(tiny, solo):
  config, data_set = load(tiny)
  together, _, _ = train(config, data_set, (1e3, *RATES), [0] * 4, STEPS)
  assert np.isnan(together.loss[-1, 0])
  assert np.isnan(together.accuracy[-1, 0])
  assert np.isfinite(together.loss[:, 1:]).all()
  for curve, alone in zip(together.loss[:, 1:].T, solo, strict=True):
    assert_same(curve, alone.loss[:, 0])


def test_trials_of_a_seed_share_weights_order_and_masks(tiny):
  """With the same rate they are the same to the bit; another seed differs from the first step."""
  tiny.model.dropout = 0.5
  config, data_set = load(tiny)
  metrics, _, _ = train(config, data_set, [1e-4] * 3, [7, 7, 8], 20)
  assert (metrics.loss[:, 0] == metrics.loss[:, 1]).all()
  assert (metrics.loss[:, 0] != metrics.loss[:, 2]).all()


def test_seeds_together_are_seeds_alone(tiny):
  config, data_set = load(tiny)
  both, _, _ = train(config, data_set, [1e-5] * 2, [3, 4], STEPS)
  for column, seed in enumerate((3, 4)):
    alone, _, _ = train(config, data_set, [1e-5], [seed], STEPS)
    assert_same(both.loss[:, column], alone.loss[:, 0])


def test_an_epoch_sees_every_image_once(tiny):
  config, data_set = load(tiny)
  images = len(data_set.train.labels)
  one = trial.make_trial(config, 10, images)
  trials = parallel.make_trials(one, [0], 'vmap', 1, 8)
  seed_T = trials.to_devices(np.zeros(1, np.uint32))
  first, second = (np.asarray(trials.order(seed_T, epoch, images)[0]) for epoch in (0, 1))
  assert sorted(first) == sorted(second) == list(range(images))
  assert (first != second).any()


@pytest.mark.parametrize('convolution', ['grouped', 'matmul'])
def test_evaluation_counts_every_image_once(tiny, convolution):
  """At a batch that does not divide the images, the last one hangs over.

  As matrix products the convolutions of 20 images are computed in two parts.
  """
  tiny.model.convolution = convolution
  config, data_set = load(tiny)
  images, totals = len(data_set.train.labels), {}
  assert images % 7
  for eval_batch in (7, 20, images):
    one = trial.make_trial(config, 10, images)
    trials = parallel.make_trials(one, [0, 0], 'vmap', 1, eval_batch)
    part = feed.Resident(data_set.train, 'vmap')
    state_T = trials.init(trials.to_devices(np.zeros(2, np.uint32)))
    found = trials.eval_steps(state_T, part.windows(trials), data_set.mean)
    found = [trials.to_host(total_T) for total_T in found]
    assert len(found) == -(-images // eval_batch)
    totals[eval_batch] = jax.tree.map(lambda *x: np.sum(x, 0), *found)
  for eval_batch in (7, 20):
    np.testing.assert_allclose(totals[eval_batch].loss, totals[images].loss, rtol=1e-5)
    assert (totals[eval_batch].correct == totals[images].correct).all()
  assert (totals[7].loss > 0).all()


def test_no_rate_compiles_twice(tiny):
  """Steps at other rates find the compiled programs."""
  config, data_set = load(tiny)
  _, _, trials = train(config, data_set, [1e-3, 1e-4], [0, 0], 2)
  seed_T = trials.to_devices(np.zeros(2, np.uint32))
  part, mean = feed.Resident(data_set.train, 'vmap'), parallel.share(data_set.mean, 'vmap')
  order_S, compiled = trials.order(seed_T, 0, len(data_set.train.labels)), []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: compiled.append(event) if 'backend_compile' in event else None
  )
  try:
    for rates in ((0.1, 0.2), (1e-5, 3e-7)):
      state_T = trials.init(seed_T)
      rate_T = trials.to_devices(np.asarray(rates, np.float32))
      chunks = part.chunks(trials, order_S, 1, 4)
      trials.train_steps(state_T, rate_T, seed_T, chunks, mean, 1)
    assert not compiled
    jax.jit(lambda x: x * 3 + len(compiled))(np.ones(3))
    assert compiled  # the listener does hear of compilations
  finally:
    jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize('how', parallel.HOW)
def test_trials_in_several_calls_are_trials_in_one(tiny, how):
  """Five trials, at most two in a call: the last call is filled up, and its copy is not seen."""
  config, data_set = load(tiny)
  rates, seeds = np.geomspace(1e-4, 1e-6, 5), [0, 0, 1, 1, 2]
  one, state, _ = train(config, data_set, rates, seeds, STEPS, how)
  config.trials_per_call = 2 if how == 'vmap' else 1
  several, split_state, _ = train(config, data_set, rates, seeds, STEPS, how)
  assert several.loss.shape == (STEPS, 5)
  assert_same(several.loss, one.loss)
  for a, b in zip(jax.tree.leaves(split_state), jax.tree.leaves(state), strict=True):
    # Elements are sums that cancel: they round as the array's largest does.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_on_a_cpu_a_trial_has_the_same_bits_beside_any_number(tiny):
  """Promise 2 to the bit: with one trial a call, the same program runs whatever is beside it."""
  tiny.trials_per_call = 0
  config, data_set = load(tiny)
  alone, _, _ = train(config, data_set, [1e-5], [0], STEPS)
  beside, _, _ = train(config, data_set, [1e-3, 1e-5, 1e-1], [0, 0, 0], STEPS)
  assert (beside.loss[:, 1] == alone.loss[:, 0]).all()


@pytest.mark.parametrize('convolution', ['grouped', 'matmul'])
def test_stops_on_the_way_change_no_bit(tiny, convolution):
  """However the steps of an epoch are asked for, and whatever chunks that makes."""
  tiny.model.convolution, tiny.data.per_class = convolution, 12
  config, data_set = load(tiny)
  study = training.prepare(config, data_set)._replace(trials=tuple(planned(RATES, [0] * 3, 1)))
  running, found = training.run_together(study, np.arange(3)), []
  assert study.steps_per_epoch == 90
  for stops in ((90,), (1, 7, 40, 64, 70, 89, 90)):
    state_T, rows, first = running.trials.init(running.seed_T), [], 0
    for last in stops:
      state_T, curves, ends = training.train_steps(study, running, state_T, 0, first, last)
      assert bool(ends) == (last == 90)
      rows, first = [*rows, curves['loss']], last
    found.append((np.concatenate(rows), ends['update_ratio'], running.trials.to_host(state_T)))
  for a, b in zip(*(jax.tree.leaves(f) for f in found), strict=True):
    np.testing.assert_array_equal(a, b)


def test_memory_grows_with_the_network(tiny):
  config, data_set = load(tiny)
  found = []
  for width in (1 / 16, 1 / 4):
    config.model.width = width
    one = trial.make_trial(config, 10, 60)
    trials = parallel.make_trials(one, [0, 0, 0], 'vmap', 1, 8)
    state = trials.to_host(trials.init(trials.to_devices(np.zeros(3, np.uint32))))
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 3
    part = feed.Resident(data_set.train, 'vmap')
    order_S = trials.order(trials.to_devices(np.zeros(3, np.uint32)), 0, 60)
    found.append(trials.memory(data_set.mean, next(part.chunks(trials, order_S, 0, 1))))
    assert found[-1].trial == 4 * size  # and what a checkpoint takes
    init = compiled_programs(one, 'vmap', 1, trials.most_steps, 8, one_seed=True).init
    drawing = init.lower(np.zeros(1, np.uint32)).compile().memory_analysis().temp_size_in_bytes
    assert found[-1].trial + found[-1].call >= size + drawing  # enough where only one fits
    assert found[-1].call > 8 * 67 * 67 * 3 * 4  # at least an evaluation's images as floats
  assert found[1].trial > found[0].trial
  assert found[1].call > found[0].call


def test_memory_is_enough_for_an_evaluation(tiny):
  """Of large windows, two laid out at a time: one is made while trials evaluate the other."""
  config, data_set = load(tiny)
  one = trial.make_trial(config, 10, 60)
  trials = parallel.make_trials(one, [0], 'vmap', 1, 400)
  seed_T = trials.to_devices(np.zeros(1, np.uint32))
  part, mean = feed.Resident(data_set.train, 'vmap'), data_set.mean
  chunk = next(part.chunks(trials, trials.order(seed_T, 0, 60), 0, 1))
  programs = compiled_programs(one, 'vmap', 1, trials.most_steps, 400, one_seed=True)
  (batch, weight), state = next(part.windows(trials)), trials.init(seed_T)[0]
  inputs = programs.eval_inputs(batch.images, mean)
  laying_out = programs.eval_inputs.lower(batch.images, mean)
  evaluating = programs.eval_step.lower(state, inputs, batch.labels, weight)
  needed = [lowered.compile().memory_analysis() for lowered in (laying_out, evaluating)]
  temporary = sum(of_program.temp_size_in_bytes for of_program in needed)
  kept = sum(x.nbytes for x in jax.tree.leaves((inputs, batch)))
  assert trials.memory(mean, chunk).call >= temporary + 2 * kept


@pytest.mark.parametrize('how', parallel.HOW)
def test_all_is_compiled_when_memory_is_known(tiny, how, request):
  """Nothing is compiled again, or read from the cache, when trials call it."""
  tiny.parallel, tiny.trials_per_call = how, 1
  config, data_set = load(tiny)
  study = training.prepare(config, data_set)._replace(trials=tuple(planned(RATES * 3, [0] * 9, 1)))
  running = training.run_together(study, np.arange(9))
  trials, end, compiled = running.trials, study.steps_per_epoch, []
  trials.memory(study.mean, next(training.chunks(study, running, 0, 0, 1)))
  windows = list(study.validation.windows(trials))

  def note(event, seconds, **_):
    compiled.extend([seconds] if event == '/jax/core/compile/backend_compile_duration' else [])

  jax.monitoring.register_event_duration_secs_listener(note)
  request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(note))
  state_T = trials.init(running.seed_T)
  state_T, *_ = training.train_steps(study, running, state_T, 0, end - 9, end)  # measured, folded
  # As a checkpoint comes back.
  state_T = trials.to_devices(trials.to_host(state_T))
  state_T, *_ = training.train_steps(study, running, state_T, 0, 0, 9)
  trials.eval_steps(trials.fold(state_T), windows, study.mean)
  assert not compiled
  jax.jit(lambda x: x + 1)(end)
  assert len(compiled) == 1  # the event's name is right


def test_devices_of_a_cpu_share_its_memory(monkeypatch):
  need = memory.Memory(trial=10, call=20, devices=4)
  trials = SimpleNamespace(memory=lambda mean, chunk: need)
  monkeypatch.setattr(memory, 'free_memory', lambda: 400)
  # A quarter each, and of that 80 for trials: 8 of them on each of the four.
  assert max(plan.waves(trials, None, None, 32, 1, limit=0)) == 0
  assert max(plan.waves(trials, None, None, 33, 1, limit=0)) == 1
  # What is given by hand is a device's.
  assert max(plan.waves(trials, None, None, 33, 1, limit=400)) == 0


def test_an_estimate_counts_once_what_all_trials_share(tiny, capsys, monkeypatch):
  """Of an evaluation: the images as all take them, then five trials, two at a time."""
  tiny.trials_per_call, tiny.eval_batch_size = 1, 10
  config, data_set = load(tiny)
  trials = tuple(planned([1e-4] * 5, range(5), 2))
  study = training.prepare(config, data_set)._replace(trials=trials)
  # A step to warm up, four steps, a fold, a window read, what all share, and that with two trials.
  seconds = iter((0.25, 0.4, 0.02 * study.trial.fold_every, 4.0, 1.0, 3.0))
  monkeypatch.setattr(plan, '_timed', lambda function, *of: (function(*of), next(seconds)))
  monkeypatch.setattr(parallel, 'calls_at_once', lambda how: 2)
  assert (study.steps_per_epoch, len(study.validation.labels)) == (60, 20)
  plan.announce(study, training.run_together(study, np.arange(5)), 2)
  # Two epochs of 60 steps, and of two windows.
  in_all = round(2 * (60 * (0.1 + 0.02) + 2 * (4 + 1 + 3 * 2)))
  assert f'2 epochs of 60 steps, 120 ms a step: about {in_all} s' in capsys.readouterr().out


def test_the_loop_of_steps_copies_no_weights(tiny):
  """What a step reads and writes, XLA copies first unless it is told to look closer."""
  tiny.model.dense = 'factored'
  config, data_set = load(tiny)
  one = trial.make_trial(config, 10, 60)
  programs = compiled_programs(one, 'vmap', 1, 16, 8, one_seed=True)
  seed, rate = np.zeros(1, np.uint32), np.zeros(1, np.float32)
  state = jax.eval_shape(programs.init, seed)
  order = np.arange(60, dtype=np.int32)
  arrays = Arrays(data_set.train.images, data_set.train.labels)
  program = programs.train_steps.lower(state, rate, seed, arrays, order, data_set.mean, 0, 0, 1)
  copied = re.findall(r'f32\[([\d,]+)\]\S* copy\(%get-tuple-element', program.compile().as_text())
  shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim > 2]
  # With the trial axis, and without it.
  weights = {','.join(map(str, some)) for shape in shapes for some in (shape, shape[1:])}
  assert '3,3,24,24' in weights  # a kernel of the convolutions
  assert not weights.intersection(copied)


@pytest.mark.parametrize('convolution', ['grouped', 'matmul'])
def test_a_step_lowers_for_cuda(tiny, convolution):
  """No GPU is needed to see that XLA can be asked for one; nothing is compiled."""
  tiny.model.convolution = convolution
  config, data_set = load(tiny)
  one = trial.make_trial(config, 10, 60)

  def step(state, rate, seed, images, labels, mean):
    key = jax.random.key(seed)
    inputs = one.prepare(images, mean, key, 3)
    state, metrics = one.train_step(state, rate, inputs, labels, key, 3)
    return one.fold(state), metrics

  state_T = jax.eval_shape(jax.vmap(lambda s: one.init(jax.random.key(s))), np.zeros(7, np.uint32))
  many = jax.jit(jax.vmap(step, in_axes=(0, 0, None, None, None, None)))
  batch = data_set.train.images[:1], data_set.train.labels[:1]
  exported = jax.export.export(many, platforms=['cuda'])(
    state_T, np.zeros(7, np.float32), np.uint32(0), *batch, data_set.mean
  )
  assert exported.platforms == ('cuda',)
  assert ('feature_group_count = 7' in exported.mlir_module()) == (convolution == 'grouped')


def test_balanced_accuracy_is_the_mean_over_classes(tiny):
  """That of unequal classes beside the accuracy on each class alone; two classes are missing."""
  config, data_set = load(tiny)
  keep = np.repeat(np.arange(8), (7, 6, 5, 4, 3, 2, 1, 1))
  part = data.Part(data_set.train.images[: len(keep)], keep.astype(np.int32))

  def accuracies(part):
    study = training.prepare(config, data_set._replace(validation=part))
    study = study._replace(trials=tuple(planned(config.learning_rates[:2], (0, 0), 1)))
    running = training.run_together(study, np.arange(2))
    found = training.evaluate(study, running, running.trials.init(running.seed_T))
    return found['validation_accuracy'], found['validation_balanced_accuracy']

  alone = [accuracies(data.Part(*(x[keep == label] for x in part)))[0] for label in range(8)]
  assert np.sum(alone) > 0  # the untrained network is right about some
  plain, balanced = accuracies(part)
  np.testing.assert_allclose(balanced, np.mean(alone, 0), atol=1e-12)
  np.testing.assert_allclose(plain, np.average(alone, 0, np.bincount(keep)), atol=1e-12)


@pytest.mark.parametrize('how', parallel.HOW)
@pytest.mark.parametrize('trials_per_call', [1, 2])
def test_those_that_stay_keep_their_state(tiny, how, trials_per_call):
  config, data_set = load(tiny)
  config.trials_per_call = trials_per_call
  rates, good = [1e-4, 1e-3, 1e-5], np.array([True, False, True])
  _, state, trials = train(config, data_set, rates, [0, 1, 2], 2, how)
  one = trial.make_trial(config, len(data_set.classes), 60)
  fewer = parallel.make_trials(one, [0, 2], how, 1, 8, trials_per_call)
  kept = parallel.keep(trials, fewer, trials.to_devices(state), good)
  for a, b in zip(jax.tree.leaves(fewer.to_host(kept)), jax.tree.leaves(state), strict=True):
    assert (a == b[good]).all()
