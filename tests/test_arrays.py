"""Arrays as data sets, from a user's function or an .npz file: tables, images, series."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lr_study import config as configs
from lr_study import data, plugs
from lr_study.data import arrays, samples
from lr_study.errors import StudyError
from lr_study.report import show


def table(count=24, seed=0, classes=3):
  """Rows whose values are near the number of their class."""
  y = np.arange(count) % classes
  return np.float32(np.random.default_rng(seed).normal(y[:, None], 0.1, (count, 4))), y


def pictures(count=24, shape=(12, 10), dtype=np.uint8, seed=0):
  x = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
  return x.astype(dtype), np.arange(count) % 3


@pytest.fixture
def brought(tmp_path, monkeypatch):
  """A function of a file's source and fields that returns what a study loads with its `load`."""
  monkeypatch.chdir(tmp_path)

  def load(code, **fields):
    file = tmp_path / f'my_data{len(list(tmp_path.iterdir()))}.py'
    file.write_text('import numpy as np\n' + code)
    return data.load({'name': f'{file.name}:load', **fields}, 64)

  return load


TABLE = """
def load(rows=40, noise: float = 0, *, seed=0):
  y = np.arange(rows) % 4
  x = np.stack([y + noise, np.full(rows, seed), np.arange(rows)], 1)
  return x, y
"""


def test_a_function_of_ones_own(brought, capsys):
  """The function is called with its arguments, and with common fields that it takes."""
  found = brought(TABLE, rows=80, noise=1, seed=7)
  assert found.classes == ('0', '1', '2', '3')
  assert found.train.images.shape == (60, 3)
  assert found.train.images.dtype == np.float32
  assert (found.train.images[:, 0] == found.train.labels + 1).all()
  assert (found.train.images[:, 1] == 7).all()
  np.testing.assert_allclose(found.mean, found.train.images.mean(0), rtol=1e-6)
  assert np.bincount(found.validation.labels).tolist() == [5] * 4
  assert 'x is float64; it becomes float32' in capsys.readouterr().out
  rows = np.concatenate([found.train.images, found.validation.images])[:, 2]
  assert sorted(rows) == list(range(80))


def test_the_config_knows_its_arguments(brought, tmp_path):
  brought(TABLE)
  (file,) = tmp_path.glob('*.py')
  fields = plugs.fields('data', plugs.find('data', f'{file}:load'))
  assert fields | {'rows': 40, 'noise': 0.0, 'seed': 0, 'train_fraction': 0.75} == fields
  assert {'image_size', 'dir', 'cache_dir'}.isdisjoint(fields)
  with pytest.raises(StudyError, match=r'no such field of load .*did you mean data.rows\?'):
    brought(TABLE, row=3)
  with pytest.raises(StudyError, match='no such field of tombstone_letters'):
    data.load({'name': 'tombstone_letters', 'dir': 'photos'}, 64)


def test_the_split_of_a_study_is_that_of_arrays(brought):
  whole = brought(TABLE)
  found = brought(TABLE, test_fraction=0.25, per_class=4, train_fraction=0.5)
  assert (found.test, len(found.train.labels), len(found.validation.labels)) == (12, 8, 8)
  assert found.fingerprint != whole.fingerprint
  chosen = brought(TABLE, classes=('3', '0'))
  assert chosen.classes == ('3', '0')
  assert (chosen.train.images[:, 0] == np.where(chosen.train.labels == 0, 3, 0)).all()
  with pytest.raises(StudyError, match=r"no class '5'; it has 0, 1, 2, 3"):
    brought(TABLE, classes=('5', '1'))
  with pytest.raises(StudyError, match='there is only one class'):
    brought(TABLE, classes=('1',))
  with pytest.raises(StudyError, match='by typeface and stone'):
    brought(TABLE, split='unseen')


FORMS = [
  "(part(12), part(6), part(9))",
  "[part(12), part(6), part(9)]",
  "{'train': part(12), 'validation': part(6), 'test': part(9)}",
  "{'train': list(part(12)), 'valid': part(6), 'test': part(9)}",
  "{f'{w}_{p}': a for p, n in SIZES.items() for w, a in zip('xy', part(n))}",
  "{f'{p}_{w}': a for p, n in SIZES.items() for w, a in zip(('images', 'labels'), part(n))}",
]  # fmt: skip


@pytest.mark.parametrize('returned', FORMS)
def test_parts_of_their_own(brought, tmp_path, returned):
  """In every form, nothing is split, and the test part is left out."""
  found = brought(f"""
SIZES = {{'train': 12, 'val': 6, 'test': 9}}

def part(n):
  return np.full((n, 2), n, np.float32) + np.arange(n)[:, None] / 16, np.arange(n) % 3

def load():
  return {returned}
""")
  for part, count in ((found.train, 12), (found.validation, 6)):
    assert part.images.shape == (count, 2)
    assert (part.images // 1 == count).all()
    assert (16 * (part.images[:, 0] % 1) % 3 == part.labels).all()
  assert found.test == 9
  (file,) = tmp_path.glob('*.py')
  config = {'name': f'{file}:load'}
  assert (data.opened(config, 64).test().images // 1 == 9).all()
  counts, sizes = data.opened(config, 64).files()
  assert counts.tolist() == [[4] * 3, [2] * 3, [3] * 3]
  assert sizes.shape == (0, 2)


def test_two_parts_and_a_test_part_that_the_study_keeps(brought):
  code = 'def load():\n  x, y = np.eye(12, 5), np.arange(12) % 3\n  return (x, y), (x[:6], y[:6])\n'
  found = brought(code, test_fraction=0.25)
  assert (len(found.train.labels), len(found.validation.labels), found.test) == (9, 6, 3)
  assert found.checks['identical_across_split'].count > 3
  assert 'validation 1 is train 1' in found.checks['identical_across_split'].line


@pytest.mark.parametrize(
  ('labels', 'classes'),
  [
    (np.asarray(['b', 'a', 'c'] * 8), ('a', 'b', 'c')),
    (['b', 'a', 'c'] * 8, ('a', 'b', 'c')),
    (np.asarray(['b', 'a', 'c'] * 8, object), ('a', 'b', 'c')),
    (np.asarray([b'\xff', b'a', b'c'] * 8), ('\\xff', 'a', 'c')),
    (np.asarray([3.0, -2.0, 10.0] * 8), ('-2', '3', '10')),
    (np.asarray([True, False] * 12), ('False', 'True')),
    (np.arange(24, dtype=np.uint8)[:, None] % 3, ('0', '1', '2')),
    (jnp.arange(24) % 2, ('0', '1')),
    (np.eye(3)[np.arange(24) % 3], ('0', '1', '2')),
    (np.eye(2, dtype=bool)[np.arange(24) % 2], ('0', '1')),
  ],
)
def test_labels_of_any_kind(labels, classes):
  """Classes are called by their labels, in the labels' order."""
  found = arrays.to_source('mine', (table()[0], labels))
  assert found.classes == classes
  if np.ndim(labels) == 1 and not isinstance(labels[0], bytes):
    named = [found.classes[label] for label in found.labels]
    assert named == [str(of if type(of) is str else np.asarray(of).item()).removesuffix('.0')
                     for of in np.asarray(labels)]  # fmt: skip
  assert found.labels.dtype == np.int32


def test_names_of_classes(tmp_path):
  """`classes` names whole numbers and orders texts; classes without samples are left out."""
  x, y = table()
  named = {'x': x, 'y': y, 'classes': ['ant', 'bee', 'cat', 'dog']}
  assert arrays.to_source('mine', named).classes == ('ant', 'bee', 'cat')
  texts = np.asarray(['low', 'high', 'mid'])[y]
  found = arrays.to_source('mine', {'x': x, 'y': texts, 'classes': ('high', 'mid', 'low')})
  assert found.classes == ('high', 'mid', 'low')
  assert (np.asarray(found.classes)[found.labels] == texts).all()
  np.savez(tmp_path / 'd.npz', data=x, target=y, target_names=np.asarray(['p', 'q', 'r']))
  assert data.load({'name': f'npz:{tmp_path}/d.npz'}, 64).classes == ('p', 'q', 'r')


@pytest.mark.parametrize(
  ('x', 'dtype', 'told'),
  [
    (np.arange(24, dtype=np.uint8).reshape(6, 4), np.uint8, ''),
    (np.ones((6, 4), np.float32), np.float32, ''),
    (np.ones((6, 4), np.float16), np.float32, 'float16'),
    (np.ones((6, 4), '>f8'), np.float32, 'float64'),
    (jnp.ones((6, 4), jnp.bfloat16), np.float32, 'bfloat16'),
    (np.full((6, 4), 300, np.int16), np.float32, 'int16'),
    (np.full((6, 4), 2**30 + 1), np.float32, 'which rounds some'),
    (np.ones((6, 4), bool), np.float32, 'bool'),
    ([[1, 2, 3, 4]] * 6, np.float32, 'int64'),
  ],
)
def test_numbers_of_any_kind(capsys, x, dtype, told):
  """uint8 stays uint8; everything else becomes float32, and a line says so."""
  found = arrays.to_source('mine', (x, [0, 1] * 3)).images.at(np.arange(6))
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, np.asarray(x).astype(dtype))
  shown = capsys.readouterr().out
  assert ('becomes float32' in shown) == bool(told)
  assert told in shown


def bad(**changes):
  x, y = table()
  return tuple({'x': x, 'y': y, **changes}.values())


class Odd:
  """What a library may return."""

  def __array__(self, dtype=None, copy=None):
    raise TypeError('on another device')


NAN = table()[0].copy()
NAN[[3, 3, 7], [0, 1, 2]] = np.nan, np.inf, -np.inf
X, Y = table()


@pytest.mark.parametrize(
  ('found', 'message'),
  [
    (None, r'^mine gave None; it must return \(x, y\)'),
    (X, 'gave an array of shape'),
    ((X, X, Y, Y), 'gave a tuple of 4'),
    ((X, None), 'has no labels'),
    ({'x': X}, 'has x, but no labels for it'),
    ({'x': X, 'y': Y, 'y_val': Y}, 'has y_val, but no samples for it'),
    ({'x': X, 'images': X, 'y': Y}, 'has both x and images'),
    ({'x': X, 'y': Y, 'train': (X, Y)}, 'gives train twice'),
    ({'validation': (X, Y)}, 'nothing to train on'),
    ({}, 'it is empty'),
    ({'train': (X, Y), 'valdiation': (X, Y)}, r"'valdiation', .*did you mean validation\?"),
    ({'train': X}, 'train is an array of shape .* a pair'),
    (((X, Y), (X, Y[1:])), '^mine: validation has 24 samples, but 23 labels'),
    (bad(y=Y[:-1]), '^mine has 24 samples, but 23 labels'),
    (bad(x=X[:0], y=Y[:0]), 'holds no samples'),
    (bad(y=np.zeros((24, 2))), r'y has the shape \(24, 2\)'),
    (bad(y=np.zeros((24, 3, 1))), 'or one-hot rows'),
    (bad(y=Y + 0.5), '24 of 24 labels are not whole numbers, the first of them 0.5'),
    (bad(y=np.where(Y == 1, np.nan, Y)), '8 of 24 labels are not whole numbers.* nan'),
    (bad(y=np.asarray([1, 'a', None] * 8, object)), 'y holds NoneType and int and str'),
    (bad(y=np.asarray(['a', '', 'b'] * 8)), '8 of 24 labels are empty texts'),
    (bad(y=Y.astype(complex)), 'y is an array of complex128'),
    (bad(y=Y.astype('M8[s]')), 'y is an array of datetime64'),
    (bad(y=['a\n', r'a\n'] * 12), r'two classes that both read a\\n'),
    (bad(y=3), 'y is an int; it must be an array'),
    ({'x': X, 'y': Y, 'classes': ['a', 'b']}, 'names 2 classes, but has the label 2'),
    ({'x': X, 'y': ['a', 'b'] * 12, 'classes': ['a', 'c']}, "'b' is not among its classes, a, c"),
    ({'x': X, 'y': Y, 'classes': ['a', 'a', 'b']}, 'must be unique, not empty'),
    (((X, Y), (X, Y.astype(str))), 'labels of some parts are texts'),
    (bad(x=NAN), '3 of 96 numbers in x are not finite in float32, the first in sample 3'),
    (bad(x=X.astype(np.float64) * 1e39), 'not finite in float32'),
    (bad(x=X.astype(object)), 'x is an array of object, its rows may differ in length'),
    (bad(x=X.astype(str)), 'x is an array of str'),
    (bad(x=X.astype(complex)), 'x is an array of complex'),
    (bad(x=[[1, 2], [3]] * 12), 'the entries of x have different shapes'),
    (bad(x=X[:, 0]), r'x has the shape \(24,\)'),
    (bad(x=X[:, :0]), 'its samples are empty'),
    (bad(x=Odd()), 'x is an Odd: on another device'),
    (bad(x={1, 2}), 'x is a set; it must be an array'),
    (bad(x=np.ma.masked_less(X, 0.5)), 'values of x are masked'),
    (((X, Y), (X[:, :3], Y)), r'samples of validation have the shape \(3,\), but those of train'),
    (((X, Y), (X.astype(np.uint8), Y)), 'x of validation is uint8, but that of train float32'),
  ],
)
def test_what_does_not_fit_is_one_line(found, message):
  with pytest.raises(StudyError, match=message) as error:
    arrays.to_source('mine', found)
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 300


def test_a_class_of_one_sample(brought):
  code = 'def load():\n  return np.eye(9), [0, 0, 0, 0, 1, 1, 1, 1, 2]\n'
  with pytest.raises(StudyError, match=r"class '2' has 1 sample in my_data0.py:load, 1 .* train"):
    brought(code)
  assert brought(code, classes=('1', '0')).classes == ('1', '0')


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    ('\n\ndef load():\n  return {}["x"]\n', r"^my_data0\.py:5: in load, .*KeyError: 'x'"),
    ('def load():\n  open("nowhere")\n', r"my_data0\.py:3: in load, .*No such file"),
    ('def lead():\n  pass\n', r'my_data0\.py has no load; did you mean lead\?'),
    ('def load(:\n', r'my_data0\.py:2 cannot be imported: SyntaxError'),
    ('import nothing_of_this_name\n', r"my_data0\.py:2 cannot be imported: ModuleNotFoundError"),
    ('load = 3\n', 'load is 3, not a function'),
    ('def load(file):\n  pass\n', r'data\.file is missing; load \(my_data0\.py:2\) has no default'),
    ('def load():\n  pass\n', r'^load \(my_data0\.py:2\) gave None'),
  ],
)  # fmt: skip
def test_a_function_that_fails_is_named(brought, code, message):
  with pytest.raises(StudyError, match=message) as error:
    brought(code)
  assert '\n' not in str(error.value)


def test_a_default_that_the_study_uses_otherwise(brought):
  """`classes` are names in every data set, so a function cannot have a number there."""
  with pytest.raises(StudyError, match=r'data\.classes is 5; it must be names of classes'):
    brought('def load(classes=5):\n  return np.eye(8), np.arange(8) % 2\n')


def test_image_size_is_for_a_function_that_takes_it(brought):
  code = 'def load(image_size):\n  return np.zeros((12, image_size, 2)), np.arange(12) % 3\n'
  assert brought(code).mean.shape == (64, 2)


def test_an_npz_file(tmp_path, capsys):
  (x, y), more = pictures(), pictures(6, seed=1)
  file = tmp_path / 'd.npz'
  np.savez_compressed(file, train_images=x, train_labels=y[:, None], extra=np.ones(3),
                      val_images=more[0], val_labels=more[1])  # fmt: skip
  found = data.load({'name': f'npz:{file}'}, 64)
  assert found.name == f'npz:{file}'
  assert found.classes == ('0', '1', '2')
  assert sorted(map(bytes, found.train.images)) == sorted(map(bytes, x))
  assert found.validation.images.shape == (6, 12, 10)
  assert 'the arrays extra are not read' in capsys.readouterr().out
  assert data.load({'name': f'npz:{file}', 'seed': 1}, 64).fingerprint != found.fingerprint


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nowhere.npz', 'No such file or directory'),
    ('', 'cannot be read'),
    ('text.npz', 'cannot be read'),
    ('cut.npz', 'cannot be read'),
    ('one.npy', r'it is not an \.npz file'),
    ('objects.npz', 'Object arrays cannot be loaded when allow_pickle=False'),
    ('other.npz', 'nothing to train on, such as x and y; it has a, b'),
    ('short.npz', 'has 5 samples, but 6 labels'),
  ],
)
def test_bad_npz_files(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  x, y = np.zeros((6, 2)), np.arange(6) % 2
  (tmp_path / 'text.npz').write_text('x y')
  np.savez('whole.npz', x=x, y=y)
  whole = (tmp_path / 'whole.npz').read_bytes()
  (tmp_path / 'cut.npz').write_bytes(whole[: len(whole) // 2])
  np.save('one.npy', x)
  np.savez('objects.npz', x=np.asarray([{}] * 6, object), y=y)
  np.savez('other.npz', a=x, b=y)
  np.savez('short.npz', x=x[1:], y=y)
  with pytest.raises(StudyError, match=message) as error:
    data.load({'name': f'npz:{name}'}, 64)
  assert str(error.value).count('npz:') == 1


def test_the_fingerprint_is_of_the_numbers(brought):
  def of(x, y='np.arange(12) % 3'):
    return brought(f'def load():\n  return {x}, {y}\n').fingerprint

  x = 'np.arange(36).reshape(12, 3)'
  same = of(f'{x}.astype(np.float32)')
  assert of(f'np.asfortranarray({x}.astype(np.float64))') == same
  others = (f'{x}.astype(np.uint8)', f'{x} + 1.0', f'{x}.reshape(12, 3, 1) * 1.0')
  assert len({same, *map(of, others), of(f'{x} * 1.0', 'np.arange(12) // 4')}) == 5


def test_bytes_are_the_same_from_files_and_from_arrays(tmp_path):
  """Pixels, fingerprint, mean and checks."""
  from PIL import Image  # noqa: PLC0415

  x, y = pictures(shape=(16, 16, 3))
  for label, name in enumerate('abc'):
    (tmp_path / 'photos' / name).mkdir(parents=True)
    for i, image in enumerate(x[y == label]):
      Image.fromarray(image).save(tmp_path / 'photos' / name / f'{i:03}.png')
  order = np.argsort(y, kind='stable')
  np.savez(tmp_path / 'd.npz', x=x[order], y=np.asarray(list('abc'))[y[order]])
  folder = {'name': 'image_folder', 'dir': str(tmp_path / 'photos'), 'cache_dir': str(tmp_path)}
  found = [data.load(config, 16) for config in (folder, {'name': f'npz:{tmp_path}/d.npz'})]
  for of in zip(*((d.train.images, d.validation.images, d.mean) for d in found), strict=True):
    np.testing.assert_array_equal(*of)
  assert found[0].fingerprint == found[1].fingerprint
  assert [of.count for of in found[0].checks.values()] == [
    of.count for of in found[1].checks.values()
  ]


def test_a_mean_of_many_is_exact():
  """Exact for uint8; for floats as accurate as in float64."""
  x = np.full((2**16, 64), 255, np.uint8)
  part = data.Part(x, np.zeros(len(x), np.int32))
  _, mean, _ = data._survey(('a',), [part])
  assert (mean == 255).all()
  floats = np.full(x.shape, 0.1, np.float32)
  _, mean, _ = data._survey(('a',), [part._replace(images=floats)])
  assert (mean == np.float32(0.1)).all()


def findings(x, y, x_val, y_val):
  given = {'train': (x, y), 'validation': (x_val, y_val)}
  source = arrays.to_source('mine', given)
  parts = [source.parts == part for part in range(2)]
  both = [data.Part(source.images.at(np.flatnonzero(of)), source.labels[of]) for of in parts]
  traits = data._survey(source.classes, both)[2]
  names = [[f'{part} {i}' for i in range(99)] for part in ('train', 'validation')]
  labels = [part.labels for part in both]
  shape = both[0].images.shape[1:]
  return data.checks.check(traits, labels, names, source.classes, samples.noun(shape))


def test_checks_of_a_table():
  """All checks except near copies, which need images; messages speak of samples."""
  x, y = table()
  x_val, y_val = table(12, seed=1)
  x[5], x[8] = x[3], 0  # the labels 2 and 0, and a row of nothing
  x_val[2] = x[4]
  found = findings(x, y, x_val, y_val)
  assert list(found) == [
    'identical_across_split', 'contradictory_labels', 'constant', 'class_imbalance',
  ]  # fmt: skip
  assert found['identical_across_split'] == (
    1, '1 of 12 validation samples are also training samples: validation 2 is train 4',
  )  # fmt: skip
  assert found['contradictory_labels'].count == 2
  assert found['constant'] == (1, '1 of 36 samples have only one number, 1 of them zero: train 8')
  few = np.flatnonzero(y_val < 2)
  assert findings(x, y, x_val[few], y_val[few])['class_imbalance'].count == 0
  few = np.concatenate([few, np.flatnonzero(y_val == 2)[:1]])
  assert (
    'balanced accuracy decides' in findings(x, y, x_val[few], y_val[few])['class_imbalance'].line
  )


def test_one_number_a_sample_is_not_constant():
  x, y = table()
  assert findings(x[:, :1], y, x[:6, :1] + 1, y[:6])['constant'].count == 0


@pytest.mark.parametrize('shape', [(20, 16), (20, 16, 1), (20, 16, 3), (20, 16, 4)])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_checks_of_images_that_are_arrays(shape, dtype):
  """For any height, width and number type, a darker, noisier copy is a near copy."""
  x, y = pictures(shape=shape, dtype=dtype)
  x_val, y_val = pictures(6, shape, dtype, seed=1)
  noise = np.random.default_rng(2).normal(0, 2, shape)
  x_val[3] = (0.7 * x[7] + 20 + noise).astype(dtype)
  x[2] = np.asarray(30, dtype)
  found = findings(x, y, x_val, y_val)
  assert found['near_across_split'].line.endswith(': validation 3 is like train 7')
  assert found['near_across_split'].count == found['constant'].count == 1
  assert found['identical_across_split'].count == 0
  if dtype == np.float32:  # the scale does not matter
    scaled = findings(x / 255 - 0.5, y, x_val / 255 - 0.5, y_val)
    assert [of.count for of in scaled.values()] == [of.count for of in found.values()]


def test_which_samples_are_images():
  images = [(28, 28), (8, 8), (32, 32, 3), (1, 1, 3), (20, 30, 1), (16, 16, 4), (20, 60)]
  others = [(), (5,), (7, 7), (128, 9), (128, 3), (8, 8, 8), (3, 32, 32), (4, 4, 4, 3)]
  assert all(map(samples.is_image, images))
  assert not any(map(samples.is_image, others))


def test_channels_that_come_first_are_noticed(capsys):
  x, y = pictures(shape=(3, 16, 16))
  arrays.to_source('mine', (x, y))
  assert 'np.moveaxis(x, 1, -1)' in capsys.readouterr().out
  arrays.to_source('mine', (np.moveaxis(x, 1, -1), y))
  assert not capsys.readouterr().out


def test_images_of_any_kind_can_be_seen():
  x = np.linspace(-3, 5, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
  seen = samples.visible(x)
  assert seen.shape == (2, 4, 4, 3)
  assert (seen[0, 0, 0], seen[1, -1, -1]) == pytest.approx((0, 255))
  assert samples.visible(x[:1], x).max() < 130
  clear = np.full((1, 2, 2, 4), 7, np.uint8)
  clear[..., 3] = 0
  assert (samples.visible(clear) == 255).all()
  grey = np.full((1, 2, 2, 1), 7, np.uint8)
  assert (samples.visible(grey) == 7).all()


def test_arrays_stay_in_memory(brought, tmp_path, capsys):
  brought(TABLE)
  (file,) = tmp_path.glob('*.py')
  found = data.load({'name': f'{file}:load'}, 64, room=100)
  assert isinstance(found.train.images, np.ndarray)
  assert re.search(r'Arrays of .* GB stay in memory', capsys.readouterr().out)


def shown(config, folder):
  config = configs.check(ConfigDict({'learning_rates': (0.1,), 'data': config}))
  show.show(config, folder)
  events = EventAccumulator(str(folder / 'tensorboard'), size_guidance={'images': 0})
  events.Reload()
  return sorted(path.stem for path in folder.glob('*.png')), sorted(events.Tags()['images'])


@pytest.mark.parametrize('shape', [(12, 10), (9, 9, 4)])
def test_arrays_of_images_are_shown(tmp_path, capsys, shape):
  x, y = pictures(shape=shape, dtype=np.float32)
  np.savez(tmp_path / 'd.npz', x=x / 99 - 1, y=y)
  names = ['contact_sheet', 'counts', 'mean']
  assert shown({'name': f'npz:{tmp_path}/d.npz'}, tmp_path / 'out') == (names, names)
  text = capsys.readouterr().out
  assert '3 classes; 18 training, 6 validation and 0 test images' in text
  assert f'Arrays of float32, {" x ".join(map(str, shape))} a sample' in text


def test_a_table_is_told_of(tmp_path, capsys):
  x, y = table()
  np.savez(tmp_path / 'd.npz', x=x, y=y)
  assert shown({'name': f'npz:{tmp_path}/d.npz'}, tmp_path / 'out') == (['counts'], ['counts'])
  text = capsys.readouterr().out
  assert '18 training, 6 validation and 0 test samples' in text
  assert 'These are no images' in text
