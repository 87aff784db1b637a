"""How a trial is computed: plainly, or by an accelerator whose state is its own affair."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from lr_study import freeze, trial
from lr_study.parts import NO_ORIGIN, Origin
from lr_study.trial import State, Task


class Engine(NamedTuple):
  """The functions of one trial, without a trial axis. S is any tree: it is what checkpoints hold.

  draw(key, weights) -> variables: the initial weights, which depend on the seed alone; `weights`
    are those to start from where there are any, as `origin.weights`.
  start(variables, hyper) -> S
  step(S, hyper, batch, key, step) -> S, metrics: as `trial.train_step`.
  evaluate(S, batch, weight) -> sums: as `trial.eval_step`; right after `settle`.
  plain(S) -> trial.State; right after `settle`.
  settle(S) -> S: due after every `every` steps of an epoch and before an evaluation. It changes
    how the state is written, not what it means. None if there is nothing to settle.
  steps_per_call: steps that one call of the compiled program takes at most.
  around(function) -> function: the same, with the network computed faster where it can be.
  origin: what the trials start from. No S holds `origin.shared`, nor does draw give it.
  bind(shared) -> Engine: the same with these arrays for `origin.shared`; arguments of a compiled
    program, say. None if nothing is shared.
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
  origin: Origin = NO_ORIGIN
  bind: Callable[..., Any] | None = None
  about: str = 'plain Flax and optax'

  def over(self, shared: Mapping[str, Any]) -> 'Engine':
    """The engine with these arrays for what its trials share."""
    return self.bind(shared) if self.bind else self


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
    origin=task.origin,
  )


def sharing(engine: Engine) -> Engine:
  """The engine whose states leave out `origin.shared`, which is then in memory once."""
  shared = engine.origin.shared
  return _bound(engine, shared) if shared else engine


def _bound(engine: Engine, shared: Mapping[str, Any]) -> Engine:
  """`engine` on states without `shared`: each function puts it in, and leaves it out again."""
  keys = freeze.keys_of(shared)
  join = functools.partial(_each_state, lambda of: freeze.join(of, shared))
  leave_out = functools.partial(_each_state, lambda of: freeze.leave_out(of, keys))

  def step(state, *more):
    state, metrics = engine.step(join(state), *more)
    return leave_out(state), metrics

  return engine._replace(
    draw=lambda key, weights=None: freeze.split(engine.draw(key, weights), keys)[0],
    step=step,
    evaluate=lambda state, *more: engine.evaluate(join(state), *more),
    plain=lambda state: engine.plain(join(state)),
    bind=functools.partial(_bound, engine),
  )


def _each_state(function: Callable[..., Any], tree: Any) -> Any:
  """S with another `model_state`: it is a `trial.State`, or holds one."""

  def of(node):
    is_state = isinstance(node, State)
    return node._replace(model_state=function(node.model_state)) if is_state else node

  return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, State))
