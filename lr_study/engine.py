"""How a trial is computed: by trial.py alone, or by an accelerator with its own form of state."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from lr_study import freeze, trial
from lr_study.parts import NO_ORIGIN, Origin
from lr_study.trial import State, Task


class Engine(NamedTuple):
  """The functions of one trial, without a trial axis. S is any tree; checkpoints store it.

  draw(key, weights) -> variables: the initial weights, which depend only on the seed; `weights`
    are read weights to start from, like `origin.weights`.
  start(variables, hyper) -> S
  step(S, hyper, batch, key, step) -> S, metrics: like `trial.train_step`.
  evaluate(S, batch, weight) -> sums: like `trial.eval_step`; call `settle` before.
  plain(S) -> trial.State; call `settle` before.
  settle(S) -> S: due after every `every` steps of an epoch and before an evaluation. It changes
    the form of the state, not its meaning. None if there is nothing to settle.
  steps_per_call: the most steps that one call of the compiled program takes.
  around(function) -> function: the same function, with the network computed faster if possible.
  origin: what the trials start from. S and the result of `draw` do not contain `origin.shared`.
  bind(shared) -> Engine: the engine with these arrays in place of `origin.shared`, for example
    arguments of a compiled program. None if nothing is shared.
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
    """The engine with these arrays in place of `origin.shared`."""
    return self.bind(shared) if self.bind else self


def plain(task: Task) -> Engine:
  """The engine that calls only trial.py."""

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
  """An engine whose states leave out `origin.shared`, so that it is in memory only once."""
  shared = engine.origin.shared
  return _bound(engine, shared) if shared else engine


def _bound(engine: Engine, shared: Mapping[str, Any]) -> Engine:
  """`engine` on states without `shared`: each function adds it and removes it again."""
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
  """S with `function` applied to each `model_state` in it. S is or contains a `trial.State`."""

  def of(node):
    is_state = isinstance(node, State)
    return node._replace(model_state=function(node.model_state)) if is_state else node

  return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, State))
