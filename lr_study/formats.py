"""How figures and names are written for people."""

from collections.abc import Collection, Sequence

import numpy as np


def rate(learning_rate: float) -> str:
  """A learning rate to six digits, as short as possible: 1e-04, 2.5e-03."""
  return np.format_float_scientific(float(f'{learning_rate:.6g}'), trim='-', exp_digits=2)


def percent(fraction: float | None, decimals: int = 1) -> str:
  """A fraction as a percentage; an en dash for None."""
  return '–' if fraction is None else f'{100 * fraction:.{decimals}f} %'


def loss(value: float | None) -> str:
  """A loss in nats to three significant digits; an en dash for None."""
  return '–' if value is None else f'{value:.3g}'


def at_steps(steps: Collection[int]) -> str:
  """'at step 3', or of several 'at steps 3 to 4'."""
  low, high = min(steps), max(steps)
  return f'at step {low}' if low == high else f'at steps {low} to {high}'


def count(number: int, noun: str) -> str:
  """'1 trial', '3 trials'."""
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def joined(names: Sequence[str]) -> str:
  """'a, b and c'; '' of none."""
  return ' and '.join(filter(None, (', '.join(names[:-1]), *names[-1:])))


def duration(seconds: float) -> str:
  """A time for people: 45 s, 12 min, 3 h 20 min, 4 days 2 h."""
  minutes = round(seconds / 60)
  if seconds < 90:
    return f'{round(seconds)} s'
  if minutes < 60:
    return f'{minutes} min'
  if minutes < 48 * 60:
    return f'{minutes // 60} h {minutes % 60} min'
  return f'{minutes // 1440} days {minutes % 1440 // 60} h'


def printable(text: str) -> str:
  """Text in one line, with control characters escaped, since they could affect the terminal."""
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)
