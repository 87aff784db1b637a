"""The sweep's training step timed beside its peers: all in one process, in turn, with medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import parallel
from lr_study.config import check
from lr_study.trial import make_trial

_IMAGES, _CLASSES = 64, 10  # random ones: the time of a step does not depend on what they show


class Side(NamedTuple):
  """One contender: `turn` trains for a while and returns the seconds a step of one trial."""

  name: str
  turn: Callable[[], float]


def compare(sides: list[Side], rounds: int) -> dict[str, dict[str, float]]:
  """Lets the sides train in turn, A B A B ...

  Returns:
    side -> median, min and max of milliseconds a step of one trial, and the median over rounds of
    its ratio to the first side in the same round.
  """
  times = {side.name: [] for side in sides}
  for side in sides:
    side.turn()  # warms up
  for _ in range(rounds):
    for side in sides:
      times[side.name].append(1000 * side.turn())
  first = times[sides[0].name]
  return {
    name: {
      'median': statistics.median(found),
      'min': min(found),
      'max': max(found),
      'ratio': statistics.median(a / b for a, b in zip(found, first, strict=True)),
    }
    for name, found in times.items()
  }


def sweep_side(name: str, config: ConfigDict, trials: int, steps: int = 0) -> Side:
  """This program with `trials` trials; a turn is `steps` steps, by default from fold to fold."""
  config = check(config)
  images, labels, mean = _data(config.image_size)
  one = make_trial(config, _CLASSES, len(labels) // config.batch_size)
  many = parallel.make_trials(one, [0] * trials, 'vmap', config.batch_size, 1)
  rate_T = many.to_devices(np.full(trials, 1e-6, np.float32))
  seed_T = many.to_devices(np.zeros(trials, np.uint32))
  arrays = parallel.share(parallel.Arrays(images, labels, mean), 'vmap')
  order_T = many.order(seed_T, 0, arrays)
  steps = steps or one.fold_every
  state_T = many.init(seed_T)

  def turn():
    nonlocal state_T
    begun = time.perf_counter()
    for step in range(steps):
      start = step % (_IMAGES // config.batch_size) * config.batch_size
      state_T, _ = many.train_step(state_T, rate_T, seed_T, arrays, order_T, start)
    if config.model.dense != 'plain':
      state_T = many.fold(state_T)
    jax.block_until_ready(state_T)
    return (time.perf_counter() - begun) / steps / trials

  return Side(name, turn)


def torch_side(name: str, config: ConfigDict, steps: int, compiled: bool = False) -> Side:
  """The same network and solver in PyTorch, one trial, with as many threads as cores."""
  import torch  # noqa: PLC0415  (only the benchmark needs it)

  from lr_study import model, peer  # noqa: PLC0415

  torch.set_num_threads(os.cpu_count() or 1)
  images, labels, mean = (torch.from_numpy(x) for x in _data(config.image_size))
  network = peer.AlexNet(
    model.PRESETS[config.model.preset],
    _CLASSES,
    config.model.width,
    config.model.dropout,
    config.image_size,
  )
  step = peer.make_step(network, config.optimizer.momentum, 1e-6)
  if compiled:
    step = torch.compile(step)

  def turn():
    begun = time.perf_counter()
    for i in range(steps):
      index = torch.arange(i, i + config.batch_size) % _IMAGES
      batch = (images[index].float() - mean).permute(0, 3, 1, 2).contiguous()
      loss = step(batch, labels[index].long())
    float(loss)
    return (time.perf_counter() - begun) / steps

  return Side(name, turn)


def rows(
  config_of: Callable[[str], ConfigDict], trials: int, only: str
) -> Iterator[tuple[str, list[Side]]]:
  """The comparisons whose titles start with `only`: a title and its sides, this program first."""
  for network, image_size, steps in (('full', 227, 8), ('quick', 84, 200)):
    for momentum in (0.0, 0.9):
      title = f'{network}, momentum {momentum:g}'
      if not title.startswith(only):
        continue
      config = config_of('' if network == 'full' else 'quick')
      config.image_size, config.optimizer.momentum = image_size, momentum
      plain = config.copy_and_resolve_references()
      plain.model.dense, plain.model.convolution = 'plain', 'grouped'
      yield (
        title,
        [
          sweep_side(f'lr_study, {trials} trials', config, trials),
          torch_side('PyTorch, eager', config, steps),
          torch_side('PyTorch, torch.compile', config, steps, compiled=True),
          sweep_side('JAX, jit of one trial', plain, 1, steps),
          sweep_side(f'JAX, jit(vmap) of {trials} trials', plain, trials, max(2, steps // trials)),
        ],
      )


def machine() -> dict[str, Any]:
  """What the figures were measured on."""
  import torch  # noqa: PLC0415

  return {
    'cores': os.cpu_count(),
    'processor': platform.processor() or platform.machine(),
    'device': jax.local_devices()[0].device_kind,
    'jax': jax.__version__,
    'torch': torch.__version__,
    'python': platform.python_version(),
  }


def _data(image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (_IMAGES, image_size, image_size, 3), np.uint8)
  labels = rng.integers(0, _CLASSES, _IMAGES).astype(np.int32)
  return images, labels, images.mean(0).astype(np.float32)
