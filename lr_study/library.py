"""Studies from Python: `sweep` trains one, `read` opens one that is finished.

What a call passes becomes the config that a command would have loaded, and the same code runs it.
JAX's config and the process's environment stay as they are. While trials train in the main thread,
Ctrl-C and SIGTERM are handled; see `sweep`. On CPUs, glibc is told to keep memory that is freed.
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

from lr_study import config as configs
from lr_study import data as datasets
from lr_study import finished, objects, plugs, progress, study
from lr_study.errors import StudyError
from lr_study.files import workdir as folders
from lr_study.finished import Study
from lr_study.interrupt import Stopped
from lr_study.objects import Held

if TYPE_CHECKING:
  from os import PathLike

# A name; a name and arguments, {'name': 'sgd', 'momentum': 0.9}; or a function or class, which may
# be the name in such a dict too.
Part = str | Mapping[str, Any] | Callable[..., Any]

# What differs from the command, whose defaults are those of the published experiment.
_DEFAULTS = {
  'optimizer': 'adamw', 'schedule': 'constant', 'batch_size': 32, 'epochs': 10, 'seeds': (0, 1, 2)
}  # fmt: skip


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
  axes: Mapping[str, Iterable[float]] | None = None,
  seeds: int | Iterable[int] | None = None,
  epochs: int | None = None,
  batch_size: int | None = None,
  config: Mapping[str, Any] | ConfigDict | None = None,
  workdir: 'str | PathLike[str] | None' = None,
  overwrite: bool = False,
  progress: bool = True,
  **fields: Any,
) -> Study:
  """Trains a network at many learning rates, and says which one to use.

  Each part is a name that a config could hold, a dict of the name and arguments, or an object of
  your own, in place of the name or as the `name` of such a dict.

  Args:
    model: a Linen module, which is checked against the number of classes; or the class of a Linen
      or NNX module, or a function that returns a Linen module, which takes `classes`.
    data: (x, y), of which the study validates on a quarter of each class; ((x, y), (x, y)) to train
      and to validate; or a dict of arrays, as `lr_study.data.arrays.to_source` says. x: uint8 or
      numbers (samples, ...); y: labels (samples,). Or a folder with a sub-folder of images per
      class; the name of a data set; a function that returns arrays; or a dict with a `name` that
      is any of these and further fields, such as {'name': (x, y), 'train_fraction': 0.9}.
    learning_rates: to try.
    optimizer: 'adamw' by default. A function takes `learning_rate` and returns an optax transform,
      as those of optax do.
    schedule: 'constant' by default. A function of steps_per_epoch and epochs returns another one,
      step -> height, which the learning rate is multiplied by.
    loss: a function of logits (batch, classes) and labels (batch,): a number per sample, (batch,).
    input: a function of a batch and a key; by default the mean of x is subtracted.
    metrics: functions of logits, labels and weight, (batch,), or of classes, which return a
      `Metric`; or names.
    search: in which order rates are tried; all at once by default.
    axes: numbers to try each rate with, such as {'optimizer.weight_decay': [0, 1e-2]}.
    seeds: how many, 3 by default, or which.
    epochs: 10 by default.
    batch_size: samples per step, 32 by default.
    config: further fields as a dict; or a whole config, as the functions of configs/ return it,
      whose defaults are those of the command. The other arguments go before it.
    workdir: where the study is kept, with its report: a call that was stopped goes on there when it
      is made again, and one that has finished is read. Parts of your own are known by their name
      and a fingerprint of their code, so after a change of the code, or of Python's version, it is
      another study. Without it nothing is kept: what is written on the way goes into a temporary
      folder.
    overwrite: delete the study that `workdir` holds first.
    progress: show what is going on.
    **fields: further fields of the config, such as dtype='bfloat16'.

  Returns:
    The finished study.

  Raises:
    StudyError: what the call asks for does not fit; the message is one line.
    KeyboardInterrupt: after Ctrl-C. With `workdir` the study has been saved then; so it has when
      SIGTERM comes, after which that is raised again for the program's own handler.
  """
  parts = {'model': model, 'data': data, 'optimizer': optimizer, 'schedule': schedule}
  parts |= {'loss': loss, 'input': input, 'search': search}
  values = {'learning_rates': learning_rates, 'seeds': seeds, 'epochs': epochs, 'axes': axes}
  values |= {'batch_size': batch_size, 'metrics': metrics, **fields}
  with _for_python():
    given = {n: value for n, value in (parts | values).items() if value is not None}
    if not isinstance(config, ConfigDict):
      given = _DEFAULTS | dict(config or {}) | given
      for name in ('model', 'data'):
        if name not in given:
          raise StudyError(f'{name} is missing: pass one to lr_study.sweep')
    else:
      given = config.copy_and_resolve_references().to_dict() | given
    held = {}
    plain = _named(given, held)
    with objects.holding(held), _shown(progress):
      return _run(configs.from_json(plain), held, workdir, overwrite)


def read(workdir: 'str | PathLike[str]', **parts: Any) -> Study:
  """Opens the finished study that a work directory holds.

  Args:
    workdir: of a call of `sweep`, or of the command.
    **parts: the parts of your own that the study was run with, such as model=MyNet, if another
      program ran it; only `Study.best` needs them.

  Raises:
    StudyError: there is no finished study, or it is damaged.
  """
  with _for_python():
    held = {}
    _named(parts, held)
    return finished.load(Path(workdir), held)


def _run(config: ConfigDict, held: Mapping[str, Held], workdir: Any, overwrite: bool) -> Study:
  """Runs a study in its folder, or in a temporary one."""
  try:
    if workdir is not None:
      folder = Path(workdir).expanduser()
      with folders.held(folder):
        study.carry_out(config, folder, overwrite)
      return finished.load(folder, held)
    with tempfile.TemporaryDirectory(prefix='lr_study_', ignore_cleanup_errors=True) as temporary:
      study.carry_out(config, Path(temporary), reports=False)
      return finished.load(Path(temporary), held, keep=True)
  except Stopped as stopped:
    # What the program does on this signal; by default that is KeyboardInterrupt, or its end.
    signal.raise_signal(stopped.signum)
    raise


@contextlib.contextmanager
def _for_python() -> Iterator[None]:
  """Errors that name arguments of a function, and no flags of a command."""
  try:
    yield
  except StudyError as error:
    raise StudyError(finished.without_flags(str(error))) from error.__cause__


@contextlib.contextmanager
def _shown(progress_is_on: bool) -> Iterator[None]:
  with contextlib.nullcontext() if progress_is_on else progress.quiet():
    yield


def _named(given: Mapping[str, Any], held: dict[str, Held]) -> dict[str, Any]:
  """A config of what a call passes, with names in place of objects, which are added to `held`."""
  fields = {}
  for field, value in given.items():
    if field in configs.SECTIONS:
      fields[field] = _section(field, value, held)
    elif field == 'seeds' and isinstance(value, int) and not isinstance(value, bool):
      fields[field] = tuple(range(value))
    elif field in ('metrics', 'schedules') and isinstance(value, list | tuple):
      section = 'schedule' if field == 'schedules' else field
      fields[field] = tuple(_name(section, entry, held) for entry in value)
    else:
      fields[field] = _plain(value)
  return fields


def _section(section: str, value: Any, held: dict[str, Held]) -> Any:
  """The name in a section, and its arguments."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping) and (section != 'data' or 'name' in value):
    own = {name: _plain(of) for name, of in value.items() if name != 'name'}
    if 'name' not in value:
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
  """The name of one object; what is none stays as it is, and the config's check tells why not."""
  if isinstance(value, str):
    return value
  if section == 'data' and not callable(value):
    name, of = objects.arrays(value)
  elif isinstance(value, nn.Module):
    name, of = objects.instance(value)
  elif isinstance(value, nnx.Module):
    raise StudyError(
      f'model is a {type(value).__name__} that has its weights already; pass the class, or a '
      'function of classes and rngs that returns it: each seed draws weights of its own'
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
    name, of = objects.function(value)
  else:
    return value
  held[name] = of
  return name


def _known(section: str, value: Callable[..., Any]) -> str | None:
  """The name by which a config knows this function already."""
  table = plugs.known(section)
  found = next((name for name, of in table.items() if of is value), None)
  own = getattr(value, '__name__', '')
  if found is None and section == 'optimizer' and own in table:
    # optax.sgd is ours, which is faster.
    found = own if getattr(optax, own, None) is value else None
  return found


def _plain(value: Any) -> Any:
  """Numbers, tuples and dicts of a value that may hold arrays, ranges and the like."""
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, Mapping | ConfigDict):
    return {name: _plain(of) for name, of in value.items()}
  if isinstance(value, list | tuple | range | Iterator):
    return tuple(map(_plain, value))
  return value
