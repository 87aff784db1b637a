"""How Sphinx builds this site: sphinx-build -W docs docs/_build/html"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# The notebook runs in a Python of its own.
os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])

import lr_study  # noqa: E402
from lr_study import plugs, reference  # noqa: E402

project = 'lr_study'
author = copyright = 'The lr_study authors'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']
suppress_warnings = ['mystnb.unknown_mime_type']  # of a progress bar

html_theme = 'furo'
html_title = 'lr_study'
html_static_path = ['_static']
html_css_files = ['site.css']

myst_heading_anchors = 3

nb_execution_mode = 'cache'  # the notebook runs again only if it changed
nb_execution_cache_path = str(ROOT / 'docs/_build/.jupyter_cache')
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

# Docstrings have `name` in single backquotes.
default_role = 'code'
autodoc_typehints = 'description'
autodoc_member_order = 'bysource'


def _api() -> str:
  """The page of all public names."""
  text = [
    '# Python API',
    '',
    'What `import lr_study` offers. Modules, functions and arrays of your own go where a config',
    'has names.',
  ]
  kinds = {
    name: 'autoclass' if isinstance(getattr(lr_study, name), type) else 'autofunction'
    for name in lr_study.__all__
  }
  for name, kind in sorted(kinds.items(), key=lambda of: of[1], reverse=True):
    text += ['', f'## {name}', '', '```{eval-rst}', f'.. {kind}:: lr_study.{name}']
    text += ['   :members:', '```'] if kind == 'autoclass' else ['```']
  return '\n'.join(text) + '\n'


def _table(fields) -> list[str]:
  """The rows of fields: name, default, what it is for."""
  rows = ['', '| field | default | what it is for |', '| --- | --- | --- |']
  for field in fields:
    default = '' if field.default is plugs.REQUIRED else f'`{field.default!r}`'
    rows.append(f'| `{field.name}` | {default} | {_escaped(field.about)} |')
  return [*rows, '']


def _escaped(text: str) -> str:
  for sign in '|*<[':
    text = text.replace(sign, f'\\{sign}')
  return text


def _config() -> str:
  """The page of all fields of a config."""
  text = [
    '# Config reference',
    '',
    'Every field can be set on the command line, as `--config.NAME=VALUE`. To print the fields of',
    'a config with their values, use `lr-study sweep --config FILE --help_config`. Where a field',
    'has no default, the config has to set it.',
    '',
    '## The study',
    *_table(reference.of_study()),
  ]
  for section in plugs.MODULES:
    common = {f'{section}.{name}' for name in plugs.common(section)}
    text += [f'## {section}', '']
    if common:
      of_first = reference.of_plug(section, next(iter(plugs.known(section))))
      text += ['Fields for every name:', *_table(f for f in of_first if f.name in common)]
    for name in plugs.known(section):
      own = [f for f in reference.of_plug(section, name) if f.name not in common]
      text += [f'### {section}: {name}', '', _escaped(reference.summary(section, name))]
      text += _table(own) if own else ['']
  return '\n'.join(text)


# Pages whose text is made here. What Git has of them says where to look in a checkout.
GENERATED = {'api': _api, 'config': _config}


def _read(app, name: str, source: list[str]) -> None:
  """Changes the text of a page before Sphinx reads it."""
  if name in GENERATED:
    source[0] = GENERATED[name]()
  else:  # the site has a copy of the notebook
    source[0] = source[0].replace('](../examples/library.ipynb)', '](library.ipynb)')


def setup(app) -> None:
  """Connects what is made here; leaves out what Python says of the fields of a named tuple."""

  def skip(app, what, name, member, is_skipped, options):
    return is_skipped or str(getattr(member, '__doc__', '')).startswith('Alias for field number')

  app.connect('autodoc-skip-member', skip)
  app.connect('source-read', _read)


shutil.copyfile(ROOT / 'examples/library.ipynb', ROOT / 'docs/library.ipynb')  # Git ignores it
