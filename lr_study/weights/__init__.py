"""Weights that trials start from instead of random ones, and parameters that are frozen.

`model.weights` says where weights are (read.py). `model.redraw` selects parameters that are drawn
anyway, and `model.freeze` parameters that no step changes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from lr_study import models, trial
from lr_study.errors import StudyError
from lr_study.files.workdir import WEIGHTS, write_arrays
from lr_study.freeze import Keys
from lr_study.optimizers import paths
from lr_study.parts import NO_ORIGIN, Origin
from lr_study.weights.read import read

_SHOWN = 8  # names in a message


def origin(task: trial.Task, config: Mapping[str, Any]) -> Origin:
  """Reads the weights that the `model` section of a config names, and finds what it freezes.

  Raises:
    StudyError: none of the weights fits, or an expression matches no parameter.
  """
  values = models.origin_fields(config)
  if not values['weights'] and not values['freeze']:
    return NO_ORIGIN
  variables = jax.eval_shape(lambda: trial.draw(task, jax.random.key(0)))
  wanted = flatten_dict(variables)
  paths.check_matches(variables['params'], {f'model.{n}': values[n] for n in ('redraw', 'freeze')})
  frozen = find_frozen(wanted, values['freeze'])
  taken, record = {}, {}
  if values['weights']:
    path = values['weights']
    found, classes = read(path, variables)
    taken, drawn, unused = _fit(path, wanted, found, values['redraw'])
    record = {
      'path': path,
      'fingerprint': _fingerprint(found),
      'read': len(taken),
      'drawn': drawn,
      'not_used': unused,
      'classes': list(classes),
    }
  record['frozen'] = sum(int(np.prod(wanted[keys].shape)) for keys in frozen)
  shared = {keys: array for keys, array in taken.items() if keys in frozen}
  return Origin(unflatten_dict(taken), frozen, unflatten_dict(shared), record)


def record(origins: Iterable[Origin]) -> dict[str, Any]:
  """The entry "weights" of "study" in results.json; {} if weights are neither read nor frozen.

  Settings may differ in what they draw or freeze; the entry describes the first. The fingerprint
  covers everything that was read.
  """
  return next(({'weights': dict(of.record)} for of in origins if of.record), {})


def describe(origins: Iterable[Origin], classes: Collection[str]) -> list[str]:
  """Lines for people about each origin, without duplicates. classes: those of the data."""
  return list(dict.fromkeys(line for of in origins for line in _lines(of.record, classes)))


def _lines(record: Mapping[str, Any], classes: Collection[str]) -> list[str]:
  lines = []
  if record.get('path'):
    line = f'{record["read"]} of {record["read"] + len(record["drawn"])} variables are read from '
    line += record['path']
    if record['drawn']:
      line += f'; drawn at random: {_some(record["drawn"])}'
    if record['not_used']:
      line += f'; not used: {_some(record["not_used"])}'
    lines.append(line)
    if record['classes'] and list(classes) != record['classes'] and not record['drawn']:
      lines.append(
        f'These weights are for the classes {_some(record["classes"])}, but the images are of '
        f'{_some(classes)}: name the last layer in model.redraw to draw it at random'
      )
  if record.get('frozen'):
    lines.append(f'Frozen: {record["frozen"]:,} numbers of the network do not change')
  return lines


def keep(origins: Iterable[Origin], workdir: Path) -> None:
  """Copies the weights that were read to the work directory, as their file may change or vanish."""
  taken, file = {}, workdir / WEIGHTS
  for of in origins:  # all read the same file, so common weights are equal
    taken |= by_name(of.weights)
  if taken and not (file.exists() and taken.keys() == read(str(file), {}).arrays.keys()):
    write_arrays(file, taken)


def kept(config: ConfigDict, workdir: Path) -> ConfigDict:
  """The config of the study in `workdir`, with its own copy of the weights if it has one."""
  if not (workdir / WEIGHTS).is_file() or not models.origin_fields(config.model)['weights']:
    return config
  own = config.copy_and_resolve_references().unlock()
  own.model.weights = str((workdir / WEIGHTS).resolve())
  return own.lock()


def by_name(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Variables by name, such as 'params/conv1/kernel'."""
  return {'/'.join(keys): x for keys, x in flatten_dict(variables).items()}


def find_frozen(variables: Collection[Keys], patterns: Collection[str]) -> frozenset[Keys]:
  """The keys of variables that are frozen by regular expressions over names such as 'conv1/bias'.

  If all parameters of a module are frozen, so are its statistics, such as those of BatchNorm. A
  module without parameters is frozen if the module that contains it is.

  Raises:
    StudyError: all parameters would be frozen.
  """
  params = {keys[1:] for keys in variables if keys[0] == 'params'}
  frozen = {keys for keys in params if any(re.search(p, '/'.join(keys)) for p in patterns)}
  if frozen == params:
    raise StudyError(
      f'model.freeze is {tuple(patterns)!r}, which matches all {len(params)} parameters, so that '
      "none is left to train; to freeze all but a layer named head, use '^(?!head/)'"
    )

  def is_frozen(keys):
    for depth in range(len(keys) - 1, -1, -1):
      beside = {other for other in params if other[:depth] == keys[:depth]}
      if beside:
        return beside <= frozen
    return False

  others = {keys for keys in variables if keys[0] != 'params' and frozen and is_frozen(keys[1:])}
  return frozenset({('params', *keys) for keys in frozen} | others)


def _fit(
  path: str, wanted: Mapping[Keys, Any], found: Mapping[str, np.ndarray], redraw: Collection[str]
) -> tuple[dict[Keys, np.ndarray], list[str], list[str]]:
  """Matches the arrays found to variables by name and shape.

  Returns:
    The arrays by the variables' keys; for each other variable a text that says why it has none; and
    the names of parameters that were found but not used.

  Raises:
    StudyError: no parameter has an array, or an array is not finite.
  """
  names = {keys: '/'.join(keys[1:]).replace('.', '/') for keys in wanted}
  collections = dict.fromkeys(keys[0] for keys in wanted)
  prefixes = {
    of: _prefix(of, {name for keys, name in names.items() if keys[0] == of}, found)
    for of in collections
  }
  taken, drawn, used = {}, [], set()
  for keys, variable in wanted.items():
    name = prefixes[keys[0]] + names[keys]
    array, shown = found.get(name), '/'.join(keys[keys[0] == 'params' :])
    used.add(name)
    if keys[0] == 'params' and any(re.search(p, '/'.join(keys[1:])) for p in redraw):
      drawn.append(f'{shown} (model.redraw)')
    elif array is None:
      drawn.append(f'{shown} (missing)')
    elif array.shape != variable.shape:
      drawn.append(f'{shown} ({array.shape} there, {variable.shape} here)')
    elif not np.isfinite(array.astype(np.float32)).all():
      raise StudyError(f'model.weights is {path!r}; its {shown} is not finite')
    else:
      taken[keys] = np.ascontiguousarray(array, variable.dtype)
  if not any(keys[0] == 'params' for keys in taken):
    _fail(path, wanted, names, found, drawn)
  unused = sorted(n for n in found.keys() - used if n.startswith(prefixes['params']))
  return taken, drawn, unused


def _prefix(collection: str, names: Collection[str], found: Iterable[str]) -> str:
  """The most common prefix of these names among those found: 'params/', 'state/params/' or ''."""
  counts = Counter()
  for name in found:
    parts = name.split('/')
    for depth in range(len(parts)):
      if '/'.join(parts[depth:]) in names:
        counts[tuple(parts[:depth])] += 1
  # An optimiser's averages also have the names of parameters.
  best = max(counts, key=lambda p: (counts[p], p[-1:] == (collection,), -len(p), p), default=())
  return ''.join(f'{part}/' for part in best)


def _fail(path, wanted, names, found, drawn) -> None:
  own = {names[k]: f'{names[k]} {wanted[k].shape}' for k in wanted if k[0] == 'params'}
  if not any('(missing)' not in why for why in drawn):
    near = paths.nearest(next(iter(own)), found)
    there = _some([f'{name} {found[name].shape}' for name in near])
    why = f'it has {there}' if found else 'it has no arrays'
    raise StudyError(
      f'model.weights is {path!r}; no parameter of the network is in it: {why}; the network needs '
      f'{_some(list(own.values()))}'
    )
  raise StudyError(f'model.weights is {path!r}; nothing in it fits: {_some(drawn)}')


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
  """A hash of names, dtypes, shapes and numbers."""
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f'{name} {array.dtype} {array.shape}'.encode('utf-8', 'surrogateescape'))
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def _some(names: Collection[str]) -> str:
  names = list(names)
  rest = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {rest} more' if rest > 0 else '')
