"""Many trials at once: each is the same as alone, whatever runs with it, on any device."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import make_tiny
from helpers import load, prepare, train
from ml_collections import ConfigDict

from lr_study import data, memory, plan, trials, vectorize
from lr_study.config import check
from lr_study.vectorize import Pace

HOW = ('threads', *vectorize.HOW)
RATES = (1e-2, 1e-3, 1e-4)  # stable ones: near the edge of stability rounding is amplified
# Sooner or later rounding makes a maximum of a pooling change place, and a loss jumps by 1e-3.
STEPS = 25


def assert_same(curve, other):
  """To rounding, by the curve's largest value: a small loss is what large logits leave."""
  np.testing.assert_allclose(curve, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


def make_config(cache_dir):
  """A network with convolutions, as products, and a dense layer of 128 x 256, as factors."""
  config = make_tiny(cache_dir)
  config.image_size, config.accelerate, config.parallel = 64, 'auto', 'threads'
  config.model = ConfigDict({'name': 'small_cnn', 'dropout': 0.0})
  config.input = ConfigDict({'name': 'images', 'grey': True, 'size': 20, 'standardise': True})
  return config


@pytest.fixture
def tiny(cache_dir):
  return make_config(cache_dir)


@pytest.fixture(scope='module')
def solo(cache_dir):
  config, data_set = load(make_config(cache_dir))
  return [train(config, data_set, [rate], [0], STEPS, 'threads')[0] for rate in RATES]


@pytest.mark.parametrize('how', HOW)
def test_curves_are_those_of_solo_runs(tiny, solo, how):
  """Three trials; on four devices one device trains a copy, which is not reported."""
  config, data_set = load(tiny)
  together, _, _ = train(config, data_set, RATES, [0] * 3, STEPS, how)
  for name, curves in together.items():
    assert curves.shape == (STEPS, 3)
    for curve, alone in zip(curves.T, solo, strict=True):
      assert_same(curve, alone[name][:, 0])


def test_pmap_and_shard_map_give_the_same_bytes(tiny):
  """shard_map must equal pmap, which may be removed from JAX one day."""
  config, data_set = load(tiny)
  rates, seeds = np.geomspace(1e-2, 1e-4, 5), [0, 0, 1, 1, 2]
  a, b = (train(config, data_set, rates, seeds, STEPS, how)[:2] for how in ('pmap', 'shard_map'))
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize('how', ['pmap', 'shard_map'])
def test_devices_take_as_many_trials_each_and_the_filling_is_dropped(tiny, how):
  config, data_set = load(tiny)
  config = config.copy_and_resolve_references().unlock()
  config.parallel = how
  spread = prepare(check(config), data_set, RATES)[0].spread
  x_T = spread.put(np.arange(6.0))
  assert {shard.data.size for shard in x_T.addressable_shards} == {2}
  assert np.asarray(x_T).ravel().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
  assert spread.get(x_T, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_trial_that_goes_to_nan_is_alone_in_it(tiny, solo):
  config, data_set = load(tiny)
  together, _, _ = train(config, data_set, (1e9, *RATES), [0] * 4, STEPS)
  assert np.isnan(together['loss'][-1, 0])
  assert np.isnan(together['accuracy'][-1, 0])
  assert np.isfinite(together['loss'][:, 1:]).all()
  for curve, alone in zip(together['loss'][:, 1:].T, solo, strict=True):
    assert_same(curve, alone['loss'][:, 0])


def test_trials_of_a_seed_share_weights_order_and_masks(tiny):
  """With the same rate they are the same to the bit; another seed differs from the first step."""
  tiny.model.dropout = 0.5
  config, data_set = load(tiny)
  metrics, _, _ = train(config, data_set, [1e-4] * 3, [7, 7, 8], 20)
  assert (metrics['loss'][:, 0] == metrics['loss'][:, 1]).all()
  assert (metrics['loss'][:, 0] != metrics['loss'][:, 2]).all()


def test_seeds_together_are_seeds_alone(tiny):
  config, data_set = load(tiny)
  both, _, _ = train(config, data_set, [1e-5] * 2, [3, 4], STEPS)
  for column, seed in enumerate((3, 4)):
    alone, _, _ = train(config, data_set, [1e-5], [seed], STEPS)
    assert_same(both['loss'][:, column], alone['loss'][:, 0])


def test_an_epoch_sees_every_image_once():
  first, second = (np.asarray(vectorize.order(np.uint32(0), np.int32(e), 60)) for e in (0, 1))
  assert sorted(first) == sorted(second) == list(range(60))
  assert (first != second).any()


def test_calls_end_where_the_state_settles_and_before_the_last_step():
  pace = Pace(steps_per_epoch=90, batch_size=1, steps_per_call=16, settle_every=20)
  parts = list(pace.parts(0, 90))
  steps = [step for start, stop, *_ in parts for step in range(start, stop)]
  assert steps == list(range(90))
  assert all(stop - start <= 16 for start, stop, *_ in parts)
  assert [stop for _, stop, settles, _ in parts if settles] == [20, 40, 60, 80, 90]
  assert [(start, stop) for start, stop, _, measured in parts if measured] == [(89, 90)]
  for cut in (1, 20, 55, 89):
    pieces = [*pace.parts(0, cut), *pace.parts(cut, 90)]
    assert [stop for _, stop, settles, _ in pieces if settles] == [20, 40, 60, 80, 90]


@pytest.mark.parametrize('how', ['threads', 'shard_map'])
def test_evaluation_counts_every_image_once(tiny, how):
  """If the batch size does not divide the images, the last window is padded."""
  tiny.parallel = how
  config, data_set = load(tiny)
  images = len(data_set.train.labels)
  assert images % 7
  sweep, now = prepare(config, data_set, RATES[:2])
  state_T, totals = sweep.spread.init(now.hyper_T, now.seeds), {}
  for size in (7, images):
    windows = list(sweep.train.windows(size))
    assert len(windows) == -(-images // size)
    sums = sweep.spread.evaluate(state_T, windows, 2)
    totals[size] = trials.values(sweep.task, sums, images)
  for name, found in totals[7].items():
    np.testing.assert_allclose(found, totals[images][name], rtol=1e-5)
  assert (totals[7]['validation_loss'] > 0).all()


@pytest.mark.parametrize('how', ['threads', 'vmap'])
def test_no_rate_compiles_twice(tiny, how, request):
  """Steps at other rates find the compiled programs."""
  tiny.parallel = how
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, [1e-3, 1e-4])
  other = prepare(config, data_set, [3e-4, 2e-6])[1]
  state_T, *_ = trials.train_steps(sweep, now, _start(sweep, now), 0, 0, 2)
  compiled = _count_compiled(request)
  trials.train_steps(sweep, other, state_T, 0, 2, 5)
  assert not compiled


@pytest.mark.parametrize('how', HOW)
def test_all_is_compiled_when_memory_is_known(tiny, how, request):
  """Nothing is compiled again, or read from the cache, when trials call it."""
  tiny.model = ConfigDict({'name': 'mlp', 'hidden': (16,)})
  tiny.parallel = how
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, RATES * 3)
  spread, end = sweep.spread, sweep.steps_per_epoch
  need, windows = plan.measure(sweep, now), list(sweep.validation.windows(50))
  vectorize.order(np.uint32(0), np.int32(0), 60)
  compiled = _count_compiled(request)
  state_T = _start(sweep, now)
  state_T, *_ = trials.train_steps(sweep, now, state_T, 0, end - 9, end)  # measured, settled
  state_T = spread.put(spread.get(state_T, 9))  # as a checkpoint comes back
  state_T, *_ = trials.train_steps(sweep, now, state_T, 0, 0, 9)
  spread.evaluate(spread.settle(state_T), windows, 9)
  assert not compiled
  jax.jit(lambda x: x + 1)(end)
  assert len(compiled) == 1  # the event's name is right
  assert need.trial > 0


def test_on_a_cpu_a_trial_has_the_same_bits_beside_any_number(tiny):
  """Promise 2 bitwise: in threads, the same program runs whatever runs with it."""
  config, data_set = load(tiny)
  alone, _, _ = train(config, data_set, [1e-5], [0], STEPS, 'threads')
  beside, _, _ = train(config, data_set, [1e-3, 1e-5, 1e9], [0, 0, 0], STEPS, 'threads')
  assert (beside['loss'][:, 1] == alone['loss'][:, 0]).all()


@pytest.mark.parametrize('how', ['threads', 'vmap'])
def test_stops_on_the_way_change_no_bit(tiny, how):
  """However the steps of an epoch are requested and divided into calls."""
  tiny.data.per_class, tiny.parallel = 12, how
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, RATES)
  assert sweep.steps_per_epoch == 90
  assert sweep.engine.every == 64
  found = []
  for stops in ((90,), (1, 7, 40, 64, 70, 89, 90)):
    state_T, rows, first = _start(sweep, now), [], 0
    for last in stops:
      state_T, curves, ends = trials.train_steps(sweep, now, state_T, 0, first, last)
      assert bool(ends) == (last == 90)
      rows, first = [*rows, curves['loss']], last
    found.append((np.concatenate(rows), ends['update_ratio'], sweep.spread.get(state_T, 3)))
  for a, b in zip(*(jax.tree.leaves(f) for f in found), strict=True):
    np.testing.assert_array_equal(a, b)


def test_memory_grows_with_the_network(tiny):
  found = []
  for width in (1, 2):
    tiny.model.width, tiny.parallel = width, 'threads'
    config, data_set = load(tiny)
    sweep, now = prepare(config, data_set, RATES)
    state = sweep.spread.get(_start(sweep, now), 3)
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 3
    found.append(plan.measure(sweep, now))
    assert found[-1].trial == 4 * size  # and what a checkpoint takes
    assert found[-1].call > 50 * 20 * 20 * 4  # at least an evaluation's images as floats
  assert found[1].trial > found[0].trial
  assert found[1].call > found[0].call


def test_images_that_stream_count_twice(tiny):
  found = []
  for resident in (True, False):
    tiny.data.resident = resident
    config, data_set = load(tiny)
    sweep, now = prepare(config, data_set, RATES)
    found.append(plan.measure(sweep, now).call)
  window = 50 * 64 * 64 * 3
  assert found[1] - found[0] == pytest.approx(2 * window, rel=0.1)


def test_devices_of_a_cpu_share_its_memory(tiny, monkeypatch):
  need = memory.Memory(trial=10, call=20, devices=4)
  monkeypatch.setattr(plan, 'measure', lambda sweep, now: need)
  monkeypatch.setattr(memory, 'free_memory', lambda: 400)
  config, data_set = load(tiny)

  def most(count, **changes):
    sweep, _ = prepare(config, data_set, [1e-3] * count)
    sweep = sweep._replace(config=SimpleNamespace(memory_gb=changes.get('memory_gb', 0)))
    return max(plan.waves(sweep, 1))

  # A quarter each, and of that 80 for trials: 8 of them on each of the four.
  assert most(32) == 0
  assert most(33) == 1
  # What is given by hand is a device's.
  assert most(33, memory_gb=400e-9) == 0


def test_the_estimate_is_steps_and_evaluations(tiny, capsys, monkeypatch):
  tiny.eval_batch_size = 10
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, [1e-4] * 5, range(5))
  sweep = sweep._replace(trials=tuple(t._replace(epochs=2) for t in sweep.trials))
  every = sweep.engine.every or 1
  # A step to warm up, four steps, settling, an evaluation's window.
  seconds = iter((0.25, 0.4, 0.02 * every, 3.0))
  monkeypatch.setattr(plan, '_timed', lambda function, *of: (function(*of), next(seconds)))
  assert (sweep.steps_per_epoch, len(sweep.validation.labels)) == (60, 20)
  plan.announce(sweep, now, 2)
  in_all = round(2 * (60 * (0.1 + 0.02) + 2 * 3.0))
  printed = capsys.readouterr().out
  assert f'2 epochs of 60 steps, 120 ms a step: about {in_all} s' in printed
  assert 'This takes' not in printed


@pytest.mark.parametrize(
  ('data', 'hint'), [('tombstone_letters', 'alexnet_letters:quick'), ('digits', 'Fewer epochs')]
)
def test_a_long_study_says_what_takes_less(data, hint, tiny, capsys, monkeypatch):
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, [1e-4])
  config = config.copy_and_resolve_references().unlock()
  config.data.name = data
  monkeypatch.setattr(plan, '_time', lambda sweep, now: (60.0, 0.0))
  plan.announce(sweep._replace(config=config), now, 2)
  printed = capsys.readouterr().out
  assert 'about 2 h' in printed
  assert hint in printed


def test_the_loop_of_steps_copies_no_weights(tiny):
  """What a step reads and writes, XLA copies first unless it is told to look closer."""
  tiny.parallel = 'threads'
  config, data_set = load(tiny)
  sweep, now = prepare(config, data_set, [1e-4])
  state, (hyper,) = sweep.spread.init(now.hyper_T, now.seeds)[0], sweep.spread.put(now.hyper_T)
  chunk = next(trials.chunks(sweep, now.seeds, 0, 0, 16))
  index, program = chunk.index_of[0], sweep.spread.programs['train']
  of_chunk = np.uint32(0), chunk.data, index, np.int32(0), np.int32(1)
  lowered = program.lower({}, state, hyper, *of_chunk)
  text = lowered.compile().as_text()
  copied = re.findall(r'f32\[([\d,]+)\]\S* copy\(%get-tuple-element', text)
  weights = {','.join(map(str, leaf.shape)) for leaf in jax.tree.leaves(state) if leaf.ndim > 1}
  assert {'3,3,32,64', '128,256'} <= weights  # of a convolution, and of a dense layer
  assert not weights.intersection(copied)


def test_balanced_accuracy_is_the_mean_over_classes(tiny):
  """That of unequal classes beside the accuracy on each class alone; two classes are missing."""
  tiny.model = ConfigDict({'name': 'mlp', 'hidden': (16,)})
  config, data_set = load(tiny)
  keep = np.repeat(np.arange(8), (7, 6, 5, 4, 3, 2, 1, 1))
  part = data.Part(data_set.train.images[: len(keep)], keep.astype(np.int32))

  def accuracies(part):
    sweep, now = prepare(config, data_set._replace(validation=part), config.learning_rates[:2])
    found = trials.evaluate(sweep, now, _start(sweep, now))
    return found['validation_accuracy'], found['validation_balanced_accuracy']

  alone = [accuracies(data.Part(*(x[keep == label] for x in part)))[0] for label in range(8)]
  assert np.sum(alone) > 0  # the untrained network is right about some
  plain, balanced = accuracies(part)
  np.testing.assert_allclose(balanced, np.mean(alone, 0), atol=1e-12)
  np.testing.assert_allclose(plain, np.average(alone, 0, np.bincount(keep)), atol=1e-12)


@pytest.mark.parametrize('how', HOW)
def test_those_that_stay_keep_their_state(tiny, how):
  config, data_set = load(tiny)
  rates, good = [1e-4, 1e-3, 1e-5], np.array([True, False, True])
  _, state, sweep = train(config, data_set, rates, [0, 1, 2], 2, how)
  now = trials.running(sweep, np.arange(3))
  fewer, kept = trials.keep(sweep, now, sweep.spread.put(state), good)
  assert fewer.columns.tolist() == [0, 2]
  assert fewer.seeds == (0, 2)
  for a, b in zip(jax.tree.leaves(sweep.spread.get(kept, 2)), jax.tree.leaves(state), strict=True):
    assert (a == b[good]).all()


def _start(sweep, now):
  return sweep.spread.init(now.hyper_T, now.seeds)


def _count_compiled(request):
  """A list that has an entry for everything that is compiled from now on."""
  compiled = []

  def note(event, seconds, **_):
    compiled.extend([seconds] if event == '/jax/core/compile/backend_compile_duration' else [])

  jax.monitoring.register_event_duration_secs_listener(note)
  request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(note))
  return compiled
