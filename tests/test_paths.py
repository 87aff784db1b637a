"""Locations of images, a user's files and studies: `~`, other folders, moved ones."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import ROOT
from ml_collections import ConfigDict
from PIL import Image

from configs import alexnet_folder
from lr_study import loop, paths
from lr_study.config import check, differences
from lr_study.errors import StudyError
from lr_study.files.checkpoint import Checkpoints
from lr_study.search import rounds
from lr_study.study import run
from lr_study.use import evaluate

NET = """
import flax.linen as nn

from lr_study import paths, plugs


class Net(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(x.reshape(len(x), -1))


def half():
  return lambda step: 0.5


@plugs.limits(file=paths.PATH)
def load(file='x.csv'):
  raise ValueError
"""


def make_photos(folder):
  """Two classes of 12 images that a linear network can separate."""
  for label, name in enumerate(('ant', 'bee')):
    (folder / name).mkdir(parents=True)
    for i in range(12):
      pixels = np.random.default_rng([label, i]).integers(0, 256, (8, 8, 3))
      pixels[:4] = pixels[:4] // 4 + 180 * label
      Image.fromarray(np.minimum(pixels, 255).astype(np.uint8)).save(folder / name / f'{i}.png')


@pytest.fixture
def home(tmp_path, monkeypatch):
  """The current folder: photos/ and my_net.py."""
  home = tmp_path / 'home'
  make_photos(home / 'photos')
  (home / 'my_net.py').write_text(NET)
  monkeypatch.chdir(home)
  return home


def make_config(home, **data):
  config = alexnet_folder.get_config()
  config.learning_rates, config.epochs, config.batch_size = (3e34, 1e-2), 3, 2
  config.image_size, config.parallel, config.accelerate = 8, 'vmap', 'off'
  config.log_every_steps = 4
  config.model = ConfigDict({'name': 'my_net.py:Net'})
  config.axes = ConfigDict({'schedule.name': ('my_net.py:half',)}, allow_dotted_keys=True)
  config.data = {'name': 'image_folder', 'dir': 'photos/', 'test_fraction': 0.25, **data}
  config.data.cache_dir = str(home.parent / 'cache')
  return config


def curves(folder):
  return {f.name: f.read_bytes() for f in (folder / 'history').rglob('*') if f.is_file()}


def content(folder):
  found = json.loads((folder / 'results.json').read_text())
  for name in ('seconds', 'seconds_of', 'config'):
    found['study'].pop(name)
  return found


def test_a_config_keeps_whole_paths(home, monkeypatch):
  monkeypatch.setenv('HOME', str(home))
  config = make_config(home, validation_dir='~/photos/../apart')
  config.metrics = ('balanced_accuracy', f'{ROOT}/tests/own/../own/my_loss.py:margin')
  config.verdict = {'measure': config.metrics[1]}
  checked = check(config)
  assert checked.data.dir == f'{home}/photos'
  assert checked.data.validation_dir == f'{home}/apart'
  assert checked.model.name == f'{home}/my_net.py:Net'
  assert checked.axes['schedule.name'] == (f'{home}/my_net.py:half',)
  assert checked.metrics[1] == checked.verdict.measure == f'{ROOT}/tests/own/my_loss.py:margin'
  config.data = {'name': 'my_net.py:load', 'file': '~/y.csv'}
  assert check(config).data.file == f'{home}/y.csv'
  del config.data.file
  assert check(config).data.file == f'{home}/x.csv'  # the default is where it was, too
  monkeypatch.chdir(home.parent)
  assert check(checked) == checked
  config.data = {'name': 'npz:../x.npz'}
  config.model, config.verdict = {'name': 'mlp'}, {'measure': ''}
  config.axes, config.metrics = ConfigDict(), ()
  assert check(config).data.name == f'npz:{home.parent.parent}/x.npz'


def test_what_makes_another_study(home):
  """Not where images and files lie, how they are read, or what changes no number."""

  def changed(**other):
    new = check(config).to_dict()
    for name, value in other.items():
      section, _, field = name.rpartition('__')
      (new[section] if section else new)[field] = value
    return differences(json.loads(json.dumps(old)), json.loads(json.dumps(new)))

  config = make_config(home)
  old = check(config).to_dict()
  free = {'memory_gb': 3.0, 'log_every_steps': 7, 'checkpoint_minutes': 1.0, 'checkpoint_steps': 5}
  data = {'data__dir': '/elsewhere', 'data__resident': False, 'data__skip_unreadable': True}
  assert changed(**free, **data, data__cache_dir='/c') == []
  assert changed(epochs=4, data__seed=1) == ['data.seed 0 -> 1', 'epochs 3 -> 4']
  assert changed(parallel='threads') == ["parallel 'vmap' -> 'threads'"]
  assert changed(model__name=f'{home}/my_net.py:Other')
  shutil.copyfile('my_net.py', '../my_net.py')
  assert changed(model__name=f'{home.parent}/my_net.py:Net') == []  # a copy
  assert changed(model__name='/gone/my_net.py:Net') == []
  (home.parent / 'my_net.py').write_text(NET + '\n')
  assert changed(model__name=f'{home.parent}/my_net.py:Net')  # both are there, and differ
  old['model']['name'] = 'my_net.py:Net'  # as earlier versions wrote it
  assert changed() == []


def test_a_study_goes_on_with_moved_images(home, monkeypatch, without_figures, capsys):
  """Stopped, moved and resumed: the curves have the same bytes."""
  run(make_config(home), home / 'whole')
  save = Checkpoints.save

  def save_and_stop(self, done, state):
    save(self, done, state)
    if done == 4:
      raise KeyboardInterrupt

  stopped = make_config(home)
  stopped.checkpoint_steps = 4  # in an epoch, after the trial of 3e34 has left
  monkeypatch.setattr(loop.Checkpoints, 'save', save_and_stop)
  with pytest.raises(KeyboardInterrupt):
    run(stopped, home / 'study')
  monkeypatch.setattr(loop.Checkpoints, 'save', save)
  other = home.parent / 'other'
  other.mkdir()
  for name in ('photos', 'my_net.py', 'study'):
    (home / name).rename(other / name)
  monkeypatch.chdir(other)
  moved = make_config(home, dir=f'{other}/photos')
  moved.memory_gb, moved.log_every_steps = 1.0, 3
  capsys.readouterr()
  run(moved, other / 'study')
  said = capsys.readouterr().out
  assert 'Resuming from step 4' in said
  assert f'log_every_steps stays 4, the value with which the study in {other}/study began' in said
  assert curves(other / 'study') == curves(home / 'whole')
  assert content(other / 'study') == content(home / 'whole')
  broken, learned = content(other / 'study')['trials']
  assert (broken['status'], broken['steps'], learned['steps']) == ('diverged', 4, 21)
  for file in ('config.json', 'results.json'):
    found = json.loads((other / 'study' / file).read_text())
    config = found.get('study', found)['config']
    assert (config['data']['dir'], config['memory_gb']) == (f'{other}/photos', 1.0)
    assert config['log_every_steps'] == 4
  # A finished one learns of the new place too, and nothing trains.
  shutil.move('photos', 'again')
  before = curves(other / 'study')
  run(make_config(home, dir='again'), other / 'study')
  assert curves(other / 'study') == before
  assert evaluate.read_part(other / 'study', 'test').labels.size
  # So does one that is extended: its trials are kept.
  larger = make_config(home, dir='again')
  larger.learning_rates, larger.log_every_steps = (*larger.learning_rates, 1e-3), 9
  capsys.readouterr()
  run(larger, other / 'study', extend=True)
  said = capsys.readouterr().out
  assert 'Kept: 2 trials' in said
  assert 'anew' not in said
  assert content(other / 'study')['trials'][0] == broken
  file = other / 'again' / 'ant' / '0.png'
  Image.open(file).rotate(90).save(file)
  with pytest.raises(StudyError, match='holds a study with other images'):
    run(larger, other / 'study')


def test_a_study_is_read_from_anywhere(home, monkeypatch, without_figures, command):
  config = make_config(home)
  run(config, home / 'study')
  away = home.parent / 'away'
  away.mkdir()

  def ask(script, *flags):
    return command(script, '--workdir=~/study', *flags, folder=away, draws=False, HOME=str(home))

  part = ('classify.py', '--part=test', '--json=~/part.json')
  status, _, errors = ask(*part)
  assert (status, errors) == (0, '')
  expected = (home / 'part.json').read_bytes()
  moved = home.parent / 'moved'
  moved.mkdir()
  (home / 'my_net.py').rename(moved / 'my_net.py')
  status, _, errors = ask(*part)
  assert status == 2
  assert f'there is no file {home}/my_net.py; if it was moved, add --moved=OLD=NEW' in errors
  assert len(errors.splitlines()) == 1
  own = f'--moved={home}/my_net.py=../moved/my_net.py'
  (home / 'photos').rename(moved / 'photos')
  for script, *flags in (part, ('diagnose.py', '--learning_rate=3e34'), ('range_test.py',)):
    status, _, errors = ask(script, own, *flags)
    assert status == 2
    assert errors.startswith(f'error: data.dir: {home}/photos, of the study in ')
    assert 'is missing; if it was moved, add --moved=OLD=NEW' in errors
    status, _, errors = ask(script, f'--moved={home}={moved}', *flags)
    assert (status, errors) == (0, '')
  assert (home / 'part.json').read_bytes() == expected
  status, _, errors = ask('export.py', own, '--out=~/model')
  assert (status, errors) == (0, '')
  assert {*os.listdir(home)} - {'__pycache__'} == {'model', 'part.json', 'study'}
  assert os.listdir(away) == []  # no folder of the name ~


def test_a_study_beside_its_images_is_refused(home, command):
  """From the folder of the images, where runs/ would be a class: nothing is left behind."""
  file = home / 'study.py'
  file.write_text(
    f'import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom configs.alexnet_folder import get_config'
  )
  photos = home / 'photos'
  for script, flag in (('sweep.py', '--workdir'), ('show_data.py', '--out')):
    status, _, errors = command(
      script, '--config=~/study.py', '--config.data.dir=.', folder=photos, HOME=str(home)
    )
    assert status == 2
    assert f'lies in data.dir, {photos}, where it would count as a class of images' in errors
    assert f'set another folder with {flag}' in errors
  assert sorted(os.listdir(photos)) == ['ant', 'bee']


def test_two_schedules_of_one_name(home):
  (home / 'other').mkdir()
  shutil.copyfile('my_net.py', 'other/my_net.py')
  config = make_config(home)
  names = ('my_net.py:half', 'other/my_net.py:half')
  config.axes = ConfigDict({'schedule.name': names}, allow_dotted_keys=True)
  with pytest.raises(StudyError, match=r'two files of the same names, my_net\.py:half; rename one'):
    rounds.settings(check(config))


@pytest.mark.parametrize('flag', ['--workdir=', '--workdir=~nobody-of-this-name/x'])
def test_a_flag_that_is_no_path(command, flag):
  status, _, errors = command('report.py', flag.replace('workdir', 'out'))
  assert status == 2
  assert errors.startswith('error: flag --out=')
  assert len(errors.splitlines()) == 1


def test_what_was_moved():
  stored = {'dir': '/a/b/', 'name': '/a/b/my.py:Net', 'npz': 'npz:/a/b/x.npz', 'other': ['/a/bc']}
  found = paths.moved(stored, [('/a/b', '/new')])
  assert found == {
    'dir': '/new', 'name': '/new/my.py:Net', 'npz': 'npz:/new/x.npz', 'other': ['/a/bc']
  }  # fmt: skip
