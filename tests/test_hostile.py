"""Folders from strangers: broken, huge and endless files among good ones."""

import io
import os
import resource
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import alexnet_letters
from lr_study import data
from lr_study.data import folder, images
from lr_study.errors import StudyError

FUZZED = 1200


@pytest.fixture
def config(tmp_path):
  config = alexnet_letters.get_config().data
  config.name, config.dir = 'image_folder', str(tmp_path / 'photos')
  config.cache_dir = str(tmp_path / 'cache')
  config.skip_unreadable = True
  return config


@pytest.fixture
def photos(config):
  """Two classes of eight good images each."""
  rng = np.random.default_rng(0)
  for name in ('ant', 'bee'):
    parent = Path(config.dir, name)
    parent.mkdir(parents=True)
    for i in range(8):
      picture(rng).save(parent / f'good{i}.png')
  return Path(config.dir)


def picture(rng, size=24):
  coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
  return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image, file_format, **options):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  return buffer.getvalue()


def good_files(rng):
  """One of each kind that is read."""
  image = picture(rng)
  grey = image.convert('L')
  deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
  frames = {'save_all': True, 'append_images': [picture(rng), picture(rng)]}
  return [
    encoded(image, 'JPEG'),
    encoded(image, 'JPEG', progressive=True),
    encoded(grey, 'JPEG'),
    encoded(image.convert('CMYK'), 'JPEG'),
    encoded(image, 'PNG'),
    encoded(image.convert('P'), 'PNG', transparency=3),
    encoded(image.convert('RGBA'), 'PNG'),
    encoded(deep, 'PNG'),
    encoded(image, 'PNG', **frames),
    encoded(image, 'WEBP'),
    encoded(image.convert('RGBA'), 'WEBP', lossless=True),
    encoded(image, 'WEBP', **frames),
    encoded(image, 'BMP'),
    encoded(image.convert('P'), 'BMP'),
    encoded(image, 'GIF', **frames),
    encoded(image, 'TIFF'),
    encoded(image, 'TIFF', compression='tiff_lzw'),
    encoded(image, 'TIFF', compression='tiff_adobe_deflate'),
    encoded(deep, 'TIFF'),
    encoded(Image.fromarray(np.asarray(grey, np.float32) / 255), 'TIFF', **frames),
    encoded(image, 'PPM'),
    encoded(image, 'AVIF'),
    encoded(image, 'JPEG2000'),
  ]


def mutate(rng, content, other):
  """Breaks a file in one to three of the ways in which files break, or are broken on purpose."""
  found = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    at, size = int(rng.integers(len(found) + 1)), int(rng.integers(1, 64))
    way = rng.integers(8)
    if way == 0:  # cut off
      del found[at:]
    elif way == 1:  # flipped bits
      for i in rng.integers(len(found) or 1, size=size):
        if found:
          found[i] ^= 1 << int(rng.integers(8))
    elif way == 2:  # a hole
      found[at : at + size] = bytes(len(found[at : at + size]))
    elif way == 3:
      found[at:at] = rng.bytes(size)
    elif way == 4:
      del found[at : at + size]
    elif way == 5:  # a part twice
      found[at:at] = found[at : at + size]
    elif way == 6:  # another kind's head on this one's body
      found[:size] = other[:size]
    else:  # a number that is as large as it can be, most likely in the head
      at = min(at, int(rng.integers(100)))
      found[at : at + 4] = b'\xff\xff\xff\xff' if rng.random() < 0.5 else b'\x7f\xff\xff\xff'
  return bytes(found)


def test_fuzzed_files(config, photos, capsys):
  rng = np.random.default_rng(5)
  good, suffixes = good_files(rng), ('.jpg', '.png', '.webp', '.bmp', '.gif', '.tif', '')
  for i in range(FUZZED):
    kind, other = rng.integers(len(good), size=2)
    suffix = suffixes[rng.integers(len(suffixes))]  # as often as not another kind's
    (photos / 'ant' / f'fuzz{i}{suffix}').write_bytes(mutate(rng, good[kind], good[other]))
  for i, content in enumerate(good):  # mislabelled
    (photos / 'bee' / f'kind{i}{suffixes[i % len(suffixes)]}').write_bytes(content)
  before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
  found = data.load(config, 16)
  seconds = time.monotonic() - started
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  kept = len(found.train.labels) + len(found.validation.labels)
  refused = [name.partition(' (') for name in found.left_out]
  assert kept + len(refused) == FUZZED + 16 + len(good)
  assert all(name.startswith('ant/fuzz') and why.strip(')') for name, _, why in refused)
  assert 0.3 * FUZZED < len(refused) < FUZZED  # the mutator is neither too tame nor too wild
  assert seconds < 60
  assert grown < 500  # MB
  with capsys.disabled():
    print(
      f'\nfuzzed files: {FUZZED} tried, {len(refused)} refused by name, '
      f'{FUZZED - len(refused)} still images; all {16 + len(good)} good ones got in; '
      f'{seconds:.1f} s, {grown:.0f} MB more'
    )


def refused(config):
  """file -> why, of a folder whose 16 good images all get in."""
  found = data.load(config, 16)
  assert len(found.train.labels) + len(found.validation.labels) == 16
  parts = [name.rstrip(')').partition(' (') for name in found.left_out]
  return {name: why for name, _, why in parts}


def png_head(width, height):
  def chunk(kind, body):
    crc = zlib.crc32(kind + body).to_bytes(4, 'big')
    return len(body).to_bytes(4, 'big') + kind + body + crc

  head = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([8, 2, 0, 0, 0])
  body = zlib.compress(bytes(2**24))  # 16 kB that inflate to its first 16 MB
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', body) + chunk(b'IEND', b'')


def test_files_that_are_no_files(config, photos):
  ant = photos / 'ant'
  os.mkfifo(ant / 'pipe.png')
  with socket.socket(socket.AF_UNIX) as listener:
    here = Path.cwd()
    os.chdir(ant)  # the address of a socket is short
    listener.bind('socket.png')
    os.chdir(here)
    (ant / 'zero.png').symlink_to('/dev/zero')
    (ant / 'itself.png').symlink_to('itself.png')
    (ant / 'nowhere.png').symlink_to('../nowhere.png')
    (ant / 'up').symlink_to('..')
    expected = {
      'ant/pipe.png': 'not a regular file',
      'ant/socket.png': 'not a regular file',
      'ant/zero.png': 'a link out of the folder',
      'ant/nowhere.png': 'No such file or directory',
      'ant/up': 'a link to a folder',
    }
    found = refused(config)
  assert 'ant/itself.png' in found
  assert expected.items() <= found.items()
  assert len(found) == 6
  with pytest.raises(ValueError, match='not a regular file'):
    folder.read(Path('/dev/zero'))


def test_links(config, photos, tmp_path):
  """Links inside the folder are followed; those that leave it are refused."""
  secret = tmp_path / 'secret'
  secret.mkdir()
  picture(np.random.default_rng(1)).save(secret / 'a.png')
  (photos / 'ant' / 'out.png').symlink_to(secret / 'a.png')
  (photos / 'ant' / 'by_way.png').symlink_to('../bee/../ant/out.png')
  (photos / 'ant' / 'album').symlink_to(secret)
  assert refused(config) == {
    'ant/out.png': 'a link out of the folder',
    'ant/by_way.png': 'a link out of the folder',
    'ant/album': 'a link out of the folder',
  }
  (photos / 'bee' / 'in.png').symlink_to('../ant/good0.png')
  found = data.load(config, 16)
  assert len(found.train.labels) + len(found.validation.labels) == 17
  assert len(found.left_out) == 3
  (photos / 'cat').symlink_to(secret)
  with pytest.raises(StudyError, match=r"class 'cat' has 0 images"):
    data.load(config, 16)
  config.skip_unreadable = False
  with pytest.raises(StudyError, match=r'4 unreadable .*a link out of the folder'):
    data.load(config, 16)


def test_names_of_any_bytes(config, photos):
  """Bytes that are no UTF-8, line breaks and a terminal's commands, in good and in bad files."""
  for i, name in enumerate((b'\xff\xfe', b'a\nb', b'\x1b[31mred', 'ü – 字'.encode())):
    parent = os.fsencode(photos / 'ant')
    picture(np.random.default_rng(i)).save(os.fsdecode(parent + b'/' + name + b'.png'))
    Path(os.fsdecode(parent + b'/' + name + b'.txt')).write_text('no image')
  os.rename(photos / 'bee', os.fsencode(photos) + b'/be\xff')
  found = data.load(config, 16)
  assert len(found.train.labels) + len(found.validation.labels) == 20
  assert sorted(name.partition(' (')[0] for name in found.left_out) == [
    'ant/\\x1b[31mred.txt',
    'ant/\\xff\\xfe.txt',
    'ant/a\\nb.txt',
    'ant/ü – 字.txt',
  ]
  '\n'.join((*found.left_out, *found.classes)).encode()  # fit for results.json and summary.md


def test_sizes_that_are_traps(config, photos):
  ant = photos / 'ant'
  (ant / 'nothing.png').write_bytes(b'')
  with (ant / 'sparse.png').open('wb') as stream:
    stream.truncate(2**42)  # four terabytes that take no room on the disk
  (ant / 'bomb.png').write_bytes(png_head(60_000, 60_000))
  (ant / 'lie.png').write_bytes(png_head(9_000, 9_900))  # below the limit, but its end is missing
  scans = good_files(np.random.default_rng(0))[1]
  at = scans.index(b'\xff\xda')
  second = scans.index(b'\xff\xda', at + 2)
  (ant / 'scans.jpg').write_bytes(scans[:at] + scans[at:second] * 5000 + scans[second:])
  (ant / 'postscript.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
  found = refused(config)
  assert found.pop('ant/lie.png')
  assert 'decompression bomb' in found.pop('ant/bomb.png')
  assert found == {
    'ant/nothing.png': 'empty',
    'ant/sparse.png': f'{2**42} bytes, more than {2**28}',
    'ant/scans.jpg': 'a JPEG with more than 100 scans',
    'ant/postscript.png': 'not an image',
  }


@pytest.mark.parametrize('mode', images.RESIZE_MODES)
def test_odd_shapes_take_no_room(mode):
  """Scaled as a whole, 1 x 200,000 would take 4 GB at a width of 84."""
  for size in ((1, 1), (1, 200_000), (200_000, 1)):
    assert images.resize(Image.new('RGB', size, 'red'), 84, mode).shape == (84, 84, 3)


def test_deep_folders(config, photos):
  """Deeper than Python's stack."""
  here = Path.cwd()
  os.chdir(photos / 'ant')
  try:
    for _ in range(1200):
      os.mkdir('d')
      os.chdir('d')
    picture(np.random.default_rng(2)).save('deep.png')
    os.chdir(here)
    found = data.load(config, 16)
  finally:
    os.chdir(here)
    # What pytest removes temporary folders with recurses.
    subprocess.run(['rm', '-rf', str(photos / 'ant' / 'd')], check=True)
  assert len(found.train.labels) + len(found.validation.labels) == 17


def test_duplicates_all_get_in(config, photos):
  for i in range(20):
    (photos / 'ant' / f'copy{i}.png').write_bytes((photos / 'ant' / 'good0.png').read_bytes())
  found = data.load(config, 16)
  assert len(found.train.labels) + len(found.validation.labels) == 36
  assert not found.left_out


UNREADABLE = """
import os, sys
from pathlib import Path
from lr_study.data import folder, scanning
root = Path(sys.argv[1])
if os.geteuid() == 0:  # who may read everything
  os.seteuid(65534)
files = [file for of in scanning.scan(root, ()).values() for file in of]
for file, why in folder.look(files, [root])[0].items():
  print(scanning.printable(file, root), why, sep=': ')
print(len(files), 'files')
"""


def test_what_may_not_be_read(config, photos, tmp_path):
  for parent in (photos, *photos.parents):
    if parent.stat().st_mode & 0o005 != 0o005:  # pytest's own folders, for the other user below
      parent.chmod(0o755)
  (photos / 'ant' / 'good3.png').chmod(0)
  inner = photos / 'bee' / 'inner'
  inner.mkdir()
  inner.chmod(0)
  result = subprocess.run(
    [sys.executable, '-c', UNREADABLE, str(photos)],
    capture_output=True,
    text=True,
    check=True,
    cwd=Path(__file__).parents[1],
  )
  inner.chmod(0o755)
  assert result.stdout.splitlines() == [
    'ant/good3.png: Permission denied',
    'bee/inner: a folder that cannot be listed',
    '17 files',
  ]


def test_a_folder_of_its_own_to_validate(config, photos, tmp_path):
  apart = tmp_path / 'apart'
  for name in ('bee', 'ant'):
    (apart / name).mkdir(parents=True)
    picture(np.random.default_rng(7)).save(apart / name / 'one.png')
  config.validation_dir = str(apart)
  found = data.load(config, 16)
  assert found.classes == ('ant', 'bee')
  assert len(found.train.labels) == 16  # all of data.dir: nothing is split off
  assert found.validation.labels.tolist() == [0, 1]
  config.validation_dir = str(photos / 'ant')
  with pytest.raises(StudyError, match='share files'):
    data.load(config, 16)
  (apart / 'ant' / 'one.png').unlink()
  config.validation_dir = str(apart)
  with pytest.raises(StudyError, match=r"class 'ant' has 8 images .* 0 to validate"):
    data.load(config, 16)


def test_a_test_part_that_no_sweep_touches(config, photos):
  assert photos.is_dir()
  whole = data.load(config, 16)
  config.test_fraction = 0.25
  found, test = data.load(config, 16), data.opened(config, 16).test()
  assert found.test == len(test.labels) == 4
  assert np.bincount(test.labels).tolist() == [2, 2]
  everything = {
    image.tobytes() for part in (whole.train, whole.validation) for image in part.images
  }
  parts = [{i.tobytes() for i in part.images} for part in (found.train, found.validation, test)]
  assert set.union(*parts) == everything
  assert sum(map(len, parts)) == len(everything) == 16
  # The same images whatever the sweep takes of the rest.
  config.train_fraction, config.per_class = 0.5, 3
  assert (data.opened(config, 16).test().images == test.images).all()
