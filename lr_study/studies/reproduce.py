"""Runs the studies of configs/studies/, and writes and reads what is committed of them."""

import ast
import dataclasses
import importlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from lr_study import configs, finished, study
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.files import provenance, workdir
from lr_study.plugs import nearest
from lr_study.progress import note
from lr_study.report import drawing, figures
from lr_study.studies import table
from lr_study.studies.claims import Claim
from lr_study.studies.table import Table
from lr_study.vectorize import keep_compiled_programs

RESULTS = configs.FOLDER.parent / 'results'
_DPI = 200


@dataclasses.dataclass(frozen=True)
class Reproduced:
  """What a run of a study found.

  Attributes:
    about: config, commit, machine, versions, and the seconds of each part.
    tables: by the name of the part.
    claims: what the study found.
  """

  about: Mapping[str, Any]
  tables: Mapping[str, Table]
  claims: Sequence[Claim]


def names() -> list[str]:
  """The names of all studies."""
  return sorted(path.stem for path in (configs.FOLDER / 'studies').glob('[!_]*.py'))


def config_of(name: str) -> ModuleType:
  """The module of a study's config: its docstring, PARTS and get_config(part).

  Raises:
    StudyError: there is no such study.
  """
  if name not in names():
    hint = nearest(name, names()) or f'; the studies: {", ".join(names())}'
    raise StudyError(f'{name}: no such study{hint}')
  return importlib.import_module(f'lr_study.configs.studies.{name}')


def analysis_of(name: str) -> ModuleType:
  """The module that turns a study's trials into claims and figures; see studies/__init__.py."""
  return importlib.import_module(f'lr_study.studies.{name}')


def results_of(name: str, full: bool = False) -> Path:
  """The folder with what is committed of a study, or of its full size."""
  return RESULTS / name / 'full' if full else RESULTS / name


def parts_of(name: str, full: bool = False) -> Mapping[str, ConfigDict]:
  """The config of each part of a study, by its name.

  Args:
    name: of the study.
    full: at the size for a GPU: with the module's FULL, and its FULL_PARTS if it has them.
  """
  module = config_of(name)
  parts = getattr(module, 'FULL_PARTS', module.PARTS) if full else module.PARTS
  found = {part: module.get_config(part) for part in parts}
  for config in found.values() if full else ():
    config.update(module.FULL)
  return found


def run(name: str, folder: Path, full: bool = False) -> Reproduced:
  """Runs a study, or continues it, and analyses it.

  Args:
    name: of the study.
    folder: gets a work directory for each part.
    full: at the size for a GPU.
  """
  analysis = analysis_of(name)
  keep_compiled_programs()
  tables, seconds = {}, {}
  for part, config in parts_of(name, full).items():
    note(f'{name}: part {part}')
    trained = train(config, folder / part)
    own = analysis.columns(trained) if hasattr(analysis, 'columns') else {}
    tables[part] = table.of_study(trained, getattr(analysis, 'CURVES', ()), own)
    seconds[part] = trained.record['seconds']
  if hasattr(analysis, 'measured'):
    started = time.monotonic()
    tables |= analysis.measured(folder, full)
    seconds['measured'] = round(time.monotonic() - started, 1)
  about = {
    'config': f'configs/studies/{name}.py',
    'command': f'python scripts/reproduce.py {name}{" --full" if full else ""}',
    'machine': provenance.machine(),
    'seconds': seconds,
  }
  return Reproduced(about, tables, analysis.claims(tables))


def train(config: Any, folder: Path) -> finished.Study:
  """Trains one part of a study in its work directory, or reads it, without its report."""
  config = study.as_begun(check(config), folder)
  with workdir.held(folder):
    study.carry_out(config, folder, reports=False)
  return finished.load(folder, {})


def stored(name: str, full: bool = False) -> Reproduced:
  """What is committed of a study, or of its full size.

  Raises:
    StudyError: nothing is.
  """
  config_of(name)
  path = results_of(name, full) / 'results.json'
  if not path.exists():
    raise StudyError(f'{path} does not exist, so there is nothing to compare with; add --write')
  content = json.loads(path.read_text('utf-8'))
  return Reproduced(
    content['study'],
    {part: table.from_json(of) for part, of in content['parts'].items()},
    [Claim(**claim) for claim in content['claims']],
  )


def write(name: str, found: Reproduced, full: bool = False) -> None:
  """Writes results.json, summary.md and the figures of a study into its folder under results/."""
  folder = results_of(name, full)
  folder.mkdir(parents=True, exist_ok=True)
  content = {
    'study': dict(found.about),
    'claims': [claim.as_json() for claim in found.claims],
    'parts': {part: of.as_json() for part, of in found.tables.items()},
  }
  text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(',', ':'))
  workdir.write_text(folder / 'results.json', text.replace('},"', '},\n"') + '\n')
  drawn = draw(name, found)
  for stem, figure in drawn.items():
    save(figure, folder / f'{stem}.png')
  workdir.write_text(folder / 'summary.md', summary(name, found, list(drawn)))


def save(figure: Figure, path: Path) -> None:
  """Writes a figure as PNG with a palette of 256 colours, which is a third of the size."""
  stream = io.BytesIO()
  figures.save(figure, stream, settings={'savefig.dpi': _DPI})
  with Image.open(stream) as image:
    image.convert('RGB').quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw(name: str, found: Reproduced) -> dict[str, Figure]:
  """The figures of a study, by name."""
  with drawing.style():
    return analysis_of(name).figures(found.tables)


def question(name: str) -> str:
  """The question of a study: the first line of its config's docstring."""
  return docstring(name).partition('\n')[0]


def docstring(name: str) -> str:
  """The docstring of a study's config."""
  path = configs.FOLDER / 'studies' / f'{name}.py'
  return ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''


def summary(name: str, found: Reproduced, drawn: Sequence[str]) -> str:
  """The page of a study, in Markdown: its question, its figures, its claims, how it was run."""
  title, _, rest = docstring(name).partition('\n')
  pictures = [line for stem in drawn for line in (f'![{title}]({stem}.png)', '')]
  lines = [
    f'# {title}',
    '',
    rest.strip(),
    '',
    *size_of(name, found),
    *pictures,
    *claims_table(found.claims),
    '',
  ]
  return '\n'.join([*lines, ran(found), ''])


def size_of(name: str, found: Reproduced) -> list[str]:
  """Lines on what a run at full size has in place of what the docstring says; else none."""
  if not found.about['command'].endswith(' --full'):
    return []
  fields = ', '.join(f'{field} = {value}' for field, value in config_of(name).FULL.items())
  return [f'This is the full size, where these differ: {fields}.', '']


def claims_table(claims: Sequence[Claim]) -> list[str]:
  """The lines of a table of claims, in Markdown."""
  return [
    '| found | published | agrees |',
    '| --- | --- | --- |',
    *(f'| {of.sentence} | {of.source or "–"} | {agreement(of)} |' for of in claims),
  ]


def ran(found: Reproduced) -> str:
  """How a study was run: the command, trials, minutes, machine and commit."""
  about, machine = found.about, found.about['machine']
  trials = sum(of.about.get('trials', len(of)) for of in found.tables.values())
  minutes = sum(about['seconds'].values()) / 60
  return (
    f'`{about["command"]}`: {trials:,} trials in {minutes:.0f} min on {machine["cores"]} cores '
    f'({machine["cpu"].strip()}, JAX {machine["jax"]}), commit {str(machine["commit"])[:9]}.'
  )


def agreement(claim: Claim) -> str:
  """Whether a claim agrees with its source: 'yes', 'no', 'cannot tell', or '–' if it has none."""
  unknown = 'cannot tell' if claim.source else '–'
  return {True: 'yes', False: 'no', None: unknown}[claim.agrees]
