"""From files to arrays: formats, resizing, splits, rendered letters, the cache, broken files."""

import io
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from configs import alexnet_letters
from lr_study import data
from lr_study.data import folder, images, source
from lr_study.data.letters import render
from lr_study.errors import StudyError


def encoded(image, file_format, **options):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  return buffer.getvalue()


def quadrants(mode='RGB'):
  """16 x 16: red, green above; blue, white below."""
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:8, :8, 0] = pixels[:8, 8:, 1] = pixels[8:, :8, 2] = 255
  pixels[8:, 8:] = 255
  return Image.fromarray(pixels).convert(mode)


def corners(image):
  pixels = np.asarray(image).astype(int)
  return pixels[[3, 3, -4, -4], [3, -4, 3, -4]]


COLOURS = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize(
  ('file_format', 'mode', 'options'),
  [
    ('PNG', 'RGB', {}),
    ('PNG', 'P', {}),
    ('PNG', 'RGBA', {}),
    ('BMP', 'RGB', {}),
    ('TIFF', 'RGB', {}),
    ('TIFF', 'CMYK', {}),
    ('GIF', 'P', {}),
    ('WEBP', 'RGB', {'lossless': True}),
    ('JPEG', 'RGB', {'quality': 95, 'subsampling': 0}),
    ('JPEG', 'CMYK', {'quality': 95, 'subsampling': 0}),
  ],
)
def test_colour_formats(file_format, mode, options):
  image = images.decode(encoded(quadrants(mode), file_format, **options))
  assert image.mode == 'RGB'
  np.testing.assert_allclose(corners(image), COLOURS, atol=12)  # JPEG is lossy


@pytest.mark.parametrize('mode', ['L', '1'])
def test_grey_formats(mode):
  image = images.decode(encoded(quadrants().convert('L').convert(mode), 'PNG'))
  assert image.mode == 'RGB'
  found = np.asarray(image)
  assert (found[..., 0] == found[..., 1]).all()
  assert (found[-4, -4] == 255).all()


def test_transparency_is_white():
  pixels = np.zeros((4, 4, 2), np.uint8)
  pixels[:2, :, 1] = 255
  found = np.asarray(images.decode(encoded(Image.fromarray(pixels, 'LA'), 'PNG')))
  assert (found[:2] == 0).all()
  assert (found[2:] == 255).all()


def test_transparent_palette_is_white():
  image = Image.new('P', (4, 4), 0)
  image.putpalette([255, 0, 0, 0, 0, 255])
  image.putpixel((1, 1), 1)
  found = np.asarray(images.decode(encoded(image, 'PNG', transparency=0)))
  assert found[1, 1].tolist() == [0, 0, 255]
  assert found[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
def test_16_bits_are_scaled_to_8(file_format):
  values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
  found = np.asarray(images.decode(encoded(Image.fromarray(values), file_format)))
  assert found[..., 0].tolist() == [[0, 100], [200, 255]]


def test_float_tiff():
  values = np.array([[0, 0.5], [0.25, np.nan]], np.float32)
  file = encoded(Image.fromarray(values), 'TIFF')
  assert images.needed_scale(file) == images.Scale(0, 0.5)
  found = np.asarray(images.decode(file, images.Scale(0, 1)))
  assert found[..., 0].tolist() == [[0, 128], [64, 0]]
  with pytest.raises(ValueError, match='no image of the study says which value is white'):
    images.decode(file)


@pytest.mark.parametrize('kind', ['AVIF', 'JPEG2000'])
def test_newer_formats(kind):
  image = images.decode(
    encoded(quadrants(), kind, quality=95) if kind == 'AVIF' else encoded(quadrants(), kind)
  )
  np.testing.assert_allclose(corners(image), COLOURS, atol=12)


@pytest.mark.parametrize(
  ('head', 'words'),
  [
    (b'\0\0\0\x18ftypheic\0\0\0\0', 'a HEIC image; convert it to PNG or JPEG, for example: magick'),
    (b'\0\0\0\x18ftypmif1\0\0\0\0', 'a HEIF image; convert'),
    (b'\0\0\0\x0cJXL \r\n', 'a JPEG XL image; convert'),
    (bytes(128) + b'DICM', 'a DICOM image; convert'),
    (b'<!DOCTYPE html><title>404', 'a web page; download'),
    (b'<?xml version="1.0"?>\n<svg', 'an SVG drawing; convert'),
    (b'<?xml version="1.0"?>\n<annotation/>', '^not an image$'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    (b'\0\0\0\x18ftypisom', 'a video'),
  ],
)
def test_what_is_no_image_is_called_what_it_is(head, words):
  with pytest.raises(ValueError, match=words):
    images.decode(head + bytes(40))


def test_first_frame_of_an_animation():
  frames = [quadrants(), Image.new('RGB', (16, 16), 'black')]
  still = encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:])
  np.testing.assert_allclose(corners(images.decode(still)), COLOURS, atol=3)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_undone(orientation):
  """The stored pixels are turned the way that EXIF says to undo."""
  undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, to store it turned
  upright = quadrants()
  stored = upright.transpose(undo[orientation]) if orientation in undo else upright
  exif = Image.Exif()
  exif[0x0112] = orientation
  found = images.decode(encoded(stored, 'PNG', exif=exif))
  assert corners(found).tolist() == COLOURS


@pytest.mark.parametrize('broken', [b'', b'not an image', encoded(quadrants(), 'PNG')[:60]])
def test_broken_files_are_value_errors(broken):
  with pytest.raises(ValueError, match=r'\w'):
    images.decode(broken)


def test_a_decompression_bomb_is_refused(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(ValueError, match='decompression bomb'):
    images.decode(encoded(quadrants(), 'PNG'))


@pytest.mark.parametrize('error', [ValueError, SystemExit])
def test_threads_give_results_in_order_and_stop_at_the_first_error(error):
  assert images.in_threads(lambda x: x * x, range(1001)) == [x * x for x in range(1001)]
  assert images.in_threads(str, []) == []
  tried = []

  def fails(x):
    tried.append(x)
    time.sleep(0.001)
    if x in (1, 2, 5):
      raise error(x)

  with pytest.raises(error, match=r'^1$'):
    images.in_threads(fails, range(100 * os.cpu_count()))
  assert len(tried) < 50 * os.cpu_count()


@pytest.mark.parametrize('size', [(40, 20), (20, 40)])
def test_resize_modes(size):
  """What each mode keeps of a wide or tall image with two halves."""
  pixels = np.zeros((size[1], size[0], 3), np.uint8)
  pixels[:, : size[0] // 2, 0] = 255  # left red, right black
  image = Image.fromarray(pixels)
  found = {mode: images.resize(image, 16, mode).astype(int) for mode in images.RESIZE_MODES}
  assert all(pixels.shape == (16, 16, 3) for pixels in found.values())
  for mode in ('squash', 'crop'):
    np.testing.assert_allclose(found[mode][8, [2, 13], 0], [255, 0], atol=2)
    assert found[mode][..., 1:].max() == 0
  # fill: the image takes half of the short side, noise the rest. half_crop: two thirds.
  for mode, kept in (('fill', 8), ('half_crop', 11)):
    noisy = found[mode][..., 1:].max((1, 2) if size[0] > size[1] else (0, 2)) > 0
    assert abs((~noisy).sum() - kept) <= 1
    middle = np.flatnonzero(~noisy)
    assert (np.diff(middle) == 1).all()


def test_resizing_is_the_same_every_time():
  image = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3))
  assert (images.resize(image, 16, 'fill') == images.resize(image, 16, 'fill')).all()


def split(labels, train_fraction, per_class, seed):
  parts = np.full(len(labels), source.TRAIN)
  train, validation, test = data.split(labels, parts, train_fraction, 0.0, per_class, seed)
  assert not len(test)
  return train, validation


def test_split_is_exact_in_every_class():
  labels = np.repeat(np.arange(10), 700)
  train, validation = split(labels, 0.75, 0, 0)
  assert np.bincount(labels[train]).tolist() == [525] * 10
  assert np.bincount(labels[validation]).tolist() == [175] * 10
  assert sorted(np.concatenate([train, validation])) == list(range(7000))


def test_split_is_seeded_and_keeps_both_sides():
  labels = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
  train, validation = split(labels, 0.99, 0, 0)
  assert np.bincount(labels[train]).tolist() == [1, 2, 4]
  assert np.bincount(labels[validation]).tolist() == [1, 1, 1]
  assert (train == split(labels, 0.99, 0, 0)[0]).all()
  big = np.zeros(100, int)
  assert (split(big, 0.5, 0, 0)[0] != split(big, 0.5, 0, 1)[0]).any()
  assert len(split(big, 0.5, 10, 0)[0]) == 5


@pytest.fixture
def config(cache_dir):
  config = alexnet_letters.get_config().data
  config.cache_dir = cache_dir
  return config


def test_letters_data_set(config):
  config.per_class = 8
  found = data.load(config, 64)
  assert found.classes == tuple('ABCEHNORST')
  assert found.train.images.shape == (60, 64, 64, 3)
  assert np.bincount(found.validation.labels).tolist() == [2] * 10
  np.testing.assert_allclose(found.mean, found.train.images.mean(0), atol=1e-4)
  expected = {render.render(0, 'C', i, 64).tobytes() for i in range(8)}
  parts = (found.train, found.validation)
  assert {
    image.tobytes()
    for part in parts
    for image, label in zip(*part, strict=True)
    if found.classes[label] == 'C'
  } == expected
  assert data.load(config, 64).fingerprint == found.fingerprint


def test_some_letters(config):
  config.per_class, config.classes = 4, ('T', 'O')
  found = data.load(config, 64)
  assert found.classes == ('T', 'O')
  assert len(found.train.labels) == 6


@pytest.fixture
def photos(tmp_path, config):
  """Three classes of 4, 5 and 6 images, each of one grey level, with hidden files among them."""
  config.name, config.dir = 'image_folder', str(tmp_path / 'photos')
  for level, name in enumerate(('ant', 'bee', 'cat')):
    parent = tmp_path / 'photos' / name
    parent.mkdir(parents=True)
    for i in range(4 + level):
      Image.new('RGB', (20, 10 + i), (100 * level + i,) * 3).save(parent / f'{i}.png')
    (parent / '.DS_Store').write_bytes(b'junk')
  return tmp_path / 'photos'


def test_image_folder(config, photos):
  assert photos.is_dir()
  found = data.load(config, 16)
  assert found.classes == ('ant', 'bee', 'cat')
  assert np.bincount(np.concatenate([found.train.labels, found.validation.labels])).tolist() == [
    4, 5, 6,
  ]  # fmt: skip
  for part in (found.train, found.validation):
    for image, label in zip(*part, strict=True):
      assert image.min() == image.max()
      assert image[0, 0, 0] // 100 == label
  assert found.left_out == ()


def test_image_folder_classes_in_their_order(config, photos):
  assert photos.is_dir()
  config.classes = ('cat', 'ant')
  assert data.load(config, 16).classes == ('cat', 'ant')


def test_image_folder_is_rebuilt_when_it_changes(config, photos):
  before = data.load(config, 16)
  assert data.load(config, 16).fingerprint == before.fingerprint
  Image.new('RGB', (20, 20), 'white').save(photos / 'ant' / '0.png')
  changed = data.load(config, 16)
  assert changed.fingerprint != before.fingerprint
  (photos / 'bee' / '4.png').unlink()
  assert len(data.load(config, 16).train.labels) + 1 == len(changed.train.labels)


def test_unreadable_files_are_named(config, photos):
  (photos / 'bee' / 'broken.png').write_bytes(encoded(quadrants(), 'PNG')[:50])
  (photos / 'cat' / 'notes.txt').write_text('no image')
  with pytest.raises(StudyError, match=r'2 unreadable .*bee/broken\.png.*cat/notes\.txt'):
    data.load(config, 16)
  config.skip_unreadable = True
  for _ in range(2):  # built, then from the cache
    found = data.load(config, 16)
    assert [name.split(' ')[0] for name in found.left_out] == ['bee/broken.png', 'cat/notes.txt']
    assert len(found.train.labels) + len(found.validation.labels) == 15
  config.skip_unreadable = False
  with pytest.raises(StudyError, match='2 unreadable'):
    data.load(config, 16)


def test_links_to_nowhere_are_named(config, photos):
  (photos / 'ant' / 'link.png').symlink_to(photos / 'nowhere.png')
  (photos / 'bee' / 'odd\nname.png').write_bytes(b'')
  with pytest.raises(StudyError, match=r'2 unreadable .*ant/link\.png'):
    data.load(config, 16)
  config.skip_unreadable = True
  assert len(data.load(config, 16).left_out) == 2


def test_bad_folders(config, photos):
  def fails(match):
    with pytest.raises(StudyError, match=match):
      data.load(config, 16)

  config.classes = ('ant', 'dog')
  fails("no class 'dog'; it has ant, bee, cat")
  config.classes = ('ant',)
  fails('there is only one class')
  config.classes = ()
  for i in range(1, 4):
    (photos / 'ant' / f'{i}.png').unlink()
  fails("class 'ant' has 1 image in")
  for name in ('ant', 'bee', 'cat'):
    shutil.rmtree(photos / name)
  fails('has no sub-folders')
  config.dir = str(photos / 'nowhere')
  fails('nowhere is not a folder')
  config.dir = ''
  fails('data.dir is empty')


def test_bad_letters(config):
  for size in (63, 257):
    with pytest.raises(StudyError, match=f'image_size is {size}'):
      data.load(config, size)
  config.classes = ('A', 'BC')
  with pytest.raises(StudyError, match='single capital letters'):
    data.load(config, 64)


def test_the_photographs_of_letters(config):
  """The photographs of letters, if they are available."""
  photographs = os.environ.get('LR_STUDY_PHOTOS', '../shared/letter_photos')
  if not os.path.isdir(photographs):
    pytest.skip(f'no {photographs}; LR_STUDY_PHOTOS names a folder with a sub-folder a letter')
  config.name, config.dir = 'image_folder', photographs
  found = data.load(config, 64)
  assert found.classes == tuple('ABCEHNORST')
  assert len(found.train.labels) + len(found.validation.labels) == 1945


def test_fingerprint_sees_names_sizes_and_times(tmp_path):
  file = tmp_path / 'a'
  file.write_bytes(b'12')
  os.utime(file, ns=(0, 5))
  first = folder.fingerprint([(file, 0, 0)])
  assert folder.fingerprint([(file, 0, 0)]) == first
  os.utime(file, ns=(0, 6))
  assert folder.fingerprint([(file, 0, 0)]) != first
