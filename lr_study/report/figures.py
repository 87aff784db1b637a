"""The figures of a study: built once, then saved as PNG, PDF and SVG."""

import io
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure

from lr_study.answer.verdict import Result, Verdict
from lr_study.files import workdir
from lr_study.files.history import History
from lr_study.report import by_rate, curves, drawing
from lr_study.report.by_rate import measured, when

__all__ = ['FORMATS', 'build', 'capital', 'draw', 'measured', 'save', 'when']

FORMATS = ('png', 'pdf', 'svg')


def build(
  history: History,
  results: Sequence[Result],
  verdict: Verdict,
  heights: Callable[[np.ndarray], np.ndarray],
  guessing_loss: float,
  rates: Collection[float] = (),
  in_detail: bool = True,
) -> dict[str, Figure]:
  """Every figure of a finished study, by its name; `draw` turns them into files.

  all_rates: loss and accuracy, or the measure that leads, in training and in validation.
  accuracy_by_rate: that measure at the end against the rate.
  rate_by_rate: in detail, a panel for each rate; unless all diverged at once.
  schedule: in detail, each rate over the epochs.
  sharpness: where it was measured, sharpness and its edge over the epochs.

  Args:
    history: of the trials of a setting.
    results: of these trials, in the order of its columns.
    verdict: on them.
    heights: of the schedule at steps, both (steps,).
    guessing_loss: what guessing reaches.
    rates: of the whole study, as a rate has one colour in it; by default those of the results.
    in_detail: False: two figures less, which take as long as the others.
  """
  rates = tuple(rates) or tuple({result.learning_rate for result in results})
  trials = curves.Trials(
    history, results, verdict.leads, guessing_loss, verdict.learning_rate, rates
  )
  parts: dict[str, tuple[Any, ...]] = {
    'all_rates': (curves.all_rates, trials),
    'accuracy_by_rate': (by_rate.figure, results, verdict, guessing_loss),
  }
  if in_detail:
    parts['rate_by_rate'] = (curves.rate_by_rate, trials)
    parts['schedule'] = (curves.schedule, trials, heights)
  if np.isfinite(history.epochs['sharpness']).any():
    parts['sharpness'] = (curves.sharpness, trials)
  with drawing.style():
    found = {name: drawing.attempt(name, *part) for name, part in parts.items()}
  return {name: figure for name, figure in found.items() if figure is not None}


def save(
  figure: Figure,
  target: Path | IO,
  image_format: str = 'png',
  settings: Mapping[str, Any] | None = None,
) -> None:
  """Writes a figure to a file or a stream, as 'png', 'pdf' or 'svg', by further settings.

  The same figure gives the same bytes: none of them holds the time.
  """
  with drawing.style(further=settings), warnings.catch_warnings():
    # Names of classes may be in any script; what the typeface lacks is a box.
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    dates = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}.get(image_format)
    cut = None if figure.get_layout_engine() else 'tight'
    # It makes ticks, and reads sizes, only now.
    figure.savefig(target, format=image_format, metadata=dates, bbox_inches=cut)


def draw(folder: Path, figures: Mapping[str, Figure], formats: Sequence[str] = FORMATS) -> None:
  """Saves every figure into `folder` by its name, in each of the formats."""
  for name, figure in figures.items():
    drawing.attempt(name, _draw, folder / name, figure, formats)


def _draw(stem: Path, figure: Figure, formats: Sequence[str]) -> None:
  files = {}
  for image_format in formats:
    stream = io.BytesIO()
    save(figure, stream, image_format)
    files[image_format] = stream.getvalue()
  stem.parent.mkdir(parents=True, exist_ok=True)
  for image_format, content in files.items():
    workdir.write_bytes(stem.with_name(f'{stem.name}.{image_format}'), content)


def capital(text: str) -> str:
  """The text with its first letter as a capital."""
  return text[:1].upper() + text[1:]
