"""From the command line to a function: flags, one-line errors and exit statuses."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lr_study import config as configs
from lr_study.errors import StudyError

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The study: a file of configs/, as configs/alexnet_letters.py:quick.'
)


def run(main: Callable[[], None]) -> None:
  """Parses the flags and calls `main`.

  Ends with status 2 and one line for what the user can mend, 130 after Ctrl-C, and 1 with a
  traceback for the rest.
  """

  def guarded(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax logs every step that it takes
    try:
      if argv[1:]:
        raise StudyError(f'{argv[1]!r}: not a flag; flags look like --config.epochs=3')
      main()
    except StudyError as error:
      _fail(str(error))
    except KeyboardInterrupt:
      print('\nstopped; the same command goes on from the newest checkpoint', file=sys.stderr)
      sys.exit(130)

  app.run(guarded, flags_parser=_parse)


def study_config() -> tuple[ConfigDict, str]:
  """The config of --config with its overrides, and its name: `alexnet_letters_quick`, say."""
  if _CONFIG.value is None:
    raise StudyError('no --config; try --config configs/alexnet_letters.py:quick')
  path, _, variant = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  try:
    config = _CONFIG.value
    config.lock()
  except StudyError:
    raise
  except Exception as error:  # a config is a program: it can fail in any way
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise StudyError(f'--config {path}: {lines[-1].strip() if lines else repr(error)}') from error
  return config, Path(path).stem + (f'_{variant}' if variant else '')


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    _fail(str(error).splitlines()[0])
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # ml_collections raises these for an override of a field that the config does not have.
    unknown = [
      a.partition('=')[0].removeprefix('--').removeprefix('config.')
      for a in argv
      if a.startswith('--config.')
    ]
    unknown = [name for name in unknown if name not in configs.FIELDS]
    if not unknown:
      _fail(str(error))
    _fail(f'config.{unknown[0]}: no such field{configs.nearest(unknown[0])}')


def _fail(message: str) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.stderr.flush()
  sys.exit(2)
