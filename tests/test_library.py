"""Studies from Python: arguments, results, and what stays unchanged."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict
from own.my_data import digits
from own.my_loss import margin, poly_loss
from own.my_parts import halves, rolled, sawtooth

import lr_study
from lr_study import loop, objects, study, trials
from lr_study.models.mlp import MLP

ROOT = Path(lr_study.__file__).parents[1]
X, Y = digits(120)
X = X / np.float32(255)


class Net(nn.Module):
  """A dense layer, BatchNorm and another dense layer."""

  classes: int = 10
  width: int = 16

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(self.width)(x.reshape(len(x), -1))
    return nn.Dense(self.classes)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


class OverImages(nn.Module):
  """A convolution, whose BatchNorm has a value for each pixel."""

  classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train)(nn.Conv(2, (3, 3))(x[..., None]))
    return nn.Dense(self.classes)(nn.relu(x).reshape(len(x), -1))


class FlatNorm(nnx.Module):
  """A BatchNorm of single values, in NNX."""

  def __init__(self, classes, *, rngs):
    self.norm, self.layer = nnx.BatchNorm(64, rngs=rngs), nnx.Linear(64, classes, rngs=rngs)

  def __call__(self, x):
    return self.layer(self.norm(x.reshape(len(x), -1)))


class Flat(nnx.Module):
  """A single layer, in NNX."""

  def __init__(self, classes, scale: float = 1.0, *, rngs):
    self.layer, self.scale = nnx.Linear(64, classes, rngs=rngs), scale

  def __call__(self, x):
    return self.layer(self.scale * x.reshape(len(x), -1))


def sweep(**changes):
  """A study of a second."""
  fields = {
    'model': Net(),
    'data': (X, Y),
    'learning_rates': [1e-2, 1e-3],
    'seeds': 1,
    'epochs': 2,
    'batch_size': 15,
    'accelerate': 'off',
    'progress': False,
  }
  return lr_study.sweep(**fields | changes)


MOMENTA = {'optimizer': 'sgd', 'seeds': 2, 'axes': {'optimizer.momentum': [0, 0.9]}}


@pytest.fixture(scope='module')
def finished():
  """Two rates, the larger of which diverges with SGD, by two momenta and two seeds; in memory."""
  return sweep(learning_rates=np.asarray([1e30, 0.1]), **MOMENTA)


def test_what_a_study_holds(finished):
  assert finished.verdict.learning_rate == 0.1
  assert str(finished.verdict) == str(finished) == finished.verdict.sentence
  assert [v.axes['optimizer.momentum'] for v in finished.verdicts] == [0, 0.9]
  assert len(finished.trials) == len(finished.labels) == 8
  assert finished.labels[0] == '1e+30, seed 0, momentum 0'
  steps, epochs = (finished.curves[name] for name in ('loss', 'validation_accuracy'))
  assert steps.shape == (12, 8)
  assert epochs.shape == (2, 8)
  for i, trial in enumerate(finished.trials):
    diverged = trial.learning_rate == 1e30
    assert (trial.status == 'diverged') == diverged == bool(np.isnan(epochs[-1, i]))
    assert diverged or epochs[-1, i] == trial.validation_accuracy
  assert finished.classes == tuple('0123456789')
  assert finished.workdir is None


def test_the_best_trial_predicts_what_it_had_in_the_study():
  split = ((X[:90], Y[:90]), (X[90:], Y[90:]))
  found = sweep(data=split, learning_rates=[1e-2], epochs=4)
  probabilities = found.best.predict(X[90:].astype(np.float64))
  assert probabilities.shape == (30, 10)
  np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
  right = (probabilities.argmax(1) == Y[90:]).mean()
  assert right == pytest.approx(found.trials[0].validation_accuracy)
  assert right > 0.3
  # As one would compute it by hand: less the mean of what was trained on.
  inputs = X[90:] - X[:90].mean(0)
  by_hand = found.best.model.apply(found.best.variables, inputs, train=False)
  np.testing.assert_allclose(probabilities, nn.softmax(by_hand), rtol=1e-4)
  assert found.best.params['Dense_0']['kernel'].shape == (64, 16)
  assert found.best.predict(X[:0]).shape == (0, 10)
  with pytest.raises(lr_study.StudyError, match=r'samples of \(8, 8, 1\)'):
    found.best.predict(X[0])
  with pytest.raises(lr_study.StudyError, match='uint8'):
    found.best.predict((255 * X).astype(np.uint8))


@pytest.mark.parametrize(('model', 'name'), [(Net, 'Net'), (FlatNorm, 'FlatNorm')])
def test_a_batch_norm_of_single_values_is_refused_before_anything_trains(tmp_path, model, name):
  words = rf'model\.name={name}: with batch_size=1, BatchNorm(_0)? normalises a single value.*set '
  with pytest.raises(lr_study.StudyError, match=f'{words}batch_size=2 or more'):
    sweep(model=model, batch_size=1, workdir=tmp_path / 'study')
  assert not [*tmp_path.rglob('config.json')]
  with pytest.raises(lr_study.StudyError, match=words):  # a single setting with it is enough
    sweep(model=model, axes={'batch_size': [4, 1]})


def test_samples_that_are_no_images_are_not_called_so():
  flat = (X.reshape(120, -1), Y)
  found = sweep(data=flat, learning_rates=[1e-2], epochs=4)
  assert '30 samples' in found.verdict.sentence
  assert 'image' not in found.verdict.sentence
  with pytest.raises(lr_study.StudyError, match='there are 90 training samples'):
    sweep(data=flat, batch_size=500)


def test_a_network_need_not_take_the_number_of_classes(tmp_path):
  """Named in a config or passed by a program: its logits are what counts."""
  file = tmp_path / 'my_network.py'
  file.write_text('from lr_study.models.mlp import MLP\n\n\ndef ten():\n  return MLP(10)\n')
  named, passed = (sweep(model=of, epochs=1) for of in (f'{file}:ten', lambda: MLP(10)))
  assert named.trials[0].train_loss == passed.trials[0].train_loss


def test_a_batch_norm_over_pixels_or_of_running_averages_trains_at_batch_size_1():
  assert len(sweep(model=OverImages, batch_size=1, epochs=1).trials) == 2
  frozen = {'name': Net, 'freeze': ['BatchNorm_0/.*']}
  assert len(sweep(model=frozen, batch_size=1, epochs=1).trials) == 2


def test_export_in_python(tmp_path):
  """Of a module object and arrays in memory, which the command could not read."""
  found = sweep(learning_rates=[1e-2], epochs=4)
  folder = found.best.export(tmp_path / 'model')
  assert (folder, folder.is_dir()) == (tmp_path / 'model', True)
  assert 'Arrays that a program passed' in (folder / 'README.md').read_text()
  np.save(tmp_path / 'samples.npy', X[:1])
  call = [sys.executable, '-P', 'predict.py', '../samples.npy']
  done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
  best = found.best.predict(X[:1])[0]
  assert f'{best.argmax()} ' in done.stdout
  assert f'{100 * best.max():.1f}' in done.stdout
  with pytest.raises(lr_study.StudyError, match=r'^out .* already exists'):
    found.best.export(folder)


def test_table_and_pictures(finished, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pandas', None)
  rows = finished.table()
  assert [row['optimizer.momentum'] for row in rows] == [0] * 4 + [0.9] * 4
  monkeypatch.setitem(sys.modules, 'pandas', types.SimpleNamespace(DataFrame=lambda of: of[::-1]))
  assert finished.table() == rows[::-1]
  figure = finished.plot(finished.verdicts[1])
  assert figure._repr_png_().startswith(b'\x89PNG')
  assert {text.get_text() for text in figure.axes[3].texts} == {'1e-01', 'chance'}
  assert '1e+30' in figure.texts[1].get_text()  # which diverged
  assert figure.texts[0].get_text() == 'momentum 0.9'  # the setting that is drawn
  text = finished._repr_html_()
  assert finished.verdict.sentence in text
  assert text.count('<tr>') == 1 + 4
  assert 'diverged' in text


def test_a_heat_map_of_rate_and_axis(finished):
  figure = finished.plot_axis()
  assert figure._repr_png_().startswith(b'\x89PNG')
  assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ['1e-01', '1e+30']
  assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ['0', '0.9']
  assert not figure.texts
  with pytest.raises(lr_study.StudyError, match=r"must be one of 'optimizer\.momentum'"):
    finished.plot_axis('momentum')
  axes = {'optimizer.momentum': [0, 0.9], 'batch_size': [15, 30]}
  several = sweep(learning_rates=[0.1], epochs=1, optimizer='sgd', axes=axes)
  with pytest.raises(lr_study.StudyError, match='several axes; name one of'):
    several.plot_axis()
  drawn = several.plot_axis('batch_size', several.verdicts[-1])
  assert [text.get_text() for text in drawn.texts] == ['momentum 0.9']
  with pytest.raises(lr_study.StudyError, match='no axis except rate and seed'):
    sweep(learning_rates=[0.1], epochs=1).plot_axis()


@pytest.fixture
def plain_jax():
  """JAX as a program has it: tests keep what they compile."""
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(names, (None, 1.0), strict=True):
    jax.config.update(name, value)
  yield
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)


def test_a_program_finds_all_as_it_was(monkeypatch, tmp_path, capfd, plain_jax):
  """Leaves no file, JAX setting, signal handler or compiled program in the user's cache."""
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  values, handlers = dict(jax.config.values), list(map(signal.getsignal, (2, 15)))
  seen = []
  monkeypatch.setattr(study.workdir, 'claim', _seeing(study.workdir.claim, seen))
  found = sweep(learning_rates=[1e-2])
  assert Path(seen[0]).parent == tmp_path  # it was there
  assert not list(tmp_path.iterdir())
  assert jax.config.values == values
  assert list(map(signal.getsignal, (2, 15))) == handlers
  assert capfd.readouterr() == ('', '')
  found.best.predict(X)  # all is in memory
  assert not objects.HELD.get()


def _seeing(function, seen):
  def wrapped(folder, *of):
    seen.append(folder)
    return function(folder, *of)

  return wrapped


def test_the_same_numbers_as_the_command(tmp_path, monkeypatch, without_figures):
  """A whole config, in a folder; its fields can be changed in the call."""
  np.savez(tmp_path / 'digits.npz', x=X, y=Y)
  config = ConfigDict(NAMED | {'learning_rates': (1e-2, 1e-3), 'epochs': 2, 'batch_size': 15})
  config.data = {'name': f'npz:{tmp_path / "digits.npz"}'}
  config.accelerate, config.seeds, config.schedule = 'off', (0,), 'constant'
  study.run(config, tmp_path / 'command')
  config.epochs = 30
  found = lr_study.sweep(config=config, epochs=2, workdir=tmp_path / 'program', progress=False)
  one, other = (
    json.loads((tmp_path / of / 'results.json').read_text()) for of in ('command', 'program')
  )
  assert one['trials'] == other['trials']
  assert one['verdict'] == other['verdict']
  assert one['study']['config'] == other['study']['config'] == found.record['config']
  assert found.workdir == tmp_path / 'program'
  data = tmp_path / 'digits.npz'  # of a path, too
  assert sweep(**NAMED, data=data).trials == found.trials


NAMED = {
  'model': {'name': 'mlp', 'hidden': (16,)},
  'optimizer': {'name': 'adamw', 'b1': 0.8, 'clip_norm': 1.0},
}


@pytest.mark.parametrize(
  'changes',
  [
    {'model': MLP(10, (16,))},
    {'model': {'name': lambda classes: MLP(classes, (16,))}},
    {'optimizer': {'name': optax.adamw, 'b1': 0.8, 'clip_norm': 1.0}},
    {'optimizer': {'name': functools.partial(optax.adamw, b1=0.8), 'clip_norm': 1.0}},
    {'loss': lambda logits, labels: -jnp.log(nn.softmax(logits)[jnp.arange(len(labels)), labels])},
    {'schedule': lambda steps_per_epoch, epochs: lambda step: 1.0},
    {'data': {'name': lambda: (X, Y)}},
    {'data': {'train': (X, Y)}},
    {'learning_rates': jax.numpy.asarray([1e-2, 1e-3]), 'seeds': range(1)},
  ],
)  # fmt: skip
def test_an_object_is_what_its_name_is(changes, named):
  """The same curves, to rounding: an optimiser of one's own compiles to another program."""
  found = sweep(**NAMED | changes)
  np.testing.assert_allclose(found.curves['loss'], named.curves['loss'], rtol=1e-5)


@pytest.fixture(scope='module')
def named():
  return sweep(**NAMED)


def test_parts_of_ones_own():
  found = sweep(
    model={'name': Flat, 'scale': 0.5},
    data={'name': ((255 * X).astype(np.uint8), Y), 'train_fraction': 0.5},
    loss={'name': poly_loss, 'epsilon': 0.5},
    metrics=[margin, 'top3'],
    schedule=sawtooth,
    input=rolled,
    search={'name': halves, 'rounds': 1},
    learning_rates=[6e-2],
    epochs=6,
    verdict={'measure': 'margin'},
    axes={'loss.epsilon': [0.5]},
  )
  assert found.record['data']['train'] == 60
  assert [trial.learning_rate for trial in found.trials] == [6e-2, 3e-2]
  assert found.verdict.measure == 'validation_margin'
  assert found.curves['validation_top3'].shape == (6, 2)
  assert found.best.predict((255 * X).astype(np.uint8)).shape == (120, 10)
  text = json.dumps(found.record['config'])
  assert all(f':{of}"' in text for of in ('Flat', 'poly_loss', 'margin', 'sawtooth', 'rolled'))


def test_a_study_in_a_folder_goes_on_and_is_read(tmp_path, monkeypatch, without_figures):
  """Ctrl-C after the first epoch; the same call resumes to the same bytes. Then it is read."""

  def evaluate_and_stop(*of):
    os.kill(os.getpid(), signal.SIGINT)
    return found(*of)

  whole, found = sweep(workdir=tmp_path / 'whole'), trials.evaluate
  with monkeypatch.context() as patch:
    patch.setattr(trials, 'evaluate', evaluate_and_stop)
    with pytest.raises(KeyboardInterrupt):
      sweep(workdir=tmp_path / 'stopped')
  again = sweep(workdir=tmp_path / 'stopped')
  assert again.trials == whole.trials
  np.testing.assert_array_equal(again.curves['loss'], whole.curves['loss'])
  monkeypatch.setattr(loop, 'train', None)  # nothing trains
  assert sweep(workdir=tmp_path / 'whole').trials == whole.trials
  with pytest.raises(lr_study.StudyError, match=r'another config: model.name .*overwrite=True'):
    sweep(workdir=tmp_path / 'whole', model=Net(width=17))

  read = lr_study.read(tmp_path / 'whole')
  assert read.trials == whole.trials
  assert read.verdict == whole.verdict
  assert read.plot() is not None
  with pytest.raises(lr_study.StudyError, match='pass the same model again') as caught:
    read.best  # noqa: B018
  assert 'moved' not in str(caught.value)
  best = lr_study.read(tmp_path / 'whole', model=Net()).best
  np.testing.assert_array_equal(best.predict(X), whole.best.predict(X))


def test_a_file_that_was_moved(tmp_path, without_figures):
  file, new = tmp_path / 'net.py', tmp_path / 'new' / 'net.py'
  file.write_text('from lr_study.models.mlp import MLP as Net\n')
  model = {'name': f'{file}:Net', 'hidden': (16,)}
  best = sweep(**NAMED | {'model': model}, workdir=tmp_path / 'study').best
  new.parent.mkdir()
  file.rename(new)
  with pytest.raises(lr_study.StudyError, match=r'no file .*net.py; .* add moved=\{OLD: NEW\}'):
    lr_study.read(tmp_path / 'study').best  # noqa: B018
  again = lr_study.read(tmp_path / 'study', moved={str(tmp_path): str(new.parent)}).best
  np.testing.assert_array_equal(again.predict(X), best.predict(X))


def test_in_a_thread_and_twice_at_once():
  """Signal handlers cannot be set there. Studies run in turn, each with its own objects."""
  found, errors = {}, []

  def run(rows):
    try:
      found[rows] = sweep(data=(X[:, :rows], Y), learning_rates=[1e-2])
    except Exception as error:
      errors.append(error)

  threads = [threading.Thread(target=run, args=(rows,)) for rows in (4, 8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
  kernels = {rows: of.best.params['Dense_0']['kernel'].shape for rows, of in found.items()}
  assert kernels == {4: (32, 16), 8: (64, 16)}


def test_objects_on_an_axis_and_a_study_that_is_extended(tmp_path, without_figures):
  """Two optimisers, one by its name; then a rate more, for which the others do not train again."""

  def slow(learning_rate):
    return optax.sgd(learning_rate / 100)

  fields = {'axes': {'optimizer.name': ['sgd', slow]}, 'workdir': tmp_path, 'optimizer': 'sgd'}
  found = sweep(learning_rates=[0.1], **fields)
  assert [label.rpartition(', ')[2] for label in found.labels] == ['sgd', 'slow']
  assert found.trials[0].train_loss < found.trials[1].train_loss
  with pytest.raises(lr_study.StudyError, match='add extend=True to keep'):
    sweep(learning_rates=[0.1, 0.01], **fields)
  more = sweep(learning_rates=[0.1, 0.01], extend=True, **fields)
  assert [more.trials[0], more.trials[2]] == list(found.trials)
  # A hundredth of 0.1 is a tenth of 0.01, and neither is 0.01.
  assert len({trial.train_loss for trial in more.trials}) == 4


CODE = """
import flax.linen as nn
from lr_study import objects
WIDTH = 8
def act(x): return nn.relu(x) if 'a' in {'a', 'b', 'c'} else x
class Net(nn.Module):
  classes: int = 3
  @nn.compact
  def __call__(self, x): return act(nn.Dense(WIDTH)(x))  # a comment
def loss(power): return lambda logits, labels: logits ** power
made = (objects.function(Net), objects.instance(Net(4)), objects.function(loss(2)))
print(*(of[0] for of in (*made, objects.function(act))))
"""


def test_an_object_has_the_same_name_in_another_process():
  """Independent of the order of sets; other code, constants or arguments give another name."""
  changes = [
    ('# a comment', '# none', (0, 0, 0, 0)), ('WIDTH = 8', 'WIDTH = 9', (1, 1, 0, 0)),
    ("'c'}", "'d'}", (1, 1, 0, 1)), ('Net(4)', 'Net(5)', (0, 1, 0, 0)),
    ('loss(2)', 'loss(3)', (0, 0, 1, 0)), ('** power', '* power', (0, 0, 1, 0)),
  ]  # fmt: skip
  texts = [CODE, *(CODE.replace(old, new) for old, new, _ in changes)]
  program = f'for text in {texts!r}: exec(text)'
  started = [
    subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                     env=os.environ | {'PYTHONHASHSEED': seed})
    for seed in '12'
  ]  # fmt: skip
  one, other = (process.communicate()[0].splitlines() for process in started)
  assert one == other
  assert len(one) == 7
  first, *rest = (line.split() for line in one)
  assert first[0].endswith(':Net')
  for names, (old, _, differ) in zip(rest, changes, strict=True):
    assert [a != b for a, b in zip(first, names, strict=True)] == list(map(bool, differ)), old


WRONG = [
  ({'model': None}, 'model is missing'),
  ({'data': None}, 'data is missing'),
  ({'learning_rates': None}, '^learning_rates is missing'),
  ({'epoch': 5}, '^epoch: no such field; did you mean epochs'),
  ({'model': Net(classes=3)}, r'model.name=.*logits of shape \(2, 3\).*10 classes need'),
  ({'model': Flat(10, rngs=nnx.Rngs(0))}, 'Flat that has its weights already'),
  ({'model': lambda: MLP(3)}, r'logits of shape \(2, 3\).*10 classes need'),
  ({'optimizer': optax.adam(1e-3)}, 'has its learning rate already'),
  ({'optimizer': {'name': 'sgd', 'momentun': 0.9}}, '^optimizer.momentun: .*optimizer.momentum'),
  ({'data': (X, Y[:-1])}, '^data has 120 samples, but 119 labels'),
  ({'data': X}, '^data gave an array of shape'),
  ({'data': './nowhere'}, 'nowhere'),
  ({'loss': lambda logits, labels: logits.mean()}, r'lambda \(test_library.py:\d+\) gave float32'),
  ({'loss': lambda logits, labels: labels.nothing}, r'library.py:\d+: in lambda, a loss: Attr'),
  ({'schedule': optax.cosine_decay_schedule(1.0, 10)}, 'a function of the step'),
  ({'optimizer': {'momentum': 0.9}}, 'optimizer has no name'),
  ({'model': 3}, 'model is 3; pass a name'),
  ({'config': 3}, 'config is 3; pass a dict'),
  ({'learning_rates': 1e-3}, 'learning_rates is 0.001'),
  ({'batch_size': 500}, 'batch_size is 500, but there are 90'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'message'), WRONG)
def test_errors_are_one_line(changes, message):
  with pytest.raises(lr_study.StudyError, match=message) as caught:
    sweep(**changes)
  text = str(caught.value)
  assert '\n' not in text
  assert '--' not in text
  assert caught.value._render_traceback_() == [f'StudyError: {text}']


def test_no_rate_learns():
  found = sweep(learning_rates=[1e30], **MOMENTA)
  assert found.verdict.learning_rate is None
  assert '--' not in found.verdict.sentence
  with pytest.raises(lr_study.StudyError, match='there is no rate to use'):
    found.best  # noqa: B018


def test_a_notebook_draws_in_one_place(monkeypatch):
  """As IPython's display does it; without ipywidgets, which rich would need."""
  drawn = []
  handle = types.SimpleNamespace(update=lambda data, raw: drawn.append(data))
  ipython = types.ModuleType('IPython')
  ipython.display = types.ModuleType('IPython.display')
  ipython.display.display = lambda data, raw, display_id: handle
  monkeypatch.setitem(sys.modules, 'IPython', ipython)
  monkeypatch.setitem(sys.modules, 'IPython.display', ipython.display)
  monkeypatch.setattr('rich.console._is_jupyter', lambda: True)
  sweep(progress=True, learning_rates=[1e-2])
  assert ' 100 %: epoch 2 of 2' in drawn[-1]['text/plain']
  assert 'epoch 1 of 2' in drawn[0]['text/plain']
  assert drawn[-1]['text/html'].startswith('<pre')


def test_importing_is_quick():
  """JAX, and everything that takes long, is imported only when it is used."""
  code = 'import sys, lr_study; print(sorted(lr_study.__all__), "jax" in sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT
  )  # fmt: skip
  assert "'sweep'] False" in done.stdout
  assert {*lr_study.__all__} <= {*dir(lr_study)}
  for name in lr_study.__all__:
    assert getattr(lr_study, name).__doc__
  with pytest.raises(AttributeError, match='no attribute'):
    lr_study.swep  # noqa: B018
