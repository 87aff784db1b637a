"""A finished study in memory: answer, curves, plots and the best trial's weights.

`sweep` and `read` return one.
"""

import dataclasses
import functools
import html
import importlib
import io
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import numpy as np
import scipy
from matplotlib.figure import Figure

from lr_study import environment, formats, objects, progress
from lr_study.answer import confidence, effects
from lr_study.answer.verdict import Result, Verdict
from lr_study.data import arrays
from lr_study.errors import StudyError
from lr_study.files.history import History, open_joined
from lr_study.objects import Held
from lr_study.paths import Moved
from lr_study.report import curves, drawing, figures, matrices, report, tables
from lr_study.search import rounds
from lr_study.use import evaluate, export
from lr_study.use.evaluate import Trained

if TYPE_CHECKING:
  from os import PathLike

  import pandas as pd

# Orbax numbers its saves per process, so saves of two threads at once would wait for each other's
# signals and fail after minutes. Besides, one study keeps all cores busy.
ONE_AT_A_TIME = threading.RLock()

# In a message: --config.NAME, but not the files config.json and config.py.
_FLAG = re.compile(r'(?:--)?\bconfig\.(?!json\b|py\b)(?=\w)')
_OPTIONS = {
  '; give --learning_rate': '', '--overwrite': 'overwrite=True', '--extend': 'extend=True',
  '--moved=OLD=NEW': 'moved={OLD: NEW}',
  '--workdir': 'workdir', '--out': 'out',
}  # fmt: skip


def without_flags(text: str) -> str:
  """A message of the command, with the library's arguments in place of flags."""
  text = _FLAG.sub('', text)
  for flag, argument in _OPTIONS.items():
    text = text.replace(flag, argument)
  return text


class Best:
  """The trial that the study recommends, with its final weights.

  Attributes:
    result: its figures.
    classes: their names, in the order of the logits.
    model: its network, a Linen module; `model.apply(variables, inputs)` returns logits.
    variables: all collections of the network as evaluations use them, trees of float32 arrays:
      'params', and others such as 'batch_stats' if the network has them.
  """

  def __init__(self, trained: Trained, study: evaluate.Study, held: Mapping[str, Held]):
    self._trained, self._study, self._held = trained, study, held
    self._stored = trained.stored
    self._logits = evaluate.make_predict(trained, trained.config.eval_batch_size)
    self.model: nn.Module = evaluate.network(trained)
    self.result: Result = trained.result
    self.classes: tuple[str, ...] = trained.classes
    self.variables: dict[str, Any] = trained.variables

  @property
  def params(self) -> Any:
    """The weights."""
    return self.variables['params']

  @property
  def learning_rate(self) -> float:
    """Its learning rate."""
    return self.result.learning_rate

  def predict(self, images: Any) -> np.ndarray:
    """The probability of each class, float32 (images, classes), after the study's preprocessing.

    Args:
      images: (images, ...), each with the shape and type of the study's data: uint8, or numbers.

    Raises:
      StudyError: they have another shape or type.
    """
    images = self._checked(images)
    if not len(images):
      return np.zeros((0, len(self.classes)), np.float32)
    return scipy.special.softmax(self._logits(images), 1)

  def export(self, out: 'str | PathLike[str]') -> Path:
    """Saves the trial as a folder that runs without lr_study, like the command lr-study export.

    A new process without lr_study computes some logits with it and compares them. The folder's
    README.md says how to run it.

    Args:
      out: the folder, which must not exist. It is written completely or not at all.

    Returns:
      The folder.

    Raises:
      StudyError: `out` exists or cannot be written.
    """
    folder = Path(out).expanduser()
    try:
      with ONE_AT_A_TIME, objects.holding(self._held), environment.ours():
        export.save(self._study, self._trained, folder)
    except StudyError as error:
      raise StudyError(without_flags(str(error))) from error.__cause__
    return folder

  def _checked(self, images: Any) -> np.ndarray:
    images, shape = np.asarray(images), self._stored.shape
    dtype = np.dtype(self._stored.dtype)
    if images.shape[1:] != shape or not images.ndim:
      raise StudyError(
        f'predict was given an array of shape {images.shape}; the study has samples of {shape}, '
        f'so it takes (samples, {", ".join(map(str, shape))})'
      )
    if not len(images):
      return images
    with progress.quiet():
      images = arrays.as_samples('predict', images)
    if images.dtype != dtype:
      raise StudyError(
        f'predict was given {images.dtype}, but the study was trained on {dtype}; uint8 means '
        'values from 0 to 255: convert one of them'
      )
    return images

  def __repr__(self) -> str:
    return f'Best(learning_rate={formats.rate(self.learning_rate)}, seed={self.result.seed})'


class _Curves(NamedTuple):
  """The curves of a setting's trials, as in `History`, but in memory."""

  steps: dict[str, np.ndarray]  # (steps, trials)
  epochs: dict[str, np.ndarray]  # (epochs, trials)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Study:
  """A finished study. Print it for its answer; a notebook shows its table, too.

  Attributes:
    verdict: the answer; it prints as a sentence. `learning_rate` is None if no rate can be used.
    verdicts: one for each setting, a combination of values on the axes.
    trials: the result of each trial, in the order of the columns of `curves`.
    curves: by name; NaN where a trial has no value, for example after it diverged. Of each step's
      batch, float32 (steps, trials): 'loss', 'accuracy' and 'gradient_norm'. Of each epoch, float64
      (epochs, trials): 'train_loss', 'validation_loss', 'validation_accuracy' and others. Losses
      are in nats, accuracies are fractions. Trials with fewer steps have NaN at the end.
    record: the config, versions, device, data and times, as in results.json.
    workdir: where the study is kept; None if it is only in memory.
  """

  verdict: Verdict
  verdicts: tuple[Verdict, ...]
  trials: tuple[Result, ...]
  curves: Mapping[str, np.ndarray]
  record: Mapping[str, Any]
  workdir: Path | None
  _of_settings: tuple[_Curves, ...]
  _find_best: Any  # () -> Best

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return tuple(self.record['data']['classes'])

  @property
  def labels(self) -> tuple[str, ...]:
    """A label for each trial, in the order of the columns of `curves`: '1e-03, seed 0'."""
    found = [result.setting for result in self.trials]
    titles = [rounds.title(setting, found) for setting in found]
    names = [f'{formats.rate(r.learning_rate)}, seed {r.seed}' for r in self.trials]
    return tuple(', '.join(filter(None, of)) for of in zip(names, titles, strict=True))

  @property
  def best(self) -> Best:
    """The trial with the recommended rate; of several seeds, the best one.

    Raises:
      StudyError: no rate can be used, or the weights are lost.
    """
    return self._find_best()

  def table(self) -> 'pd.DataFrame | list[dict[str, Any]]':
    """One row per trial with the columns of results.csv: a DataFrame if pandas is installed."""
    rows = [report.as_row(dataclasses.asdict(result)) for result in self.trials]
    try:
      pandas = importlib.import_module('pandas')
    except ImportError:
      return rows
    return pandas.DataFrame(rows)

  def plot(self, verdict: Verdict | None = None) -> Figure:
    """Plots the loss and the leading measure over the epochs, one line per rate.

    If the study has several settings, the title says which one is drawn; `plot_axis` has them all.

    Args:
      verdict: one of `verdicts`, whose setting is drawn; by default that of the answer.

    Returns:
      A Matplotlib figure.
    """
    verdict = verdict or self.verdict
    settings = [of.setting for of in self.verdicts]
    place = settings.index(verdict.setting)
    with drawing.style():
      figure = curves.all_rates(
        curves.Trials(
          self._of_settings[place],  # type: ignore[arg-type]  # has what is drawn of a History
          [result for result in self.trials if result.setting == verdict.setting],
          self.verdict.leads,
          self.record['guessing_loss'],
          verdict.learning_rate,
          {result.learning_rate for result in self.trials},
        ),
        rounds.title(verdict.setting, settings),
      )
    return _in_notebooks(figure)

  def plot_axis(self, axis: str | None = None, verdict: Verdict | None = None) -> Figure:
    """Plots the leading measure at each rate and each value of an axis, as a heat map.

    A number is the mean over seeds, a cross says that all diverged, and a frame marks the best rate
    of each value. If further axes vary, the title says at which of their values this is.

    Args:
      axis: such as 'optimizer.weight_decay' or 'batch_size'; by default the only one that varies.
      verdict: one of `verdicts`, which has the values on further axes; by default the answer.

    Returns:
      A Matplotlib figure.

    Raises:
      StudyError: the study has no such axis, or several and `axis` does not name one.
    """
    settings = [of.setting for of in self.verdicts]
    axis = self._axis(axis, list(effects.varied(settings)))
    verdict = verdict or self.verdict
    other = rounds.without(verdict.setting, axis)
    others = [rounds.without(setting, axis) for setting in settings]
    drawn = [r for r in self.trials if rounds.without(r.setting, axis) == other]
    with drawing.style():
      figure = matrices.heat_map(drawn, axis, self.verdict.leads, rounds.title(other, others))
    return _in_notebooks(figure)

  def _axis(self, axis: str | None, varied: Sequence[str]) -> str:
    """The axis to plot, or an error that lists those that vary."""
    if axis is not None and axis in varied:
      return axis
    if axis is None and len(varied) == 1:
      return varied[0]
    if not varied:
      raise StudyError('the study has no axis except rate and seed; `plot` draws its curves')
    names = ', '.join(map(repr, varied))
    if axis is None:
      raise StudyError(f'the study has several axes; name one of {names}')
    raise StudyError(f'axis is {axis!r}; it must be one of {names}')

  def __str__(self) -> str:
    return self.verdict.sentence

  def __repr__(self) -> str:
    return f'<Study of {formats.count(len(self.trials), "trial")}: {self.verdict.sentence}>'

  def _repr_html_(self) -> str:
    """The answer, and a table with a row per setting and rate."""
    measure, settings = self.verdict.leads, [of.setting for of in self.verdicts]
    names = tables.dimensions(settings)
    heads = [*names, 'rate', measure.name, f'{confidence.STATED} interval']
    heads += ['probability of being the best', 'status']
    lines = [f'<p><b>{html.escape(self.verdict.sentence)}</b></p><table><thead><tr>']
    lines += [f'<th>{html.escape(head)}</th>' for head in heads] + ['</tr></thead><tbody>']
    for verdict in self.verdicts:
      own = [r for r in self.trials if r.setting == verdict.setting]
      for row in tables.rates(own, verdict):
        cells = [*(of(verdict.setting) for of in names.values()), *row[:-1]]
        tag = 'b' if row.may_be_best else 'span'
        shown = (f'<td><{tag}>{html.escape(cell)}</{tag}></td>' for cell in cells)
        lines.append(f'<tr>{"".join(shown)}</tr>')
    return '\n'.join([*lines, '</tbody></table>', '<p>In bold: may be the best.</p>'])


def load(workdir: Path, held: Mapping[str, Held], keep: bool = False, moved: Moved = ()) -> Study:
  """Reads a finished study into memory.

  Args:
    workdir: its folder.
    held: the objects that its config names.
    keep: read the best trial's weights now, because the folder will be deleted.
    moved: see `evaluate.read_study`.

  Raises:
    StudyError: it is not finished, or damaged.
  """
  results, answer, content = evaluate.read_results(workdir)
  verdicts = report.of_settings(content)
  curves = {
    setting: _copied(open_joined(workdir / 'history' / rounds.label(setting, verdicts)))
    for setting in verdicts
  }

  held = {**held, **objects.no_arrays()}  # or the data would stay as long as the study

  def find_best() -> Best:
    try:
      with ONE_AT_A_TIME, objects.holding(held):
        trained = evaluate.load(workdir, moved=moved)
        return Best(trained, evaluate.read_study(workdir, moved), held)
    except StudyError as error:
      raise StudyError(without_flags(str(error))) from None

  found: Callable[[], Best] = functools.cache(find_best)
  if keep:
    try:
      found()
    except StudyError as error:
      found = functools.partial(_fail, str(error).replace(f'{workdir}: ', ''))
  return Study(
    verdict=_in_python(answer),
    verdicts=tuple(map(_in_python, verdicts.values())),
    trials=tuple(results),
    curves=_by_trial(results, curves),
    record=content['study'],
    workdir=None if keep else workdir,
    _of_settings=tuple(curves.values()),
    _find_best=found,
  )


def _fail(message: str) -> Best:
  raise StudyError(message)


def _in_python(verdict: Verdict) -> Verdict:
  return dataclasses.replace(verdict, sentence=without_flags(verdict.sentence))


def _copied(history: History) -> _Curves:
  return _Curves(
    *(
      {name: np.array(curve) for name, curve in of.items()}
      for of in (history.steps, history.epochs)
    )
  )


def _by_trial(
  results: Sequence[Result], curves: Mapping[rounds.Setting, _Curves]
) -> dict[str, np.ndarray]:
  """The curves of all settings, one column per result."""
  found, columns = {}, dict.fromkeys(curves, 0)
  for i, result in enumerate(results):
    column, own = columns[result.setting], curves[result.setting]
    columns[result.setting] += 1
    for kind in ('steps', 'epochs'):
      for name, curve in getattr(own, kind).items():
        if name not in found:
          rows = max(len(getattr(of, kind)[name]) for of in curves.values())
          found[name] = np.full((rows, len(results)), np.nan, curve.dtype)
        found[name][: len(curve), i] = curve[:, column]
  return found


def _in_notebooks(figure: Figure) -> Figure:
  """The figure, which shows itself in a notebook without pyplot."""
  figure._repr_png_ = functools.partial(_png, figure)
  return figure


def _png(figure: Figure) -> bytes:
  stream = io.BytesIO()
  figures.save(figure, stream, settings={'savefig.dpi': 110})  # of a screen; a file has more
  return stream.getvalue()
