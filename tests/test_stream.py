"""Images that stream from their files: the same numbers as in memory, and no more memory."""

import numpy as np
import pytest

from lr_study import data, trials
from lr_study.config import check
from lr_study.data import stream
from lr_study.search.rounds import Planned


def curves(config, data_set, seeds=(0, 1, 1)):
  """Three trials' first steps, the rest of the epoch after a stop, the next epoch, evaluations."""
  planned = [
    Planned(rate, seed, config.batch_size, 'constant', 2, 0, 0)
    for rate, seed in zip((1e-3, 1e-4, 1e-5), seeds, strict=True)
  ]
  study = trials.prepare(config, data_set)._replace(trials=tuple(planned))
  now = trials.running(study, np.arange(3))
  state_T, found = study.spread.init(now.hyper_T, now.seeds), []
  for epoch, first, last in ((0, 0, 4), (0, 4, study.steps_per_epoch), (1, 0, 5)):
    state_T, steps, ends = trials.train_steps(study, now, state_T, epoch, first, last)
    state_T = study.spread.settle(state_T)
    means = trials.evaluate(study, now, state_T)
    found += [*steps.values(), *ends.values(), *means.values()]
  return found


@pytest.fixture
def both(tiny):
  """The tiny study in memory, and in files."""
  tiny.batch_size, tiny.eval_batch_size = 3, 7  # 20 images to validate: the last batch hangs over
  tiny.model = {'name': 'mlp'}  # any network will do, and this one compiles fast
  tiny.input.size, tiny.input.mirror = 8, True
  config = check(tiny)
  resident = data.load(config.data, config.image_size)
  tiny.data.resident = False
  return config, resident, data.load(tiny.data, config.image_size)


@pytest.mark.parametrize('how', ['threads', 'vmap', 'shard_map'])
def test_streamed_curves_are_those_of_images_in_memory(both, how):
  """To the bit: the same steps get the same images. Two seeds, with vmap both in one call."""
  config, resident, streamed = both
  with config.unlocked():
    config.parallel = how
  assert not isinstance(streamed.train.images, np.ndarray)
  for ours, theirs in zip(curves(config, streamed), curves(config, resident), strict=True):
    assert np.isfinite(theirs).all()
    np.testing.assert_array_equal(ours, theirs)


def test_what_is_known_of_the_data_is_the_same(both):
  _, resident, streamed = both
  assert streamed.fingerprint == resident.fingerprint
  np.testing.assert_array_equal(streamed.mean, resident.mean)
  assert streamed.checks == resident.checks
  for part in ('train', 'validation'):
    ours, theirs = getattr(streamed, part), getattr(resident, part)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.images.load(), theirs.images)


def test_images_that_do_not_fit_stream(tiny, capsys):
  size = 80 * 67 * 67 * 3
  for room, fits in ((size, True), (size - 1, False)):
    found = data.load(tiny.data, tiny.image_size, room)
    assert isinstance(found.train.images, np.ndarray) == fits
    assert ('are streamed from their files' in capsys.readouterr().out) != fits


def test_an_image_is_read_once_for_all_who_ask_for_it(both):
  """For two seeds, or for the devices; in the requested order, with any number of axes."""
  _, resident, streamed = both
  reads, read = [], streamed.train.images._read
  streamed.train.images._read = lambda k: reads.append(k) or read(k)
  index = np.asarray([[5, 0], [5, 9]])
  (found,) = stream.read(streamed.train.images, [index])
  np.testing.assert_array_equal(found, resident.train.images[index])
  assert sorted(reads) == [0, 5, 9]


def test_what_is_read_ahead_is_bounded(both, monkeypatch):
  _, _, streamed = both
  pixels, reads = streamed.train.images, []
  read = pixels._read
  pixels._read = lambda k: reads.append(k) or read(k)
  monkeypatch.setattr(stream, '_AHEAD_BYTES', 4 * 67 * 67 * 3)
  steps = stream.read(pixels, [np.asarray([k]) for k in range(40)])
  next(steps)
  assert len(reads) <= 1 + 4 + 1  # what was given, what waits, what takes its place
