"""Names for objects that a program passes in place of a name, such as a network class.

A config holds only names, so that it can be written, compared and read back. The name of an object
is `object:FINGERPRINT:NAME`. The same code has the same name in another process, so a stopped study
can resume. Other code has another name, and the study is refused as one with another config.
"""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

OBJECT = 'object:'  # the start of such a name


class Held(NamedTuple):
  """One such object.

  factory: the function or class that the name stands for. source: what the program passed;
  messages give its line. title: what messages call it. file: where it was defined, '' if unknown.
  """

  factory: Callable[..., Any]
  source: Any
  title: str
  file: str = ''


_NONE: Mapping[str, Held] = types.MappingProxyType({})
HELD: contextvars.ContextVar[Mapping[str, Held]] = contextvars.ContextVar('held', default=_NONE)
# id of a factory -> what the user wrote (usually the factory itself), its name, the file as
# messages show it, and the file's path
OWN: dict[int, tuple[Any, str, str, Path]] = {}


@contextlib.contextmanager
def holding(held: Mapping[str, Held]) -> Iterator[None]:
  """While entered, configs can name these objects in this thread."""
  for factory, source, title, file in held.values():
    # Files of notebook cells have meaningless names.
    shown = '' if 'ipykernel' in file or not file else Path(file).name
    OWN[id(factory)] = (source, title, shown, Path(file))
  token = HELD.set({**HELD.get(), **held})
  try:
    yield
  finally:
    HELD.reset(token)
    for of in held.values():
      if of.factory is not of.source:  # made for this call; may hold a whole data set
        OWN.pop(id(of.factory), None)


def function(source: Callable[..., Any]) -> tuple[str, Held]:
  """The name of a function or a class, and its entry."""
  title = _title(source)
  return _name(source, title), Held(source, source, title, _file(source))


def instance(source: Any) -> tuple[str, Held]:
  """The name of a Linen module instance, and its entry, with a factory that returns it."""
  title = type(source).__name__

  def factory(classes, dtype):
    del classes, dtype  # the instance has its own
    return source

  return _name(source, title), Held(factory, type(source), title, _file(type(source)))


def arrays(source: Any) -> tuple[str, Held]:
  """The name of a data set in memory, and its entry. Its content has a fingerprint elsewhere."""
  return f'{OBJECT}arrays', Held(lambda: source, source, 'data')


def no_arrays() -> dict[str, Held]:
  """A placeholder for a data set in memory when its numbers are not needed."""
  return dict([arrays(None)])


def _name(source: Any, title: str) -> str:
  digest = hashlib.sha256()
  for text in _texts(source, set()):
    digest.update(text.encode('utf-8', 'backslashreplace') + b'\0')
  return f'{OBJECT}{digest.hexdigest()[:8]}:{title}'


def _title(source: Any) -> str:
  """What a function or a class is called, in letters, digits and underscores."""
  inner = source.func if isinstance(source, functools.partial) else source
  name = getattr(inner, '__name__', type(inner).__name__)
  return re.sub(r'\W+', '_', name).strip('_') or 'function'


def _file(source: Any) -> str:
  codes = (code for _, code in _codes(source))
  return next((code.co_filename for code in codes if code.co_filename != '<string>'), '')


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
  """Texts that determine what an object does, without addresses or anything comments change."""
  if isinstance(value, functools.partial):
    value = (value.func, value.args, value.keywords)
  if isinstance(value, np.ndarray) or hasattr(value, '__array__'):
    array = np.ascontiguousarray(value)
    yield f'{array.dtype} {array.shape} {hashlib.sha256(array.data).hexdigest()}'
  elif isinstance(value, Mapping):
    yield from _texts(sorted(value.items(), key=repr), seen)
  elif isinstance(value, tuple | list):
    yield f'{type(value).__name__} {len(value)}'
    for entry in value:
      yield from _texts(entry, seen)
  elif isinstance(value, types.FunctionType | type):
    yield f'{value.__module__ if value.__module__ != "__main__" else ""} {value.__qualname__}'
    if id(value) not in seen:
      seen.add(id(value))
      yield from _of_code(value, seen)
  elif dataclasses.is_dataclass(value):  # such as Linen modules
    yield from _texts(type(value), seen)
    for field in dataclasses.fields(value):
      if field.name != 'parent':
        yield field.name
        yield from _texts(getattr(value, field.name, None), seen)
  else:
    yield re.sub(r' at 0x[0-9a-f]+', '', f'{type(value).__name__} {value!r}')


def _of_code(value: Any, seen: set[int]) -> Iterator[str]:
  """Texts of a function or a class: code, defaults, and objects of its module that it uses."""
  if isinstance(value, type) and dataclasses.is_dataclass(value):
    for field in dataclasses.fields(value):
      yield f'{field.name} {field.type}'
      yield from _texts(field.default, seen)
  for of, code in _codes(value):
    yield from _of_function(of, code, seen)


def _of_function(of: types.FunctionType, code: types.CodeType, seen: set[int]) -> Iterator[str]:
  nested = [const for const in code.co_consts if isinstance(const, types.CodeType)]
  plain = [const for const in code.co_consts if not isinstance(const, types.CodeType)]
  # The order of a set differs between processes.
  plain = [sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in plain]
  yield f'{code.co_name} {code.co_code.hex()} {plain} {code.co_names} {code.co_varnames}'
  for name in sorted(code.co_names):
    value = of.__globals__.get(name)
    is_code = isinstance(value, types.FunctionType | type) and value.__module__ == of.__module__
    if is_code or isinstance(value, int | float | str | tuple):
      yield from _texts(value, seen)
  if code is of.__code__:
    cells = [cell.cell_contents for cell in of.__closure__ or () if _is_filled(cell)]
    yield from _texts([of.__defaults__, of.__kwdefaults__, cells], seen)
  for inner in nested:
    yield from _of_function(of, inner, seen)


def _codes(value: Any) -> Iterator[tuple[types.FunctionType, types.CodeType]]:
  """The functions that an object consists of, and their code."""
  if isinstance(value, functools.partial):
    value = value.func
  if isinstance(value, types.FunctionType):
    inner = inspect.unwrap(value)
    yield inner, inner.__code__
  elif isinstance(value, type):
    for base in value.__mro__:
      if base is not value and base.__module__ != value.__module__:
        continue
      for name, of in sorted(vars(base).items(), key=lambda item: item[0]):
        method = getattr(of, '__func__', getattr(of, 'fget', of))
        says = not name.startswith('__') or name in ('__call__', '__init__')
        if says and isinstance(method, types.FunctionType):
          inner = inspect.unwrap(method)
          yield inner, inner.__code__


def _is_filled(cell: types.CellType) -> bool:
  try:
    cell.cell_contents  # noqa: B018
  except ValueError:
    return False
  return True
