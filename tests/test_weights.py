"""Trials that start from given weights, and networks with frozen parts."""

import dataclasses
import functools
import json
import pickle
import shutil
import struct

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from accelerated import batches, engine_of, task_of, train
from flax import serialization
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import finetune_letters, letters_to_photos
from lr_study import data, faults, freeze, loop, models, optimizers, plan, trial, trials
from lr_study import study as studies
from lr_study import weights as of_weights
from lr_study.config import check
from lr_study.diagnosis import diagnose
from lr_study.errors import StudyError
from lr_study.models.mlp import MLP
from lr_study.search import rounds
from lr_study.use import evaluate, export

NETWORK = """
import flax.linen as nn
import numpy as np


class Net(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(37, name='body')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    return nn.Dense(self.classes, name='head')(x)


def load():
  x = np.random.default_rng(0).normal(size=(200, 11)).astype(np.float32)
  return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def two_classes():
  x, labels = load()
  return x, labels > 0


def headless(variables):
  return {'params': {'body': {n: np.ones(x.shape) for n, x in variables['params']['body'].items()}}}


def by_name(variables):
  return {'body.bias': np.full(variables['params']['body']['bias'].shape, 3.0)}


def broken(variables):
  raise KeyError('nothing')
"""


class Net(nn.Module):
  """That of NETWORK."""

  classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(37, name='body')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    return nn.Dense(self.classes, name='head')(x)


def net_task(**fields):
  return task_of(Net(3), (11,), **fields)


def drawn(task, seed=7):
  """Other weights and statistics than a study draws."""
  variables = trial.draw(task, jax.random.key(seed))
  return jax.tree.map(lambda x: np.array(x) + np.float32(0.5), variables)


def origin(task, **fields):
  return of_weights.origin(task, ConfigDict({'name': 'mlp', **fields}))


def safetensors(arrays):
  """The bytes of a file, by the format's description."""
  header, content = {'__metadata__': {'format': 'pt'}}, b''
  for name, array in arrays.items():
    offsets = [len(content), len(content) + array.nbytes]
    header[name] = {'dtype': 'F32', 'shape': array.shape, 'data_offsets': offsets}
    content += array.tobytes()
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + content


def save(kind, folder, variables):
  """The path of a file or folder of this kind with these variables."""
  file, named = folder / f'weights.{kind}', of_weights.by_name(variables)
  if kind in ('npz', 'dots.npz'):
    separator = '/' if kind == 'npz' else '.'
    np.savez(file, **{n.replace('/', separator): x for n, x in named.items()})
  elif kind == 'safetensors':
    bare = {n.partition('/')[2].replace('/', '.'): x for n, x in named.items()}
    file.write_bytes(safetensors(bare))
  elif kind == 'msgpack':
    averages = {'velocity': jax.tree.map(np.zeros_like, variables['params'])}
    file.write_bytes(serialization.msgpack_serialize(averages | variables))
  elif kind == 'orbax':
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(file, {'step': 3, 'model': variables})
  elif kind == 'nnx':  # the value of a variable is below its name there
    with ocp.StandardCheckpointer() as checkpointer:
      both = {
        n: {**x, **variables['batch_stats'].get(n, {})} for n, x in variables['params'].items()
      }
      checkpointer.save(file, jax.tree.map(lambda x: {'value': x}, both))
  elif kind == 'steps':
    with ocp.CheckpointManager(file) as manager:
      for step, by in ((9, 0), (10, 1)):
        changed = jax.tree.map(lambda x, k=by: k * x, variables)
        manager.save(step, args=ocp.args.StandardSave(changed))
      manager.wait_until_finished()
  return str(file)


KINDS = ['npz', 'dots.npz', 'safetensors', 'msgpack', 'orbax', 'steps', 'nnx']


@pytest.mark.parametrize('kind', KINDS)
def test_weights_of_every_kind_of_file(tmp_path, kind):
  task = net_task()
  expected = drawn(task)
  found = origin(task, weights=save(kind, tmp_path, expected))
  assert found.record['drawn'] == found.record['not_used'] == []
  task = dataclasses.replace(task, origin=found)
  state = trial.init(task, {'learning_rate': 1.0}, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, freeze.whole(*state[:2]), expected)
  # The statistics are part of them, and so of what tells two studies apart.
  expected['batch_stats']['norm']['mean'][0] += 1
  shutil.rmtree(tmp_path)
  tmp_path.mkdir()
  other = origin(net_task(), weights=save(kind, tmp_path, expected))
  assert other.record['fingerprint'] != found.record['fingerprint']


def test_what_does_not_fit_is_drawn_and_named(tmp_path):
  task, other = net_task(), task_of(Net(5), (11,))
  variables = drawn(other)
  del variables['params']['body']['bias']
  variables['params']['old'] = {'kernel': np.ones(3, np.float32)}
  found = origin(task, weights=save('npz', tmp_path, variables), redraw=('scale',))
  (line,) = of_weights.describe([found], 'ABC')
  assert line == (
    f'4 of 8 variables are read from {tmp_path}/weights.npz; drawn at random: body/bias (missing), '
    'head/bias ((5,) there, (3,) here), head/kernel ((37, 5) there, (37, 3) here), norm/scale '
    '(model.redraw); not used: params/old/kernel'
  )
  draw = functools.partial(trial.draw, task, weights=found.weights)
  state = [draw(jax.random.key(seed))['params'] for seed in (0, 1)]
  np.testing.assert_array_equal(state[0]['body']['kernel'], variables['params']['body']['kernel'])
  assert (state[0]['body']['kernel'] == state[1]['body']['kernel']).all()
  assert (state[0]['head']['kernel'] != state[1]['head']['kernel']).any()


def test_weights_of_a_function(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(NETWORK)
  task = net_task()
  found = origin(task, weights=f'{file}:headless')
  assert sorted(of_weights.by_name(found.weights)) == ['params/body/bias', 'params/body/kernel']
  found = origin(task, weights=f'{file}:by_name')
  assert (found.weights['params']['body']['bias'] == 3).all()
  line = NETWORK.splitlines().index("  raise KeyError('nothing')") + 1
  with pytest.raises(StudyError, match=rf'mine\.py:{line}: in broken, a function of weights: Key'):
    origin(task, weights=f'{file}:broken')


def test_weights_that_cannot_be_used(tmp_path):
  task = net_task()
  variables = drawn(task)

  def fails(match, path, **fields):
    with pytest.raises(StudyError, match=match) as caught:
      origin(task, weights=str(path), **fields)
    assert '\n' not in str(caught.value)

  fails('there is no such file or folder', tmp_path / 'gone')
  fails(r'cannot be read \(it is a folder without an Orbax checkpoint\)', tmp_path)
  (tmp_path / 'notes.txt').write_text('Dear diary')
  fails('cannot be read .* it must be an Orbax checkpoint, a Flax msgpack', tmp_path / 'notes.txt')
  (tmp_path / 'empty').write_bytes(b'')
  fails('cannot be read', tmp_path / 'empty')
  with (tmp_path / 'model.pkl').open('wb') as stream:
    pickle.dump(variables, stream)
  fails('cannot be read', tmp_path / 'model.pkl')
  np.savez(tmp_path / 'objects.npz', a=np.asarray([{}], object))
  fails('cannot be read .*allow_pickle', tmp_path / 'objects.npz')
  whole = safetensors({'body.bias': np.ones(37, np.float32)})
  for name, content in (('cut', whole[:-1]), ('header', whole[:20])):
    (tmp_path / name).write_bytes(content)
    fails('cannot be read .*truncated', tmp_path / name)
  np.savez(tmp_path / 'other.npz', **{'params/bodi/kernel': np.ones((11, 37))})
  fails(
    r'no parameter of the network is in it: it has params/bodi/kernel \(11, 37\); the network '
    r'needs body/bias \(37,\), body/kernel \(11, 37\)',
    tmp_path / 'other.npz',
  )
  np.savez(tmp_path / 'shapes.npz', **{'body/kernel': np.ones((3, 3))})
  fails(
    r'nothing in it fits: .*body/kernel \(\(3, 3\) there, \(11, 37\) here\)',
    tmp_path / 'shapes.npz',
  )
  variables['params']['body']['bias'][3] = np.nan
  fails('its body/bias is not finite', save('npz', tmp_path, variables))
  fails("model.redraw: 'bodi' matches no parameter; there are body/", tmp_path, redraw=('bodi',))


def test_a_pattern_of_freeze_has_to_match_and_to_leave_something():
  task = net_task()
  with pytest.raises(
    StudyError, match=r"model\.freeze: 'haed' matches no parameter; there are head/"
  ):
    origin(task, freeze=('haed',))
  with pytest.raises(StudyError, match='matches all 6 parameters, so that none is left to train'):
    origin(task, freeze=('.',))
  with pytest.raises(
    StudyError, match=r"model\.freeze is \('\(',\); it must be regular expressions"
  ):
    origin(task, freeze=('(',))


def test_what_is_frozen_does_not_change():
  """Weight decay, clipping, momentum: nothing reaches it, and clipping does not count it."""
  fields = {'momentum': 0.9, 'weight_decay': 0.1, 'clip_norm': 1e-2}
  task = net_task(**fields)
  task = dataclasses.replace(task, origin=origin(task, freeze=('body', 'norm')))
  before = trial.draw(task, jax.random.key(0))
  trained = train(engine_of(task, 'off', 4), task, 0.1, 5, batch_size=4)
  state = trained.plain
  assert {k[0] for k in flatten_dict(state.params)} == {'head'}
  assert {x.shape for x in jax.tree.leaves(state.opt_state)} == {(37, 3), (3,)}
  assert state.model_state.keys() == {freeze.FROZEN}
  assert before['params'].keys() == freeze.whole(*state[:2])['params'].keys()
  # The same head on what the frozen part gives in evaluation, by plain optax.
  start = engine_of(task, 'off', 4).start(before, {'learning_rate': jnp.float32(0.1)})
  examples = batches(task.shape, 4)
  batch = jax.tree.map(lambda x: x[0], examples)
  after, metrics = trial.train_step(
    task, start, {'learning_rate': 0.1}, batch, jax.random.key(1), np.int32(0)
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    after.model_state[freeze.FROZEN],
    start.model_state[freeze.FROZEN],
  )
  x = Net(3).apply(
    before, batch.images, train=False, capture_intermediates=True, mutable='intermediates'
  )[1]['intermediates']['norm']['__call__'][0]

  def loss(head):
    logits = nn.relu(x) @ head['kernel'] + head['bias']
    return task.loss(logits, batch.labels).mean()

  value, grads = jax.value_and_grad(loss)(before['params']['head'])
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-6)
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics['gradient_norm'], norm, rtol=1e-5)
  assert norm > 1e-2
  expected = jax.tree.map(
    lambda w, g: w - 0.1 * (g * 1e-2 / norm + 0.1 * w), before['params']['head'], grads
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    after.params['head'],
    expected,
  )


@pytest.mark.parametrize('network', ['linen', 'nnx'])
def test_frozen_batch_norm_keeps_its_statistics_and_uses_them(network):
  """One whose own parameters are trained takes those of the batch, as ever."""
  if network == 'nnx':
    config = {'name': 'tests/own/my_nnx.py:MyNNX', 'dropout': 0.0}
    task = task_of(models.build(config, 3, 'float32'), (5, 5, 1))
  else:
    task = net_task()
  batch = jax.tree.map(lambda x: x[0], batches(task.shape, 8))
  key, hyper = jax.random.key(0), {'learning_rate': jnp.float32(0.1)}
  after = {}
  for pattern in ('norm', 'norm/bias'):
    own = dataclasses.replace(task, origin=origin(task, freeze=(pattern,)))
    state = trial.init(own, hyper, key)
    stepped, metrics = jax.jit(trial.train_step, static_argnums=0)(
      own, state, hyper, batch, key, np.int32(0)
    )
    statistics = (freeze.whole(*of[:2])['batch_stats'] for of in (state, stepped))
    same = jax.tree.map(lambda a, b: (a == b).all(), *statistics)
    logits = trial.predict(own, state, batch.images)
    in_evaluation = task.loss(logits, batch.labels).mean()
    after[pattern] = all(jax.tree.leaves(same)), np.isclose(metrics['loss'], in_evaluation, 1e-6)
  assert after == {'norm': (True, True), 'norm/bias': (False, False)}


def test_a_frozen_kernel_is_not_kept_as_factors(tmp_path):
  """With what is frozen and shared, accelerate=auto and off agree; the other kernel is factored."""
  fields = {'momentum': 0.5, 'weight_decay': 1e-3}
  task = task_of(MLP(3, hidden=(300, 400)), (300,), **fields)
  found = origin(task, weights=save('npz', tmp_path, drawn(task)), freeze=('dense1',))
  task = dataclasses.replace(task, origin=found)
  rows = {how: train(engine_of(task, how, **fields), task, 1e-3, 70) for how in ('auto', 'off')}
  assert 'dense kernels dense2 as factors' in engine_of(task, 'auto', **fields).about
  np.testing.assert_allclose(rows['auto'].losses, rows['off'].losses, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(rows['auto'].gradient_norms, rows['off'].gradient_norms, rtol=1e-3)
  for own in rows.values():
    state = own.state.state if own is rows['auto'] else own.state
    assert freeze.FROZEN not in state.model_state  # it is shared
    np.testing.assert_array_equal(
      own.plain.model_state[freeze.FROZEN]['params']['dense1']['kernel'],
      found.weights['params']['dense1']['kernel'],
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('weights')
  (folder / 'mine.py').write_text(NETWORK)
  return folder


def study_config(folder, **model):
  config = ConfigDict({'learning_rates': (1e30, 1e-1, 1e-2), 'epochs': 2, 'batch_size': 10})
  config.seeds = (0, 1)
  config.checkpoint_steps = 7
  config.log_every_steps = 5
  config.model = ConfigDict({'name': f'{folder}/mine.py:Net', **model})
  config.data = ConfigDict({'name': f'{folder}/mine.py:load'})
  config.optimizer = ConfigDict({'name': 'sgd', 'momentum': 0.9, 'weight_decay': 1e-2})
  config.schedule = ConfigDict({'name': 'constant'})
  return config


@pytest.fixture(scope='module')
def base(folder):
  """A finished study, as one that others start from."""
  with pytest.MonkeyPatch.context() as patch:
    _draw_nothing(patch)
    config = study_config(folder)
    config.seeds = (0,)
    studies.run(config, folder / 'base')
  return folder / 'base'


@pytest.fixture(scope='module')
def tuned(folder, base):
  """Its config and its work directory: all but the head are those of `base`, and frozen."""
  config = study_config(folder, weights=str(base), freeze=('body', 'norm'), redraw=('head',))
  config.sharpness_images = 8
  with pytest.MonkeyPatch.context() as patch:
    _draw_nothing(patch)
    studies.run(config, folder / 'tuned')
  return config, folder / 'tuned'


def _draw_nothing(patch):
  patch.setattr('lr_study.report.pictures.build', lambda *_: {})
  patch.setattr('lr_study.report.page.write', lambda _: None)


def test_a_study_that_starts_from_the_best_trial_of_another(base, tuned):
  _, workdir = tuned
  before, after = evaluate.load(base).variables, evaluate.load(workdir).variables
  for name in ('body', 'norm'):
    jax.tree.map(np.testing.assert_array_equal, after['params'][name], before['params'][name])
  jax.tree.map(np.testing.assert_array_equal, after['batch_stats'], before['batch_stats'])
  assert (after['params']['head']['kernel'] != before['params']['head']['kernel']).any()
  record = json.loads((workdir / 'results.json').read_text())['study']['weights']
  assert (record['path'], record['read'], record['frozen']) == (str(base), 6, 11 * 37 + 5 * 37)
  # It did learn, and its numbers are those of the frozen network: what evaluation says.
  trained = evaluate.load(workdir)
  part = evaluate.read_part(workdir, 'validation')
  score = evaluate.score(trained, part)
  assert score.accuracy == pytest.approx(trained.result.validation_accuracy)
  assert score.accuracy > 0.6
  assert len(export.serialise(trained)) > 0
  history = loop.History(workdir / 'history', 30, 2, 6)
  curves = history.epochs
  assert np.isfinite(curves['sharpness'][:, 2:]).all()
  assert (curves['update_ratio'][:, 2:] > 0).all()


def test_a_checkpoint_holds_nothing_that_is_shared(tuned):
  _, workdir = tuned
  names = [p.name for p in workdir.glob('checkpoints/wave_0/*') if p.name.isdecimal()]
  (metadata,) = workdir.glob(f'checkpoints/wave_0/{max(names, key=int)}/state/_METADATA')
  text = metadata.read_text()
  assert 'head' in text
  assert 'body' not in text
  kept = np.load(workdir / 'weights.npz')
  assert sorted(kept)[0] == 'batch_stats/norm/mean'


def test_it_goes_on_to_the_same_bytes(tuned, tmp_path, monkeypatch):
  config, workdir = tuned
  _draw_nothing(monkeypatch)
  checkpoints, saved = loop.Checkpoints, []

  class Stopping(checkpoints):
    def save(self, steps_done, state):
      super().save(steps_done, state)
      saved.append(steps_done)
      if len(saved) in (1, 3):
        self._manager.wait_until_finished()
        raise KeyboardInterrupt

  monkeypatch.setattr(loop, 'Checkpoints', Stopping)
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      studies.run(config, tmp_path / 'stopped')
  studies.run(config, tmp_path / 'stopped')
  assert saved[:3] == [10, 15, 25]
  assert faults.differences(tmp_path / 'stopped', workdir) == []


def test_the_file_may_go_once_the_study_has_begun_but_not_change(folder, tmp_path, monkeypatch):
  _draw_nothing(monkeypatch)
  monkeypatch.chdir(tmp_path)
  file, workdir = tmp_path / 'weights.npz', tmp_path / 'study'
  save('npz', tmp_path, drawn(net_task()))
  config = study_config(folder, weights='weights.npz', freeze=('body',))
  config.learning_rates, config.seeds = (1e-2,), (0,)
  studies.run(config, workdir)
  variables = evaluate.load(workdir, 1e-2).variables
  monkeypatch.chdir(folder)  # the path in the record is whole
  assert check(config).model.weights == str(folder / 'weights.npz')
  config.model.weights = str(file)
  config.model.weights = str(shutil.copy(file, tmp_path / 'moved.npz'))
  studies.run(config, workdir)  # it reads the results: what counts is in the file
  config.model.weights = str(file)
  save('npz', tmp_path, drawn(net_task(), seed=8))
  with pytest.raises(
    StudyError, match='holds a study with other weights: the fingerprint of model'
  ):
    studies.run(config, workdir)
  file.unlink()
  jax.tree.map(np.testing.assert_array_equal, evaluate.load(workdir, 1e-2).variables, variables)
  with pytest.raises(StudyError, match='there is no such file'):
    studies.run(config, workdir)


def test_diagnose_of_a_trial_that_shares_its_frozen_weights(tuned):
  _, workdir = tuned
  found = diagnose.diagnose(workdir, 1e30, 0)
  assert found.first_bad_step == found.recorded
  assert list(found.weight_norms) == ['body', 'norm', 'head']
  assert min(found.weight_norms.values()) > 0


@pytest.mark.parametrize('how', ['threads', 'vmap', 'pmap'])
def test_what_is_frozen_is_in_memory_once(folder, base, how, capsys):
  """On the devices, in the plan's numbers, and not in what a checkpoint is made of."""
  config = study_config(folder, weights=str(base), freeze=('body', 'norm'))
  config.learning_rates, config.parallel = (1e-1, 1e-2, 1e-3, 1e-4), how
  config = check(config)
  held = jax.live_arrays()  # so that none of them leaves its id to another
  before = set(map(id, held))
  sweep = trials.prepare(config, data.load(config.data, config.image_size))
  now = trials.running(sweep, np.arange(8))
  need = plan.measure(sweep, now)
  state_T = sweep.spread.init(now.hyper_T, now.seeds)
  head = sweep.engine.origin.weights['params']['head']['kernel']
  for started in sweep.spread.get(state_T, 8).params['head']['kernel']:
    np.testing.assert_array_equal(started, head)
  state_T, *_ = trials.train_steps(sweep, now, state_T, 0, 0, 3)
  trials.evaluate(sweep, now, state_T)
  kernels = [x for x in jax.live_arrays() if x.shape[-2:] == (11, 37) and id(x) not in before]
  assert [id(x) for x in kernels] == [id(sweep.spread.shared['params']['body']['kernel'])]
  assert kernels[0].size == 11 * 37 * (4 if how == 'pmap' else 1)  # one for each of four devices
  host = sweep.spread.get(state_T, 8)
  assert flatten_dict(host.params).keys() == {('head', 'bias'), ('head', 'kernel')}
  assert host.model_state == {}
  size, of_trial = (
    4 * (11 * 37 + 5 * 37),
    2 * 4 * (37 * 3 + 3),
  )  # weights; of the head, with momentum
  assert need.shared == size
  if how == 'threads':
    assert need.trial == 4 * of_trial  # what the checkpoint takes is counted with it
  with sweep.config.unlocked():
    sweep.config.memory_gb = (need.call + 2 * need.trial + size) / 1e9
  each = 2 * sweep.spread.devices  # trials that fit
  assert max(plan.waves(sweep, 1)) == 8 // each - 1
  assert ' GB of frozen weights are held once; ' in capsys.readouterr().out


def test_what_is_drawn_and_frozen_is_each_seeds_own(folder):
  config = study_config(folder, freeze=('body',))
  config.learning_rates, config.parallel = (1e-2,), 'threads'
  config = check(config)
  sweep = trials.prepare(config, data.load(config.data, config.image_size))
  now = trials.running(sweep, np.arange(2))
  state = sweep.spread.get(sweep.spread.init(now.hyper_T, now.seeds), 2)
  first, second = state.model_state[freeze.FROZEN]['params']['body']['kernel']
  assert (first != second).any()
  assert sweep.spread.shared == {}


def test_the_config_of_the_letters():
  config = check(finetune_letters.get_config())
  assert config.model.weights.endswith('/runs/letters_to_photos')
  assert config.input == check(letters_to_photos.get_config()).input


def test_settings_share_what_is_frozen(folder, base):
  config = study_config(folder, weights=str(base), freeze=('body', 'norm'))
  config.axes = ConfigDict({'batch_size': (5, 10)}, allow_dotted_keys=True)
  config = check(config)
  shared = trials.prepare(config, data.load(config.data, config.image_size))
  _, own = rounds.settings(config).values()
  other = trials.in_setting(shared, own)
  assert other.spread is not shared.spread
  assert own.batch_size == 10
  for one, two in zip(
    *map(jax.tree.leaves, (shared.spread.shared, other.spread.shared)), strict=True
  ):
    assert one is two


def test_what_is_frozen_can_be_an_axis(folder, base, tmp_path, monkeypatch):
  """Each setting freezes its own part, and shares that; what was read is kept for all of them."""
  _draw_nothing(monkeypatch)
  config = study_config(folder, weights=str(base), redraw=('head',))
  config.learning_rates, config.seeds = (1e-1,), (0,)
  config.axes = ConfigDict({'model.freeze': (('body',), ())}, allow_dotted_keys=True)
  studies.run(config, tmp_path / 'study')
  before, study = evaluate.load(base).variables, evaluate.read_study(tmp_path / 'study')
  same = {}
  for place, result in enumerate(study.results):
    data_of = study.record['data']
    after = evaluate.restore(tmp_path / 'study', study.config, data_of, place)
    kernels = (of['params']['body']['kernel'] for of in (before, after))
    same[result.axes['model.freeze']] = np.array_equal(*kernels)
  assert same == {('body',): True, (): False}
  config.axes = ConfigDict({'model.weights': ('a', 'b')}, allow_dotted_keys=True)
  with pytest.raises(StudyError, match=r"axes has 'model\.weights'"):
    check(config)


def test_other_weights_extend_no_study(folder, tmp_path, monkeypatch):
  _draw_nothing(monkeypatch)
  file = save('npz', tmp_path, drawn(net_task()))
  config = study_config(folder, weights=file)
  config.learning_rates, config.seeds = (1e-1,), (0,)
  studies.run(config, tmp_path / 'study')
  save('npz', tmp_path, drawn(net_task(), seed=8))
  config.learning_rates = (1e-1, 1e-2)
  with pytest.raises(StudyError, match='holds a study with another config'):
    studies.run(config, tmp_path / 'study', extend=True)
  save('npz', tmp_path, drawn(net_task()))
  studies.run(config, tmp_path / 'study', extend=True)
  assert len(evaluate.read_study(tmp_path / 'study').results) == 2


def test_a_network_with_arguments_of_these_names_keeps_them(tmp_path):
  file = tmp_path / 'own.py'
  file.write_text(
    'from lr_study.models.mlp import MLP\n'
    "def net(classes, weights='imagenet', freeze=3):\n"
    '  return MLP(classes, hidden=(freeze,))\n'
  )
  config = check(ConfigDict({'learning_rates': (1.0,), 'model': {'name': f'{file}:net'}}))
  assert (config.model.weights, config.model.freeze) == ('imagenet', 3)
  assert models.build(config.model, 3, 'float32').hidden == (3,)
  assert models.origin_fields(config.model) == {'weights': '', 'redraw': (), 'freeze': ()}


def test_rate_factors_that_are_swept():
  """As an argument a factor does what it does as a number, and replaces that of its expression."""
  params = {'body': {'kernel': jnp.ones((3, 2))}, 'head': {'kernel': jnp.ones((2, 2))}}
  grads = jax.tree.map(lambda x: 2 * x, params)
  config = {'name': 'adam', 'rate_factors': (('body', 0.5), ('head', 3.0))}

  def update(config, sweep=(), **swept):
    make = optimizers.build(config, sweep).make

    @jax.jit
    def of(swept):
      transform = make(learning_rate=0.1, base_rate=0.1, **swept)
      return transform.update(grads, transform.init(params), params, value=1.0)[0]

    return of({name: jnp.float32(x) for name, x in swept.items()})

  name = 'rate_factors.head'
  swept = update(config, (name,), **{name: 10.0})
  fixed = update(config | {'rate_factors': (('body', 0.5), ('head', 10.0))})
  jax.tree.map(np.testing.assert_array_equal, swept, fixed)
  with pytest.raises(
    StudyError, match=r"rate_factors: 'haed' matches no parameter; there are head/"
  ):
    update(config, ('rate_factors.haed',), **{'rate_factors.haed': 1.0})
  with pytest.raises(StudyError, match='schedule-free'):
    optimizers.build({'name': 'schedule_free_sgd'}, (name,))


def test_an_axis_of_rate_factors(folder, tmp_path, monkeypatch):
  _draw_nothing(monkeypatch)
  config = study_config(folder)
  config.learning_rates, config.seeds = (1e-2,), (0,)
  config.axes = ConfigDict({'optimizer.rate_factors.head/.*': (1, 10)}, allow_dotted_keys=True)
  studies.run(config, tmp_path / 'study')
  found = json.loads((tmp_path / 'study' / 'results.json').read_text())
  losses = [t['validation_loss'] for t in found['trials']]
  assert [t['axes'] for t in found['trials']] == [
    {'optimizer.rate_factors.head/.*': 1.0}, {'optimizer.rate_factors.head/.*': 10.0}
  ]  # fmt: skip
  assert sorted(p.name for p in (tmp_path / 'study' / 'history').glob('rate*')) == [
    'rate_factor_head_1', 'rate_factor_head_10'
  ]  # fmt: skip
  assert abs(losses[0] - losses[1]) > 1e-3

  def fails(match, axes):
    config.axes = ConfigDict(axes, allow_dotted_keys=True)
    with pytest.raises(StudyError, match=match):
      check(config)

  fails(r'rate_factors is .*must be pairs', {'optimizer.rate_factors.head': (1, -1)})
  fails(r'rate_factors is .*must be pairs', {'optimizer.rate_factors.(': (1, 2)})


def test_a_factor_bounds_how_far_a_factored_kernel_decays():
  """A share of 0.01 a step is the most that factors hold; the rate is that times the factor."""
  fields = {'weight_decay': 0.5}
  task = task_of(MLP(3, hidden=(300, 400)), (300,), **fields)
  for factors, about in (((), 'dense2'), ((('dense2', 10.0),), 'plain Flax')):
    assert about in engine_of(task, 'auto', **fields, rate_factors=factors).about
