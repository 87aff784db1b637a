"""Arrays in memory as a data set: the result of a user's function, or an .npz file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats
from lr_study.data import samples, stream
from lr_study.data.source import TEST, TRAIN, VALIDATION, Source
from lr_study.errors import StudyError, first_line, is_full, is_out_of_memory
from lr_study.plugs import nearest
from lr_study.progress import note

_PARTS = {TRAIN: 'train', VALIDATION: 'validation', TEST: 'test'}
_PART_OF = {'train': TRAIN, 'training': TRAIN, 'val': VALIDATION, 'valid': VALIDATION} | {
  'validation': VALIDATION, 'test': TEST
}  # fmt: skip
_X = ('x', 'images', 'image', 'data', 'features', 'inputs')
_Y = ('y', 'labels', 'label', 'targets', 'target')
_CLASSES = ('classes', 'class_names', 'target_names')
_PART, _ARRAY = '|'.join(_PART_OF), '|'.join((*_X, *_Y))
_KEY = re.compile(rf'(?:({_PART})_?)?({_ARRAY})|({_ARRAY})_?({_PART})', re.IGNORECASE)
_EXACT = 2**24  # float32 holds all whole numbers up to here
_SHOWN = 20  # names of classes in a message


class Joined:
  """Arrays of several parts as one sequence: `x[0][0], x[0][1], ..., x[1][0], ...`."""

  def __init__(self, arrays: Sequence[np.ndarray], indices: np.ndarray):
    """The samples at `indices`, int (some,), of arrays (n, *shape) of the same shape and type."""
    self.shape = (len(indices), *arrays[0].shape[1:])
    self._arrays, self._indices = arrays, indices
    self._ends = np.cumsum([len(x) for x in arrays])

  def at(self, indices: np.ndarray) -> np.ndarray:
    """A new array of the samples at `indices`, int (some,)."""
    wanted = self._indices[indices]
    for x, end in zip(self._arrays, self._ends, strict=True):
      if (wanted >= end - len(x)).all() and (wanted < end).all():
        return np.ascontiguousarray(x[wanted - (end - len(x))])  # usually a single copy
    found = np.empty((len(wanted), *self.shape[1:]), self._arrays[0].dtype)
    for x, end in zip(self._arrays, self._ends, strict=True):
      mine = (wanted >= end - len(x)) & (wanted < end)
      found[mine] = x[wanted[mine] - (end - len(x))]
    return found

  def sizes(self, indices: np.ndarray) -> np.ndarray:
    """Empty, (0, 2): there are no files."""
    del indices
    return np.zeros((0, 2), int)


class _Found(NamedTuple):
  """x and y of each part as given, and the names of classes if given."""

  parts: dict[int, tuple[Any, Any]]
  classes: Sequence[str] | None = None


def npz(name: str) -> Callable[..., Source]:
  """A function that opens 'npz:PATH', a file of numpy.savez.

  Its arrays are `x` and `y`; or `x_train`, `y_train` and optionally `x_val`, `y_val`, `x_test`,
  `y_test`. In these names, x may also be images, data, features or inputs, y may also be labels or
  targets, and either word may come first, as in `train_images`. An array `classes` names the
  classes. Other arrays are not read, which a line reports. Objects are never unpickled.
  """

  def opened(classes: tuple[str, ...] = ()) -> Source:
    try:
      path = Path(name.removeprefix('npz:')).expanduser()
      with path.open('rb') as file:
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
          raise ValueError('it is not an .npz file; numpy.savez writes one')
        with found:
          return to_source(name, found, classes)
    except StudyError:
      raise
    except Exception as error:  # a broken file can make NumPy and zipfile raise anything
      if is_full(error) or is_out_of_memory(error):
        raise
      raise StudyError(f'data.name: {name} cannot be read: {_why(error)}') from error

  opened.__name__ = name
  return opened


def to_source(title: str, found: Any, classes: Sequence[str] = ()) -> Source:
  """Makes a data set from arrays.

  Args:
    title: what messages call the origin of the arrays.
    found: (x, y), which the study splits; ((x, y), (x, y)) to train and to validate, optionally
      with a third pair to test; a dict of such pairs, 'train', 'validation' and 'test'; or a dict,
      or a NumPy .npz file, of arrays named as `npz` describes. A dict may also have 'classes'.
      x: uint8 or numbers that become float32, (n, ...); anything that np.asarray takes.
      y: whole numbers, texts or booleans (n,); or (n, 1); or one-hot rows (n, classes).
    classes: names of the classes to keep, in the order of their labels; all if empty, in the order
      of 'classes' or of the sorted labels. A class is named after its label, or has the name at
      that place in 'classes'.

  Raises:
    StudyError: says which part does not fit, and why.
  """
  given = _gather(title, found)
  xs, ys, heads = [], [], []
  for part in sorted(given.parts):
    where = f'{title}: {_PARTS[part]}' if len(given.parts) > 1 else title
    x, y = given.parts[part]
    if y is None:
      raise StudyError(f'{where} has no labels')
    xs.append(as_samples(where, x))
    ys.append(_labels(where, y))
    if len(xs[-1]) != len(ys[-1]):
      raise StudyError(f'{where} has {len(xs[-1])} samples, but {len(ys[-1])} labels')
    if not len(ys[-1]):
      raise StudyError(f'{where} holds no samples')
    heads.append(_PARTS[part] if len(given.parts) > 1 else 'sample')
  _check_alike(title, xs, heads)
  _warn_of_channels(title, xs[0].shape[1:])
  names, labels = _classes(title, ys, given.classes)
  missing = [name for name in classes if name not in names]
  if missing:
    raise StudyError(
      f'data.classes: {title} has no class {missing[0]!r}; it has {_few(names)}'
      f'{nearest(missing[0], names)}'
    )
  chosen = tuple(classes) or tuple(names)
  new = np.full(len(names), -1, np.int32)
  new[[names.index(name) for name in chosen]] = np.arange(len(chosen))
  labels = new[labels]
  kept = np.flatnonzero(labels >= 0)
  parts = np.repeat(np.asarray(sorted(given.parts), np.int8), [len(y) for y in ys])
  told = _Numbered(heads, [len(y) for y in ys], kept)
  return Source(Joined(xs, kept), labels[kept], chosen, parts[kept], told)


class _Numbered(Sequence):
  """Names for samples without names: 'train 0', 'train 1', ..., 'validation 0', ..."""

  def __init__(self, heads: Sequence[str], counts: Sequence[int], indices: np.ndarray):
    self._heads, self._ends, self._indices = heads, np.cumsum(counts), indices
    self._starts = self._ends - counts

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, i: int) -> str:
    index = int(self._indices[i])
    part = int(np.searchsorted(self._ends, index, 'right'))
    return f'{self._heads[part]} {index - self._starts[part]}'


def _gather(title: str, found: Any) -> _Found:
  """Recognises the form in which arrays are given."""
  if isinstance(found, Mapping):
    return _of_mapping(title, found)
  if isinstance(found, tuple | list):
    if len(found) in (2, 3) and all(map(_is_pair, found)):
      return _Found(dict(zip(_PARTS, found, strict=False)))
    if len(found) == 2:
      return _Found({TRAIN: tuple(found)})
  raise StudyError(
    f'{title} gave {_what(found)}; it must return (x, y); or ((x, y), (x, y)) to train and to '
    "validate, or with a third pair to test; or a dict of such pairs, 'train', 'validation', 'test'"
  )


def _of_mapping(title: str, found: Mapping[str, Any]) -> _Found:
  """Reads a dict of pairs by part, or of arrays by role and part."""
  pairs, roles, classes, unknown = {}, {}, None, []
  for key in found:
    match = _KEY.fullmatch(str(key))
    if key in _CLASSES:
      classes = _names(title, found[key])
    elif str(key).lower() in _PART_OF:
      if found[key] is not None and not _is_pair(found[key]):
        raise StudyError(f'{title}: {key} is {_what(found[key])}; it must be a pair (x, y)')
      pairs[_PART_OF[str(key).lower()]] = found[key]
    elif match:
      part = _PART_OF[(match[1] or match[4] or 'train').lower()]
      role = (match[2] or match[3]).lower() in _Y
      if (part, role) in roles:
        raise StudyError(f'{title} has both {roles[part, role]} and {key}; leave one out')
      roles[part, role] = key
    else:
      unknown.append(str(key))
  if unknown and isinstance(found, np.lib.npyio.NpzFile):
    note(f'{title}: the arrays {_few(unknown)} are not read')
  elif unknown:
    raise StudyError(
      f'{title} gave {unknown[0]!r}, which is not one of train, validation, test, classes, x, y, '
      f'x_train, y_train, ...{nearest(unknown[0], [*_PART_OF, *_CLASSES])}'
    )
  for part, pair in _pair_up(title, found, roles).items():
    if pairs.get(part) is not None:
      raise StudyError(f'{title} gives {_PARTS[part]} twice, as a pair and as two arrays')
    pairs[part] = pair
  parts = {part: tuple(pair) for part, pair in pairs.items() if pair is not None}
  if TRAIN not in parts:
    holds = f'it has {_few(list(map(str, found)))}' if len(found) else 'it is empty'
    raise StudyError(f'{title} has nothing to train on, such as x and y; {holds}')
  return _Found(parts, classes)


def _pair_up(
  title: str, found: Mapping[str, Any], roles: Mapping[tuple[int, bool], str]
) -> dict[int, tuple[Any, Any]]:
  """(x, y) of each part. `roles`: the keys of `found` by (part, whether it is y)."""
  pairs = {}
  for (part, is_y), key in roles.items():
    if (part, not is_y) not in roles:
      raise StudyError(f'{title} has {key}, but no {"samples" if is_y else "labels"} for it')
    if is_y:
      pairs[part] = (found[roles[part, False]], found[key])
  return pairs


def _is_pair(value: Any) -> bool:
  """True for (x, y). A list is a pair only if it holds two arrays: it could be two samples."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    return False
  return isinstance(value, tuple) or all(getattr(of, 'ndim', 0) for of in value)


def _array(where: str, name: str, value: Any) -> np.ndarray:
  """np.asarray, with one-line errors for masked, ragged and scalar values."""
  if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
    raise StudyError(f'{where}: {np.ma.count_masked(value)} values of {name} are masked; fill them')
  try:
    array = np.asarray(value)
  except Exception as error:  # types of other libraries may raise anything
    if is_out_of_memory(error):
      raise
    if 'inhomogeneous' in str(error):
      words = f'{where}: the entries of {name} have different shapes; they must have the same'
      raise StudyError(words) from error
    raise StudyError(f'{where}: {name} is {_what(value)}: {_why(error)}') from error
  if not array.ndim:
    raise StudyError(f'{where}: {name} is {_what(value)}; it must be an array')
  return array


def as_samples(where: str, value: Any) -> np.ndarray:
  """x as uint8 or finite float32, (n, ...), with at least two axes.

  Raises:
    StudyError: it cannot be converted; the message begins with `where`.
  """
  x = _array(where, 'x', value)
  kind = x.dtype.name
  is_float = x.dtype.kind == 'f' or kind.startswith(('bfloat', 'float'))  # JAX has its own
  if not is_float and x.dtype.kind not in 'biu':
    why = 'its rows may differ in length, or hold texts' if x.dtype == object else 'not numbers'
    raise StudyError(
      f'{where}: x is an array of {kind}, {why}; convert it, for example by x.astype("float32")'
    )
  if x.ndim < 2:
    raise StudyError(f'{where}: x has the shape {x.shape}; it must be (samples, ...): x[:, None]?')
  if not all(x.shape[1:]):
    raise StudyError(f'{where}: x has the shape {x.shape}; its samples are empty')
  if x.dtype == np.uint8:
    return x
  if x.dtype != np.float32:
    large = x.dtype.kind in 'iu' and x.size and max(int(x.max()), -int(x.min())) > _EXACT
    note(
      f'{where}: x is {kind}; it becomes float32' + (', which rounds some numbers' if large else '')
    )
    with np.errstate(over='ignore'):  # numbers that are too large are counted below
      x = x.astype(np.float32)
  if is_float:
    _check_finite(where, x)
  return x


def _check_finite(where: str, x: np.ndarray) -> None:
  blocks = (~np.isfinite(block).reshape(len(block), -1) for block in stream.blocks(x))
  of_sample = np.concatenate([bad.sum(1) for bad in blocks] or [[]])
  if of_sample.any():
    raise StudyError(
      f'{where}: {int(of_sample.sum())} of {x.size} numbers in x are not finite in float32, the '
      f'first in sample {of_sample.argmax()}; fill them in, or leave those samples out'
    )


def _labels(where: str, value: Any) -> np.ndarray:
  """y as int64, bool or texts, (n,)."""
  y = _array(where, 'y', value)
  if y.ndim == 2 and y.shape[1] == 1:
    y = y[:, 0]
  if (
    y.ndim == 2 and y.dtype.kind in 'biuf' and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()
  ):
    note(f'{where}: y has one-hot rows of {y.shape[1]} classes')
    y = y.argmax(1)
  if y.ndim != 1:
    raise StudyError(f'{where}: y has the shape {y.shape}; it must be (samples,), or one-hot rows')
  if y.dtype == object:
    kinds = {str if isinstance(of, str) else type(of) for of in y}
    if not (kinds == {str} or all(issubclass(of, int | np.integer) for of in kinds)):
      names = sorted(of.__name__ for of in kinds)
      raise StudyError(f'{where}: y holds {" and ".join(names)}; give whole numbers or texts')
    y = np.asarray(y.tolist())
  if y.dtype.kind == 'S':
    y = np.char.decode(y, 'utf-8', 'backslashreplace')
  if y.dtype.kind in 'UT':
    empty = int((y == '').sum())
    if empty:
      raise StudyError(f'{where}: {empty} of {len(y)} labels are empty texts')
    return y.astype(str)
  if y.dtype.kind in 'iuf':
    odd = np.flatnonzero(~((np.abs(y.astype(np.float64)) < 2**53) & (y == np.floor(y))))
    if len(odd):
      raise StudyError(
        f'{where}: {len(odd)} of {len(y)} labels are not whole numbers, the first of them '
        f'{y[odd[0]]}; a study needs classes'
      )
    return y.astype(np.int64)
  if y.dtype.kind != 'b':
    raise StudyError(f'{where}: y is an array of {y.dtype.name}; give whole numbers or texts')
  return y


def _check_alike(title: str, xs: Sequence[np.ndarray], heads: Sequence[str]) -> None:
  for x, head in zip(xs, heads, strict=True):
    if x.shape[1:] != xs[0].shape[1:]:
      raise StudyError(
        f'{title}: samples of {head} have the shape {x.shape[1:]}, but those of train '
        f'{xs[0].shape[1:]}'
      )
    if x.dtype != xs[0].dtype:
      raise StudyError(
        f'{title}: x of {head} is {x.dtype}, but that of train {xs[0].dtype}; uint8 means values '
        'from 0 to 255: convert one of them'
      )


def _warn_of_channels(title: str, shape: tuple[int, ...]) -> None:
  if (
    len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] and not samples.is_image(shape)
  ):
    note(
      f'{title}: samples of {shape} seem to have their channels first; Flax networks expect them '
      'last: np.moveaxis(x, 1, -1)'
    )


def _classes(
  title: str, ys: Sequence[np.ndarray], given: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
  """Names of the classes that have samples, and the labels of all parts concatenated, int."""
  if len({y.dtype.kind for y in ys}) > 1:
    raise StudyError(f'{title}: labels of some parts are texts, of others not; convert some')
  values, labels = np.unique(np.concatenate(ys), return_inverse=True)
  if given is None:
    names = [str(value) for value in values]
  elif values.dtype.kind == 'U':
    unknown = [str(value) for value in values if value not in given]
    if unknown:
      raise StudyError(f'{title}: the label {unknown[0]!r} is not among its classes, {_few(given)}')
    order = np.argsort([given.index(value) for value in values])
    values, labels = values[order], np.argsort(order)[labels]
    names = list(map(str, values))
  else:
    wrong = [int(value) for value in values if not 0 <= value < len(given)]
    if wrong:
      raise StudyError(f'{title}: it names {len(given)} classes, but has the label {wrong[0]}')
    names = [given[int(value)] for value in values]
  names = list(map(formats.printable, names))
  for i, name in enumerate(names):
    if name in names[:i]:  # for example a line break, and the characters \ and n
      raise StudyError(f'{title} has two classes that both read {name}; rename one')
  return names, labels


def _names(title: str, value: Any) -> list[str]:
  names = [str(name) for name in np.ravel(_array(title, 'classes', value))]
  if not all(names) or len(set(names)) < len(names):
    raise StudyError(f'{title}: the names of its classes, {_few(names)}, must be unique, not empty')
  return names


def _few(names: Sequence[str]) -> str:
  more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
  return ', '.join(map(formats.printable, names[:_SHOWN])) + more


def _what(value: Any) -> str:
  """The kind of a value, for people."""
  if value is None:
    return 'None'
  kind = 'array' if isinstance(value, np.ndarray) else type(value).__name__
  if isinstance(value, tuple | list):
    return f'a {kind} of {len(value)}'
  shape = getattr(value, 'shape', None)
  article = 'an' if kind[0].lower() in 'aeiou' else 'a'
  return f'{article} {kind}' + (f' of shape {tuple(shape)}' if isinstance(shape, tuple) else '')


def _why(error: Exception) -> str:
  return getattr(error, 'strerror', None) or first_line(error)  # a file's name is told beside it
