"""Parts of a task that are not plain functions: optimisers, metrics, and where trials start."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import optax


class Metric(NamedTuple):
  """A figure of an evaluation: sums over images, and the value computed from them on the host."""

  sums: Callable[..., Any]  # logits, labels, weight -> a tree of arrays, added over batches
  value: Callable[..., Any]  # the sums with a leading axis of trials, images -> (trials,)
  is_share: bool = True  # a share of the images, whose count has binomial noise
  larger_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How gradients become updates. `linear`: updates are linear in gradients and weights."""

  make: Callable[..., optax.GradientTransformation]  # learning_rate, base_rate, **own -> transform
  eval_params: Callable[[Any, Any], Any] = lambda opt_state, params: params
  linear: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
  """What the trials of a task start from. Keys and variables are as in freeze.py.

  weights: variables that were read, on the host; the others are drawn. frozen: the keys of those
  that no step changes. shared: variables that were read and are frozen, so all trials share them.
  record: on the weights, for results.json: fingerprint, which variables were drawn, and so on.
  """

  weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  frozen: frozenset[tuple[str, ...]] = frozenset()
  shared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NO_ORIGIN = Origin()  # all weights are drawn, and all are trained


def mode_of(model: nn.Module, train: bool) -> dict[str, bool]:
  """The keyword arguments of a network in training or evaluation: `train`, if it takes that."""
  return {'train': train} if 'train' in inspect.signature(type(model).__call__).parameters else {}
