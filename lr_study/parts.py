"""What a task is made of besides plain functions: optimisers and metrics."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import optax


class Metric(NamedTuple):
  """A figure of an evaluation: sums over images, and what is made of them on the host."""

  sums: Callable[..., Any]  # logits, labels, weight -> a tree of arrays, added over batches
  value: Callable[..., Any]  # the sums with a leading axis of trials, images -> (trials,)
  is_share: bool = True  # of the images: then counting them has binomial noise
  larger_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How gradients become updates. `linear`: an update is linear in gradients and weights."""

  make: Callable[..., optax.GradientTransformation]  # learning_rate, base_rate, **own -> transform
  eval_params: Callable[[Any, Any], Any] = lambda opt_state, params: params
  linear: bool = False


def mode_of(model: nn.Module, train: bool) -> dict[str, bool]:
  """What a network is called with in training or in evaluation: `train`, if it takes that."""
  return {'train': train} if 'train' in inspect.signature(type(model).__call__).parameters else {}
