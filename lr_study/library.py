"""Studies from Python: `sweep` trains one, `read` opens a finished one.

A call's arguments become a config like that of a command, and the same code runs it. JAX's config
and the process's environment are left unchanged. While trials train in the main thread, Ctrl-C and
SIGTERM are handled; see `sweep`. If several threads call it, one runs at a time. On CPUs, glibc is
told to keep freed memory.
"""

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import optax
from flax import nnx
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from lr_study import config as configs
from lr_study import data as datasets
from lr_study import finished, objects, paths, plugs, progress, study, tracking
from lr_study.errors import StudyError
from lr_study.files import workdir as folders
from lr_study.finished import Study
from lr_study.interrupt import Stopped
from lr_study.objects import Held

if TYPE_CHECKING:
  from os import PathLike

# A name; a name and arguments, {'name': 'sgd', 'momentum': 0.9}; or a function or class, which may
# also be the name in such a dict.
Part = str | Mapping[str, Any] | Callable[..., Any]


def sweep(
  model: 'Part | nn.Module | None' = None,
  data: Any = None,
  learning_rates: Iterable[float] | None = None,
  *,
  optimizer: Part | None = None,
  schedule: Part | None = None,
  loss: Part | None = None,
  input: Part | None = None,
  metrics: Sequence[str | Callable[..., Any]] | None = None,
  search: Part | None = None,
  axes: Mapping[str, Iterable[Any]] | None = None,
  seeds: int | Iterable[int] | None = None,
  epochs: int | None = None,
  batch_size: int | None = None,
  config: Mapping[str, Any] | ConfigDict | None = None,
  workdir: 'str | PathLike[str] | None' = None,
  overwrite: bool = False,
  extend: bool = False,
  track: str | None = None,
  progress: bool = True,
  **fields: Any,
) -> Study:
  """Trains a network at many learning rates, and says which one to use.

  A part is a name that a config could hold, a function or class of your own, or a dict of such a
  `name` and arguments. The pages docs/your_*.md say what a function of each kind takes and returns.

  Args:
    model: a part, or a Linen module with as many logits as there are classes.
    data: (x, y), a quarter of which is used to validate; ((x, y), (x, y)) to train and to validate;
      or a dict as described in `data.arrays.to_source`. x: uint8 or numbers (samples, ...); y:
      labels (samples,). Or a folder with one sub-folder of images per class; or a part. The `name`
      of a dict may be any of these: {'name': (x, y), 'train_fraction': 0.9}.
    learning_rates: to try.
    optimizer: 'adamw' by default; a function such as optax.adamw works too.
    schedule: 'constant' by default.
    loss: cross-entropy by default.
    input: by default the mean of x is subtracted.
    metrics: names and functions.
    search: the order in which rates are tried; all at once by default.
    axes: other values to try with each rate: {'optimizer.weight_decay': [0, 1e-2],
      'batch_size': [8, 32]}, or {'model.name': [Net, OtherNet]}.
    seeds: how many (3 by default), or which.
    epochs: 10 by default.
    batch_size: samples per step, 32 by default.
    config: more fields, or a whole ConfigDict like those in configs/. The defaults of all fields
      are those of the command. The other arguments take precedence.
    workdir: keep the study there, with its report. The same call resumes it if it was stopped, and
      reads it once it has finished. Your own parts are identified by their names and a fingerprint
      of their code, so if that or Python's version changes, it is another study. Without `workdir`
      the study is kept in memory only, and temporary files are deleted.
    overwrite: first delete the study that `workdir` holds.
    extend: keep the trials of that study, and train those that are new.
    track: send the study to this experiment tracker, 'mlflow' or 'wandb'.
    progress: show progress.
    **fields: more fields, such as dtype='bfloat16'.

  Raises:
    StudyError: something does not fit; one line says what.
    KeyboardInterrupt: after Ctrl-C. With `workdir`, the study is saved first. On SIGTERM it is
      saved too, and the signal is then raised again for the program's own handler.
  """
  own = {'model': model, 'data': data, 'learning_rates': learning_rates, 'optimizer': optimizer}
  own |= {'schedule': schedule, 'loss': loss, 'input': input, 'metrics': metrics, 'axes': axes}
  own |= {'search': search, 'seeds': seeds, 'epochs': epochs, 'batch_size': batch_size} | fields
  held = {}
  with _for_python():
    whole = _whole({name: value for name, value in own.items() if value is not None}, config)
    plain = _named(whole, held)
    with finished.ONE_AT_A_TIME, objects.holding(held), _shown(progress):
      return _run(configs.from_json(plain), held, workdir, overwrite, extend, track)


def read(
  workdir: 'str | PathLike[str]', moved: Mapping[str, str] | None = None, **parts: Any
) -> Study:
  """Opens the finished study that a work directory holds.

  Args:
    workdir: written by `sweep` or by the command.
    moved: {old: new} locations of files that the study names, such as my_models.py.
    **parts: your own parts that the study was run with, such as model=MyNet, if another program
      ran it. Only `Study.best` needs them.

  Raises:
    StudyError: there is no finished study, or it is damaged.
  """
  with _for_python():
    for name in parts:
      if name not in (*configs.SECTIONS, 'metrics', 'axes'):
        raise StudyError(f'{name} is not a part of a study{configs.nearest(name)}')
    held = {}
    _named(parts, held)
    return finished.load(Path(workdir).expanduser(), held, moved=tuple((moved or {}).items()))


def _whole(own: dict[str, Any], config: Mapping[str, Any] | ConfigDict | None) -> dict[str, Any]:
  """The fields of a study: a call's arguments, then those of its config."""
  if isinstance(config, ConfigDict):
    try:
      return config.copy_and_resolve_references().to_dict() | own
    except RequiredValueError as error:  # a placeholder that nothing was put into
      raise StudyError(f'config: {error}') from error
  if not isinstance(config, Mapping | None):
    raise StudyError(f'config is {plugs.shown(config)}; pass a dict of fields, or a ConfigDict')
  whole = dict(config or {}) | own
  for name in ('model', 'data'):
    if name not in whole:
      raise StudyError(f'{name} is missing: pass one to lr_study.sweep')
  return whole


def _run(
  config: ConfigDict,
  held: Mapping[str, Held],
  workdir: Any,
  overwrite: bool,
  extend: bool,
  track: str | None,
) -> Study:
  """Runs a study in its folder, or in a temporary one."""
  tracking.check(track)
  try:
    if workdir is not None:
      folder = Path(paths.absolute(workdir))
      config = study.as_begun(config, folder, overwrite)
      with folders.held(folder):
        study.carry_out(config, folder, overwrite, extend=extend, track=track)
      return finished.load(folder, held)
    with tempfile.TemporaryDirectory(prefix='lr_study_', ignore_cleanup_errors=True) as temporary:
      study.carry_out(config, Path(temporary), reports=False, track=track)
      return finished.load(Path(temporary), held, keep=True)
  except Stopped as stopped:
    # The program's own handler decides; by default KeyboardInterrupt, or the end of the program.
    signal.raise_signal(stopped.signum)
    raise


@contextlib.contextmanager
def _for_python() -> Iterator[None]:
  """Makes errors name the function's arguments in place of the command's flags."""
  try:
    yield
  except StudyError as error:
    raise StudyError(finished.without_flags(str(error))) from error.__cause__


@contextlib.contextmanager
def _shown(progress_is_on: bool) -> Iterator[None]:
  with contextlib.nullcontext() if progress_is_on else progress.quiet():
    yield


def _named(given: Mapping[str, Any], held: dict[str, Held]) -> dict[str, Any]:
  """A config from a call's arguments, with names in place of objects, which are added to `held`."""
  fields = {}
  for field, value in given.items():
    if field in configs.SECTIONS:
      fields[field] = _section(field, value, held)
    elif field == 'seeds' and isinstance(value, int) and not isinstance(value, bool):
      fields[field] = tuple(range(value))
    elif field == 'metrics':
      several = value if isinstance(value, list | tuple) else (value,)
      fields[field] = tuple(_name(field, entry, held) for entry in several)
    elif field == 'axes' and isinstance(value, Mapping):
      fields[field] = {name: _axis(name, of, held) for name, of in value.items()}
    else:
      fields[field] = _plain(value)
  return fields


def _axis(name: str, values: Any, held: dict[str, Held]) -> Any:
  """The values of an axis, which may be the user's functions."""
  section, _, field = name.partition('.')
  if section in configs.SECTIONS and field == 'name' and isinstance(values, list | tuple):
    return tuple(_name(section, value, held) for value in values)
  return _plain(values)


def _section(section: str, value: Any, held: dict[str, Held]) -> Any:
  """The name in a section, and its arguments."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping) and (section != 'data' or 'name' in value):
    own = {name: _plain(of) for name, of in value.items() if name != 'name'}
    if 'name' not in value:
      if section in ('model', 'optimizer', 'schedule'):  # the default name would be a surprise
        raise StudyError(f"{section} has no name; pass {{'name': ...}} with its arguments")
      return own
    inner = _section(section, value['name'], held)
    return (inner if isinstance(inner, dict) else {'name': inner}) | own
  if section == 'data' and isinstance(value, Path | str):
    return _data_set(str(value))
  return _name(section, value, held)


def _data_set(text: str) -> Any:
  """The config of a data set: a folder, a file or a name."""
  if plugs.names_own(text) or text.startswith('npz:') or text in datasets.KNOWN:
    return text
  if text.endswith('.npz'):
    return f'npz:{text}'
  is_path = text.startswith(('.', '~', '/')) or Path(text).is_dir()
  return {'name': 'image_folder', 'dir': text} if is_path else text


def _name(section: str, value: Any, held: dict[str, Held]) -> Any:
  """The name of one object, which is added to `held`; a string is a name already."""
  if isinstance(value, str):
    return value
  if section == 'data' and not callable(value):
    name, of = objects.arrays(value)
  elif isinstance(value, nn.Module):
    name, of = objects.instance(value)
  elif isinstance(value, nnx.Module):
    raise StudyError(
      f'model is a {type(value).__name__} that has its weights already; pass the class, or a '
      'function of classes and rngs that returns it: each seed draws its own weights'
    )
  elif isinstance(value, optax.GradientTransformation):
    raise StudyError(
      'optimizer is an optax transform, which has its learning rate already; pass the function '
      "that makes it, such as optax.adamw, or a dict such as {'name': 'adamw', 'b1': 0.95}"
    )
  elif callable(value):
    known = _known(section, value)
    if known:
      return known
    if section == 'schedule':
      _check_schedule(value)
    name, of = objects.function(value)
  else:
    raise StudyError(
      f'{section} is {plugs.shown(value)}; pass a name, a function or a class, or a dict of such a '
      'name and arguments'
    )
  held[name] = of
  return name


def _check_schedule(value: Callable[..., Any]) -> None:
  takes = plugs.signature(value).parameters
  if not {'steps_per_epoch', 'epochs'} & {*takes} and list(takes)[:1] in (['count'], ['step']):
    raise StudyError(
      'schedule is a function of the step, like those of optax; pass a function of steps_per_epoch '
      "and epochs that returns it, as a factor on the study's rate"
    )


def _known(section: str, value: Callable[..., Any]) -> str | None:
  """The name by which a config already knows this function, or None."""
  table = plugs.known(section)
  found = next((name for name, of in table.items() if of is value), None)
  own = getattr(value, '__name__', '')
  if found is None and section == 'optimizer' and own in table:
    # For example optax.sgd: ours does the same, faster.
    found = own if getattr(optax, own, None) is value else None
  return found


def _plain(value: Any) -> Any:
  """Plain numbers, tuples and dicts from a value that may hold arrays, ranges and the like."""
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, Mapping | ConfigDict):
    return {name: _plain(of) for name, of in value.items()}
  if isinstance(value, list | tuple | range | Iterator):
    return tuple(map(_plain, value))
  return value
