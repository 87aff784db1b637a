"""How a trial is computed: plainly, or by an accelerator whose state is its own affair."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lr_study import trial
from lr_study.trial import Task


class Engine(NamedTuple):
  """The functions of one trial, without a trial axis. S is any tree: it is what checkpoints hold.

  draw(key) -> variables: the initial weights, which depend on the seed alone.
  start(variables, hyper) -> S
  step(S, hyper, batch, key, step) -> S, metrics: as `trial.train_step`.
  evaluate(S, batch, weight) -> sums: as `trial.eval_step`; right after `settle`.
  plain(S) -> trial.State; right after `settle`.
  settle(S) -> S: due after every `every` steps of an epoch and before an evaluation. It changes
    how the state is written, not what it means. None if there is nothing to settle.
  steps_per_call: steps that one call of the compiled program takes at most.
  around(function) -> function: the same, with the network computed faster where it can be.
  about: how a trial is computed, for people.
  """

  draw: Callable[..., Any]
  start: Callable[..., Any]
  step: Callable[..., Any]
  evaluate: Callable[..., Any]
  plain: Callable[..., Any]
  settle: Callable[..., Any] | None = None
  every: int = 0
  steps_per_call: int = 16
  around: Callable[..., Any] = lambda function: function
  about: str = 'plain Flax and optax'


def plain(task: Task) -> Engine:
  """The engine that calls trial.py and nothing else."""

  def bind(function):
    return lambda *arguments: function(task, *arguments)

  return Engine(
    draw=bind(trial.draw),
    start=bind(trial.start),
    step=bind(trial.train_step),
    evaluate=bind(trial.eval_step),
    plain=lambda state: state,
  )
