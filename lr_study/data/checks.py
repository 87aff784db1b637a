"""Checks of the data before a study starts: pure functions of images and labels."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lr_study.data import samples

# A perceptual hash that is not rounded to bits: the 8 x 8 lowest frequencies of an image's
# brightness without their mean, scaled to length 1. Another encoding, size or exposure mostly
# changes higher frequencies, or only the length.
_FREQUENCIES = 8
# Images whose hashes are nearer than this are near copies. 300 rendered letters of 84 pixels that
# were saved as JPEG at quality 30, scaled to a third and back, darkened, or had noise of 10 grey
# levels added were at most 0.09 from the original. The nearest pair of 1,250 and 3,750 different
# images was 0.38 apart.
_NEAR = 0.15
_COSINES = 2**24  # of hashes, computed at once
_FLAT = 2  # grey levels between the darkest and the brightest pixel, as JPEG can cause
# Limits on the standard deviation, in grey levels, of an image that shows hardly anything, and on
# the deviation and mean of one that is nearly black, such as 12-bit values in a 16-bit file. The
# palest of 389 photographs of letters (Chars74K) has 4.01, and half of them have 40 or more; the
# palest of 600 rendered letters has 14.
_FAINT = 4
_DARK, _DARK_MEAN = 8, 16
_GREY = np.float32([0.299, 0.587, 0.114])  # of red, green, blue: ITU-R BT.601
# Both accuracies are means of the classes' recalls, one weighted by the classes' shares and one
# evenly, so they differ by at most half the sum of |share - 1 / classes|. If that exceeds this
# limit, which is about the noise of 400 images, they may disagree on which trial is best.
_UNBALANCED = 0.05
_EXAMPLES = 3

PLAIN, BALANCED = 'validation_accuracy', 'validation_balanced_accuracy'  # fields of a Result


class Traits(NamedTuple):
  """What the checks need to know about each of n images or other samples.

  digest: (n,), bytes that are equal for equal numbers. hash: float32 (n, 63), see above; 0 for a
  flat image; (n, 0) for samples that are not images. flat: bool (n,), an image of one colour, or a
  sample of one number. black: bool (n,), flat and all 0. faint: bool (n,), an 8-bit image that is
  not flat, but shows almost only one grey. dark: bool (n,), faint and nearly black.
  """

  digest: np.ndarray
  hash: np.ndarray
  flat: np.ndarray
  black: np.ndarray
  faint: np.ndarray
  dark: np.ndarray


class Finding(NamedTuple):
  """One check: how many images it found, and a line that says so to people."""

  count: int  # type: ignore[assignment]  # hides a method of tuples
  line: str


def traits(images: np.ndarray) -> Traits:
  """The traits of uint8 or float32 (n, ...); `samples.is_image` decides which are images."""
  most = _FLAT if images.dtype == np.uint8 else 0
  if samples.is_image(images.shape[1:]):
    grey = _brightness(images)
    # An image of one colour has one brightness. Only images of one brightness need a closer look.
    flat = np.ptp(grey, axis=(1, 2)) <= (most or 1e-6 * np.abs(grey).max((1, 2)))
    flat[flat] = _rows(np.ptp(images[flat], axis=(1, 2))).max(1, initial=0) <= most
    found = np.where(flat[:, None], 0, _hash(grey))
    faint, dark = _faint(images, grey, ~flat & (images.dtype == np.uint8))
  else:
    rows = _rows(images)
    flat = (np.ptp(rows, axis=1) == 0) & (rows.shape[1] > 1)
    found = np.zeros((len(images), 0))
    faint = dark = np.zeros(len(images), bool)
  black = flat.copy()
  black[flat] = _rows(np.abs(images[flat])).max(1, initial=0) <= most
  return Traits(digests(images), found.astype(np.float32), flat, black, faint, dark)


def digests(images: np.ndarray) -> np.ndarray:
  """Bytes that are equal for equal numbers, V16 (n,), of images (n, ...) of one shape and type."""
  # Twice as fast as blake2b on processors with instructions for it.
  found = [hashlib.sha256(np.ascontiguousarray(x)).digest()[:16] for x in images]
  return np.asarray(found, 'V16')


def _faint(
  images: np.ndarray, grey: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which of the `asked` images are faint, and which of those are nearly black: bool (n,) each."""
  spread = grey.std(axis=(1, 2))
  pale = np.flatnonzero(asked & (spread <= _DARK))  # only these need a look at their colours
  spread[pale] = _rows(images[pale].std(axis=(1, 2))).max(1, initial=0)
  dark = asked & (spread <= _DARK) & (grey.mean(axis=(1, 2)) <= _DARK_MEAN)
  return dark | (asked & (spread <= _FAINT)), dark


def _rows(x: np.ndarray) -> np.ndarray:
  return x.reshape(len(x), math.prod(x.shape[1:]))


def _brightness(images: np.ndarray) -> np.ndarray:
  """Brightness, float32 (n, height, width), of images (n, height, width[, channels])."""
  if images.ndim == 3:
    return images.astype(np.float32)
  return images[..., :3] @ _GREY if images.shape[3] > 1 else images[..., 0].astype(np.float32)


def _hash(grey: np.ndarray) -> np.ndarray:
  """The lowest frequencies of (n, height, width) without the mean, scaled to length 1 unless 0."""
  # The orthonormal cosine transform (Ahmed et al., 1974), except for one factor.
  waves = []
  for size in grey.shape[1:]:
    frequencies = np.arange(min(_FREQUENCIES, size))
    of = np.cos(np.pi / size * np.outer(frequencies, np.arange(size) + 0.5))
    waves.append(np.float32(of * np.where(frequencies, 1, 0.5**0.5)[:, None]))
  found = (waves[0] @ grey @ waves[1].T).reshape(len(grey), -1)[:, 1:]
  length = np.linalg.norm(found, axis=1, keepdims=True)
  return np.where(length == 0, 0, found / np.where(length == 0, 1, length))


def join(parts: Iterable[Traits]) -> Traits:
  """Concatenates traits."""
  return Traits(*map(np.concatenate, zip(*parts, strict=True)))


def check(
  found: Sequence[Traits],
  labels: Sequence[np.ndarray],
  names: Sequence[Sequence[str]],
  classes: Sequence[str],
  what: str = 'images',
) -> dict[str, Finding]:
  """Looks for problems that make an accuracy less meaningful than it seems.

  Args:
    found: traits of the training and of the validation images.
    labels: of both.
    names: of both, for people.
    classes: names of the classes.
    what: what messages call them: 'images' or 'samples'.

  Returns:
    A finding for each check, in the order in which people should read them. Near copies and faint
    samples are looked for only among images.
  """
  (train, validation), count = found, sum(map(len, labels))
  of_validation = f'{len(labels[1])} validation {what}'
  same = _identical(train, validation)
  clash = [_contradictory(f.digest, of) for f, of in zip(found, labels, strict=True)]
  flat = [np.flatnonzero(f.flat) for f in found]
  faint = [np.flatnonzero(f.faint) for f in found]
  black, dark = (
    sum(int(f[name].sum()) for f in map(Traits._asdict, found)) for name in ('black', 'dark')
  )
  one, none = ('colour', 'black') if what == 'images' else ('number', 'zero')
  findings = {
    'identical_across_split': _across(
      same, names, f'of {of_validation} are also training {what}', 'is'
    )
  }
  if what == 'images':
    near = np.where(same < 0, _near(train, validation), -1)
    findings['near_across_split'] = _across(
      near, names, f'of {of_validation} are near copies of training images', 'is like'
    )
    findings['faint'] = _within(
      faint,
      names,
      f'of {count} images are almost one grey' + (f', {dark} of them nearly black' * bool(dark)),
    )
  return findings | {
    'contradictory_labels': _within(
      clash, names, f'of {count} {what} are identical to one with another label'
    ),
    'constant': _within(
      flat,
      names,
      f'of {count} {what} have only one {one}' + (f', {black} of them {none}' if black else ''),
    ),
    'class_imbalance': _imbalance(labels[1], classes, what),
  }


def imbalance(labels: np.ndarray) -> float:
  """The largest possible difference of accuracy and balanced accuracy on these images; 0 to 1."""
  shares = np.bincount(labels) / len(labels)
  shares = shares[shares > 0]
  return float(np.abs(shares - 1 / len(shares)).sum() / 2)


def leading_measure(labels: np.ndarray) -> str:
  """The field of a Result that decides which trial is best, given the validation labels."""
  return BALANCED if imbalance(labels) > _UNBALANCED else PLAIN


def _identical(train: Traits, validation: Traits) -> np.ndarray:
  """For each validation image, the index of a training image with the same pixels, or -1."""
  values, first = np.unique(train.digest, return_index=True)
  place = np.minimum(np.searchsorted(values, validation.digest), len(values) - 1)
  return np.where(values[place] == validation.digest, first[place], -1)


def _near(train: Traits, validation: Traits) -> np.ndarray:
  """For each validation image, the index of the training image with the nearest hash, or -1.

  Computes the cosines of all pairs. In this many dimensions, a k-d tree is not faster for 50,000
  images (0.9 s). For 250,000 it takes 16 s rather than 23 s, but those take minutes to read.
  """
  has, asks = np.flatnonzero(train.hash.any(1)), np.flatnonzero(validation.hash.any(1))
  found = np.full(len(validation.hash), -1)
  if not len(has):
    return found
  hashes, first = np.unique(train.hash[has], axis=0, return_index=True)
  each = max(1, _COSINES // len(hashes))
  for some in (asks[k : k + each] for k in range(0, len(asks), each)):
    cosines = validation.hash[some] @ hashes.T
    nearest = cosines.argmax(1)
    hit = cosines[np.arange(len(some)), nearest] > 1 - _NEAR**2 / 2
    found[some[hit]] = has[first[nearest[hit]]]
  return found


def _contradictory(digest: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Indices of images that have a copy with another label."""
  _, group = np.unique(digest, return_inverse=True)
  low, high = np.full(len(labels), labels.max(initial=0)), np.zeros(len(labels), labels.dtype)
  np.minimum.at(low, group, labels)
  np.maximum.at(high, group, labels)
  return np.flatnonzero(low[group] != high[group])


def _across(twin: np.ndarray, names: Sequence[Sequence[str]], what: str, verb: str) -> Finding:
  hits = np.flatnonzero(twin >= 0)
  examples = [f'{names[1][i]} {verb} {names[0][twin[i]]}' for i in hits[:_EXAMPLES]]
  return _finding(len(hits), what, examples)


def _within(hits: Sequence[np.ndarray], names: Sequence[Sequence[str]], what: str) -> Finding:
  examples = [of[i] for found, of in zip(hits, names, strict=True) for i in found[:_EXAMPLES]]
  return _finding(sum(map(len, hits)), what, examples[:_EXAMPLES])


def _finding(count: int, what: str, examples: Sequence[str]) -> Finding:
  return Finding(count, f'{count or "none"} {what}' + (f': {", ".join(examples)}' if count else ''))


def _imbalance(labels: np.ndarray, classes: Sequence[str], what: str) -> Finding:
  counts = np.bincount(labels, minlength=len(classes))
  few, most = counts.argmin(), counts.argmax()
  if counts[few] == counts[most]:
    return Finding(0, f'each class has {counts[few]} validation {what}')
  if leading_measure(labels) == PLAIN:
    line = f'classes have {counts[few]} to {counts[most]} validation {what}: about the same'
    return Finding(0, line)
  line = (
    f'classes have from {counts[few]} ({classes[few]}) to {counts[most]} ({classes[most]}) '
    f'validation {what}: balanced accuracy decides, unless verdict.measure names another measure'
  )
  return Finding(1, line)
