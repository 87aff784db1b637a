"""The colours of a page: paper and ink, and rates as they can be seen on either."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from lr_study.report import style

PAPER = {'light': '#fcfcfa', 'dark': '#17181a'}
INK = {'light': '#1d1d1b', 'dark': '#e6e4df'}
_DRAWN = 3.0  # contrast with the paper that WCAG 2.2 asks of what is drawn (1.4.11)


def of_rates(rates: Sequence[float]) -> dict[float, dict[str, str]]:
  """The colour of each rate on light and on dark paper, as '#1f77b4': that of the figures."""
  return {
    rate: {scheme: readable(style.colour(rate, rates), scheme) for scheme in PAPER}
    for rate in rates
  }


def readable(colour: str, scheme: str, contrast: float = _DRAWN) -> str:
  """The colour, moved towards the ink as little as gives this contrast with the paper."""
  ink, own = (np.asarray(to_rgb(c)) for c in (INK[scheme], colour))
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
