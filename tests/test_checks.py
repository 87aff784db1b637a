"""The checks of a data set before a study trains on it."""

import io
import json

import numpy as np
import pytest
import scipy.fft
from PIL import Image
from scipy.spatial import cKDTree
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import alexnet_folder
from lr_study import data
from lr_study.config import check
from lr_study.data import checks
from lr_study.errors import StudyError
from lr_study.files import provenance
from lr_study.report import show


def save(folder, name, image, **options):
  folder.mkdir(parents=True, exist_ok=True)
  image.save(folder / name, **options)


def scene(seed, size=60):
  """Blurred noise, different for each seed."""
  coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
  return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def findings(train, validation, labels, names=None, classes=('a', 'b')):
  images = [np.stack([np.asarray(image) for image in of]) for of in (train, validation)]
  labels = [np.asarray(of) for of in labels]
  names = names or [[f'{part} {i}' for i in range(3000)] for part in ('train', 'val')]
  return checks.check([checks.traits(of) for of in images], labels, names, classes)


def test_copies_across_the_split_are_found():
  """Copies, also re-encoded ones, are found; different scenes are not."""
  train = [scene(seed) for seed in range(20)]
  saved = io.BytesIO()
  train[7].save(saved, 'JPEG', quality=40)
  small = train[3].resize((25, 25), Image.Resampling.BILINEAR).resize((60, 60))
  dark = train[4].point(lambda value: 0.6 * value + 10)
  validation = [scene(50), train[5], Image.open(saved), small, dark, scene(51)]
  found = findings(train, validation, ([0, 1] * 10, [0, 1] * 3))
  assert found['identical_across_split'] == (
    1,
    '1 of 6 validation images are also training images: val 1 is train 5',
  )
  near = found['near_across_split']
  assert near.count == 3
  assert 'val 2 is like train 7, val 3 is like train 3, val 4 is like train 4' in near.line


def test_flat_images_are_no_copies_of_each_other():
  """Nor is one that a hash says nothing of."""
  flat = [Image.new('RGB', (60, 60), colour) for colour in ('black', 'white', (0, 70, 0), 'red')]
  found = findings([*flat[:2], scene(1)], [*flat[2:], scene(2)], ([0, 1, 1], [0, 1, 1]))
  assert found['constant'] == (
    4,
    '4 of 6 images have only one colour, 1 of them black: train 0, train 1, val 0',
  )
  assert found['near_across_split'].count == found['identical_across_split'].count == 0
  split = np.zeros((60, 60, 3), np.uint8)
  split[:30, :, 0], split[30:, :, 2] = 114, 255 - 0  # two colours of the same brightness
  split[:30, :, 0] = round(255 * 0.114 / 0.299)
  found = checks.traits(split[None])
  assert not found.flat[0]
  assert not found.faint[0]


def test_copies_with_other_labels_are_found():
  train = [scene(0), scene(1), scene(0), scene(2), scene(2)]
  found = findings(train, [scene(9)], ([0, 1, 1, 0, 0], [0]))
  assert found['contradictory_labels'].count == 2
  assert 'train 0, train 2' in found['contradictory_labels'].line


@pytest.mark.parametrize(
  ('counts', 'difference', 'leads'),
  [
    ((50, 50), 0.0, checks.PLAIN),
    ((54, 46), 0.04, checks.PLAIN),
    ((56, 44), 0.06, checks.BALANCED),
    ((90, 5, 5), 0.9 - 1 / 3, checks.BALANCED),
  ],
)
def test_balanced_accuracy_leads_where_it_may_differ(counts, difference, leads):
  labels = np.repeat(np.arange(len(counts)), counts)
  assert checks.imbalance(labels) == pytest.approx(difference)
  assert checks.leading_measure(labels) == leads
  found = findings(
    [scene(0)], [scene(1)] * len(labels), ([0], labels), classes='abc'[: len(counts)]
  )
  assert found['class_imbalance'].count == (leads == checks.BALANCED)


def test_imbalance_bounds_how_far_the_accuracies_differ():
  """In the worst case, some classes are entirely right and the others entirely wrong."""
  labels = np.repeat(np.arange(4), (40, 30, 20, 10))
  worst = 0.0
  for right in range(16):
    recall = np.asarray([right >> k & 1 for k in range(4)])
    worst = max(worst, abs(recall[labels].mean() - recall.mean()))
  assert checks.imbalance(labels) == pytest.approx(worst)


@pytest.mark.parametrize('size', [2, 3, 7, 8, 60])
def test_the_hash_is_of_scipys_cosine_transform(size):
  """Also for an image of few pixels, which has fewer frequencies than requested."""
  images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
  grey = images @ np.float64([0.299, 0.587, 0.114])
  waves = scipy.fft.dctn(grey, axes=(1, 2), norm='ortho')[:, :8, :8].reshape(5, -1)[:, 1:]
  expected = waves / np.linalg.norm(waves, axis=1, keepdims=True)
  # Sums of at most 3,600 grey levels in float32, whose rounding errors mostly cancel.
  np.testing.assert_allclose(checks.traits(images).hash, expected, atol=1e-5)


@pytest.mark.parametrize('at_once', [2**24, 1000])
def test_near_copies_are_those_that_a_tree_finds(monkeypatch, at_once):
  """With all pairs at once or a few; of equal training images, the first is named."""
  monkeypatch.setattr(checks, '_COSINES', at_once)
  random = np.random.default_rng(0)
  train = random.normal(size=(300, 63))
  train[200:] = train[:100]
  moved = train + random.normal(size=train.shape) * np.linspace(0, 0.4, 300)[:, None]
  train, moved = (np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (train, moved))
  distance, nearest = cKDTree(train[:200]).query(moved)
  hits = np.flatnonzero(distance < 0.15)
  no = np.zeros(300, bool)
  found = checks.check(
    [
      checks.Traits(np.arange(300), train, no, no, no, no),
      checks.Traits(np.arange(300, 600), moved, no, no, no, no),
    ],
    [np.zeros(300, int)] * 2,
    [[f'{part} {i};' for i in range(300)] for part in ('train', 'val')],
    ['a'],
  )['near_across_split']
  assert 50 < found.count == len(hits) < 250
  for i in hits[:3]:
    assert f'val {i}; is like train {nearest[i]};' in found.line


def test_rendered_letters_pass(tiny):
  """No two of 200 count as copies, although letters of a typeface are similar."""
  tiny.data.per_class = 20
  found = data.load(tiny.data, tiny.image_size)
  assert [finding.count for finding in found.checks.values()] == [0] * 6


def test_many_copies_cost_no_more_than_few():
  """Copies of one image are 180,000 pairs, but one neighbour is named per validation image."""
  copies = [scene(0)] * 600
  found = findings(copies, copies[:300], ([0, 1] * 300, [0, 1] * 150))
  assert found['identical_across_split'].count == 300
  assert found['contradictory_labels'].count == 900
  assert len(found['identical_across_split'].line) < 200


def test_a_study_tells_its_findings(tmp_path):
  """Findings are in results.json, and control characters in names do not reach the terminal."""
  root = tmp_path / 'photos'
  for label, name in enumerate(('ant', 'bee')):
    for i in range(4):
      save(root / name, f'{i}.png', scene(10 * label + i))
  save(root / 'ant', '\x1b[2J.png', scene(3))
  config = alexnet_folder.get_config()
  config.data.dir = str(root)
  config.data.cache_dir = str(tmp_path / 'cache')
  found = data.load(config.data, 60)
  study = json.loads(json.dumps(provenance.describe(config, found)))
  told = study['data']['checks']
  assert list(told) == [
    'identical_across_split',
    'near_across_split',
    'faint',
    'contradictory_labels',
    'constant',
    'class_imbalance',
  ]
  everything = ' '.join(check['line'] for check in told.values())
  assert '\x1b' not in everything


def test_a_data_set_is_shown(tmp_path, capsys):
  """Pictures on disk and in TensorBoard's images tab; names of classes are no formulas."""
  root = tmp_path / 'photos'
  for name in ('$x^ 日本', 'a' * 60):
    for i in range(5):
      save(root / name, f'{i}.png', scene(i + 9 * len(name), 40 + 10 * i))
  config = alexnet_folder.get_config('full')
  config.image_size = 227
  config.data.dir = str(root)
  config.data.cache_dir, config.data.test_fraction = str(tmp_path / 'cache'), 0.2
  show.show(check(config), tmp_path / 'out')
  text = capsys.readouterr().out
  assert '2 classes; 6 training, 2 validation and 2 test images' in text
  assert 'Files from 40 x 40 to 80 x 80 pixels, median 60 x 60' in text
  assert 'Check: none of 2 validation images are also training images' in text
  events = EventAccumulator(str(tmp_path / 'out' / 'tensorboard'), size_guidance={'images': 0})
  events.Reload()
  names = ['contact_sheet', 'counts', 'mean', 'sizes']
  assert sorted(events.Tags()['images']) == names
  for name in names:
    (shown,) = events.Images(name)
    assert shown.encoded_image_string == (tmp_path / 'out' / f'{name}.png').read_bytes()
    picture = Image.open(io.BytesIO(shown.encoded_image_string)).convert('RGB')
    assert picture.size == (shown.width, shown.height)
    assert np.asarray(picture).std() > 5  # more than a blank sheet


def test_pictures_that_cannot_be_written_are_one_line(tiny, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(StudyError, match='cannot write --out'):
    show.show(check(tiny), tmp_path / 'file')
