"""The command line: flags, one-line errors and exit statuses."""

import gc

# Imports create hardly any garbage, but searching for it takes a sixth of their time.
gc.disable()

import difflib
import functools
import itertools
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

os.environ['MPLBACKEND'] = 'agg'  # opens no windows; an invalid name would end the import

try:
  import jax  # noqa: F401 - reads the environment
  import matplotlib  # noqa: F401 - likewise, and the user's matplotlibrc
except Exception as error:
  print(f'error: JAX or Matplotlib cannot start: {error}; fix or unset that', file=sys.stderr)
  sys.exit(2)

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from lr_study import config as configs
from lr_study import configs as packaged
from lr_study import environment, flag_types, formats, plugs, reference, time_limit, usage
from lr_study.errors import MoreWaves, StudyError, first_line, is_full, is_of_disk, is_out_of_memory
from lr_study.interrupt import Stopped
from lr_study.progress import note
from lr_study.time_limit import TimeIsUp

gc.freeze()
gc.enable()


class _ConfigParser(flags.ArgumentParser):
  """Loads a config and gives it all its fields, so that flags can override any of them."""

  config: ConfigDict | None = None
  notes: Sequence[str] = ()  # lines for the user

  def __init__(self, inner: flags.ArgumentParser):
    self._inner = inner

  def flag_type(self) -> str:
    return 'CONFIG'

  def parse(self, path: str) -> Any:
    loaded = self._inner.parse(path)
    if isinstance(loaded, ConfigDict):
      self.notes = configs.complete(loaded, _overrides(), _axes(_axis_texts()))
      self.config = loaded
    return loaded


_SECTIONS = [f'config.{section}' for section in configs.SECTIONS]
_CONFIG = '--config', '-config'
_MOST_VALUES = 10_000
_ARGV: list[str] = []  # the arguments, with `--config.search.name=` for `--config.search=`
config_flags.register_flag_parser_for_type(type(None), flag_types.LiteralParser())
config_flags.register_flag_parser_for_type(tuple, flag_types.TupleParser())
flags.disclaim_key_flags()  # flags that a function here defines are the caller's


def run(main: Callable[..., None], takes_arguments: bool = False) -> None:
  """Parses the flags and calls `main`, with the other arguments if it takes them.

  The exit status is 2, with a one-line message, for errors that the user can fix; 1, with a line,
  for a full disk or memory; 75 if a time limit stopped a study; 130 after Ctrl-C; 141 if nobody
  reads the output any more; 143 after SIGTERM; and 1, with a traceback, for other errors.
  """

  def guarded(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax logs each of its steps, and errors twice
    try:
      if argv[1:] and not takes_arguments:
        raise StudyError(f'{argv[1]!r}: not a flag; flags look like --config.epochs=3')
      if 'help_config' in flags.FLAGS and flags.FLAGS.help_config:
        print(reference.describe(study_config()[0] if flags.FLAGS.config else None))
        return
      with environment.ours():
        main(*argv[1:])
    except StudyError as error:
      _fail(str(error))
    except Stopped as stopped:
      print('\nsaved; run the same command again to resume', file=sys.stderr)
      sys.exit(128 + stopped.signum)
    except TimeIsUp as up:
      print(formats.printable(str(up)), file=sys.stderr)
      sys.exit(time_limit.STATUS)
    except MoreWaves as error:
      _fail(str(error), status=1)
    except Exception as error:
      _fail_in_one_line(error)
      raise
    finally:
      gc.freeze()  # also at the end, where Python would search for garbage for a second

  # Excludes imported modules from each search for garbage, which saves a quarter of a second.
  gc.freeze()
  # Flags may follow other arguments; anything after -- is not a flag.
  flags.FLAGS.set_gnu_getopt(takes_arguments)
  try:
    try:
      app.run(guarded, flags_parser=functools.partial(_parse, main))
    finally:
      for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()  # here, because errors are ignored while Python exits
  except KeyboardInterrupt:
    print('\nstopped; to resume a study, run the same command again', file=sys.stderr)
    sys.exit(130)
  except BrokenPipeError:
    unread = [stream for stream in (sys.stdout, sys.stderr) if stream and _is_unread(stream)]
    if not unread:
      raise  # it was another pipe
    for stream in unread:  # discards the rest of the output
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(128 + signal.SIGPIPE)


def path_flag(name: str, help_text: str) -> flags.FlagHolder[Path | None]:
  """Defines a flag that is a path."""
  return flags.DEFINE(flag_types.PathParser(), name, None, help_text)


def study_flags() -> None:
  """Defines --config, --axis and --help_config, for commands that run a study."""
  config_flags.DEFINE_config_file(
    'config',
    help_string='The study: the name of a config that comes with lr_study, such as '
    'alexnet_letters:quick, or your own file.',
    sys_argv=_ARGV,
  )
  flags.FLAGS['config'].parser = _ConfigParser(flags.FLAGS['config'].parser)
  flags.DEFINE_bool('help_config', False, 'Explain every field of the config, and stop.')
  _define_axis(
    'Try each rate with each of these values of a field. Examples: '
    'optimizer.weight_decay=0,1e-4, seed=0..4, batch_size=1,4, model.name=lenet,resnet18, '
    '"model.hidden=(32,),(64, 32)".'
  )


def finished_flags() -> None:
  """Defines the flags that find a trial of a finished study: --axis and --moved."""
  _define_axis('The value of the trial on an axis, as NAME=V, if the study has several.')
  moved_flag()


def moved_flag() -> None:
  """Defines --moved, for commands that read a study."""
  words = 'Images, or your own files, that the study knows as OLD are now in NEW.'
  flags.DEFINE_multi(flag_types.MovedParser(), None, 'moved', [], words)


def moved() -> list[tuple[str, str]]:
  """The pairs of locations of --moved; see `paths.Moved`."""
  return flags.FLAGS.moved


def study_config() -> tuple[ConfigDict, str]:
  """The config of --config with overrides and axes, and its name: `alexnet_letters_quick`."""
  flag = flags.FLAGS['config']
  if flag.value is None:
    raise StudyError('no --config; try --config alexnet_letters:quick')
  path, _, variant = config_flags.get_config_filename(flag).partition(':')
  config = flag.value
  if not isinstance(config, ConfigDict):
    raise StudyError(f'--config {path}: get_config() must return an ml_collections.ConfigDict')
  for line in flag.parser.notes:
    note(line)
  if flags.FLAGS.axis:
    axes = {**configs.flatten(config.axes), **_axes(flags.FLAGS.axis)}
    with config.unlocked():
      config.axes = ConfigDict(axes, allow_dotted_keys=True)
  return config, Path(path).stem + (f'_{variant}' if variant else '')


def study_command() -> list[str]:
  """The command that was called, and what it says of the study: --config, overrides and axes."""
  found = []
  for flag, after in zip(_ARGV, [*_ARGV[1:], ''], strict=True):
    name, sign, value = flag.partition('=')
    if re.fullmatch(r'--?((no)?config(\..*)?|axis)', name):
      has_value = sign or not after.startswith('-')  # --config.input.grey needs none
      found.append(f'--{name.lstrip("-")}' + (f'={value if sign else after}' if has_value else ''))
  program = 'lr-study' if sys.argv[0].startswith('lr-study') else 'python scripts/'
  return [program, *found]


def setting() -> dict[str, Any]:
  """The values of --axis NAME=V, which select a setting of a study; see `rounds.matching`."""
  found = {}
  for name, values in _axes(flags.FLAGS.axis).items():
    if len(values) > 1:
      raise StudyError(f'--axis {name} has {len(values)} values; give one, to select a trial')
    found[name] = values[0]
  return found


def check_writable(flag: flags.FlagHolder) -> None:
  """Raises StudyError if the file of a flag cannot be written.

  Call it before a long computation, so that its result is not lost.
  """
  if not flag.value:
    return
  folder = Path(flag.value).absolute().parent
  if not os.path.isdir(folder):
    raise StudyError(f'--{flag.name} {flag.value}: {folder} is not a folder; create it first')
  if os.path.isdir(flag.value) or not os.access(folder, os.W_OK):
    raise StudyError(f'--{flag.name} {flag.value} cannot be written; choose another file')


def _fail_in_one_line(error: Exception) -> None:
  """Ends the process if the cause is outside of this program: a full disk, memory, no device."""
  if is_full(error):
    _fail(
      f'no room: {_one_line(error)}; free some space, and run the same command again to resume '
      'from the newest checkpoint',
      status=1,
    )
  if is_out_of_memory(error):
    _fail(
      f'out of memory: {_one_line(error)}; reduce memory_gb (more waves), batch_size or '
      'eval_batch_size, and start again with --overwrite',
      status=1,
    )
  if is_of_disk(error):
    _fail(
      f'{error.filename or "a file"} cannot be read or written: {error.strerror}; when it can, '
      'run the same command again to resume',
      status=1,
    )
  try:
    environment.check_devices()
  except StudyError as of_devices:
    _fail(str(of_devices))


def _is_unread(stream: IO[str]) -> bool:
  """True if this is a pipe whose reader has ended, as with `| head -1`."""
  look = select.poll()
  look.register(stream.fileno(), 0)
  return any(events & select.POLLERR for _, events in look.poll(0))


def _define_axis(help_text: str) -> None:
  flags.DEFINE_multi(flag_types.AxisParser(), None, 'axis', [], help_text)


def _parse(main: Callable[..., None], argv: Sequence[str]) -> list[str]:
  if {'-h', '--help', '-help'} & {*itertools.takewhile(lambda one: one != '--', argv)}:
    print(usage.describe(main))
    sys.exit(0)
  try:
    # Flag files are read here, because ml_collections looks for overrides only in these arguments.
    read = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
    _ARGV[:] = [*argv[:1], *_with_names(read)]
  except (flags.Error, StudyError) as error:
    _fail(_one_line(error).removeprefix('ERROR:: '))
  names = [flag.partition('=')[0].lstrip('-') for flag in _ARGV if flag.startswith('-')]
  overrides = [n.removeprefix('config.') for n in names if n.startswith('config.')]
  for name in overrides:
    if overrides.count(name) > 1:  # absl would join the values of a tuple
      _fail(f'--config.{name} is given twice')
  try:
    return flags.FLAGS(list(_ARGV))
  except flags.UnrecognizedFlagError as error:
    _fail(f'--{error.flagname}: no such flag{_flag_meant(error.flagname)}')
  except (StudyError, flags.Error) as error:
    _fail(_of_override(error) or _one_line(error))
  except BrokenPipeError:  # of --help
    raise
  except Exception as error:  # a config is a program: it can fail in any way
    # If the config lacks an overridden field, ml_collections raises a bare KeyError.
    known = configs.flatten(_config()) if _config() else {}
    unknown = [name for name in overrides if name not in known]
    if unknown and 'Traceback' not in str(error):
      _fail(configs.no_such_field(unknown[0], _config()))
    _fail(f'--config: {_one_line(error)}')


def _of_override(error: Exception) -> str:
  """The message for a field that is overridden wrongly; '' if it is none, or says enough."""
  for name, text in _overrides().items():
    field = _field(name)
    if isinstance(field, ConfigDict):  # the message would show a syntax tree
      return f'--config.{name}: {name} is a group of fields; {_set_each(name, field)}'
    if str(error).startswith(f'flag --config.{name}={text}: '):  # and the words of int(), say
      asked = plugs.asks(type(field))
      return f'--config.{name}={text}: it must be {asked}{plugs.as_axis(name, text)}'
  return ''


def _flag_meant(name: str) -> str:
  """A hint at the field or flag that was probably meant; '' if none is close."""
  known = configs.flatten(_config()) if _config() else {}
  wanted = name.replace('-', '_')
  found = [field for field in known if wanted in (field, field.rpartition('.')[2])]
  if found:
    return f'; to set a field of the config, use --config.{" or --config.".join(found)}'
  own = {flag: flag for flag in flags.FLAGS if not flag.startswith('config.')}
  names = own | {field: f'config.{field}' for field in known}
  close = difflib.get_close_matches(wanted, names, n=1)
  return f'; did you mean --{names[close[0]]}?' if close else ''


def _config() -> ConfigDict | None:
  """The config of --config, if it has been parsed."""
  return flags.FLAGS['config'].parser.config if 'config' in flags.FLAGS else None


def _field(name: str) -> Any:
  """The value of the config at a dotted name, or None."""
  found = _config()
  for part in name.split('.'):
    found = found.get(part) if isinstance(found, ConfigDict) else None
  return found


def _set_each(name: str, fields: ConfigDict) -> str:
  """How to set the fields of a section."""
  if name == 'axes':
    return 'give --axis NAME=V1,V2,...'
  return 'set one of them: ' + ', '.join(f'--config.{name}.{field}' for field in fields)


def _axes(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
  """The values of each --axis NAME=V1,V2,..., by name."""
  axes = {}
  for text in texts:
    name, sign, values = text.partition('=')
    if name in axes:
      raise StudyError(f'--axis {name} is given twice')
    parts = _split(values)
    if not sign or not all(parts):
      raise StudyError(f'--axis {text}: give NAME=V1,V2,..., such as optimizer.momentum=0,0.9')
    axes[name] = tuple(one for value in parts for one in _values(value))
  return axes


def _split(text: str) -> list[str]:
  """The parts between commas, except those in parentheses: '(8,),(16, 8)' has two parts."""
  parts, depth = [''], 0
  for sign in text:
    depth += (sign == '(') - (sign == ')')
    if sign == ',' and depth <= 0:
      parts.append('')
    else:
      parts[-1] += sign
  return parts


def _values(text: str) -> Sequence[Any]:
  """A number, True, False, None, a tuple or a text; '0..4' is the whole numbers from 0 to 4."""
  first, dots, last = text.partition('..')
  if dots and first.isdecimal() and last.isdecimal():
    if not 0 <= int(last) - int(first) < _MOST_VALUES:
      raise StudyError(f'--axis: {text} is not a range of 1 to {_MOST_VALUES} whole numbers')
    return range(int(first), int(last) + 1)
  value = flag_types.LiteralParser().parse(text)
  return (float(text) if text.lower() in ('nan', 'inf', '-inf') else value,)


def _with_names(argv: Sequence[str]) -> list[str]:
  """The arguments, with `--config.search=bisect` as `--config.search.name=bisect`, and so on.

  The name of a built-in config in --config is replaced by its file.
  """
  if 'config' not in flags.FLAGS:
    return [*argv]
  found: list[str] = []
  for flag, after in zip(argv, [*argv, ''][1:], strict=True):
    name, sign, value = flag.partition('=')
    is_section = name.startswith('-') and name.lstrip('-') in _SECTIONS
    if is_section and not (value if sign else after).startswith('{'):
      name += '.name'
    if name in _CONFIG and (sign or not after):
      value = packaged.find(value)
    elif found and found[-1] in _CONFIG:
      name, sign, value = packaged.find(flag), '', ''
    found.append(name + sign + value)
  return found


def _overrides() -> dict[str, str]:
  """The fields that the command line sets, as text, by dotted name."""
  found = {}
  for flag, after in zip(_ARGV, [*_ARGV[1:], ''], strict=True):
    name, sign, value = flag.partition('=')
    if name.startswith(('-config.', '--config.')):
      found[name.partition('.')[2]] = value if sign else after
  return found


def _axis_texts() -> list[str]:
  """The values of the --axis flags, which are parsed after the config."""
  argv = flags.FLAGS.read_flags_from_files(_ARGV, force_gnu=False)
  found = []
  for flag, after in zip(argv, [*argv[1:], ''], strict=True):
    name, sign, value = flag.partition('=')
    if name in ('--axis', '-axis'):
      found.append(value if sign else after)
  return found


def _one_line(error: Exception) -> str:
  """The error's message; if ml_collections has put a config's traceback in it, the last line."""
  text = str(error).strip()
  return text.splitlines()[-1].strip() if 'Traceback' in text else first_line(error)


def _fail(message: str, status: int = 2) -> NoReturn:
  # File names may contain line breaks and control characters.
  print(f'error: {formats.printable(" ".join(message.splitlines()))}', file=sys.stderr)
  sys.exit(status)
