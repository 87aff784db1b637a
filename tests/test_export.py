"""A trial as a folder that runs on its own: the same logits, complete or not at all."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export
from markdown_it import MarkdownIt
from PIL import Image

from configs import alexnet_letters
from lr_study import inputs
from lr_study.config import check
from lr_study.use import card, evaluate, export


@pytest.fixture(scope='module')
def trained(small_finished):
  return evaluate.load(small_finished)


@pytest.fixture(scope='module')
def made(small_finished, command, tmp_path_factory):
  """The folder as the command makes it."""
  out = tmp_path_factory.mktemp('exported') / 'below' / 'model'
  status, printed, errors = command('export.py', f'--workdir={small_finished}', f'--out={out}')
  assert (status, errors) == (0, '')
  assert 'a process without lr_study computed the same logits' in printed
  return out


def started(folder, *arguments):
  """Runs Python in a folder."""
  return subprocess.run(
    [sys.executable, '-B', *map(str, arguments)],
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


def alone(folder, *arguments):
  """What it prints, without errors."""
  ran = started(folder, *arguments)
  assert (ran.returncode, ran.stderr) == (0, '')
  return ran.stdout


def test_the_folder_classifies_by_itself(command, made, small_finished, photos, tmp_path):
  """In another place, it predicts the same as scripts/classify.py, for images of another size."""
  moved = shutil.copytree(made, tmp_path / 'moved')
  files = []
  for letter in 'OTE':
    with Image.open(photos / letter / '0.png') as image:
      files.append(tmp_path / f'{letter}.jpg')
      image.resize((150, 90)).save(files[-1])
  lines = alone(moved, 'predict.py', *files).splitlines()
  _, printed, _ = command('classify.py', f'--workdir={small_finished}', *files)
  for line, expected in zip(lines, printed.splitlines()[1:], strict=True):
    assert line.split() == expected.split()


def test_files_that_the_folder_cannot_read_are_named(made, photos, tmp_path):
  """One line each, and the others are classified all the same."""
  (photos / 'T' / 'cut.png').write_bytes((photos / 'T' / '0.png').read_bytes()[:200])
  good, cut, missing = photos / 'T' / '0.png', photos / 'T' / 'cut.png', tmp_path / 'no\n.png'
  ran = started(made, 'predict.py', photos, missing, cut, good)
  assert ran.returncode == 1
  assert ran.stdout.startswith(f'{good}  ')
  assert ran.stdout.count('\n') == 1
  assert ran.stderr.splitlines() == [
    f"'{photos}': Is a directory; give the files in it: {photos}/*",
    f'{str(missing)!r}: No such file or directory',
    f"'{cut}': image file is truncated",
  ]
  ran = started(made, 'predict.py')
  assert (ran.returncode, ran.stdout, ran.stderr) == (2, '', 'usage: python predict.py FILE ...\n')


def test_the_folder_goes_quiet_when_nobody_reads_on(made, photos):
  command = [sys.executable, '-B', 'predict.py', *map(str, sorted((photos / 'T').iterdir()))]
  started = subprocess.Popen(command, cwd=made, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  started.stdout.close()  # before anything is printed
  assert (started.stderr.read(), started.wait(120)) == (b'', 141)
  started.stderr.close()


def test_the_snippet_of_the_card_runs(made, trained, photos, tmp_path):
  folder = shutil.copytree(made, tmp_path / 'moved')
  (code,) = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
  assert len(code.splitlines()) <= 12
  assert set(re.findall(r'^(?:import|from) (\w+)', code, re.MULTILINE)) == {
    *('json', 'pathlib', 'numpy', 'jax', 'images')
  }
  shutil.copyfile(photos / 'T' / '3.png', folder / 'photo.jpg')
  label, probability = alone(folder, '-c', code).split()
  logits = evaluate.predict(trained, np.asarray(Image.open(photos / 'T' / '3.png'))[None])[0]
  shares = np.exp(logits) / np.exp(logits).sum()
  assert label == trained.classes[logits.argmax()]
  assert float(probability) == pytest.approx(shares.max(), rel=1e-4)  # printed digits


def test_what_the_folder_holds(made, trained):
  assert sorted(path.name for path in made.iterdir()) == sorted([*card._FILES, 'README.md'])
  assert json.loads((made / 'labels.json').read_text()) == ['O', 'T', 'E']
  program = jax_export.deserialize(bytearray((made / 'model.jax').read_bytes()))
  assert program.platforms == ('cpu', 'cuda')
  *_, images = program.in_avals
  assert (str(images.shape), images.dtype) == ('(batch, 64, 64, 3)', np.uint8)
  with np.load(made / 'weights.npz') as weights:
    assert sorted(weights) == sorted(export.flatten(trained))
    assert sum(weights[name].size for name in weights) == sum(
      leaf.size for leaf in jax.tree.leaves(trained.variables)
    )
  np.testing.assert_array_equal(np.load(made / 'mean.npy'), trained.mean)
  code = (made / 'predict.py').read_text() + (made / 'images.py').read_text()
  assert 'import' in code
  assert not re.search(r'(import|from) (lr_study|flax|optax)', code)


def all_of_it(config):
  config.input.grey, config.input.size, config.input.crop = True, 90, 80
  config.input.standardise, config.input.scale = True, 0.02


def caffe(config):
  config.input.bgr, config.input.mirror, config.input.crop = True, True, 75
  config.model.name = 'digits_caffe'


def torchvision(config):
  config.input.subtract, config.model.name = 'none', 'torchvision'


@pytest.mark.parametrize('change', [all_of_it, caffe, torchvision])
def test_every_way_of_preprocessing_is_inside(change):
  """As the study's own evaluation has it."""
  config = alexnet_letters.get_config('quick')
  config.model.width = 1 / 16
  change(config)
  config, classes = check(config), ('a', 'b', 'c')
  rng = np.random.default_rng(0)
  mean = rng.uniform(100, 140, (84, 84, 3)).astype(np.float32)
  stored = jax.ShapeDtypeStruct((84, 84, 3), np.uint8)
  trained = evaluate.Trained(config, classes, None, None, mean, stored)
  given = np.zeros((1, *inputs.shape(config.input, stored.shape)), np.float32)
  init = jax.jit(lambda key: evaluate.network(trained).init(key, given, train=False))
  trained = trained._replace(variables=jax.device_get(init(jax.random.key(0))))
  program = jax_export.deserialize(bytearray(export.serialise(trained)))
  pixels = rng.integers(0, 256, (3, 84, 84, 3), np.uint8)
  found = np.asarray(program.call(export.flatten(trained), mean, pixels))
  own = evaluate.predict(trained, pixels)
  assert np.abs(found - own).max() <= export.TOLERANCE * np.abs(own).max()


def test_a_wrong_model_is_not_kept(small_finished, trained, tmp_path, monkeypatch):
  """If a weight is off by a percent of the largest, or the program needs Flax."""
  study, out = evaluate.read_study(small_finished), tmp_path / 'model'
  flatten = export.flatten

  def wrong(of):
    weights = flatten(of)
    kernel = weights['params/conv2/kernel'] = weights['params/conv2/kernel'].copy()
    kernel[0, 0, 0, 0] += 0.01 * np.abs(kernel).max()
    return weights

  with monkeypatch.context() as patch:
    patch.setattr(export, 'flatten', wrong)
    with pytest.raises(RuntimeError, match='the exported model differs by'):
      export.save(study, trained, out)
  assert list(tmp_path.iterdir()) == []
  standalone = shutil.copytree(export._STANDALONE, tmp_path / 'standalone')
  code = (standalone / 'predict.py').read_text()
  (standalone / 'predict.py').write_text(code.replace('import sys\n', 'import sys\nimport flax\n'))
  monkeypatch.setattr(export, '_STANDALONE', standalone)
  with pytest.raises(RuntimeError, match=r"needs more than its folder: \['flax'"):
    export.save(study, trained, out)
  assert list(tmp_path.iterdir()) == [standalone]


def test_what_the_command_refuses(command, small_finished, made, tmp_path):
  workdir = f'--workdir={small_finished}'
  for arguments, message in (
    ((workdir,), 'no --out; try --workdir runs/'),
    ((f'--out={tmp_path}/x',), 'no --workdir; try'),
    ((workdir, f'--out={made}'), 'already exists; choose another folder, or delete it'),
    ((workdir, '--out=/dev/null/x'), 'cannot write --out /dev/null/x: Not a directory'),
    ((workdir, f'--out={tmp_path}/x', '--learning_rate=1e5'), '1e+05 diverged'),
  ):
    status, _, errors = command('export.py', *arguments)
    assert status == 2
    assert errors.startswith('error: ')
    assert errors.count('\n') == 1
    assert message in errors
  assert list(tmp_path.iterdir()) == []


def test_the_card(made, small_finished, trained):
  text = (made / 'README.md').read_text()
  study = evaluate.read_study(small_finished)
  assert study.verdict.sentence in text
  assert f'{100 * trained.result.validation_accuracy:.1f} % on 18 images' in text
  assert 'fontpkg-cinzel: OFL-1.1' in text
  assert 'photographs are harder' in text
  assert 'one seed was trained' in text
  assert '--part=test' in text


def test_the_card_of_a_study_by_another_figure(small_finished, trained):
  """It gives that figure, and says if that is for another epoch than the weights."""
  study = evaluate.read_study(small_finished)
  verdict = dataclasses.replace(
    study.verdict, measure='validation_loss', is_share=False, larger_is_better=False
  )
  result = dataclasses.replace(trained.result, best_epoch=2)
  text = card.write(study._replace(verdict=verdict), trained._replace(result=result))
  assert f'The study compares trials by validation loss: {result.validation_loss:.3g}.' in text
  end = trained.result.epochs
  assert f'those of epoch 2, its best; the weights are those of the end, epoch {end}' in text


def test_names_that_strangers_chose_stand_in_code_blocks(small_finished, trained):
  study = evaluate.read_study(small_finished)
  config = trained.config.copy_and_resolve_references().unlock()
  config.data.name, config.data.dir = 'image_folder', '/<b>/\n# a'
  names = ('<script>alert(1)</script>', '```', '# x')
  text = card.write(study, trained._replace(config=config, classes=names))
  tokens = MarkdownIt('commonmark', {'html': True}).enable('table').parse(text)
  children = [child for token in tokens for child in token.children or ()]
  assert not [token for token in (*tokens, *children) if token.type.startswith('html')]
  blocks = [token.content.splitlines() for token in tokens if token.type == 'code_block']
  assert blocks[:2] == [list(names), ['/<b>/\\n# a']]
  assert len(blocks) == 3
  assert blocks[2][0].startswith('small_cnn (')
  assert 'does not know their licence' in text
  assert sum(token.type == 'heading_open' for token in tokens) == 6
