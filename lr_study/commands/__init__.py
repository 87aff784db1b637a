"""The commands: `lr-study COMMAND` and scripts/COMMAND.py, which do the same.

Each command is a module with its flags and `main`; --help prints its docstring. Only one of them is
imported in a process, because flags are global. Importing this package does not import JAX.
"""

import ast
import difflib
import importlib
import inspect
import sys
from pathlib import Path

from lr_study import __version__

COMMANDS = (
  'sweep',
  'classify',
  'report',
  'diagnose',
  'export',
  'show-data',
  'range-test',
  'calibrate',
  'reproduce',
  'optuna-store',
)


def main() -> None:
  """`lr-study COMMAND FLAGS`: runs a command, or lists all commands.

  If there is no such command, the exit status is 2, with a one-line message.
  """
  name, *rest = sys.argv[1:] or ['--help']
  if name in ('-h', '--help', 'help'):
    print(_overview())
  elif name == '--version':
    print(__version__)
  elif name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f'did you mean {close[0]}?' if close else f'the commands: {", ".join(COMMANDS)}'
    print(f'error: {name!r}: no such command; {hint}', file=sys.stderr)
    sys.exit(2)
  else:
    sys.argv = [f'lr-study {name}', *rest]
    run(name)


def run(name: str) -> None:
  """Runs a command with the flags in sys.argv; see `cli.run` for exit statuses."""
  from lr_study import cli  # noqa: PLC0415  # imports JAX, which `lr-study --help` does not need

  module = importlib.import_module(f'{__name__}.{_module(name)}')
  cli.run(module.main, takes_arguments=bool(inspect.signature(module.main).parameters))


def _module(name: str) -> str:
  return name.replace('-', '_')


def _overview() -> str:
  width = max(map(len, COMMANDS))
  return '\n'.join(
    [
      'Which learning rate? Train a network at many rates at once, and see which one to use.',
      '',
      'usage: lr-study COMMAND [FLAGS]',
      '',
      *(f'  {name:{width}}  {_sentence(name)}' for name in COMMANDS),
      '',
      'lr-study COMMAND --help explains the flags of a command.',
    ]
  )


def _sentence(name: str) -> str:
  """The first line of a command's docstring, without importing its module."""
  source = Path(__file__).with_name(f'{_module(name)}.py').read_text('utf-8')
  return (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0]
