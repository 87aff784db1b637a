"""How pictures are drawn, and what happens where one cannot be."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from cycler import cycler

from lr_study import plugs
from lr_study.errors import StudyError, first_line, is_full
from lr_study.files import workdir
from lr_study.progress import note
from lr_study.report.style import PALETTE

STYLE = {
  'font.size': 8,
  'axes.labelsize': 8,
  'axes.titlesize': 8,
  'axes.prop_cycle': cycler(color=PALETTE),
  'axes.linewidth': 0.6,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.alpha': 0.25,
  'grid.linewidth': 0.5,
  'lines.linewidth': 0.9,
  'lines.markersize': 3,
  'xtick.labelsize': 'small',
  'ytick.labelsize': 'small',
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'legend.fontsize': 'small',
  'legend.frameon': False,
  'image.cmap': 'Blues',
  'figure.dpi': 150,
  'savefig.dpi': 300,
  'pdf.fonttype': 42,  # TrueType, as journals ask; Type 3 is Matplotlib's default
  'svg.hashsalt': 'lr_study',  # the same figure gives the same file
}
_Found = TypeVar('_Found')
_failed: list[dict[str, str]] = []  # what was not drawn and why, inside of `one_note`
_own: list[Mapping[str, Any]] = []  # settings of the user's, inside of `using`


@contextlib.contextmanager
def style(
  values: Mapping[str, Any] = STYLE, further: Mapping[str, Any] | None = None
) -> Iterator[None]:
  """Draws with these settings of Matplotlib, and none of a file or a program of the user's.

  Those of the styles that `using` names replace `values`, and `further` ones replace both.
  """
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    for settings in (values, *_own, further or {}):
      matplotlib.rcParams.update(settings)
    yield


@contextlib.contextmanager
def using(names: Sequence[str]) -> Iterator[None]:
  """Draws meanwhile in styles of Matplotlib, by name or file, each over the one before.

  One that cannot be read any more costs a line on the terminal.
  """
  before = len(_own)
  for name in names:
    try:
      _own.append(load(name))
    except StudyError as error:
      note(f'Drawn without it: {error}')
  try:
    yield
  finally:
    del _own[before:]


def load(name: str) -> dict[str, Any]:
  """The settings of a style: one of Matplotlib's, or a file of the user's.

  Raises:
    StudyError: there is none, or it holds what is no setting.
  """
  styles = importlib.import_module(
    'matplotlib.style'
  )  # slow to import: it reads all built-in styles
  if name in styles.library:
    return dict(styles.library[name])
  path, what = Path(name), f'config.figure_style: {name}'
  if not path.is_file():
    hint = plugs.nearest(name, sorted(styles.library))
    raise StudyError(f'{what} is neither a style of Matplotlib nor a file{hint}')
  try:
    lines = (line.split('#')[0] for line in path.read_text('utf-8').splitlines())
    keys = [line.split(':', 1)[0].strip() for line in lines if line.strip()]
    # Matplotlib only warns of these.
    unknown = next((key for key in keys if key not in matplotlib.rcParams), None)
    if unknown is not None:
      hint = plugs.nearest(unknown, sorted(matplotlib.rcParams))
      raise StudyError(f'{what}: Matplotlib has no setting {unknown!r}{hint}')
    found = matplotlib.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
  except (OSError, ValueError, KeyError) as error:
    raise StudyError(f'{what} cannot be read: {first_line(error)}') from error
  # What they are, and the window they are shown in, is not a matter of style.
  kept = {key: found[key] for key in found if key.split('.')[0] not in ('backend', 'interactive')}
  return kept


def attempt(what: str, draw: Callable[..., _Found], *arguments: Any) -> _Found | None:
  """What `draw` returns; None, and a line on the terminal that names `what`, where it fails.

  A picture that cannot be drawn costs a study that picture; a full disk is still an error.
  """
  try:
    return draw(*arguments)
  except Exception as error:  # Matplotlib, and what it calls, raise any kind
    if is_full(error):
      raise
    why = first_line(error)[:200]
    if _failed:
      _failed[-1].setdefault(what, why)
    else:
      note(f'Not drawn: {what} ({why})')
    return None


@contextlib.contextmanager
def one_note() -> Iterator[None]:
  """Tells of all that fails meanwhile in one line at the end."""
  _failed.append({})
  try:
    yield
  finally:
    found = [f'{what} ({why})' for what, why in _failed.pop().items()]
    if found:
      note(f'Not drawn: {workdir.shortened(found)}')
