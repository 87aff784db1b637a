"""Plugs: functions that a config names, `'resnet18'` or `'my_models.py:MyNet'`, and their fields.

A program may pass the function itself. The config then names it 'object:...'; see objects.py.

Each section of a config belongs to a module with `KNOWN`, which maps names to factories, and
`SUPPLIED`, the arguments that the study passes. All other arguments of a factory are fields of its
section. A module may also have `find(name)`, which returns a factory or None for names that are not
in `KNOWN`, and `common`, a function whose arguments are fields of the section for every plug.
"""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import numbers
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from lr_study import objects, paths
from lr_study.errors import StudyError, is_full, is_out_of_memory
from lr_study.objects import OBJECT
from lr_study.objects import OWN as _OWN

MODULES = {
  'model': 'lr_study.models',
  'optimizer': 'lr_study.optimizers',
  'schedule': 'lr_study.schedules',
  'loss': 'lr_study.losses',
  'input': 'lr_study.inputs',
  'metrics': 'lr_study.metrics',
  'data': 'lr_study.data',
  'search': 'lr_study.search.strategies',
}
_AXES = ('model', 'optimizer', 'schedule', 'loss', 'input')  # sections whose fields may be axes
REQUIRED = inspect.Parameter.empty  # in place of a default: the config must set the field
_NEEDED = {'optimizer': ('learning_rate',)}  # every factory takes these
# section -> what a message calls one of its functions
_ONE = {
  'optimizer': 'an optimizer', 'input': 'an input function', 'metrics': 'a metric',
  'data': 'a data function',
}  # fmt: skip
_LONGEST = 200  # characters of a wrong value that a message shows
_LARGEST = 2**63  # JSON and arrays hold whole numbers below this

# A test of a value that already has the right type, and what the test asks for.
Limit = tuple[Callable[[Any], bool], str]

COUNT: Limit = lambda n: 1 <= n < 2**31, 'a whole number from 1 to 2^31 - 1'
COUNT_OR_0: Limit = lambda n: 0 <= n < 2**31, 'a whole number from 0 to 2^31 - 1'
POSITIVE: Limit = lambda x: x > 0, 'a number above 0'
AT_LEAST_0: Limit = lambda x: x >= 0, 'a number from 0 up'
BELOW_1: Limit = lambda x: 0 <= x < 1, 'a number from 0 to below 1'
FACTOR: Limit = lambda x: 0 < x <= 1, 'a number above 0, at most 1'


def one_of(names: Iterable[str]) -> Limit:
  """The limit of an argument that takes one of these names."""
  names = tuple(names)
  return lambda name: name in names, f'one of {", ".join(names)}'


def limits(**of: Limit) -> Callable[[Callable], Callable]:
  """Decorates a factory, a function or a class, with limits on its arguments.

  `@limits(width=POSITIVE)` above `def net(classes, width=1.0)`. None is allowed where it is the
  default.
  """

  def decorate(factory):
    factory._limits = {**getattr(factory, '_limits', {}), **of}
    return factory

  return decorate


def find(section: str, name: str, field: str = '') -> Callable:
  """The factory of this name: a known one, or the user's own, `'path/to/file.py:Name'`.

  `field` is what a message calls the field that holds the name; '' means `SECTION.name`.

  Raises:
    StudyError: there is no such factory; suggests the nearest name, or says what is wrong with the
      file.
  """
  field = field or ('an entry of metrics' if section == 'metrics' else f'{section}.name')
  if isinstance(name, str) and '.py:' in name:
    return _own(field, name)
  if isinstance(name, str) and name.startswith(OBJECT):
    return _held(section, field, name)
  module = importlib.import_module(MODULES[section])
  factory = None
  if isinstance(name, str):
    factory = module.KNOWN.get(name)
    if factory is None and name and hasattr(module, 'find'):
      factory = module.find(name)
  if factory is None:
    raise StudyError(
      f'{field} is {shown(name)}; it must be one of {", ".join(module.KNOWN)}, or '
      f'file.py:Name{as_axis(field, name) or _known_as(module, name)}'
    )
  return factory


def _known_as(module: ModuleType, name: Any) -> str:
  """A hint at the known name that was probably meant, such as lion for optax.lion."""
  last = str(name)[:_LONGEST].rpartition('.')[2]
  if last in module.KNOWN or (last and hasattr(module, 'find') and module.find(last)):
    return f'; did you mean {last}?'
  return nearest(name, module.KNOWN)


def fields(section: str, factory: Callable) -> dict[str, Any]:
  """The arguments of a factory that a config can set: name -> default, or `REQUIRED`.

  Leaves out arguments that the study supplies, and those whose default a config cannot hold, such
  as a function.
  """
  return {
    name: p.default if p.default is REQUIRED else _as(_kind(p), p.default)
    for name, p in _parameters(section, factory).items()
    if _is_field(p)
  }


def checked(section: str, factory: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
  """All fields of a factory: these values, and defaults for the rest.

  A value must have the type of its default: a float takes any real number, an int does not take a
  bool. Where the default is None or missing, any JSON value is allowed. `name` is skipped.

  Raises:
    StudyError: naming the argument that is unknown, missing or outside its limits.
  """
  known, parameters = fields(section, factory), _parameters(section, factory)
  of, given = _limits(section, factory), {}
  for name, value in values.items():
    if name == 'name':
      continue
    if name not in known and not _takes_any(factory):
      raise StudyError(_unknown(section, factory, name, known))
    if value is None and known.get(name) in (None, REQUIRED):
      given[name] = None  # limits do not apply to None
    else:
      kind = _kind(parameters[name]) if name in known else Any
      given[name] = convert(f'{section}.{name}', value, kind, of.get(name))
  for name, default in known.items():
    if default is REQUIRED and given.get(name) is None:
      raise StudyError(
        f'{section}.{name} is missing; {title(section, factory)} has no default for it'
      )
  # A default that is a path is made absolute too.
  return {n: _placed(value, of.get(n)) for n, value in {**known, **given}.items()}


def common_function(section: str) -> Callable | None:
  """The function whose arguments are fields of a section whatever its name is, if it has one."""
  return getattr(importlib.import_module(MODULES[section]), 'common', None)


def common(section: str) -> dict[str, inspect.Parameter]:
  """The arguments that are fields of a section for every plug."""
  of_all, module = common_function(section), importlib.import_module(MODULES[section])
  parameters = signature(of_all).parameters if of_all else {}
  return {name: p for name, p in parameters.items() if name not in module.SUPPLIED}


def may_sweep(config: Mapping[str, Any], name: str) -> bool:
  """True if a compiled program can take this field, such as 'optimizer.weight_decay', as an input.

  Then all its values share the program. `config`: a study's, checked.
  """
  section, _, field = name.partition('.')
  if section not in config or not field or section not in MODULES:
    return False
  module = importlib.import_module(MODULES[section])
  values = config[section].to_dict()
  return hasattr(module, 'may_sweep') and field in module.may_sweep(values, (field,))


def takes(factory: Callable, name: str) -> bool:
  """True if the factory has an explicit argument of this name."""
  return name in signature(factory).parameters


def call(
  section: str, factory: Callable, supplied: Mapping[str, Any], values: Mapping[str, Any]
) -> Any:
  """Calls a factory with its values and with those supplied arguments that it takes.

  Fields that all plugs of the section share are passed only if the factory takes them.

  Raises:
    StudyError: it does not take an argument that it must, or it raised an error.
      A known factory raises a ValueError or TypeError that begins with the name of an argument. Any
      error in the user's function is reported with its file and line.
  """
  own, of_all = signature(factory).parameters, common(section)
  for name in _NEEDED.get(section, ()):
    if name not in own and not _takes_any(factory):
      raise StudyError(
        f'{title(section, factory)} takes no argument {name!r}; every {section} must take it'
      )
  arguments = {n: x for n, x in supplied.items() if n in own or _takes_any(factory)}
  arguments |= {n: x for n, x in values.items() if n != 'name' and (n in own or n not in of_all)}
  try:
    return factory(**arguments)
  except StudyError:
    raise
  except Exception as error:
    if is_own(factory):
      raise StudyError(blame(section, factory, error)) from error
    if type(error) not in (ValueError, TypeError):
      raise
    raise StudyError(f'{section}.{error}') from error


def is_own(factory: Callable) -> bool:
  """True if a factory is the user's own: from a file, or passed by a program."""
  return id(factory) in _OWN


def known(section: str) -> Mapping[str, Callable]:
  """The built-in functions of a section, by name."""
  return importlib.import_module(MODULES[section]).KNOWN


def names_own(name: str) -> bool:
  """True if a name in a config stands for a function, class or object of the user's own."""
  return '.py:' in name or name.startswith(OBJECT)


def short(name: str) -> str:
  """A name for people: without the fingerprint if a program passed the object."""
  return name.rpartition(':')[2] if name.startswith(OBJECT) else name


def title(section: str, factory: Callable) -> str:
  """What a message calls a factory: its name, or `MyNet (my_models.py:12)` if it is the user's."""
  if not is_own(factory):
    names = (name for name, of in known(section).items() if of is factory)
    return next(names, getattr(factory, '__name__', type(factory).__name__))
  source, name, shown_file, _ = _OWN[id(factory)]
  return f'{name} ({shown_file}:{_first_line(source)})' if shown_file else name


def blame(section: str, factory: Callable, error: BaseException) -> str:
  """One line on an error in the user's own function: `my_models.py:12: in MyNet: TypeError: ...`.

  The line number is that of the last line of the user's file that ran. If none did, for instance
  because the function does not take an argument, it is the function's first line.

  Raises:
    BaseException: the error itself, if it says that a disk or memory is full.
  """
  if is_full(error) or is_out_of_memory(error):
    raise error
  source, name, shown_file, path = _OWN[id(factory)]
  line = _line(path, error) or _first_line(source)
  where = f'{shown_file}:{line}: ' if shown_file else ''
  return f'{where}in {name}, {_ONE.get(section, f"a {section}")}: {_words(error)}'


def nearest(name: Any, names: Collection[str], prefix: str = '') -> str:
  """A hint at the name that was probably meant; '' if none is close."""
  close = difflib.get_close_matches(str(name)[:_LONGEST], names, n=1)
  return f'; did you mean {prefix}{close[0]}?' if close else ''


def as_axis(name: str, value: Any) -> str:
  """A hint at --axis if a value looks like several."""
  may_be = name.partition('.')[0] in ('batch_size', 'dtype', *_AXES)
  is_several = may_be and isinstance(value, str) and ',' in value and len(value) <= _LONGEST
  return f'; to try several values, use --axis {name}={value}' if is_several else ''


def has_it(section: str, field: str) -> str:
  """A hint at the known plugs of a section that have a field; '' if none has."""
  names = [name for name, factory in known(section).items() if field in fields(section, factory)]
  few = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
  has = 'has' if len(names) == 1 else 'have'
  return f'; {few} {has} it: try --config.{section}.name={names[0]}' if names else ''


def shown(value: Any) -> str:
  """A wrong value as a message shows it."""
  try:
    text = repr(value)
  except Exception:  # Python does not print whole numbers of more than 4300 digits
    return 'unprintable'
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def is_number(value: Any) -> bool:
  """True if the value is a number that a float can hold."""
  try:
    return isinstance(value, numbers.Real) and type(value) is not bool and math.isfinite(value)
  except OverflowError:  # a whole number beyond all floats
    return False


def convert(name: str, value: Any, kind: Any, limit: Limit | None = None) -> Any:
  """Converts a value to the type of its field: any number to a float, a list to a tuple.

  Args:
    name: dotted, for the message.
    value: as given in the config.
    kind: float, int, bool, str, dict, tuple, `tuple[float, ...]`, or Any: any JSON value.
    limit: a test that the value must pass, and what the test asks for.

  Raises:
    StudyError: `model.width is -1; it must be a number above 0`.
  """
  try:
    converted = _as(kind, value)
    fits = limit is None or bool(limit[0](converted))
  except (TypeError, ValueError, ArithmeticError):
    fits = False
  if not fits:
    asked = limit[1] if limit else asks(kind)
    raise StudyError(f'{name} is {shown(value)}; it must be {asked}{as_axis(name, value)}')
  return _placed(converted, limit)


def _placed(value: Any, limit: Limit | None) -> Any:
  """The value; made absolute if it is a path."""
  return paths.absolute(value) if limit is paths.PATH and value else value


# type -> what a message asks for: one value, and several in a tuple
_WORDS = {
  float: ('a number', 'numbers, such as (0.1, 2.0)'),
  int: ('a whole number', 'whole numbers, such as (1, 2)'),
  bool: ('True or False', 'True or False, such as (True, False)'),
  str: ('a text', "texts, such as ('a', 'b')"),
  tuple: ('a tuple, such as (1, 2)', 'tuples'),
  dict: ('a dict', 'dicts'),
  Any: ('None, a number, a text, True, False, or a tuple or dict of these',) * 2,
}


def asks(kind: Any) -> str:
  """What a message asks for: 'a whole number' for int."""
  return _WORDS[_entry(kind)][1] if _entry(kind) else _WORDS[kind][0]


def _entry(kind: Any) -> Any:
  """The type of the entries of `tuple[float, ...]`, or None."""
  return get_args(kind)[0] if get_origin(kind) is tuple else None


def _as(kind: Any, value: Any) -> Any:
  """The value, converted to this kind.

  Raises:
    TypeError: it is of another kind.
  """
  if kind is Any:
    return None if value is None else _as(_kind_of(value), value)
  if kind is float and is_number(value):
    return float(value)
  if kind is int and _is_whole(value):
    return int(value)
  if kind in (bool, str) and type(value) is kind:
    return value
  if (kind is tuple or _entry(kind)) and isinstance(value, tuple | list):
    return tuple(_as(_entry(kind) or Any, entry) for entry in value)
  if (
    kind is dict and isinstance(value, Mapping | ConfigDict) and all(type(n) is str for n in value)
  ):
    return {name: _as(Any, entry) for name, entry in value.items()}
  raise TypeError(kind)


def _kind_of(value: Any) -> Any:
  if _is_whole(value):
    return int
  if isinstance(value, Mapping | ConfigDict):
    return dict
  if isinstance(value, tuple | list):
    return tuple
  return type(value) if isinstance(value, bool | str) else float


def _is_whole(value: Any) -> bool:
  return (
    isinstance(value, numbers.Integral)
    and type(value) is not bool
    and -_LARGEST < int(value) < _LARGEST
  )


def _kind(parameter: inspect.Parameter) -> Any:
  """The kind of a field, from its default, or from its annotation where the default is unclear."""
  default, said = parameter.default, parameter.annotation
  if default is None:
    return Any
  if default is REQUIRED:
    return said if _is_kind(said) else Any
  kind = _kind_of(default)
  if kind is tuple:
    kinds = {Any if entry is None else _kind_of(entry) for entry in default}
    kinds = {float} if kinds == {int, float} else kinds
    kind = GenericAlias(tuple, (kinds.pop(), ...)) if len(kinds) == 1 else tuple
  # `width: float = 1` and `sizes: tuple[float, ...] = ()` are of floats.
  is_wider = (kind is int and said is float) or (get_origin(kind) or kind) is get_origin(said)
  return said if is_wider and _is_kind(said) and _fits(said, default) else kind


def _is_kind(annotation: Any) -> bool:
  known = [*_WORDS]  # a list: an annotation may be anything, even unhashable
  return annotation in known or _entry(annotation) in known


def _fits(kind: Any, value: Any) -> bool:
  try:
    _as(kind, value)
  except TypeError:
    return False
  return True


def _is_field(parameter: inspect.Parameter) -> bool:
  return parameter.default is REQUIRED or _fits(Any, parameter.default)


def signature(factory: Callable) -> inspect.Signature:
  """The arguments that a factory takes.

  Raises:
    StudyError: Python cannot tell.
  """
  if _is_module(factory, 'flax.nnx'):
    init: Callable = factory.__init__  # its metaclass takes any arguments
    factory = functools.partial(init, None)
  try:
    try:
      return inspect.signature(factory, eval_str=True)
    except NameError:  # an annotation that only a type checker imports
      return inspect.signature(factory)
  except (TypeError, ValueError) as error:  # some functions written in C
    raise StudyError(f'{factory!r} does not say what arguments it takes') from error


def _parameters(section: str, factory: Callable) -> dict[str, inspect.Parameter]:
  """The factory's parameters and those of the section, less what the study or Flax passes."""
  taken = {*importlib.import_module(MODULES[section]).SUPPLIED, *_flax_arguments(factory)}
  both = {**common(section), **signature(factory).parameters}
  named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return {n: p for n, p in both.items() if n not in taken and p.kind in named}


def _flax_arguments(factory: Callable) -> tuple[str, ...]:
  factory = inner(factory)
  if _is_module(factory, 'flax.linen'):
    return 'parent', 'name'
  return ('rngs',) if _is_module(factory, 'flax.nnx') else ()


def _is_module(factory: Callable, library: str) -> bool:
  """True for a network of 'flax.linen' or 'flax.nnx'."""
  # Code that defines a network has imported the library. It is not imported here, so that the
  # processes that render letters start in a third of the time.
  flax = sys.modules.get(library)
  return flax is not None and isinstance(factory, type) and issubclass(factory, flax.Module)


def _takes_any(factory: Callable) -> bool:
  kinds = (p.kind for p in signature(factory).parameters.values())
  return inspect.Parameter.VAR_KEYWORD in kinds


def _limits(section: str, factory: Callable) -> dict[str, Limit]:
  of_all = common_function(section)
  return {**getattr(of_all, '_limits', {}), **getattr(inner(factory), '_limits', {})}


def inner(factory: Callable) -> Callable:
  """What functools.partial wraps, or the factory itself."""
  return inner(factory.func) if isinstance(factory, functools.partial) else factory


def _unknown(section: str, factory: Callable, name: str, known: Collection[str]) -> str:
  field, of = f'config.{section}.{name}', title(section, factory)
  if name in signature(factory).parameters:
    return f'{field}: a config cannot set this argument of {of}'
  hint = has_it(section, name) or nearest(name, known, f'{section}.')
  return f'{field}: no such field of {of}{hint}'


class NotHeld(StudyError):
  """A config names an object that only the program that passed it has."""


def _held(section: str, field: str, name: str) -> Callable:
  if name not in objects.HELD.get():
    raise NotHeld(
      f'{field} is {shown(short(name))}, which a program passed to lr_study.sweep; in Python, '
      f'pass the same {section} again, to lr_study.sweep or lr_study.read. The study that they '
      'return has best.predict and best.export'
    )
  return objects.HELD.get()[name].factory


_FILES: dict[Path, ModuleType] = {}


def _own(field: str, name: str) -> Callable:
  file, _, inner = name.rpartition(':')
  try:
    path = Path(file).expanduser().resolve()
    missing = not path.is_file()
  except (OSError, RuntimeError, ValueError):  # not a valid file name
    missing = True
  if missing:
    where = '' if os.path.isabs(file) else f' in {Path.cwd()}'
    raise StudyError(f'{field} is {shown(name)}; there is no file {file}{where}')
  if path not in _FILES:
    _FILES[path] = _imported(field, file, path)
  factory = getattr(_FILES[path], inner, None)
  if factory is None:
    names = [n for n, value in vars(_FILES[path]).items() if callable(value)]
    raise StudyError(f'{field} is {shown(name)}; {file} has no {inner}{nearest(inner, names)}')
  if not callable(factory):
    raise StudyError(
      f'{field} is {shown(name)}; {inner} is {shown(factory)}, not a function or class'
    )
  _OWN[id(factory)] = (factory, inner, paths.shown(Path(file)), path)
  return factory


def _imported(field: str, file: str, path: Path) -> ModuleType:
  # Files of the same name must be different modules: Flax looks up a network's module by name.
  name = f'{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))  # it may import files next to it
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    del sys.modules[name]
    if is_full(error) or is_out_of_memory(error):
      raise
    line = _line(path, error)
    raise StudyError(
      f'{field}: {file}{f":{line}" if line else ""} cannot be imported: {_words(error)}'
    ) from error
  return module


def _line(path: Path, error: BaseException) -> int | None:
  """The line of this file that the error came from; None if it came from elsewhere."""
  if isinstance(error, SyntaxError) and error.filename == str(path):
    return error.lineno
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path)]
  return lines[-1] if lines else None


def _first_line(factory: Callable) -> int:
  try:
    return max(1, inspect.getsourcelines(inner(factory))[1])
  except (OSError, TypeError):  # a callable object
    return 1


def _words(error: BaseException) -> str:
  lines = str(getattr(error, 'msg', error) or '').strip().splitlines()
  return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
