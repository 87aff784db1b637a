"""Data that are not what the user meant: one line says so, or they are read as meant."""

import codecs
import unicodedata

import numpy as np
import pytest
from PIL import Image

from configs import alexnet_letters
from lr_study import data, inputs
from lr_study.config import check
from lr_study.data import images
from lr_study.errors import StudyError
from lr_study.report import show
from lr_study.use import classify, evaluate


@pytest.fixture
def config(tmp_path):
  config = alexnet_letters.get_config().data
  config.name, config.dir = 'image_folder', str(tmp_path / 'photos')
  config.cache_dir = str(tmp_path / 'cache')
  return config


def save(folder, count=4, seed=0, suffix='png'):
  """Different images in a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(count):
    rng = np.random.default_rng([seed, i])
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f'{i}.{suffix}')


@pytest.fixture
def photos(tmp_path):
  for seed, name in enumerate(('ant', 'bee')):
    save(tmp_path / 'photos' / name, seed=seed)
  return tmp_path / 'photos'


def fails(config, match):
  with pytest.raises(StudyError, match=match):
    data.load(config, 8)


def count(found):
  return len(found.train.labels) + len(found.validation.labels)


@pytest.mark.parametrize(
  'names', [('train', 'val'), ('Training', 'test'), ('dev', 'train', 'docs')]
)
def test_parts_are_not_trained_as_classes(config, tmp_path, names):
  root = tmp_path / 'photos'
  for name in names:
    for seed, inner in enumerate(('ant', 'bee')):
      save(root / name / inner, seed=seed)
  train, other = sorted(names[:2], key=lambda name: not name.lower().startswith('train'))
  ways = f'--config.data.dir={root / train} --config.data.validation_dir={root / other}'
  fails(config, f'which are parts of a data set, not classes; give {ways}; if they are classes')
  config.classes = names[:2]  # whoever says that they are
  assert data.load(config, 8).classes == names[:2]
  config.classes, config.dir, config.validation_dir = (), str(root / train), str(root / other)
  assert data.load(config, 8).classes == ('ant', 'bee')


def test_a_folder_too_high(config, tmp_path):
  for seed, name in enumerate(('ant', 'bee')):
    save(tmp_path / 'photos' / 'set' / name, seed=seed)
  fails(config, r'single sub-folder set, which has ant, bee; if .* give .*photos/set instead')


def test_no_class_to_validate_is_dropped_unsaid(config, photos, tmp_path):
  for name in ('ant', 'bee', 'cat'):
    save(tmp_path / 'apart' / name, 2, seed=9)
  config.validation_dir = str(tmp_path / 'apart')
  fails(config, r"apart has the class 'cat', which data\.dir does not have; .*classes=ant,bee")
  config.classes = ('ant', 'bee')  # on purpose
  assert count(data.load(config, 8)) == 12
  config.classes = ()
  (tmp_path / 'apart' / 'cat').rename(tmp_path / 'apart' / 'Ant')
  fails(config, r"the class 'Ant', .*did you mean ant\?")


def test_one_spelling_of_a_name(config, tmp_path):
  """macOS writes é as two characters: the same class, whichever the folders have."""
  short, long = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
  assert short != long
  for seed, name in enumerate((short, 'thé')):
    save(tmp_path / 'photos' / name, seed=seed)
  for seed, name in enumerate((long, 'thé'), 5):
    save(tmp_path / 'apart' / name, seed=seed)
  config.validation_dir = str(tmp_path / 'apart')
  assert data.load(config, 8).classes == (short, 'thé')
  config.classes = (long, 'thé')
  found = data.load(config, 8)
  assert found.classes == (short, 'thé')
  assert np.bincount(found.validation.labels).tolist() == [4, 4]
  save(tmp_path / 'photos' / long)
  fails(config, r'two classes that both read café; rename one')


LITTER = ('Thumbs.db', 'desktop.ini', '.DS_Store', '._0.png', 'ehthumbs.db', 'Icon\r', 'Picasa.ini')
LITTER_FOLDERS = ('__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', '#recycle', '.Trash-1000')


def test_litter_of_systems_is_left_alone(config, photos):
  whole = data.load(config, 8)
  for folder in (photos, photos / 'ant'):
    for name in LITTER:
      (folder / name).write_bytes(b'litter')
    for name in LITTER_FOLDERS:
      save(folder / name)
      (folder / name / 'SYNOFILE_THUMB_M.png').write_bytes(b'litter')
  found = data.load(config, 8)
  assert found.fingerprint == whole.fingerprint
  assert found.classes == ('ant', 'bee')
  assert not found.left_out


def test_images_beside_the_classes_are_told(config, photos, capsys):
  data.load(config, 8)
  assert 'Not used' not in capsys.readouterr().out
  save(photos, 5, seed=3)
  (photos / 'README.md').write_text('about them')
  assert count(data.load(config, 8)) == 8
  said = capsys.readouterr().out
  assert f'class folder of {photos}: 5 images, 0.png, 1.png, 2.png and 2 more\n' in said


@pytest.mark.parametrize('largest', [1.0, 1.01, 200.0, 65535.0])
def test_floats_have_one_scale(config, tmp_path, capsys, largest):
  """The smallest value of all images is black and the largest is white."""
  shares = {'ant': (0.1, 0.2, 0.25), 'bee': (0.5, 0.75, 1.0)}
  for name, tops in shares.items():
    (tmp_path / 'photos' / name).mkdir(parents=True)
    for i, top in enumerate(tops):
      values = np.full((8, 8), top * largest, np.float32)
      values[0] = 0
      Image.fromarray(values).save(tmp_path / 'photos' / name / f'{i}.tif')
  for _ in range(2):  # built, then from the cache
    found = data.load(config, 8)
    assert found.scale == images.Scale(0, np.float32(largest))
    assert f'0 is black and {largest:g} is white' in capsys.readouterr().out
    pixels = np.concatenate([found.train.images, found.validation.images])
    expected = [round(255 * top) for tops in shares.values() for top in tops]
    np.testing.assert_allclose(sorted(pixels[:, 4, 4, 0]), expected, atol=1)


def test_images_that_come_out_nearly_black_are_found(config, photos):
  """Such as 12-bit values in a 16-bit file, and floats with a single pixel of a million."""
  assert data.load(config, 8).checks['faint'].count == 0
  rng = np.random.default_rng(0)
  for i in range(2):
    deep = rng.integers(0, 4096, (16, 16)).astype(np.uint16)
    Image.fromarray(deep).save(photos / 'ant' / f'deep{i}.png')
  pale = 250 + rng.integers(0, 6, (16, 16, 3)).astype(np.uint8)
  Image.fromarray(pale).save(photos / 'bee' / 'pale.png')
  found = data.load(config, 16).checks['faint']
  assert found.count == 3
  assert 'of 11 images are almost one grey, 2 of them nearly black' in found.line
  for name in ('ant', 'bee'):
    for file in (photos / name).iterdir():
      values = rng.random((16, 16)).astype(np.float32)
      values[0, 0] = 1e6 if file.stem == '0' else 1
      Image.fromarray(values).save(photos / name / f'{file.stem}.tif')
      file.unlink()
  found = data.load(config, 16).checks['constant']
  assert found.line.startswith('9 of 11 images have only one colour, 9 of them black')


@pytest.fixture
def lists(config, tmp_path):
  """Two images of each of two classes; `write` makes the list, of train.txt unless it says."""
  config.name, config.dir = 'image_list', str(tmp_path / 'lists')
  root = tmp_path / 'lists'
  save(root / 'my photos', 8)
  lines = [f'my photos/{i}.png {i % 2}' for i in range(8)]

  def write(*new, name='train.txt', encoding='utf-8', end='\n'):
    (root / name).write_bytes(end.join(new or lines).encode(encoding))

  write()
  write.root, write.lines = root, lines
  return write


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_marks_of_windows_in_lists(config, lists, encoding):
  lists('ant', 'bee', name='labels.txt', encoding=encoding, end='\r\n')
  lists(encoding=encoding, end='\r\n')
  found = data.load(config, 8)
  assert found.classes == ('ant', 'bee')
  assert count(found) == 8
  assert codecs.BOM_UTF8.decode() not in ''.join(found.classes)


@pytest.mark.parametrize('separator', ['\t', ',', ', ', ';', '   '])
def test_tables_of_any_kind(config, lists, separator):
  lists(*(f'my photos/{i}.png{separator}{i % 2}' for i in range(8)))
  assert count(data.load(config, 8)) == 8
  lists(*lists.lines, 'my photos 0')
  fails(config, r'my photos \(a folder\)')
  lists(f'path{separator}label', *lists.lines)
  fails(
    config,
    r'train\.txt, line 1: .* is not a path and the number of a class; delete it if it is a header',
  )


def test_paths_as_people_write_them(config, lists, monkeypatch):
  monkeypatch.setenv('HOME', str(lists.root / 'my photos'))
  ways = '"my photos/0.png" 0', "'my photos/1.png' 1", '~/2.png 0', 'my photos\\3.png 1'
  lists(*ways, *lists.lines[4:])
  assert count(data.load(config, 8)) == 8
  lists('~/nowhere.png 0', *lists.lines)
  fails(config, r'my photos/nowhere\.png \(No such file')


def test_labels_that_cannot_be_meant(config, lists):
  lists(*lists.lines, 'my photos/0.png 1700000000')
  fails(config, r'train\.txt, line 9: the label 1700000000 is larger than the number of images, 9')
  lists(*lists.lines, 'my photos/0.png ' + '1' * 5000)
  fails(config, r'line 9: .* is not a path and the number')
  lists(*lists.lines[:2], 'my photos/2.png 0 1')
  fails(config, r'train\.txt, line 3: there are several numbers; an image can only have one class')
  lists()
  lists('ant', 'bee', 'ant', name='labels.txt')
  fails(config, r"labels\.txt, line 3: 'ant' is already a class")
  lists('ant', '', 'bee', name='labels.txt')
  fails(config, r'labels\.txt, line 2: the name of a class is missing')
  lists('ant', name='labels.txt')
  fails(config, r'train\.txt, line 2: the label is 1, but .*labels\.txt names 1 classes, from 0 on')


def test_labels_from_1(config, lists, capsys):
  lists(*(f'my photos/{i}.png {1 + i % 2}' for i in range(8)))
  assert data.load(config, 8).classes == ('1', '2')
  lists('ant', 'bee', name='labels.txt')
  assert data.load(config, 8).classes == ('ant', 'bee')
  assert 'Labels go from 1 to 2: line 1 of' in capsys.readouterr().out


def test_a_line_of_blanks_takes_no_time(config, lists):
  lists(*lists.lines, 'a' + ' ' * 200_000 + 'b')
  fails(config, 'line 9')


def test_a_study_does_not_write_among_its_images(config, photos):
  for folder in (photos, photos / 'runs' / 'x', photos / 'ant'):
    with pytest.raises(StudyError, match=r'count as a class of images; set .* with --workdir'):
      data.check_apart(config, folder, '--workdir')
  data.check_apart(config, photos.parent / 'runs', '--workdir')
  config.cache_dir = str(photos / 'cache')
  with pytest.raises(StudyError, match=r'with --config\.data\.cache_dir'):
    data.check_apart(config, photos.parent / 'runs', '--workdir')


def test_classes_that_differ_in_capitals_are_told(config, photos, capsys):
  save(photos / 'Ant', seed=7)
  assert len(data.load(config, 8).classes) == 3
  assert 'that differ only in capitals: Ant, ant' in capsys.readouterr().out


def test_links_to_nowhere_in_place_of_classes_are_told(config, photos, capsys):
  (photos / 'cat').symlink_to('cat')
  (photos / 'dog').symlink_to('nowhere')
  assert data.load(config, 8).classes == ('ant', 'bee')
  assert (
    f'Not used, because they are broken links, in {photos}: cat, dog' in capsys.readouterr().out
  )


def test_a_class_without_images_is_told_with_its_folder(config, photos):
  (photos / 'runs').mkdir()
  fails(config, rf"class 'runs' has 0 images in {photos}, .* or leave it out")


def test_what_is_not_used_is_told(config, photos, tmp_path, capsys):
  config.per_class = 2
  data.load(config, 8)
  assert '4 of 8 images of image_folder are used: data.per_class is 2' in capsys.readouterr().out
  save(tmp_path / 'apart' / 'ant', seed=8)
  save(tmp_path / 'apart' / 'bee', seed=9)
  config.per_class, config.validation_dir = 0, str(tmp_path / 'apart')
  data.load(config, 8)
  assert capsys.readouterr().out.count('\n') == 1  # Storing ...
  config.train_fraction = 0.9
  data.load(config, 8)
  assert 'data.train_fraction, 0.9, is not used' in capsys.readouterr().out


@pytest.fixture
def digits(tmp_path):
  """A config of numbers from 0 to 255 in float64, which are reported when they are loaded."""
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 256, (40, 8, 8)), np.arange(40) % 2
  np.savez(tmp_path / 'x.npz', x=x.astype(np.uint8), y=y)
  np.savez(tmp_path / 'double.npz', x=x.astype(np.float64), y=y)
  config = alexnet_letters.get_config('quick')
  config.data = {'name': f'npz:{tmp_path}/x.npz', 'test_fraction': 0.2}
  config.model = {'name': 'mlp', 'hidden': (4,)}
  return config


def test_the_range_of_arrays_is_told(digits):
  """Bytes reach the network unchanged, about +-128, while usual rates assume +-1."""

  def told(**fields):
    digits.input.update(fields)
    config = check(digits)
    found = data.load(config.data, config.image_size)
    return inputs.check_range(config.input, found).checks.get('input_range')

  finding = told()
  assert finding.count == 1
  spread = float(finding.line.partition('deviation of ')[2].partition(':')[0])
  assert spread == pytest.approx(255 / 12**0.5, rel=0.05)
  assert f'--config.input.scale={1 / spread:.2g} gives' in finding.line
  assert told(scale=1 / spread).count == 0
  assert told(scale=1e-6).count == 1
  assert told(standardise=True) is None


def test_notes_on_arrays_are_told_once(digits, tmp_path, capsys):
  digits.data.name = f'npz:{tmp_path}/double.npz'
  show.show(check(digits), tmp_path / 'shown')
  said = capsys.readouterr().out
  assert said.count('x is float64; it becomes float32') == 1
  assert said.count('Check: inputs go from') == 1


def test_images_of_the_classes_folder_are_read_with_the_studys_scale(config, tmp_path):
  """A float image alone does not say which value is white; the study does."""
  values = np.full((8, 8), 0.5, np.float32)
  Image.fromarray(values).save(tmp_path / 'one.tif')
  study = check(alexnet_letters.get_config('quick'))
  trained = evaluate.Trained(study, (), None, {}, None, None, images.Scale(0, 2))
  pixels = classify.read(classify.File(tmp_path / 'one.tif'), trained)
  assert (pixels == 64).all()
  why = classify.read(classify.File(tmp_path / 'one.tif'), trained._replace(scale=None))
  assert 'no image of the study says which value is white' in why
