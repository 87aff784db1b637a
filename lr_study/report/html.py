"""Pages from the templates in templates/: what strangers have named is escaped."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lr_study import errors, formats
from lr_study.errors import StudyError
from lr_study.files.workdir import write_text
from lr_study.report import svg

_TEMPLATES = Path(__file__).with_name('templates')


def render(template: str, **content: Any) -> str:
  """A page from a file of templates/; text is made printable and escaped, unless it is Markup."""
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
  script = (_TEMPLATES / 'sort.js').read_text()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  return environment.get_template(template).render(
    content, paper=svg.PAPER, ink=svg.INK, script=Markup(script), script_hash=f'sha256-{digest}'
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


def _unbroken(sentence: str) -> Markup:
  """A sentence in which no line breaks within a figure, as 1e-03 or 81.2 %, or within a flag."""
  text, whole = str(escape(sentence)), r'[\d.]+(e[+-]\d+| %)|--[\w.=,]+'
  return Markup(re.sub(whole, r'<span class="unbroken">\g<0></span>', text))


def _breakable(name: str) -> Markup:
  """A name of several parts, as optimizer.momentum, that may break after its dots."""
  return Markup(str(escape(formats.printable(name))).replace('.', '.<wbr>'))
