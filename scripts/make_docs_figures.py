"""Draws the pictures in docs/, and tells which are older than the code that draws them.

python scripts/make_docs_figures.py                    all, from what is committed in docs/
python scripts/make_docs_figures.py --check            draws nothing; names what is out of date
python scripts/make_docs_figures.py --take=WORKDIR --into=docs/quick
                                                       keeps a study's results and curves there
python scripts/make_docs_figures.py --layers=WORKDIR   layers.png, by the weights of its best trial
python scripts/make_docs_figures.py --page=WORKDIR     report_light.png and report_dark.png, by
                                                       Chromium; they have no stamp
"""

import argparse
import ast
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from lr_study.answer.verdict import Result, Verdict  # noqa: E402
from lr_study.data.letters import render  # noqa: E402
from lr_study.files.history import open_joined, window_means  # noqa: E402
from lr_study.report import by_rate, drawing, figures, matrices, report  # noqa: E402
from lr_study.search import climb, rounds  # noqa: E402
from lr_study.use import evaluate, explain  # noqa: E402

DOCS = ROOT / 'docs'
STAMPS = DOCS / 'pictures.json'
_WINDOWS = 75  # of a curve that is kept: as many points as figures have
_STEPS, _EPOCHS = ('loss', 'accuracy'), ('train_loss', 'validation_loss', 'validation_accuracy')
_FIGURES = ('drawing', 'plotting', 'style', 'figures', 'curves', 'by_rate')
_STUDY = [f'report/{name}.py' for name in _FIGURES]
_LAYERS = 'picture _draw_top _describe _draw_tiles _draw_bars _draw_spread _mosaic _scale'
# picture: the code that draws it, a module or some of its functions, and what it is drawn from.
PICTURES = {
  'quick/accuracy_by_rate.png': (_STUDY, ['quick/results.json']),
  'quick/all_rates.png': (_STUDY, ['quick/results.json', 'quick/curves.npz']),
  'quick/rate_by_rate.png': (_STUDY, ['quick/results.json', 'quick/curves.npz']),
  'photos/accuracy_by_rate.png': (_STUDY, ['photos/results.json']),
  'batch_sizes.png': ([*_STUDY, 'report/matrices.py'], ['batch_sizes/results.json']),
  'range_test.png': (
    [*_STUDY, 'search/climb.py:save'],
    ['quick/results.json', 'quick/range_test.json'],
  ),
  'letters.png': (['data/letters/render.py'], []),
  'layers.png': ([f'use/explain.py:{_LAYERS}'], []),
}


def stamp(picture: str) -> str:
  """A hash of what a picture is made of: code without its comments and docstrings, and data."""
  code, data = PICTURES[picture]
  found = hashlib.sha256()
  for name in code:
    file, _, functions = name.partition(':')
    tree = ast.parse((ROOT / 'lr_study' / file).read_text())
    if functions:
      tree.body = [n for n in tree.body if getattr(n, 'name', '') in functions.split()]
    for node in ast.walk(tree):
      body = getattr(node, 'body', None)
      docstring = isinstance(body, list) and body and isinstance(body[0], ast.Expr)
      if docstring and isinstance(body[0].value, ast.Constant):
        del body[0]
    found.update(ast.dump(tree).encode())
  for name in data:
    file = DOCS / name
    found.update(file.read_bytes() if file.exists() else b'')
  return found.hexdigest()[:16]


def outdated() -> list[str]:
  """The pictures that are missing, or older than what they are made of."""
  known = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
  return [name for name in PICTURES if known.get(name) != stamp(name) or not (DOCS / name).exists()]


def stamp_all(names: list[str]) -> None:
  """Notes that these pictures are as the code now draws them."""
  known = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
  known |= {name: stamp(name) for name in names}
  STAMPS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + '\n')


def take(workdir: Path, into: Path) -> None:
  """Keeps the results of a finished study and, if it has one setting, windows of its curves."""
  into.mkdir(parents=True, exist_ok=True)
  shutil.copy(workdir / 'results.json', into)
  if (workdir / 'range_test.json').exists():
    shutil.copy(workdir / 'range_test.json', into)
  if len(report.of_settings(report.read_content(workdir))) > 1:
    return
  history = open_joined(workdir / 'history')
  window = len(history.steps['loss']) // _WINDOWS
  # Float32 holds less than what a diverging loss may be the mean of.
  steps = {n: window_means(np.asarray(history.steps[n]), window)[1] for n in _STEPS}
  np.savez_compressed(
    into / 'curves.npz',
    steps=len(history.steps['loss']),
    window=window,
    **{f'step_{n}': np.clip(curve, -1e6, 1e6).astype(np.float32) for n, curve in steps.items()},
    **{f'epoch_{n}': np.float32(history.epochs[n]) for n in _EPOCHS},
  )


def kept(folder: Path) -> SimpleNamespace:
  """The curves of `take` as a history: each step has the mean of its window."""
  with np.load(folder / 'curves.npz') as file:
    steps, window = int(file['steps']), int(file['window'])
    of_steps = {n: np.repeat(file[f'step_{n}'], window, 0)[:steps] for n in _STEPS}
    of_epochs = {n: file[f'epoch_{n}'] for n in _EPOCHS}
  of_epochs['sharpness'] = np.full_like(of_epochs['train_loss'], np.nan)
  return SimpleNamespace(steps=of_steps, epochs=of_epochs)


def results_in(folder: Path) -> tuple[list[Result], Verdict, dict]:
  """The results, the answer and all else of a study in docs/.

  The one of photographs was run before studies kept all of these fields.
  """
  content = json.loads((folder / 'results.json').read_text())
  config = content['study']['config']
  setting = {'batch_size': config['batch_size'], 'schedule': config['schedule']['name'], 'axes': {}}
  judged = setting | {'measure': 'validation_accuracy', 'intervals': {}} | content['verdict']
  content['study'].setdefault('guessing_loss', np.log(len(content['study']['data']['classes'])))
  results = [Result(**rounds.record_of(setting | trial)) for trial in content['trials']]
  return results, Verdict(**rounds.record_of(judged)), content['study']


def draw_study(name: str) -> None:
  """The figures in docs/NAME of the study there."""
  folder = DOCS / name
  results, verdict, study = results_in(folder)
  guessing = study['guessing_loss']
  if not (folder / 'curves.npz').exists():
    with drawing.style():
      _save(folder, {'accuracy_by_rate': by_rate.figure(results, verdict, guessing)})
    return
  drawn = figures.build(kept(folder), results, verdict, np.ones_like, guessing)
  wanted = {Path(of).stem for of in PICTURES if of.startswith(f'{name}/')}
  _save(folder, {stem: figure for stem, figure in drawn.items() if stem in wanted})


def draw_batch_sizes() -> None:
  """The heat map of docs/batch_sizes."""
  results, verdict, _ = results_in(DOCS / 'batch_sizes')
  drawn = matrices.build(results, (), None, verdict.leads)
  _save(DOCS, {'batch_sizes': drawn['rate_and_batch_size']})


def draw_range_test() -> None:
  """The curve of docs/quick/range_test.json."""
  found = json.loads((DOCS / 'quick' / 'range_test.json').read_text())
  losses = np.asarray([np.nan if loss is None else loss for loss in found['losses']])
  _, verdict, _ = results_in(DOCS / 'quick')
  with tempfile.TemporaryDirectory() as folder:
    of = climb.Climb(np.asarray(found['learning_rates']), losses, found['suggested'])
    climb.save(of, verdict, Path(folder) / 'range_test.png')
    shutil.copy(Path(folder) / 'range_test.png', DOCS)


def draw_letters() -> None:
  """Five of each letter of the published experiment."""
  letters, size = 'ABCEHNORST', 72
  rows = [[render.render(0, letter, row, size) for letter in letters] for row in range(5)]
  sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
  Image.fromarray(sheet).save(DOCS / 'letters.png')


def draw_layers(workdir: Path) -> None:
  """What the layers of a study's best trial make of one rendered letter."""
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / 'stone_R.jpg'
    Image.fromarray(render.render(9, 'R', 3, 128)).save(file, quality=95)
    explain.draw(evaluate.load(workdir), [str(file)], Path(folder))
    shutil.copy(Path(folder) / 'layers.png', DOCS)


def draw_page(workdir: Path) -> None:
  """The first screen of a study's report, in light and dark."""
  program = next(filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chrome'))), None)
  if program is None:
    sys.exit('Chromium is not installed')
  for number, scheme in enumerate(('dark', 'light')):
    command = [
      program, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
      f'--blink-settings=preferredColorScheme={number}', '--window-size=1280,1530',
      '--virtual-time-budget=5000',
      f'--screenshot={DOCS / f"report_{scheme}.png"}', (workdir / 'report.html').resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def _save(folder: Path, drawn: dict) -> None:
  for name, figure in drawn.items():  # for a page: a file in a study's folder has 300 dpi
    figures.save(figure, folder / f'{name}.png', settings={'savefig.dpi': 200})


def main() -> None:
  """Does what the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--check', action='store_true')
  for name in ('take', 'into', 'layers', 'page'):
    parser.add_argument(f'--{name}', type=Path)
  given = parser.parse_args()
  if given.check:
    sys.exit(''.join(f'docs/{name} is out of date\n' for name in outdated()) or 0)
  if given.take:
    take(given.take, given.into)
  if given.page:
    draw_page(given.page)
  if given.layers:
    draw_layers(given.layers)
    stamp_all(['layers.png'])
  if given.take or given.page or given.layers:
    return
  for study in ('quick', 'photos'):
    draw_study(study)
  draw_batch_sizes()
  draw_range_test()
  draw_letters()
  stamp_all([name for name in PICTURES if name != 'layers.png'])


if __name__ == '__main__':
  main()
