"""Explains every field of a config, for --help_config and the reference in the documentation.

The explanations come from the tables in config.py, and from the docstrings of the functions that
sections name, including the user's own.
"""

import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import docstring_parser
from ml_collections import ConfigDict

from lr_study import config as configs
from lr_study import plugs

_WIDTH = 88
_MOST_NAMES = 12
_AXES = (
  'Other fields whose values are tried with each rate. --axis NAME=V1,V2,... sets one: '
  'optimizer.weight_decay, batch_size, model.name, or nearly any other number or name.'
)
_ABOUT_SECTIONS = {
  'model': 'The network.',
  'optimizer': 'The optimiser.',
  'schedule': 'How the rate changes in training: a factor on the rate, called its height.',
  'loss': 'What training minimises.',
  'input': 'How images are preprocessed and augmented.',
  'data': 'The data set: a built-in one, one of TFDS, or npz:PATH.',
  'search': 'Which rates are tried, and in which order.',
}


class Field(NamedTuple):
  """A field of a config: its dotted name, its value, its default, and what it is for.

  The default is `plugs.REQUIRED` if there is none.
  """

  name: str
  value: Any
  default: Any
  about: str


def of_study() -> list[Field]:
  """The fields outside of sections, and those of `verdict`, with their defaults."""
  tables = {'': configs.FIELDS, 'verdict.': configs.VERDICT}
  return [
    Field(prefix + name, field.default, field.default, field.about)
    for prefix, table in tables.items()
    for name, field in table.items()
  ]


def of_plug(section: str, name: str) -> list[Field]:
  """The arguments of a function that a section names, `of_plug('model', 'resnet18')`."""
  factory = plugs.find(section, name)
  about = _about(plugs.common_function(section)) | _about(factory)
  return [
    Field(f'{section}.{argument}', default, default, about.get(argument, ''))
    for argument, default in plugs.fields(section, factory).items()
  ]


def of_config(config: ConfigDict | None = None) -> list[Field]:
  """Every field of a config, or of an empty one, in the order of the tables.

  Raises:
    StudyError: a section names an unknown function.
  """
  config = config or ConfigDict()
  config = config.copy_and_resolve_references()
  configs.complete(config, {})
  flat = configs.flatten(config)
  found = [field._replace(value=flat.get(field.name)) for field in of_study()]
  axes = {name.removeprefix('axes.'): of for name, of in flat.items() if name.startswith('axes.')}
  found.append(Field('axes', axes, {}, _AXES))
  for section, default in configs.SECTIONS.items():
    name = config[section].name
    about = f'{_ABOUT_SECTIONS[section]} {plugs.short(name)}: {summary(section, name)}'
    about = f'{about} Others: {_others(section, name)}.'
    found.append(Field(f'{section}.name', name, default, about))
    for field in of_plug(section, name):
      found.append(field._replace(value=flat.get(field.name, field.default)))
  return found


def _others(section: str, name: str) -> str:
  """The other names of a section, as far as there is room."""
  names = [known for known in plugs.known(section) if known != name]
  own = 'file.py:NAME' if len(names) <= _MOST_NAMES else f'{len(names) - _MOST_NAMES} more'
  return ', '.join([*names[:_MOST_NAMES], own])


def summary(section: str, name: str) -> str:
  """The first sentence of the docstring of a function that a section names."""
  first = _plain(_parsed(plugs.find(section, name)).short_description or '')
  return _sentence(re.split(r'; (?:other )?arguments as|(?<=\.) ', first)[0])


def describe(config: ConfigDict | None = None) -> str:
  """The text of --help_config."""
  lines = ['Every field of the config. Set one with --config.NAME=VALUE.']
  for field in of_config(config):
    differs = field.default is not plugs.REQUIRED and field.value != field.default
    default = f'   (default {field.default!r})' if differs else ''
    lines.append(f'\n{field.name} = {field.value!r}{default}')
    if field.about:
      text = textwrap.fill(field.about, _WIDTH - 4, break_on_hyphens=False)
      lines.append(textwrap.indent(text, '    '))
  return '\n'.join(lines)


def _about(factory: Callable | None) -> dict[str, str]:
  """Argument -> its explanation in the docstring, or in that of the function it refers to."""
  if factory is None:
    return {}
  words = inspect.getdoc(plugs.inner(factory)) or ''
  other = re.search(r'rguments as (?:in |the attributes of )?`([\w.]+)`', words)
  about = _about(_named(other[1], plugs.inner(factory))) if other else {}
  for param in _parsed(factory).params:
    about[param.arg_name] = _sentence(_plain(param.description or ''))
  return about


def _parsed(factory: Callable) -> docstring_parser.Docstring:
  return docstring_parser.google.parse(inspect.getdoc(plugs.inner(factory)) or '')


def _named(name: str, beside: Callable) -> Callable:
  """What a name in a docstring means, `ResNet` or `folder.image_folder`, in its module."""
  first, *rest = name.split('.')
  return functools.reduce(getattr, rest, vars(sys.modules[beside.__module__])[first])


def _plain(text: str) -> str:
  """The text in one line, without roles of reStructuredText."""
  return re.sub(r':\w+:`([^`]*)`', r'\1', ' '.join(text.split()))


def _sentence(text: str) -> str:
  ended = text if not text or text[-1] in '.!?' else f'{text}.'
  return ended[:1].upper() + ended[1:]
