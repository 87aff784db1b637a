"""The colours of rates, as readers see them who are colour-blind, on white and on dark paper."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lr_study.report import style

# Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB.
SIGHTS = {
  'all': np.eye(3),
  'deuteranopia': [
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881],
  ],
  'protanopia': [
    [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
}  # fmt: skip
XYZ = np.asarray(
  [
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175],
    [0.0193339, 0.119192, 0.9503041],
  ]
)  # fmt: skip
RATES = [10.0**-i for i in range(10)]


def linear(colours):
  rgb = np.asarray([to_rgb(colour) for colour in colours])
  return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colours, sight):
  """CIE L*a*b* of '#rrggbb' as somebody with this sight sees them: (colours, 3)."""
  seen = np.clip(linear(colours) @ np.asarray(SIGHTS[sight]).T, 0, 1)
  x, y, z = ((seen @ XYZ.T) / XYZ.sum(1)).T
  f = [np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116) for v in (x, y, z)]
  return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], -1)


def ciede2000(one, other):
  """The difference of two L*a*b* colours, (..., 3), by CIE 142-2001."""
  (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)

  def step(c):  # from 0 to 1 as chroma grows
    return np.sqrt(c**7 / (c**7 + 25.0**7))

  grey = 1 + 0.5 * (1 - step((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2))
  c1, c2 = np.hypot(grey * a1, b1), np.hypot(grey * a2, b2)
  h1, h2 = (np.degrees(np.arctan2(b, grey * a)) for a, b in ((a1, b1), (a2, b2)))
  turn = (h2 - h1 + 180) % 360 - 180
  light, chroma, hue = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
  cosine = [np.cos(np.radians(k * hue - at)) for k, at in ((1, 30), (2, 0), (3, -6), (4, 63))]
  t = 1 + np.tensordot([-0.17, 0.24, 0.32, -0.2], cosine, 1)
  of_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
  of_chroma = (c2 - c1) / (1 + 0.045 * chroma)
  of_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
  blue = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
  mixed = -2 * step(chroma) * blue * of_chroma * of_hue
  return np.sqrt(of_light**2 + of_chroma**2 + of_hue**2 + mixed)


def differences(colours, sight):
  seen = lab(colours, sight)
  return ciede2000(seen[:, None], seen[None])


@pytest.mark.parametrize(
  ('one', 'other', 'expected'),
  [  # Sharma, Wu and Dalal (2005), table 1
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
  ],
)
def test_the_difference_is_that_of_the_literature(one, other, expected):
  assert ciede2000(np.asarray(one, float), np.asarray(other, float)) == pytest.approx(
    expected, abs=1e-4
  )


@pytest.mark.parametrize('sight', SIGHTS)
def test_ten_rates_differ_whatever_somebody_sees(sight):
  found = differences([style.colour(rate, RATES) for rate in RATES], sight)
  assert np.diag(found, 1).min() > 17
  assert found[~np.eye(10, dtype=bool)].min() > 11


@pytest.mark.parametrize('paper', ['#ffffff', '#17181a'])
def test_thin_lines_stand_out(paper):
  """By the contrast ratio of WCAG 2.2, which asks 3 of what is drawn."""
  of_paper, *others = linear([paper, *style.PALETTE]) @ XYZ[1]
  for bright in others:
    assert (max(bright, of_paper) + 0.05) / (min(bright, of_paper) + 0.05) > 3


def test_a_rate_looks_alike_however_it_is_asked_for():
  rates = [1e-3, 1e-1, 1e-2, 1e-3]
  assert style.colour(1e-1, rates) == style.PALETTE[0]
  assert style.colour(1e-3, rates) == style.colour(1e-3, [1e-3, 1e-2, 1e-1, 1e-5])
  with pytest.raises(ValueError, match='not in list'):
    style.colour(1.0, rates)


def test_thirty_rates_differ_in_colour_or_dash_and_neighbours_in_all():
  rates = [10.0**-i for i in range(30)]
  looks = [(style.colour(r, rates), style.dash(r, rates)) for r in rates]
  assert len(set(looks)) == 30
  for rate, next_rate in itertools.pairwise(rates):
    for of in (style.colour, style.dash, style.marker):
      assert of(rate, rates) != of(next_rate, rates)
