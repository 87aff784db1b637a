"""The rendered letters: reproducible bytes, sizes, legibility, and the unseen split."""

import collections
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import alexnet_letters
from lr_study import data
from lr_study.data import builders
from lr_study.data.letters import faces, render, stones, workers
from lr_study.errors import StudyError


def test_rendering_is_a_pure_function():
  first = render.render(0, 'R', 5, 64)
  render.render(3, 'H', 1, 80)
  assert (render.render(0, 'R', 5, 64) == first).all()
  assert first.dtype == np.uint8
  for other in ((1, 'R', 5), (0, 'H', 5), (0, 'R', 6)):
    assert (render.render(*other, 64) != first).any()


@pytest.mark.parametrize('size', [64, 84, 131, 256])
def test_rendered_at_the_size_asked_for(size):
  """Not scaled up: neighbouring pixels differ by noise of their own."""
  found = [render.render(0, 'A', index, size) for index in range(3)]
  assert {pixels.shape for pixels in found} == {(size, size, 3)}
  for pixels in found:
    grey = pixels.astype(float).mean(-1)
    spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    high = spectrum[size // 2 - size // 16 : size // 2 + size // 16]
    # Of white noise alone every frequency has as much; of an enlarged image the highest have none.
    assert high.mean() > 0.05 * size**2


def test_the_same_bytes_from_any_number_of_processes():
  one, three = (list(workers.render_files(0, 'OT', 4, 64, n)) for n in (1, 3))
  assert len(one) == 8
  assert one == three  # though they do not share eight images evenly


def test_a_process_that_fails_is_an_error(capfd):
  with pytest.raises(RuntimeError, match='ended before image 0 of 4'):
    list(workers.render_files(-1, 'OT', 2, 64, 2))  # NumPy takes no seed below 0
  assert 'expected non-negative integer' in capfd.readouterr().err


def test_letters_can_be_read():
  """Strokes and their edges explain the image, by the renderer's measure."""
  legible = 0
  for index in range(5):
    for letter in render.LETTERS:
      pixels = render.render(0, letter, index, 64).astype(float).mean(-1)
      inner, rim = pixels[14:50, 14:50], np.concatenate([pixels[:3], pixels[-3:]])
      legible += inner.std() > 0.8 * rim.std()
  assert legible >= 35  # of 50; neighbours and shadows cross the rim of some


def test_sixteen_typefaces_serif_above_all():
  every = faces.SEEN + faces.UNSEEN
  assert len({face.package for face in every}) >= 16
  assert len({face.package for face in every if not face.sans}) >= 16
  assert {stone.kind for stone in stones.SEEN} == {stone.kind for stone in stones.UNSEEN}
  assert all(face.licence in ('OFL-1.1', 'Apache-2.0') for face in every)


def test_plans_draw_every_typeface_and_stone():
  drawn = collections.Counter()
  for index in range(1200):
    plan = render.plan(0, 'E', index)
    drawn[plan.face.family] += 1
    drawn[plan.stone.name] += 1
  assert {f.family for f in faces.SEEN + faces.UNSEEN} <= drawn.keys()
  assert {s.name for s in stones.SEEN + stones.UNSEEN} <= drawn.keys()


@pytest.fixture
def config(cache_dir):
  config = alexnet_letters.get_config().data
  config.cache_dir = cache_dir
  config.per_class = 8
  return config


def test_unseen_typefaces_and_stones_are_in_validation_only(config):
  config.split = 'unseen'
  fields = {name: config[name] for name in ('per_class', 'split', 'seed', 'cache_dir')}
  source = data.KNOWN['tombstone_letters'](64, **fields)
  train, validation, _ = data.split(source.labels, source.parts, 0.75, 0.0, 8, 0)
  assert len(train) == 60
  assert np.bincount(source.labels[validation]).tolist() == [2] * 10
  assert sorted([*train, *validation]) == list(range(80))
  [folder] = Path(config.cache_dir).glob('tombstone_letters/*_64px_8_seed0/*')
  as_stored = {'image': tfds.decode.SkipDecoding()}
  items = tfds.builder_from_directory(folder).as_data_source('train', decoders=as_stored)
  for name in ('typeface', 'stone'):
    sides = [{items[int(i)][name] for i in part} for part in (train, validation)]
    assert all(sides)
    assert not sides[0] & sides[1]
  found = data.load(config, 64)
  assert len(found.train.labels) == 60


def test_unseen_splits_that_cannot_be(config, tmp_path):
  config.split = 'unseen'
  config.train_fraction = 0.5
  with pytest.raises(StudyError, match=r'trains on 0\.75'):
    data.load(config, 64)
  config.train_fraction, config.per_class = 0.75, 2
  with pytest.raises(StudyError, match='needs at least 4 images of each class'):
    data.load(config, 64)


def test_other_sources_have_no_unseen_split(config, tmp_path):
  for name in ('ant', 'bee'):
    folder = tmp_path / name
    folder.mkdir()
    for i in range(4):
      (folder / f'{i}.webp').write_bytes(workers.encode(np.full((8, 8, 3), i, np.uint8)))
  config.name, config.dir, config.split = 'image_folder', str(tmp_path), 'unseen'
  with pytest.raises(StudyError, match='which image_folder does not record'):
    data.load(config, 16)


def test_the_card(config):
  """The data set says what it is, its version and the licence of each typeface."""
  letters = builders.LettersConfig(name='card', letters='OT', per_class=2, size=64, seed=0)
  info = builders.make(builders.TombstoneLetters, config.cache_dir, letters).info
  assert str(info.version) == render.VERSION
  for words in ('letters OT', 'red granite', 'eb garamond', '2 rendered images of 64 x 64'):
    assert words in info.description
  for face in faces.SEEN + faces.UNSEEN:
    name = face.package.replace('_', '-')
    assert f'fontpkg-{name}: {face.licence}' in info.redistribution_info.license


def test_building_leaves_nothing_among_temporary_files(config, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  config.per_class, config.cache_dir = 2, str(tmp_path / 'cache')
  data.opened(config, 64)
  assert [file.name for file in tmp_path.iterdir()] == ['cache']


def test_missing_typefaces_name_the_extra(tmp_path, monkeypatch):
  """Before anything is rendered; a set that was rendered before needs none."""
  config = alexnet_letters.get_config('quick')
  config.image_size, config.data.per_class, config.data.classes = 64, 2, ('O', 'T')
  config.data.cache_dir = str(tmp_path)
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name: None if name == 'fontpkg_lora' else found(name)
  )
  message = '1 of the 26 typefaces .* such as fontpkg-lora; .* run pip install ".\\[letters\\]"'
  with pytest.raises(StudyError, match=message):
    data.opened(config.data, config.image_size)
  assert not list(tmp_path.iterdir())
  monkeypatch.undo()
  data.opened(config.data, config.image_size)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  data.opened(config.data, config.image_size)
