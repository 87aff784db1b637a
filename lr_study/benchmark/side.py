"""A side of a comparison: a process that takes steps on request, and says how long they took.

  python -m lr_study.benchmark.side '{"kind": "lr_study", "network": "quick", "trials": 7}'

It answers a line `run 16` on its standard input with a line of JSON, {"seconds": ...}, and `memory`
with bytes. It ends when its input ends.
"""

import json
import resource
import sys
import time
from typing import Any, Protocol

import numpy as np
import psutil
from ml_collections import ConfigDict

from lr_study.config import check
from lr_study.configs import alexnet_letters  # type: ignore[attr-defined]  # a file of configs/
from lr_study.nvml import joules

RATES = tuple(10.0**-k for k in range(1, 8))  # the published grid
LOOKS = 24  # checks for diverged trials in a run of the grid; a real study checks far more often


class Side(Protocol):
  """The interface of all kinds of sides.

  trials: how many trials a step trains. device: 'cpu' or 'gpu'.
  """

  trials: int
  device: str

  def run(self, steps: int) -> dict[str, Any] | None:
    """Takes `steps` steps and waits until they are done; may return figures of its own."""

  def reported(self) -> int | None:
    """Bytes that the compiled program reports that it needs, or None."""

  def on_device(self) -> int | None:
    """The most bytes of a device that it has held; None on a CPU."""


def config_of(options: dict[str, Any]) -> ConfigDict:
  """The config for a side's options; all kinds of sides train this."""
  quick = options['network'] != 'full'
  config = alexnet_letters.get_config('quick' if quick else '')
  if options['network'] == 'tiny':  # for tests
    config.model.width, config.image_size = 1 / 16, 67
  trials = options['trials']
  # Rates far below the edge of stability: timed steps must not end in NaN.
  config.learning_rates = tuple(np.geomspace(1e-6, 1e-7, trials)) if trials > 1 else (1e-6,)
  config.optimizer.momentum = options.get('momentum', 0.0)
  config.batch_size = options.get('batch_size', 1)
  config.image_size = options.get('image_size', config.image_size)
  if options['network'] == 'resnet18':
    config.model = ConfigDict({'name': 'resnet18'})
    config.image_size = options.get('image_size', 64)
  config.dtype = options.get('dtype', 'float32')
  config.parallel = options.get('parallel', 'auto')
  config.accelerate = options.get('accelerate', 'auto')
  return check(config)


def data_of(options: dict[str, Any], image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images, labels and mean image: noise, which takes as long as letters."""
  rng, images = np.random.default_rng(0), options.get('images', 200)
  shape = (images, image_size, image_size, 3)
  mean = np.full(shape[1:], 127.5, np.float32)
  return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, images).astype(np.int32), mean


def _kind(name: str) -> Any:
  # Imported here, so that a side in JAX does not need PyTorch.
  if name.startswith('torch'):
    from lr_study.benchmark import torch_sides  # noqa: PLC0415

    return torch_sides.KINDS[name]
  from lr_study.benchmark import jax_sides  # noqa: PLC0415

  return jax_sides.KINDS[name]


def main() -> None:
  options = json.loads(sys.argv[1])
  kind = _kind(options['kind'])
  before = psutil.Process().memory_info().rss
  started = time.perf_counter()
  side = kind(options)
  side.run(1)
  start_seconds = time.perf_counter() - started
  told = {'trials': side.trials, 'start_seconds': start_seconds, 'device': side.device}
  print(json.dumps(told), flush=True)
  for line in sys.stdin:
    command, *arguments = line.split()
    if command == 'run':
      before_it, started = joules(), time.perf_counter()
      found = side.run(int(arguments[0])) or {}
      answer: dict[str, Any] = {'seconds': time.perf_counter() - started} | found
      after_it = joules()
      if before_it is not None and after_it is not None:
        answer['joules'] = after_it - before_it
    else:
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
      held = side.on_device()
      answer = {
        'peak': peak - before if held is None else held,
        'on_device': held is not None,
        'reported': side.reported(),
      }
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
