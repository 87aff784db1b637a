"""One colour, dash and marker per learning rate, the same in every figure and on the page."""

from collections.abc import Collection, Sequence

# Neighbours differ by 17 or more and any two by 11 or more (CIEDE2000), for readers with all cones
# and for those without red or green ones. Contrast with white and with the page's dark paper: 3.
PALETTE = (
  '#ff5f38', '#c12b15', '#01a3b4', '#00735b', '#00a680',
  '#8c5483', '#9b80ff', '#7b42d6', '#c81056', '#fe4dad',
)  # fmt: skip
# Strokes and gaps, in line widths. As there are three, a colour that is used again has another one.
DASHES = ((), (5, 1.5), (6, 1.5, 1, 1.5))
MARKERS = 'os^Dv'


def colour(rate: float, rates: Collection[float], palette: Sequence[str] = PALETTE) -> str:
  """The colour of a rate, as '#rrggbb'.

  The largest rate has the first one, so a study that gets smaller rates keeps its colours. After
  ten rates colours repeat, with other dashes.

  Args:
    rate: one of `rates`.
    rates: all rates of the study, in any order; a rate may be there several times.
    palette: colours to take, from the largest rate on.

  Raises:
    ValueError: `rate` is not among `rates`.
  """
  return palette[_place(rate, rates) % len(palette)]


def dash(rate: float, rates: Collection[float]) -> tuple[float, ...]:
  """The strokes and gaps of a rate's line in line widths, () for a solid one; as of `colour`."""
  return DASHES[_place(rate, rates) % len(DASHES)]


def marker(rate: float, rates: Collection[float]) -> str:
  """The marker of a rate's points, as Matplotlib names it; arguments as of `colour`."""
  return MARKERS[_place(rate, rates) % len(MARKERS)]


def _place(rate: float, rates: Collection[float]) -> int:
  return sorted(set(rates), reverse=True).index(rate)
