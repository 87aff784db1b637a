"""The text of --help: a command's docstring, and its flags."""

import re
import sys
import textwrap
from collections.abc import Callable

from absl import flags

_WIDTH = 88
_WORDS = {'string': 'TEXT', 'int': 'N', 'float': 'NUMBER'}
_FIELD = (
  '--config.FIELD=VALUE',
  'Set a field of the config, such as --config.epochs=3 or --config.optimizer.momentum=0.9.',
)


def describe(main: Callable[..., None]) -> str:
  """The text of --help for the command with this `main`; flags are those of its module."""
  module = sys.modules[main.__module__]
  of_flags = []
  for flag in flags.FLAGS.get_flags_for_module(module):
    of_flags.append((_form(flag), _sentence(flag)))
    if flag.name == 'config':
      of_flags.append(_FIELD)
  words = [f'  {form}\n{_indented(sentence)}' for form, sentence in of_flags]
  text = '\n'.join([(module.__doc__ or '').strip(), '', 'flags:', *words])
  if sys.argv[0].endswith('.py'):  # show the form in which it was started
    text = re.sub(r'lr-study ([a-z-]+)', _as_script, text)
  return text


def _form(flag: flags.Flag) -> str:
  """`--workdir PATH`."""
  if flag.boolean:
    return f'--[no]{flag.name}'
  kind = flag.flag_type().removeprefix('multi ')
  values = '|'.join(getattr(flag.parser, 'enum_values', ()))
  return f'--{flag.name} {values or _WORDS.get(kind, kind)}'


def _sentence(flag: flags.Flag) -> str:
  text = re.sub(r'^<.*>: ', '', flag.help.partition(';\n')[0])  # without what absl adds
  has_default = not flag.boolean and flag.default not in (None, [])
  return f'{text} The default is {flag.default}.' if has_default else text


def _indented(text: str) -> str:
  return textwrap.fill(text, _WIDTH, initial_indent='      ', subsequent_indent='      ')


def _as_script(found: re.Match[str]) -> str:
  return f'python scripts/{found[1].replace("-", "_")}.py'
