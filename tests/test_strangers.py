"""Names chosen by strangers are written correctly and do no harm."""

import ast
import csv
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from ml_collections import ConfigDict
from PIL import Image
from rich.cells import cell_len

from configs import alexnet_letters
from lr_study import data, progress
from lr_study.errors import StudyError
from lr_study.files import events
from lr_study.files.history import STEP_CURVES, History
from lr_study.report import report
from lr_study.search import rounds
from lr_study.study import run
from lr_study.use import classify, evaluate

ROOT = Path(__file__).parents[1]
LONGEST = 'é' * 127 + 'z'  # 255 bytes, what a file system allows
# As they are on disk -> as they are written; what a terminal might obey is escaped.
WRITTEN = {
  '<script>alert(1)<script>': '<script>alert(1)<script>',
  'x..%2e%2e': 'x..%2e%2e',
  'a\nb\x1b[31m': r'a\nb\x1b[31m',
  '"q\'|`*_': '"q\'|`*_',
  '=1+1': '=1+1',
  '$(touch evaluated)': '$(touch evaluated)',
  ':bomb:[red]': ':bomb:[red]',
  '🙂🙂 ñ n\u0303 ❤\ufe0f': '🙂🙂 ñ ñ ❤\ufe0f',  # in one spelling
  LONGEST: LONGEST,
  os.fsdecode(b'\xff'): r'\xff',
}
OWN = """
import flax.linen as nn


class Net(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(x.reshape(len(x), -1))


def half():
  return lambda step: 0.5
"""
BAD_FILE = '<script>alert(2)<script>|\n# =1+1.png'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """One class per name, each with its own brightness, and a file that is not an image."""
  root = tmp_path_factory.mktemp('strangers') / '<b>:bomb: =1\n'
  for shade, name in enumerate(sorted([*WRITTEN, '..hidden'])):
    (root / name).mkdir(parents=True)
    for i in range(8):
      pixels = np.full((8, 8, 3), 20 * shade + i, np.uint8)
      Image.fromarray(pixels).save(root / name / f'{i} {name[:60]}.png')
  (root / '=1+1' / BAD_FILE).write_text('no image')
  return root


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """A file with a network and a schedule, whose name Markdown would obey."""
  file = tmp_path_factory.mktemp('own') / '<b>`*|[x](y).py'
  file.write_text(OWN)
  return file


@pytest.fixture(scope='module')
def study(folder, own, tmp_path_factory):
  config = alexnet_letters.get_config('quick')
  config.data.name, config.data.dir = 'image_folder', str(folder)
  config.data.skip_unreadable = True
  config.data.cache_dir = str(tmp_path_factory.mktemp('data_sets'))
  config.learning_rates = (1e-4, 1e-5)
  config.epochs, config.batch_size, config.image_size = 2, 8, 20
  config.model = ConfigDict({'name': f'{own}:Net'})
  config.schedule = ConfigDict({'name': 'constant'})
  names = ('constant', f'{own}:half')
  config.axes = ConfigDict({'schedule.name': names}, allow_dotted_keys=True)
  workdir = tmp_path_factory.mktemp('studies') / 'study'
  run(config, workdir)
  return workdir


def classes():
  return [WRITTEN[name] for name in sorted(WRITTEN)]


def test_results_hold_the_names(study, folder):
  content = json.loads((study / 'results.json').read_text())['study']
  assert content['data']['classes'] == classes()
  assert content['config']['data']['dir'] == str(folder)
  assert len(content['data']['left_out']) == 1
  assert content['data']['left_out'][0].startswith('=1+1/<script>alert(2)<script>|\\n# =1+1.png (')


def test_a_spreadsheet_evaluates_no_cell(study):
  with (study / 'results.csv').open(newline='') as stream:
    rows = list(csv.reader(stream))
  results, _ = report.read(study)
  assert [float(row[0]) for row in rows[1:]] == [r.learning_rate for r in results]
  assert [row[5] for row in rows[1:]] == [r.evidence for r in results]
  assert [row[3] for row in rows[1:]] == [r.schedule for r in results]
  cells = [cell for row in rows for cell in row if not re.fullmatch(r'-\d[\d.e-]*', cell)]
  assert not [cell for cell in cells if cell.startswith(('=', '+', '-', '@', '\t'))]


def test_the_summary_renders_names_as_text(study, own):
  """As GitHub would: HTML in Markdown is obeyed, but not in a code block."""
  parser = MarkdownIt('commonmark', {'html': True}).enable('table')
  tokens = parser.parse((study / 'summary.md').read_text())
  children = [child for token in tokens for child in token.children or ()]
  assert not [token for token in (*tokens, *children) if token.type.startswith('html')]
  assert not [token for token in children if token.type in ('link_open', 'code_inline')]
  shown = [''.join(child.content for child in token.children or ()) for token in tokens]
  assert [token.tag for token in tokens if token.type == 'heading_open'] == ['h1', 'h2', 'h2']
  rows = sum(token.type == 'tr_open' for token in tokens)
  assert rows == 3 * 3 + 5  # of settings, of the rates of each and of trials, and their heads
  assert shown.count(f'{own.name}:half') == 3  # of settings, and of its trials
  assert any(text.startswith(f'{own}:Net, on ') for text in shown)
  *_, block = [token for token in tokens if token.type == 'code_block']  # after the checks'
  content = json.loads((study / 'results.json').read_text())['study']
  assert block.content.splitlines() == content['data']['left_out']


def test_no_name_becomes_a_path(study, folder):
  """Neither in the work directory nor next to it, nor where data sets are stored."""
  cache = json.loads((study / 'config.json').read_text())['config']['data']['cache_dir']
  made = [path.name for root in (study, Path(cache)) for path in root.rglob('*')]
  assert len(made) > 20
  assert all(name.isascii() and name.isprintable() for name in made)
  assert not [name for name in made for sign in ('<', '=', '%', '$', '..', ' ') if sign in name]
  assert [path.name for path in study.parent.iterdir()] == ['study']


def test_tensorboard_reads_the_runs(study):
  labels = sorted(path.name for path in (study / 'tensorboard').iterdir() if path.is_dir())
  assert labels == ['answer', 'constant', 'half']
  for label in labels[1:]:
    runs = sorted((study / 'tensorboard' / label).iterdir())
    assert [run.name for run in runs] == ['lr_1e-04_seed_0', 'lr_1e-05_seed_0']
    for of_trial in runs:
      assert len(events.read(of_trial)['validation/accuracy']) == 2


def test_schedules_of_any_files_have_labels_of_their_own():
  names = ('constant', 'a/my.py:half', '../../my.py:half', 'my.py:double')
  settings = [rounds.Setting(1, name) for name in names]
  labels = [rounds.label(setting, settings) for setting in settings]
  assert labels == ['constant', 'half_1', 'half_2', 'double']
  assert rounds.title(settings[1], settings) == 'half 1'


def test_an_evaluation_knows_the_classes(command, study, folder, tmp_path):
  out = tmp_path / '=out<b>.json'
  photos = tmp_path / '<b>'
  shutil.copytree(folder, photos, ignore=shutil.ignore_patterns('*.hidden', '*alert(2)*'))
  counts = {name: 1 + i % 8 for i, name in enumerate(sorted(WRITTEN))}
  for name, count in counts.items():
    for file in sorted((photos / name).iterdir())[count:]:
      file.unlink()
  flags = [f'--workdir={study}', photos, f'--json={out}', '--learning_rate=1e-4']
  status, said, errors = command('classify.py', *flags, folder=tmp_path)
  assert (status, errors) == (0, '')
  found = json.loads(out.read_text())
  assert found['classes'] == classes()
  assert [sum(row) for row in found['confusion']] == list(counts.values())
  _, *lines = said.splitlines()
  assert len(lines) == len(WRITTEN) + 4  # an empty line, the accuracy, and that it has seen these
  assert lines[-2].startswith('The study has seen some of these')
  for line, name, row in zip(lines, classes(), found['confusion'], strict=False):
    assert line.startswith(' ' * (128 - cell_len(name)) + name + ' ')
    assert line.removesuffix('%').split()[-2 - len(row) : -2] == [str(n) for n in row]
  assert sorted(path.name for path in tmp_path.iterdir()) == [photos.name, out.name]


def test_a_class_that_the_study_does_not_know(study, tmp_path):
  (tmp_path / 'a\x1b[2J').mkdir()
  with pytest.raises(StudyError, match=r"has the class 'a\\\\x1b\[2J', which the study"):
    classify.find([str(tmp_path)], classes())


def test_notes_show_paths_as_they_are(capsys):
  progress.note(os.fsdecode(b':bomb:/[red]\n\xff\x1b[2J'))
  assert capsys.readouterr().out == ':bomb:/[red]\\n\\udcff\\x1b[2J\n'


def test_folders_of_impossible_names(study):
  with pytest.raises(StudyError, match='is not a folder; give that of a finished study'):
    evaluate.load(Path('x' * 300))
  with pytest.raises(StudyError, match='no such file or folder'):
    classify.find(['x' * 300], ('a',))


def test_classes_that_read_the_same(tmp_path):
  for name in ('a\nb', r'a\nb'):
    (tmp_path / name).mkdir()
    (tmp_path / name / '1.png').touch()
  config = alexnet_letters.get_config().data
  config.name, config.dir, config.cache_dir = 'image_folder', str(tmp_path), str(tmp_path)
  with pytest.raises(StudyError, match=r'two classes that both read a\\nb; rename one'):
    data.load(config, 20)


class Trap:
  """Unpickled, it makes a folder."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize('header', [True, False])
def test_a_pickle_in_the_history_is_not_loaded(tmp_path, header):
  trap, file = str(tmp_path / 'trap'), tmp_path / 'history' / f'step_{STEP_CURVES[0]}.npy'
  History(tmp_path / 'history', 4, 2, 1)
  if header:
    np.save(file, np.asarray([[Trap(trap)]] * 4, object), allow_pickle=True)
  else:
    file.write_bytes(pickle.dumps(Trap(trap)))
  with pytest.raises(StudyError, match=r'step_loss\.npy is damaged .*start again'):
    History(tmp_path / 'history', 4, 2, 1)
  assert not Path(trap).exists()
  np.load(file, allow_pickle=True)  # it would have sprung
  assert Path(trap).exists()


FORBIDDEN = {'pickle', 'cPickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve', 'yaml'}
EVALUATES = {'eval', 'exec', 'compile', '__import__', 'system', 'popen'}


def test_the_code_evaluates_nothing():
  files = [file for name in ('lr_study', 'scripts') for file in (ROOT / name).rglob('*.py')]
  assert len(files) > 40
  found = [f'{file}:{line} {what}' for file in files for line, what in _dangers(file.read_text())]
  assert found == []


def test_dangers_are_seen():
  code = 'import os, pickle\nfrom yaml import load\neval(x)\nos.system(x)\nnp.load(f, None, True)\n'
  code += 'np.load(f, allow_pickle=flag)\nnp.load(f, allow_pickle=False)\nrun(x, shell=True)\n'
  assert [line for line, _ in _dangers(code)] == [1, 2, 3, 4, 5, 6, 8]


def _dangers(code):
  """Line and name of each import and call that could run what a file or a flag says."""
  for node in ast.walk(ast.parse(code)):
    match node:
      case ast.Import(names=names):
        found = {alias.name.partition('.')[0] for alias in names} & FORBIDDEN
      case ast.ImportFrom(module=str(module)):
        found = {module.partition('.')[0]} & FORBIDDEN
      case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as function):
        # jax.jit(f).lower(...).compile() and re.compile evaluate nothing.
        plain = isinstance(function, ast.Name) or name in ('system', 'popen')
        found = {name} & EVALUATES if plain else set()
        loads = ast.unparse(function) == 'np.load' and len(node.args) > 2
        unsafe = [
          word.arg
          for word in node.keywords
          if word.arg in ('allow_pickle', 'shell')
          and not (isinstance(word.value, ast.Constant) and word.value.value is False)
        ]
        found |= {'pickles'} if loads else set(unsafe)
      case _:
        continue
    for name in found:
      yield node.lineno, name
