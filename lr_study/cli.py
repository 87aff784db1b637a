"""From the command line to a function: flags, one-line errors and exit statuses."""

import gc

# Hardly anything of a module is garbage: to search while they are imported is a sixth of that time.
gc.disable()

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lr_study import config as configs
from lr_study import formats, processes
from lr_study.errors import StudyError, is_full, is_out_of_memory
from lr_study.interrupt import Stopped

gc.freeze()
gc.enable()

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='The study: a file of configs/, as configs/alexnet_letters.py:quick.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Be one process of several, under Slurm, Open MPI, Kubernetes or on TPUs.'
)
_ADDRESS = flags.DEFINE_string(
  'coordinator_address', None, 'Elsewhere: host:port of process 0, the same for all.'
)
_COUNT = flags.DEFINE_integer('num_processes', None, 'Elsewhere: how many there are.')
_INDEX = flags.DEFINE_integer('process_id', None, 'Elsewhere: which one this is, from 0.')


def run(main: Callable[..., None], takes_arguments: bool = False) -> None:
  """Parses the flags and calls `main`, with the other arguments if it takes them.

  Ends with status 2 and one line for what the user can mend, with 1 and one line for a full disk
  or memory, 130 after Ctrl-C, 143 after SIGTERM, and 1 with a traceback for the rest.
  """

  def guarded(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax logs each of its steps, and errors twice
    try:
      if argv[1:] and not takes_arguments:
        raise StudyError(f'{argv[1]!r}: not a flag; flags look like --config.epochs=3')
      main(*argv[1:])
    except StudyError as error:
      _fail(str(error))
    except Stopped as stopped:
      print('\nsaved; the same command goes on from here', file=sys.stderr)
      sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
      print('\nstopped; the same command goes on from the newest checkpoint', file=sys.stderr)
      sys.exit(130)
    except Exception as error:
      if is_full(error):
        _fail(
          f'no room: {_one_line(error)}; make room, and the same command goes on from the newest '
          'checkpoint',
          status=1,
        )
      if is_out_of_memory(error):
        _fail(
          f'out of memory: {_one_line(error)}; lower memory_gb (more waves), trials_per_call or '
          'eval_batch_size, and start anew with --overwrite',
          status=1,
        )
      raise
    finally:
      gc.freeze()  # at the end too: Python would search all that is left, for a second

  # What is imported stays: each search for garbage would go through it, for a quarter of a second.
  gc.freeze()
  # Flags may stand after other arguments; what follows a -- is none.
  flags.FLAGS.set_gnu_getopt(takes_arguments)
  app.run(guarded, flags_parser=_parse)


def study_config() -> tuple[ConfigDict, str]:
  """The config of --config with its overrides, and its name: `alexnet_letters_quick`, say."""
  if _CONFIG.value is None:
    raise StudyError('no --config; try --config configs/alexnet_letters.py:quick')
  path, _, variant = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  if not isinstance(_CONFIG.value, ConfigDict):
    raise StudyError(f'--config {path}: get_config() must return an ml_collections.ConfigDict')
  return _CONFIG.value, Path(path).stem + (f'_{variant}' if variant else '')


def process() -> processes.Process:
  """Which process of the study this is, by the flags; all have joined then."""
  if _DISTRIBUTED.value or _ADDRESS.value:
    return processes.join(_ADDRESS.value, _COUNT.value, _INDEX.value)
  return processes.ALONE


def _parse(argv: Sequence[str]) -> list[str]:
  for flag, value in zip(argv, [*argv[1:], ''], strict=True):
    name, _, path = (flag if '=' in flag else f'{flag}={value}').partition('=')
    if name in ('--config', '-config') and not os.path.isfile(path.partition(':')[0]):
      _fail(f'--config {path}: no such file; try configs/alexnet_letters.py:quick')
  names = [flag.partition('=')[0].lstrip('-') for flag in argv if flag.startswith('-')]
  overrides = [n.removeprefix('config.') for n in names if n.startswith('config.')]
  for name in overrides:
    if overrides.count(name) > 1:  # absl would join the values of a tuple
      _fail(f'--config.{name} is given twice')
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    _fail(_one_line(error))
  except Exception as error:  # a config is a program: it can fail in any way
    # For an override of a field that the config lacks, ml_collections raises a bare KeyError.
    unknown = [name for name in overrides if name not in configs.FIELDS]
    if unknown and 'Traceback' not in str(error):
      _fail(f'config.{unknown[0]}: no such field{configs.nearest(unknown[0])}')
    _fail(f'--config: {_one_line(error)}')


def _one_line(error: Exception) -> str:
  """Its message; of a config's traceback, which ml_collections puts into it, the last line."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
  return lines[-1] if 'Traceback' in str(error) else lines[0]


def _fail(message: str, status: int = 2) -> None:
  # Names of files may hold line breaks, and what steers a terminal or cannot be shown by it.
  print(f'error: {formats.printable(" ".join(message.splitlines()))}', file=sys.stderr)
  sys.exit(status)
