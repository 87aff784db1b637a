"""docs/studies.md, made from what is committed under results/."""

from lr_study import configs
from lr_study.studies import reproduce

FILE = configs.FOLDER.parent / 'docs' / 'studies.md'
# From the experiment that lr_study rebuilds to what is further from it; others come last.
_ORDER = (
  'published_100', 'published_table', 'batch_size', 'width', 'warm_up', 'schedules', 'optimizers',
  'edge_of_stability', 'range_test', 'seeds', 'boundary',
)  # fmt: skip
_START = """\
# Studies

The published experiment that lr_study rebuilds, and then what else is published about learning
rates, tried on a small scale: ten classes of rendered letters, 16 pixels wide, and small networks,
in minutes on two cores. Each study is a config of at most 60 lines in `configs/studies/`, and a
module in `lr_study/studies/` that turns its trials into the sentences and the figure below.
Results, with all trials, are in `results/`. A small network on small images says little about a
large one: what agrees with a source here agrees at this size.

To run a study anew and compare it with what is shown here:

```bash
python scripts/reproduce.py batch_size
```

To analyse the committed trials again without training, add `--stored`. With `--full`, a study has
more seeds, images and steps, for a GPU; that has not been run for those without a section of it
below. To change a study for a paper of your own, copy its two files. Intervals are 95 %.

<!-- Made by `python scripts/reproduce.py STUDY --write`; a test compares it with results/. -->
"""


def committed() -> list[str]:
  """The names of the studies with committed results, in the order of the page."""
  found = [name for name in reproduce.names() if reproduce.results_of(name).is_dir()]
  return sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def text() -> str:
  """The page."""
  parts = [_START, '| question | answer here | agrees with the source |', '| --- | --- | --- |']
  sections = []
  for name in committed():
    found, title = reproduce.stored(name), reproduce.question(name)
    first = found.claims[0]
    anchor = ''.join(c for c in title.lower().replace(' ', '-') if c.isalnum() or c == '-')
    parts.append(f'| [{title}](#{anchor}) | {first.sentence} | {reproduce.agreement(first)} |')
    sections += ['', f'## {title}', '', *_section(name, found)]
  return '\n'.join([*parts, *sections, ''])


def _section(name: str, found: reproduce.Reproduced) -> list[str]:
  title = reproduce.question(name)
  lines = [reproduce.docstring(name).partition('\n')[2].strip(), '', *_found(name, found)]
  if reproduce.results_of(name, full=True).is_dir():
    full = reproduce.stored(name, full=True)
    lines += ['', f'### {title} At full size', '', *reproduce.size_of(name, full)]
    lines += _found(name, full, full=True)
  return lines


def _found(name: str, found: reproduce.Reproduced, full: bool = False) -> list[str]:
  """The figures, the claims, and how it was run."""
  lines = []
  folder = reproduce.results_of(name, full)
  for path in sorted(folder.glob('*.png'), key=lambda p: p.stem != name):
    where = path.relative_to(reproduce.RESULTS.parent).as_posix()
    lines += [f'![{reproduce.question(name)}](../{where})', '']
  return [*lines, *reproduce.claims_table(found.claims), '', reproduce.ran(found)]
