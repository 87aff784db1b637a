"""Reads weights from common file formats, as arrays by name, such as 'params/conv1/kernel'."""

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from lr_study import plugs
from lr_study.errors import StudyError, first_line, is_full, is_out_of_memory

_FIELD = 'model.weights'
_METADATA = '_METADATA'  # a file in each tree that Orbax has saved
_TYPES = {  # of safetensors; others, such as 8-bit floats, are refused
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
  'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8,
}  # fmt: skip


class Found(NamedTuple):
  """arrays: by name. classes: those of the study that the arrays come from, if any."""

  arrays: dict[str, np.ndarray]
  classes: tuple[str, ...] = ()


def read(path: str, variables: Mapping[str, Any]) -> Found:
  """Reads an Orbax checkpoint, msgpack, safetensors or npz, or the best trial of a work directory.

  Args:
    path: of the file or folder; or 'file.py:function', a function of `variables` that returns
      arrays, as a tree or by name.
    variables: the network's collections, as jax.ShapeDtypeStruct.

  Raises:
    StudyError: there are no weights, or they cannot be read.
  """
  if '.py:' in path:
    return Found(_call(path, variables))
  if os.path.isfile(Path(path, 'results.json')) or os.path.isfile(Path(path, 'config.json')):
    return _of_study(path)
  if not os.path.isdir(path) and not os.path.isfile(path):
    raise StudyError(f'{_FIELD} is {path!r}; there is no such file or folder')
  try:
    return Found(_flat(_orbax(Path(path)) if os.path.isdir(path) else _file(path)))
  except (MemoryError, StudyError):
    raise
  except Exception as error:  # each library has its own errors for what it cannot read
    if is_full(error) or is_out_of_memory(error):
      raise
    why = first_line(error)
    raise StudyError(
      f'{_FIELD} is {path!r}, which cannot be read ({why[:200]}); it must be an Orbax '
      'checkpoint, a Flax msgpack, a safetensors or an npz file, or the work directory of a study'
    ) from error


def _call(path: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  function = plugs.find('model', path, _FIELD)
  try:
    return _flat(function(variables))
  except StudyError:
    raise
  except Exception as error:
    raise StudyError(plugs.blame('function of weights', function, error)) from error


def _of_study(workdir: str) -> Found:
  from lr_study.use import evaluate  # noqa: PLC0415  it imports this module

  try:
    trained = evaluate.load(Path(workdir))
  except StudyError as error:
    raise StudyError(f'{_FIELD}: {error}') from error
  return Found(_flat(trained.variables), trained.classes)


def _flat(tree: Any) -> dict[str, np.ndarray]:
  """The arrays of a tree by name; other leaves, such as texts, are left out."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/').replace('.', '/').strip('/')
    array = np.asarray(leaf)
    if array.dtype.kind in 'fiub' or array.dtype == ml_dtypes.bfloat16:
      # NNX checkpoints store the value of a variable below its name.
      flat[name.removesuffix('/value')] = array
  return flat


def _orbax(folder: Path) -> Any:
  """The tree in a folder: all of several items, or the last of numbered steps."""
  if (folder / _METADATA).is_file():
    checkpointer = ocp.PyTreeCheckpointer()
    form = checkpointer.metadata(folder.resolve()).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), form)
    return checkpointer.restore(folder.resolve(), restore_args=as_numpy)
  inside = sorted(inner for inner in folder.iterdir() if inner.is_dir())
  items = {inner.name: _orbax(inner) for inner in inside if (inner / _METADATA).is_file()}
  steps = sorted((inner for inner in inside if inner.name.isdecimal()), key=lambda p: int(p.name))
  if not items and not steps:
    raise ValueError('it is a folder without an Orbax checkpoint')
  return items or _orbax(steps[-1])


def _file(path: str) -> Any:
  with open(path, 'rb') as stream:
    start = stream.read(9)
  if zipfile.is_zipfile(path):
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  if start[8:] == b'{':  # after the length of the header; msgpack begins differently
    return _safetensors(path)
  return serialization.msgpack_restore(Path(path).read_bytes())


def _safetensors(path: str) -> dict[str, np.ndarray]:
  """Reads a safetensors file: 8 bytes with the length of a JSON header, the header, all arrays.

  https://huggingface.co/docs/safetensors: {name: {dtype, shape, data_offsets: [first, stop]}}.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as stream:
    (length,) = struct.unpack('<Q', stream.read(8))
    if length > size - 8:
      raise ValueError('its header is truncated')
    header = json.loads(stream.read(length))
    arrays = {}
    for name, about in header.items():
      if name == '__metadata__':
        continue
      first, stop = about['data_offsets']
      if about['dtype'] not in _TYPES or not 0 <= first <= stop <= size - 8 - length:
        raise ValueError(f'{name} has the unsupported type {about["dtype"]}, or is truncated')
      stream.seek(8 + length + first)
      array = np.frombuffer(stream.read(stop - first), _TYPES[about['dtype']])
      arrays[name] = array.reshape(about['shape'])
  return arrays
