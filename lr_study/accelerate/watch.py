"""Finds the layers that a network calls, and how its weights are used, without computing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from lr_study import trial
from lr_study.trial import Task


class Weight(NamedTuple):
  """shape: of an array of weights. used_by: the operations of the forward pass that use it."""

  shape: tuple[int, ...]
  used_by: tuple[Any, ...]


def watch(task: Task, batch_size: int, look: Callable[..., Any]) -> dict[str, Weight]:
  """Traces a step's forward pass under `nn.intercept_methods(look)`; nothing is computed.

  Returns:
    All weights by path, such as 'conv1/kernel'.
  """

  def forward(variables, x):
    with nn.intercept_methods(look):
      state = {name: of for name, of in variables.items() if name != 'params'}
      return trial.apply(task, variables['params'], state, x, jax.random.key(0))

  variables = jax.eval_shape(lambda: trial.draw(task, jax.random.key(0)))
  x = jax.ShapeDtypeStruct((batch_size, *task.shape), jnp.float32)
  jaxpr = jax.make_jaxpr(forward)(variables, x).jaxpr
  named, _ = jax.tree.unflatten(jax.tree.structure((variables, x)), jaxpr.invars)
  return {
    path: Weight(weight.aval.shape, tuple(e for e in jaxpr.eqns if _takes(e, weight)))
    for path, weight in flatten_dict(named['params'], sep='/').items()
  }


def _takes(equation: Any, weight: Any) -> bool:
  return any(taken is weight for taken in equation.invars)
