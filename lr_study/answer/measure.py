"""Measures: the figure that decides which trial is best, and how it is compared and written."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lr_study import formats

if TYPE_CHECKING:
  from lr_study.answer.verdict import Result
  from lr_study.trial import Metric


class Measure(NamedTuple):
  """A figure of the evaluation of a trial.

  field: of a Result, or of its `metrics`, such as 'validation_accuracy'. is_share: the figure is a
  share of the images, from 0 to 1, which is written in percent and has counting noise.
  """

  field: str
  is_share: bool = True
  larger_is_better: bool = True

  @property
  def name(self) -> str:
    """The name for people: 'validation accuracy'."""
    return self.field.replace('_', ' ')

  def score(self, value: Any) -> Any:
    """The value, or an array of values, converted so that larger is better; shares stay shares."""
    if self.larger_is_better:
      return value
    return 1 - value if self.is_share else -value

  def show(self, value: float | None) -> str:
    """The value for people; an en dash for None."""
    return formats.percent(value) if self.is_share else formats.loss(value)

  def between(self, ends: Iterable[float] | None) -> str:
    """An interval for people: '89.5 to 92.5 %'; an en dash for None."""
    if ends is None:
      return '–'
    if self.is_share:
      return '{:.1f} to {:.1f} %'.format(*(100 * end for end in ends))
    return ' to '.join(map(formats.loss, ends))


ACCURACY = Measure('validation_accuracy')
BALANCED = Measure('validation_balanced_accuracy')
LOSS = Measure('validation_loss', is_share=False, larger_is_better=False)


def curve_of(metric: str) -> str:
  """The name of a metric's curve; for a user's metric, `file.py:name`, only the name is used."""
  return f'validation_{metric.rpartition(":")[2]}'


def further(metrics: Mapping[str, 'Metric']) -> list[Measure]:
  """The measures of all metrics except loss, accuracy and balanced accuracy."""
  found = [
    Measure(curve_of(name), metric.is_share, metric.larger_is_better)
    for name, metric in metrics.items()
  ]
  standard = {measure.field for measure in (ACCURACY, BALANCED, LOSS)}
  return [measure for measure in found if measure.field not in standard]


def value_of(result: 'Result', measure: Measure) -> float | None:
  """A trial's value of a measure; None if it diverged or this was not measured."""
  if measure.field in result.metrics:
    return result.metrics[measure.field]
  return getattr(result, measure.field, None)
