"""Classifies image files with a trial: predictions, and files that are refused."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from lr_study import cli
from lr_study.errors import StudyError
from lr_study.use import again, classify, evaluate, explain


@pytest.fixture(scope='module')
def trained(small_finished):
  return evaluate.load(small_finished)


def test_a_labelled_folder(command, small_finished, photos, tmp_path):
  out = tmp_path / 'found.json'
  status, printed, errors = command(
    'classify.py', '--workdir', small_finished, photos, '--json', out
  )
  assert (status, errors) == (0, '')
  found = json.loads(out.read_text())
  assert found['images'] == 20
  assert [sum(row) for row in found['confusion']] == [4, 10, 6]  # classes in the study's order
  right = np.trace(found['confusion'])
  assert found['accuracy'] == right / 20
  assert f'on 20 images: accuracy {100 * right / 20:.1f} %, balanced accuracy ' in printed
  assert printed.splitlines()[0].split() == ['true', 'O', 'T', 'E', 'images', 'right']
  best = json.loads((small_finished / 'results.json').read_text())['verdict']['learning_rate']
  assert (found['learning_rate'], found['seed']) == (best, 0)


def test_files_and_folders_of_files(command, small_finished, trained, photos, tmp_path):
  """Each is named with the probabilities that its logits mean; flags may come after them."""
  out = tmp_path / 'found.json'
  files = [photos / 'O' / '1.png', *sorted((photos / 'E').iterdir())]
  relative = os.path.relpath(files[0], tmp_path)
  status, printed, errors = command(
    'classify.py',
    relative,
    photos / 'E',
    '--workdir',
    small_finished,
    '--json',
    out,
    folder=tmp_path,
  )
  assert (status, errors) == (0, '')
  found = json.loads(out.read_text())['files']
  assert [entry['file'] for entry in found] == [relative, *map(str, files[1:])]
  pixels = np.stack([np.asarray(Image.open(file)) for file in files])
  logits = evaluate.predict(trained, pixels).astype(float)
  expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  head, *lines = printed.splitlines()
  assert head.split() == ['image', '1', '2', '3']
  for entry, line, shares in zip(found, lines, expected, strict=True):
    names = [cell['class'] for cell in entry['top']]
    assert names == [trained.classes[i] for i in np.argsort(-shares)]
    # Float32 logits near 1, from batches of other sizes, in two processes.
    np.testing.assert_allclose(
      [cell['probability'] for cell in entry['top']], sorted(shares, reverse=True), rtol=1e-4
    )
    cells = line.removeprefix(entry['file']).replace('%', '').split()
    assert cells[::2] == names
    assert float(cells[1]) == pytest.approx(100 * shares.max(), abs=0.06)


def test_images_that_the_study_has_seen_are_told(command, small_finished, trained, tmp_path):
  """By their pixels, wherever they lie now."""
  record = evaluate.read_study(small_finished).record['data']
  data = again.load(trained.config, record, small_finished)
  new = np.full((64, 64, 3), 9, np.uint8)
  for name, pixels in (('a', data.train.images[0]), ('b', data.validation.images[5]), ('c', new)):
    (tmp_path / 'images' / 'O').mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(tmp_path / 'images' / 'O' / f'{name}.png')
  says = 'The study has seen some of these 3 images: it trained on 1 and compared rates on 1.'
  status, printed, _ = command('classify.py', '--workdir', small_finished, tmp_path / 'images')
  assert status == 0
  assert printed.splitlines()[-2:] == [
    says, 'So this accuracy is no fair estimate for new ones; it is too high.'
  ]  # fmt: skip
  seen = evaluate.read_seen(small_finished)
  top = classify.answer(trained, [str(tmp_path / 'images' / 'O')], seen)
  assert top.text.splitlines()[-1] == says
  assert top.content['of_study'] == {'train': 1, 'validation': 1}
  only_new = classify.answer(trained, [str(tmp_path / 'images' / 'O' / 'c.png')], seen)
  assert 'has seen' not in only_new.text
  assert evaluate.read_seen(tmp_path) == {}  # of an older study


def test_the_studys_own_parts(command, small_finished):
  for part, count in (('test', 24), ('validation', 18)):
    status, printed, errors = command(
      'classify.py', '--workdir', small_finished, f'--part={part}', '--learning_rate=1e-3'
    )
    assert (status, errors) == (0, '')
    assert f'learning rate 1e-03, seed 0, on {count} images: accuracy' in printed
    assert ('compared its rates on this part' in printed) == (part == 'validation')


def test_what_the_command_refuses(command, small_finished, photos):
  for arguments, message in (
    ((photos,), 'no --workdir; try --workdir runs/'),
    (
      (f'--workdir={small_finished}',),
      'give either image files, or a folder of them, or --part=test',
    ),
    (
      (f'--workdir={small_finished}', '--part=test', photos),
      'give either image files, or a folder',
    ),
    ((f'--workdir={small_finished}', '--', '--part=test'), '--part=test: no such file or folder'),
    ((f'--workdir={small_finished}', photos, '--json=/dev/null/x'), 'cannot write /dev/null/x'),
    ((f'--workdir={small_finished}', photos, '--explain=x'), '--explain takes one image, not 20'),
  ):
    status, _, errors = command('classify.py', *arguments)
    assert status == 2
    assert errors.startswith('error: ')
    assert errors.count('\n') == 1
    assert message in errors


def test_other_commands_take_no_arguments(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['sweep.py', 'configs/alexnet_letters.py'])
  with pytest.raises(SystemExit) as ended:
    cli.run(lambda: None)
  assert ended.value.code == 2
  assert 'not a flag' in capsys.readouterr().err


def test_files_that_are_no_images_are_skipped(command, small_finished, photos, tmp_path):
  """No such file blocks, is endless or leads out of its folder; each is named."""
  folder = photos / 'O'
  os.mkfifo(folder / 'pipe.png')
  (folder / 'empty.png').touch()
  (folder / 'notes\x1b[2J\n.txt').write_text('no image')
  (folder / 'cut.png').write_bytes((folder / '0.png').read_bytes()[:2000])
  (folder / 'device.png').symlink_to('/dev/zero')
  (folder / 'gone.png').symlink_to(folder / 'nowhere')
  (folder / 'out.png').symlink_to(photos / 'E' / '0.png')
  (folder / 'in.png').symlink_to(folder / '0.png')
  (folder / '.hidden.png').write_text('no image')
  out = tmp_path / 'found.json'
  linked = tmp_path / 'linked.png'  # what the user names may lie anywhere
  linked.symlink_to(photos / 'E' / '1.png')
  status, printed, errors = command(
    'classify.py', '--workdir', small_finished, folder, linked, '--json', out
  )
  assert (status, errors) == (0, '')
  found = json.loads(out.read_text())
  assert [Path(entry['file']).name for entry in found['files']] == [
    *('0.png', '1.png', '2.png', '3.png', 'in.png'),
    'linked.png',
  ]
  reasons = {Path(entry['file']).name: entry['reason'] for entry in found['skipped']}
  assert sorted(reasons) == sorted(
    [
      'pipe.png',
      'empty.png',
      'notes\\x1b[2J\\n.txt',
      'cut.png',
      'device.png',
      'gone.png',
      'out.png',
    ]
  )
  assert reasons['pipe.png'] == 'not a regular file'
  assert {reasons['out.png'], reasons['device.png']} == {'a link out of the folder'}
  lines = printed.splitlines()
  assert len(lines) == 1 + 6 + 7
  assert f'{folder}/notes\\x1b[2J\\n.txt is skipped: not an image' in lines


def test_images_that_there_are_not(trained, photos, tmp_path):
  def fails(message, *paths):
    with pytest.raises(StudyError, match=message):
      classify.answer(trained, list(map(str, paths)))

  fails('nowhere: no such file or folder', tmp_path / 'nowhere')
  (tmp_path / 'empty').mkdir()
  fails('empty holds no files', tmp_path / 'empty')
  fails('has sub-folders, one per class; give only this', photos, photos / 'O' / '0.png')
  notes = photos / 'O' / 'notes.txt'
  notes.write_text('no image')
  fails(r'no image can be read: .*notes\.txt \(not an image\)$', notes)
  for i in range(4):
    (photos / 'T' / f'pipe{i}').mkdir()
    os.mkfifo(photos / 'T' / f'pipe{i}' / 'x.png')
  fails(r'5 unreadable in .*x\.png \(not a regular file\); .* and 2 more; repair', photos)
  (photos / 'Q').mkdir()
  fails("has the class 'Q', which the study does not know; it knows O, T, E", photos)
  (tmp_path / 'hollow' / 'O').mkdir(parents=True)
  fails('has no files in its sub-folders', tmp_path / 'hollow')


def test_columns_line_up_whatever_the_names():
  names = ('🙂🙂', 'n\u0303', 'plain')
  lines = classify._aligned([['head', *names], *([name] * 4 for name in names)]).splitlines()
  assert len({cell_len(line) for line in lines}) == 1


def test_a_picture_of_every_layer(trained, photos, tmp_path):
  """The figures are those of a convolution and so on, written out."""
  file = photos / 'T' / '0.png'
  explain.draw(trained, [str(file)], tmp_path / 'a' / 'b')
  figures = json.loads((tmp_path / 'a' / 'b' / 'layers.json').read_text())
  names = [figure['layer'] for figure in figures]
  assert names == ['input', 'conv1 filters', 'conv1', 'conv2', 'conv3', 'dense1', 'logits']
  by_name = {figure['layer']: figure for figure in figures}
  shown, layers, logits = explain.look_inside(trained, np.asarray(Image.open(file)))
  values = {layer.name: layer.values for layer in layers}
  weights = trained.variables['params']
  conv1 = jax.lax.conv_general_dilated(
    shown[None],
    weights['conv1']['kernel'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  conv1 = conv1[0] + weights['conv1']['bias']
  # The same sums of nine products of float32 values near 1, in another order.
  np.testing.assert_allclose(values['conv1'], conv1, atol=1e-5)
  last = np.maximum(values['dense1'], 0) @ weights['dense2']['kernel'] + weights['dense2']['bias']
  np.testing.assert_allclose(logits, last, atol=1e-5)
  pixels = np.asarray(Image.open(file))[None]
  np.testing.assert_allclose(logits, evaluate.predict(trained, pixels)[0], atol=1e-5)
  assert by_name['conv1']['shape'] == [20, 20, 8]
  assert by_name['conv1']['mean'] == pytest.approx(float(conv1.mean()), rel=1e-4)
  assert by_name['conv1']['std'] == pytest.approx(float(conv1.std()), rel=1e-4)
  assert by_name['conv1']['zeros'] == pytest.approx(float(np.mean(conv1 == 0)), abs=0.01)
  assert by_name['conv1']['smallest'] == pytest.approx(float(conv1.min()), rel=1e-4)
  with Image.open(tmp_path / 'a' / 'b' / 'layers.png') as picture:
    assert picture.width > 1000
    assert len(np.unique(np.asarray(picture.convert('L')))) > 100


def test_a_picture_of_names_that_strangers_chose(trained, photos, tmp_path):
  """Without mathematics, and without characters that the font lacks."""
  file = photos / '$\\frac{$ 漢🙂\x1b[2J.png'
  (photos / 'T' / '0.png').rename(file)
  classes = ('$\\undefined$', '\\x1b', '漢字' * 40)
  explain.draw(trained._replace(classes=classes), [str(file)], tmp_path)
  assert (tmp_path / 'layers.png').exists()
  (tmp_path / 'notes.png').write_text('no image')
  with pytest.raises(StudyError, match=r'notes\.png: not an image'):
    explain.draw(trained, [str(tmp_path / 'notes.png')], tmp_path)


@pytest.mark.parametrize('count', [1, 2, 10, 24, 96, 97])
def test_a_mosaic_holds_every_tile(count):
  """Each value once, and nothing else but the gaps."""
  maps = np.arange(5 * 4 * count, dtype=np.float32).reshape(5, 4, count)
  for values in (maps, maps[0, 0]):
    mosaic = explain._mosaic(values)
    assert sorted(mosaic[~np.isnan(mosaic)]) == sorted(values.ravel())
  colours = np.arange(3 * 3 * 3 * count, dtype=np.float32).reshape(3, 3, 3, count)
  mosaic = explain._mosaic(colours)
  assert mosaic.shape[-1] == 3
  assert sorted(mosaic[~np.isnan(mosaic)]) == sorted(colours.ravel())


def test_a_picture_has_room_for_so_many_layers():
  """For a deep network, some layers, evenly spaced: filters, layers with kernels, and logits."""
  maps = np.zeros((2, 2, 3), np.float32)
  names = ['filters', *(f'{kind}{i}' for i in range(40) for kind in ('conv', 'norm')), 'logits']
  layers = [explain.Layer(name, maps, not name.startswith('norm')) for name in names]
  drawn = [layer.name for layer in explain._drawn(layers)]
  assert len(drawn) == 16
  assert (drawn[0], drawn[-1]) == ('filters', 'logits')
  assert not any(name.startswith('norm') for name in drawn)
  assert len(set(np.diff([int(name[4:]) for name in drawn[1:-1]]))) <= 2
  assert explain._drawn(layers[:10]) == layers[:10]


def test_activations_of_any_shape_have_a_picture():
  """Maps and vectors as mosaics, tokens as one tile, all with each value once."""
  kernel = np.zeros((4, 2, 3))
  for shape, rank in (
    ((), None),
    ((7,), None),
    ((5, 6), None),
    ((5, 2, 3), 3),
    ((2, 3, 4, 5), None),
  ):
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    shaped = explain._shaped(values, kernel if rank else None)
    mosaic = explain._mosaic(shaped)
    assert mosaic.ndim == 2
    assert sorted(mosaic[~np.isnan(mosaic)]) == sorted(values.ravel())
  assert explain._shaped(np.zeros((5, 2, 3)), kernel).shape == (5, 6)
  for shape, shown in (((4, 4, 1), (4, 4)), ((4, 4, 3), (4, 4, 3)), ((5, 6), (5, 6))):
    assert explain._as_picture(np.zeros(shape)).shape == shown


def test_classes_are_matched_by_their_normal_form(trained, photos):
  """An é may be one character or two, as on macOS; a study may know either."""
  one, two = 'caf\u00e9', 'cafe\u0301'
  for known, found in ((one, two), (two, one)):
    (photos / 'O').rename(photos / found)
    files, labels = classify.find([str(photos)], (known, 'T', 'E'))
    assert labels.tolist().count(0) == len(files) - labels.tolist().count(1) - 6 == 4
    (photos / found).rename(photos / 'O')
  many = tuple(f'class {i}' for i in range(1000))
  with pytest.raises(StudyError, match=r'it knows class 0, .*, class 9 and 990 more$'):
    classify.find([str(photos)], many)


def test_weights_of_another_epoch_than_the_figures_are_told(trained, photos):
  """The study compares best epochs; the checkpoint has the weights of the last epoch."""
  file = str(photos / 'O' / '0.png')
  assert 'the weights are' not in classify.answer(trained, [file]).text
  result = dataclasses.replace(trained.result, best_epoch=2)
  last = result.epochs
  for paths in ([file], [str(photos)]):
    found = classify.answer(trained._replace(result=result), paths)
    assert found.text.splitlines()[-1] == (
      f'the weights are those of the last epoch, {last}; the figures of the study are those of the '
      'best epoch of this trial, 2'
    )
    assert (found.content['epochs'], found.content['best_epoch']) == (last, 2)


def test_the_photographs_of_letters(trained):
  """The real ones, where they are: of more classes than so small a study knows."""
  root = Path(os.environ.get('LR_STUDY_PHOTOS', '../shared/letter_photos'))
  if not root.is_dir():
    pytest.skip(f'no {root}: the Chars74K photographs are not part of the project')
  with pytest.raises(StudyError, match="has the class 'A'"):
    classify.find([str(root)], trained.classes)
