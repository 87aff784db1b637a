"""Each example of examples/ runs, on little data; so does the notebook there."""

import functools
import importlib
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from own.my_data import digits
from PIL import Image

import lr_study
from lr_study import models
from lr_study.models.resnet import ResNet

ROOT = Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / 'examples').glob('*.py'))


def example(name):
  return importlib.import_module(f'examples.{name}')


def run(name, cache_dir=None, **changes):
  """The study of a config in which sizes are changed; model__width is that of the model."""
  config = example(name).get_config()
  for place, value in {'accelerate': 'off', 'eval_batch_size': 8, **changes}.items():
    *section, field = place.split('__')
    (config[section[0]] if section else config)[field] = value
  if config.data.name == 'tombstone_letters':
    config.data.classes, config.data.per_class = ('D', 'E', 'O', 'T'), 6
    config.data.cache_dir = cache_dir
  return lr_study.sweep(config=config, progress=False)


SMALL = {'learning_rates': (1e-2, 1e-3), 'seeds': (0,), 'epochs': 2, 'batch_size': 6}


def check(study, trials):
  """Every trial is there and was trained."""
  assert len(study.trials) == trials
  assert {trial.epochs for trial in study.trials} == {2}
  assert np.isfinite(study.curves['loss']).all()


def test_examples_are_short_and_say_what_they_answer():
  assert len(NAMES) == 8
  for name in NAMES:
    text = (ROOT / f'examples/{name}.py').read_text()
    assert len(text.splitlines()) < 60
    question, *rest = example(name).__doc__.splitlines()
    assert '?' in question
    assert any(f'examples/{name}.py' in line for line in rest)


def test_a_resnet_with_batch_norm_on_a_folder(tmp_path, monkeypatch):
  """With one of its eight blocks: all would take half a minute to compile."""
  shallow = functools.partial(ResNet, (1,), False)
  monkeypatch.setitem(models.KNOWN, 'resnet18', shallow)
  rng, folder = np.random.default_rng(0), tmp_path / 'images'
  for i in range(16):
    file = folder / 'ab'[i % 2] / f'{i}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 99 + 99 * (i % 2), (16, 16, 3), np.uint8)).save(file)
  places = {'data__dir': str(folder), 'data__cache_dir': str(tmp_path)}
  study = run('resnet_folder', **SMALL, image_size=16, model__width=1 / 16, **places)
  check(study, 2)
  assert study.record['config']['optimizer']['no_decay'] == ['bias', 'scale']


def test_a_vision_transformer(cache_dir):
  study = run('vit', cache_dir, **SMALL, model__width=1 / 24, model__depth=1, model__heads=1)
  check(study, 4)
  assert [v.axes for v in study.verdicts] == [{'optimizer.weight_decay': x} for x in (0.05, 0.1)]


def test_an_nnx_module(cache_dir):
  check(run('nnx_module', cache_dir, **SMALL, model__features=2), 2)


def test_digits_as_arrays(monkeypatch):
  """If scikit-learn is not installed, another function returns arrays of the same form."""
  try:
    importlib.import_module('sklearn.datasets')
  except ImportError:
    x, y = digits(1797)
    found = (x.reshape(-1, 64) / 16.0, y)
    module = types.SimpleNamespace(load_digits=lambda return_X_y: found)
    monkeypatch.setitem(sys.modules, 'sklearn', types.SimpleNamespace(datasets=module))
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', module)
  study = run('digits', learning_rates=(1e-1, 3e-2), seeds=(0,), epochs=2, data__per_class=60)
  check(study, 2)
  assert study.record['data']['shape'] == [64]
  assert study.best.result.validation_accuracy > 0.7


def test_a_loss_and_a_metric_of_ones_own(cache_dir):
  study = run('own_loss', cache_dir, **SMALL, model__width=1 / 16)
  check(study, 4)
  assert study.curves['validation_margin'].shape == (2, 4)
  assert study.verdict.measure == 'validation_margin'
  of_epsilon = study.curves['loss'][0].reshape(2, 2)
  assert (of_epsilon[1] > of_epsilon[0] + 0.5).all()  # 2 (1 - p) more, before a step


def test_rate_by_decay_by_momentum_is_one_program(cache_dir, request):
  """With two seeds: 8 settings of 4 trials each, and each program is compiled once."""
  compiled = []

  def note(event, seconds, fun_name='', **_):
    compiled.extend([fun_name] if event == '/jax/core/compile/backend_compile_duration' else [])

  jax.monitoring.register_event_duration_secs_listener(note)
  request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(note))
  axes = ConfigDict(example('weight_decay').get_config().axes, allow_dotted_keys=True)
  axes['optimizer.momentum'] = (0.0, 0.9)
  study = run('weight_decay', cache_dir, **SMALL | {'seeds': (0, 1)}, axes=axes)
  check(study, 32)
  assert len(study.verdicts) == 8
  for name in ('train', 'measured', 'evaluate', 'draw'):
    assert compiled.count(f'jit({name})') == 1, name
  assert len(set(study.curves['loss'][-1])) == 32


LITTLE = {'epochs': 2, 'seeds': 1, 'accelerate': 'off', 'progress': False, 'batch_size': 15}


def test_rate_by_width(capsys):
  module = example('width_mup')
  best = module.main((8,), (1e-2, 1e-3), **LITTLE, data=digits(60), input={'scale': 0.01})
  assert [len(of) for of in best.values()] == [1, 1]
  printed = capsys.readouterr().out
  assert [line.partition(':')[0] for line in printed.splitlines()] == [
    f'width 8, {name}' for name in ('standard', 'muP')
  ]


def test_the_factors_of_mup_are_on_what_grows(monkeypatch):
  asked = []

  def sweep(model, **of):
    asked.append((model['width'], of['optimizer']['rate_factors']))
    return types.SimpleNamespace(verdict=types.SimpleNamespace(learning_rate=1.0))

  monkeypatch.setattr(lr_study, 'sweep', sweep)
  example('width_mup').main((32, 128))
  growing = 'second/kernel|third/kernel|head/kernel'
  of_mup = [(32, ((growing, 1.0),)), (128, ((growing, 0.25),))]
  assert asked == [(32, ()), of_mup[0], (128, ()), of_mup[1]]


def test_muon_and_prodigy_beside_sgd(cache_dir):
  small = SMALL | {'model': ConfigDict({'name': 'mlp', 'hidden': ()})}
  study = run('optimizers', cache_dir, **small, input__size=8)
  check(study, 6)
  names = [verdict.axes['optimizer.name'] for verdict in study.verdicts]
  assert names == ['sgd', 'muon', 'prodigy']
  last = study.curves['train_loss'][-1]
  assert len(set(last)) == 6


def test_the_notebook(monkeypatch):
  """Its cells as a program, on few images; it is executed, and small."""
  file = ROOT / 'examples/library.ipynb'
  assert file.stat().st_size < 300_000
  cells = [cell for cell in json.loads(file.read_text())['cells'] if cell['cell_type'] == 'code']
  assert all(cell['outputs'] for cell in cells[1:])
  assert not [out for cell in cells for out in cell['outputs'] if out['output_type'] == 'error']
  few = functools.partial(lr_study.sweep, epochs=2, seeds=1, accelerate='off', progress=False)
  monkeypatch.setattr(lr_study, 'sweep', lambda **of: few(**{**of, **few.keywords}))
  names = {}
  for cell in cells:
    exec(''.join(cell['source']), names)
  assert names['study'].curves['validation_accuracy'].shape[0] == 2
