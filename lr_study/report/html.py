"""Pages from the templates in templates/: what strangers have named is escaped."""

import base64
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lr_study import errors, formats
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.report import colours

_TEMPLATES = Path(__file__).with_name('templates')
_CHARTS = ('charts.js', 'measures.js', 'controls.js')
_BOKEH = ('bokeh.min.js', 'bokeh-api.min.js')  # in its package


def render(
  template: str,
  charts: Mapping[str, Any] | None = None,
  scripts: tuple[str, ...] = (),
  **content: Any,
) -> str:
  """A page from a file of templates/; text is made printable and escaped, unless it is Markup.

  Args:
    template: the file.
    charts: what charts.js draws, as JSON takes it; None for a page without charts.
    scripts: further files of templates/ that run in the page.
    content: what the template names.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    finalize=lambda x: formats.printable(x) if type(x) is str else x,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['unbroken'] = _unbroken
  environment.filters['breakable'] = _breakable
  own = ('page.js', *scripts, *(_CHARTS if charts else ()))
  texts = [(_TEMPLATES / name).read_text() for name in own]
  texts = [*(_bokeh() if charts else ()), *texts]
  return environment.get_template(template).render(
    content,
    paper=colours.PAPER,
    ink=colours.INK,
    scripts=[Markup(text) for text in texts],
    hashes=' '.join(map(_hash, texts)),
    charts=charts and _data({**charts, 'paper': colours.PAPER, 'ink': colours.INK}),
  )


def save(file: Path, text: str) -> None:
  """Writes a page; StudyError if the file cannot be written, but for a full disk."""
  try:
    write_text(file, text)
  except OSError as error:
    if errors.is_full(error):
      raise
    raise StudyError(
      f'cannot write {file}: {error.strerror or error}; name another --out'
    ) from error


def picture(file: Path) -> str | None:
  """A PNG file as an address that holds it; None if there is no such file."""
  if not file.is_file():
    return None
  return png(file.read_bytes())


def png(content: bytes) -> str:
  """A PNG image as an address that holds it."""
  return 'data:image/png;base64,' + base64.b64encode(content).decode()


@functools.cache
def _bokeh() -> tuple[str, ...]:
  """BokehJS, from Bokeh's Python package, which takes a second to import."""
  spec = importlib.util.find_spec('bokeh')
  if spec is None or spec.origin is None:
    raise StudyError('report.html needs Bokeh; install it with pip install -r requirements-cpu.txt')
  folder = Path(spec.origin).parent / 'server' / 'static' / 'js'
  return tuple((folder / name).read_text(encoding='utf-8').strip() for name in _BOKEH)


@functools.cache
def _hash(script: str) -> Markup:
  """A script's name in a Content-Security-Policy."""
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  return Markup(f"'sha256-{digest}'")


def _data(content: Any) -> Markup:
  """JSON within a script element, which no text in it can end."""
  text = json.dumps(_printable(content), allow_nan=False, ensure_ascii=False, separators=(',', ':'))
  return Markup(text.replace('<', '\\u003c'))


def _printable(content: Any) -> Any:
  if isinstance(content, str):
    return formats.printable(content)
  if isinstance(content, Mapping):
    return {name: _printable(value) for name, value in content.items()}
  return list(map(_printable, content)) if isinstance(content, list | tuple) else content


def _unbroken(sentence: str) -> Markup:
  """A sentence in which no line breaks within a figure, as 1e-03 or 81.2 %, or within a flag."""
  text, whole = str(escape(sentence)), r'[\d.]+(e[+-]\d+| %)|--[\w.=,]+'
  return Markup(re.sub(whole, r'<span class="unbroken">\g<0></span>', text))


def _breakable(name: str) -> Markup:
  """A name of several parts, as optimizer.momentum, that may break after its dots."""
  return Markup(str(escape(formats.printable(name))).replace('.', '.<wbr>'))
