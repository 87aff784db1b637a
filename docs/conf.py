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

project = 'lr_study'
author = copyright = 'The lr_study authors'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']
suppress_warnings = ['mystnb.unknown_mime_type']  # of a progress bar

html_theme = 'furo'
html_title = 'lr_study'

myst_enable_extensions = ['dollarmath']
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


def _write_api() -> None:
  """The page of all public names, api.md, which Git ignores."""
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
  (ROOT / 'docs/api.md').write_text('\n'.join(text) + '\n')


def setup(app) -> None:
  """Leaves out what Python itself says of the fields of a named tuple."""

  def skip(app, what, name, member, is_skipped, options):
    return is_skipped or str(getattr(member, '__doc__', '')).startswith('Alias for field number')

  app.connect('autodoc-skip-member', skip)


shutil.copyfile(ROOT / 'examples/library.ipynb', ROOT / 'docs/library.ipynb')  # Git ignores it
_write_api()
