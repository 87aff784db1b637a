"""A figure as SVG inside a page: its lines and words follow the page's dark and light."""

import io
import re

import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from lr_study.report import figures

PAPER = {'light': '#fcfcfa', 'dark': '#17181a'}
INK = {'light': '#1d1d1b', 'dark': '#e6e4df'}
# Contrast with the paper that WCAG 2.2 asks of what is drawn (1.4.11) and of words (1.4.3).
_DRAWN, _WORDS = 3.0, 4.5


def inline(figure: Figure, name: str, label: str) -> Markup:
  """The figure as an <svg> element.

  Args:
    figure: its texts are escaped.
    name: no other figure of the page may have it; marks what the figure refers to in itself.
    label: what a reader is told who does not see it.
  """
  stream = io.StringIO()
  settings = {'svg.fonttype': 'none', 'svg.hashsalt': name, 'savefig.transparent': True}
  figures.save(figure, stream, 'svg', settings)
  text = stream.getvalue()
  text = re.sub(r'<metadata>.*?</metadata>|<!--.*?-->', '', text[text.index('<svg') :], flags=re.S)
  text = re.sub(r'<g id="[^"]*"', '<g', text)  # named alike in every figure, and not referred to
  text = re.sub(r'style="[^"]*"', lambda found: _follow(found.group()), text)
  width = float(re.search(r' width="([\d.]+)pt"', text)[1])
  head, body = text.split('>', 1)
  head = re.sub(r' (width|height|version|xmlns\S*)="[^"]*"', '', head)
  # No wider than drawn; on a narrow screen no narrower than can be read: it scrolls there.
  size = f'max-width:{width:.0f}pt;min-width:{0.7 * width:.0f}pt'
  return Markup(f'{head} role="img" aria-label="{escape(label)}" style="{size}">{body}')


def _follow(style: str) -> str:
  """A style attribute whose colours follow the page; as drawn where a browser cannot."""
  contrast = _WORDS if 'font-size' in style else 1.0 if 'opacity' in style else _DRAWN

  def both(found):
    name, colour = found.groups()
    light, dark = (readable(colour, scheme, contrast) for scheme in ('light', 'dark'))
    return f'{name}: {colour}; {name}: light-dark({light}, {dark})'

  return re.sub(r'(fill|stroke): (#[0-9a-f]{6})', both, style)


def readable(colour: str, scheme: str, contrast: float) -> str:
  """A colour as it is on light or dark paper: moved to the ink as little as gives the contrast.

  Black is the ink, white the paper, and a grey lies as far between them.
  """
  ink, paper, own = (np.asarray(to_rgb(c)) for c in (INK[scheme], PAPER[scheme], colour))
  if np.ptp(own) == 0:
    own = ink + own * (paper - ink)
  if colour == '#ffffff':
    return PAPER[scheme]
  mixed = (to_hex(own + share * (ink - own)) for share in np.linspace(0, 1, 41))
  return next(c for c in mixed if contrast_of(c, PAPER[scheme]) >= contrast)


def contrast_of(colour: str, other: str) -> float:
  """The contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it."""
  bright = sorted(map(_luminance, (colour, other)))
  return (bright[1] + 0.05) / (bright[0] + 0.05)


def _luminance(colour: str) -> float:
  rgb = np.asarray(to_rgb(colour))
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])
