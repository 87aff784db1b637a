"""Claims and the figure of configs/studies/published_100.py."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lr_study import formats
from lr_study.answer.status import AT_CHANCE, DIVERGED
from lr_study.report import style
from lr_study.studies.claims import Claim
from lr_study.studies.table import Table

TITLES = {'tensorflow': "DIGITS's TensorFlow back end", 'caffe': "DIGITS's Caffe back end"}
CURVES = ('loss',)
_BEST = 1e-4  # as published; all above failed


def claims(tables: Mapping[str, Table]) -> list[Claim]:
  """Each sentence of the experiment, of each back end."""
  return [claim for name, of in tables.items() for claim in _claims(TITLES[name], of)]


def _claims(title: str, of: Table) -> list[Claim]:
  order = np.argsort(-of['learning_rate'])
  rates, status = of['learning_rate'][order], of['status'][order]
  accuracy, trained = (100 * of[f'{part}_accuracy'][order] for part in ('validation', 'train'))
  failed, above = np.isin(status, (DIVERGED, AT_CHANCE)), rates > 1.01 * _BEST
  best = int(np.nanargmax(accuracy))
  at_best = formats.rate(rates[best])
  below = [
    f'{found:.1f} % at {formats.rate(rate)}'
    for rate, found in zip(rates[best + 1 :], accuracy[best + 1 :], strict=True)
  ]
  # Two standard deviations of a share of the images: another machine rounds differently.
  of_train, of_validation = (
    200 * (0.25 / of.about[part]) ** 0.5 for part in ('train', 'validation')
  )
  return [
    Claim(
      f'best rate, {title}',
      float(np.log10(rates[best])),
      f'{title}: {at_best} is best, with a validation accuracy of {accuracy[best]:.1f} %.',
      tolerance=0.0,  # another of these rates would be another answer
      source='Mark III Systems: 1e-04 is best',
      agrees=bool(np.isclose(rates[best], _BEST)),
    ),
    Claim(
      f'rates that fail, {title}',
      float(failed.sum()),
      f'{title}: {_failures(rates, status)}{_endings(rates, accuracy, trained, above & ~failed)}.',
      tolerance=0.0,
      source='Mark III Systems: all above 1e-04 fail',
      agrees=bool(failed[above].all() and not failed[np.isclose(rates, _BEST)].any()),
    ),
    Claim(
      f'accuracy below, {title}',
      float(accuracy[best + 1]) if below else None,
      f'{title}: below {at_best}, the validation accuracy is {formats.joined(below)}.',
      tolerance=of_validation,
      source='Mark III Systems: lower rates do worse',
      agrees=bool(below) and bool((accuracy[best + 1 :] < accuracy[best] - of_validation).all()),
    ),
    Claim(
      f'training accuracy, {title}',
      float(trained[best]),
      f'{title}: at {at_best}, the accuracy on training images, with dropout, is '
      f'{trained[best]:.0f} % in the last epoch, after {of["steps"][order][best]:,.0f} steps.',
      tolerance=of_train,
      source='Mark III Systems: about 95 %, after 157,500 steps',
    ),
  ]


def _failures(rates: np.ndarray, status: np.ndarray) -> str:
  """'1e-01 and 1e-02 diverge, and 1e-03 learns nothing'."""
  parts = []
  for of, one, several in (
    (DIVERGED, 'diverges', 'diverge'),
    (AT_CHANCE, 'learns nothing', 'learn nothing'),
  ):
    if names := [formats.rate(rate) for rate in rates[status == of]]:
      parts.append(f'{formats.joined(names)} {several if len(names) > 1 else one}')
  return ', and '.join(parts) or 'no rate fails'


def _endings(
  rates: np.ndarray, accuracy: np.ndarray, trained: np.ndarray, these: np.ndarray
) -> str:
  """'; 1e-03 ends at 81.6 % (94 % on training images)' of these rates, bool (rates,)."""
  said = [
    f'{formats.rate(rates[i])} ends at {accuracy[i]:.1f} % ({trained[i]:.0f} % on training images)'
    for i in np.flatnonzero(these)
  ]
  return f'; {formats.joined(said)}' if said else ''


def figures(tables: Mapping[str, Table]) -> dict[str, Figure]:
  """The training loss over the epochs, and the accuracies over the rate."""
  figure = Figure(figsize=(6.8, 2.7 * len(tables)), layout='constrained')
  rows = figure.subplots(len(tables), 2, squeeze=False)
  for (left, right), (name, of) in zip(rows, tables.items(), strict=True):
    _curves(left, of)
    _accuracies(right, of)
    left.set_title(TITLES[name], loc='left')
  return {'published_100': figure}


def _curves(axes: Axes, of: Table) -> None:
  rates = tuple(of['learning_rate'])
  loss = of.curves['loss']
  epochs = (np.arange(len(loss)) + 0.5) * of.window * of['epochs'].max() / of['steps'].max()
  for rate, curve in zip(rates, loss.T, strict=True):
    colour = style.colour(rate, rates)
    if np.isfinite(curve).sum() > 1:
      axes.plot(epochs, curve, color=colour, label=formats.rate(rate))
  axes.axhline(of.about['guessing_loss'], color='0.55', linestyle='--', label='guessing')
  gone = [formats.rate(rate) for rate in of['learning_rate'][of.diverged]]
  axes.set(xlabel='epoch', ylabel='training loss (nats)', yscale='log', ylim=(0.1, 60))
  axes.set_xlim(0, of['epochs'].max())
  axes.yaxis.set_major_formatter('{x:g}')
  title = f'diverged: {", ".join(gone)}' if gone else None
  axes.legend(title=title, title_fontsize='small', ncols=3, fontsize='small', loc='upper right')


def _accuracies(axes: Axes, of: Table) -> None:
  rates, lost = of['learning_rate'], of.diverged
  for part, label, form, colour in (
    ('train', 'training images', 's-', style.PALETTE[1]),
    ('validation', 'validation images', 'o-', style.PALETTE[7]),
  ):
    accuracy = 100 * of[f'{part}_accuracy'][~lost]
    axes.plot(rates[~lost], accuracy, form, color=colour, markersize=4, label=label)
  axes.plot(rates[lost], np.zeros(lost.sum()), 'x', color='0.4', label='diverged')
  axes.axhline(100 / of.about['classes'], color='0.55', linestyle='--', label='guessing')
  axes.axvline(_BEST, color='0.55', linestyle=':', label='best as published')
  axes.set(xscale='log', xlabel='learning rate', ylabel='accuracy (%)', ylim=(-4, 100))
  axes.legend(fontsize='small')
