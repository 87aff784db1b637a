"""The comparisons, run side by side in turn, and the tables they end in."""

import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lr_study.benchmark.side import config_of
from lr_study.errors import StudyError
from lr_study.network import model as models
from lr_study.network.convolution import lay_out

ROOT = Path(__file__).parents[2]


class Row(NamedTuple):
  """Sides by name, each with its options (side.py); ours comes first."""

  title: str
  steps: int  # of each side in a round
  sides: dict[str, dict[str, Any]]
  trial_steps: int = 0  # at least, of all trials of a side together: few trials take more steps


def _step(network: str, momentum: float, steps: int) -> Row:
  options = {'network': network, 'trials': 7, 'momentum': momentum}
  kinds = ('lr_study', 'torch', 'torch_compile', 'torch_vmap', 'jax_one', 'jax_vmap', 'floor')
  title = f'a trial-step, {network} AlexNet, 7 trials, momentum {momentum:g}'
  return Row(title, steps, {kind: options | {'kind': kind} for kind in kinds})


def _growth(
  network: str, steps: int, what: str, values: tuple[int, ...], trial_steps: int = 0, **more: Any
) -> Row:
  base = {'kind': 'lr_study', 'network': network, 'trials': 4} | more
  sides = {f'{what} {value}': base | {what: value} for value in values}
  return Row(f'growth in {what}, {network} AlexNet', steps, sides, trial_steps)


def _ladder(network: str, steps: int) -> Row:
  kinds = ('jax_ladder', 'torch_ladder_one', 'torch_ladder_seven', 'torch_ladder_two')
  sides = {kind: {'kind': kind, 'network': network} for kind in (*kinds, 'torch_ladder_ray')}
  title = f'the published ladder, {network} AlexNet, {steps} images, the rate dropped twice'
  return Row(title, steps, sides)


ROWS: dict[str, Row] = {
  'step_full': _step('full', 0.0, 4),
  'step_full_momentum': _step('full', 0.9, 4),
  'step_quick': _step('quick', 0.0, 128),
  'step_quick_momentum': _step('quick', 0.9, 128),
  'ladder_full': _ladder('full', 120),
  'ladder_quick': _ladder('quick', 600),
  'trials_full': _growth('full', 2, 'trials', (4, 1, 16, 48), trial_steps=32),
  'trials_quick': _growth('quick', 16, 'trials', (4, 1, 16, 64, 256, 1024), trial_steps=1024),
  'images': _growth('quick', 64, 'images', (100, 1000, 10000)),
  'image_size': _growth('full', 2, 'image_size', (256, 128, 192, 320)),
  'convolutions': Row(
    'ways to compute a convolution, full AlexNet, 7 trials',
    2,
    {
      name: {'kind': 'lr_study', 'network': 'full', 'trials': 7} | options
      for name, options in {
        'auto': {},
        'matmul, all in a call': {'convolution': 'matmul', 'trials_per_call': 7},
        'grouped, all in a call': {'convolution': 'grouped', 'trials_per_call': 7},
        'plain, one a call': {'convolution': 'grouped', 'trials_per_call': 1},
      }.items()
    },
  ),
  'batch_size': _growth('quick', 16, 'batch_size', (1, 2, 4, 16, 64)),
  'devices': _growth('quick', 64, 'devices', (1, 2, 4), parallel='pmap'),
  'tiny': Row(
    'for tests',
    3,
    {
      kind: {'kind': kind, 'network': 'tiny', 'trials': 2}
      for kind in ('lr_study', 'jax_one', 'jax_vmap', 'floor')
    },
  ),
}


def run(name: str, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
  """Runs a row: every side once a round, in turn.

  Returns:
    The row as JSON: for each side the seconds of a trial-step in every round, their median, and
    its ratio to the first side's, round by round; memory in bytes.

  Raises:
    StudyError: if there is no such row, or a side's library is not installed.
  """
  if name not in ROWS:
    raise StudyError(f'--rows: no row {name!r}; there are {", ".join(ROWS)}')
  row, sides = ROWS[name], {}
  try:
    for side, options in row.sides.items():
      tell(f'{name}: starting {side}')
      sides[side] = _Process(options)
    steps = {
      side: max(row.steps, row.trial_steps // process.started['trials'])
      for side, process in sides.items()
    }
    answers = {side: [] for side in sides}
    for k in range(rounds + 1):  # the first round warms up and is not counted
      tell(f'{name}: round {k} of {rounds}')
      for side, process in sides.items():
        answer = process.ask(f'run {steps[side]}')
        if k:
          answers[side].append(answer)
    memory = {side: process.ask('memory') for side, process in sides.items()}
    found = {side: process.started for side, process in sides.items()}
  finally:
    for process in sides.values():
      process.close()
  ours = next(iter(sides))
  for side, process in found.items():
    # A ladder is compared whole, steps by the trial.
    count = 1 if 'ladder' in side else steps[side] * process['trials']
    seconds = [answer['seconds'] / count for answer in answers[side]]
    base = found[ours]['seconds'] if side != ours else seconds
    ratios = [a / b for a, b in zip(base, seconds, strict=True)]
    process |= {
      'seconds': seconds,
      'median': statistics.median(seconds),
      'ours_to_this': statistics.median(ratios),
      'memory': memory[side],
      'last': answers[side][-1],
    }
  result = {'row': name, 'title': row.title, 'sides': found}
  if 'floor' in found:
    result['floor'] = _floor(row.sides[ours], answers['floor'], found[ours]['seconds'])
    del found['floor']
  return result


class _Process:
  def __init__(self, options: Mapping[str, Any]):
    command = [sys.executable, '-m', 'lr_study.benchmark.side', json.dumps(options)]
    self._options = options
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      cwd=ROOT,
      start_new_session=True,
    )
    self.started = self._answer()

  def ask(self, command: str) -> dict[str, Any]:
    print(command, file=self._process.stdin, flush=True)
    return self._answer()

  def _answer(self) -> dict[str, Any]:
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    self._errors.seek(0)
    error = (self._errors.read().strip().splitlines() or ['it ended'])[-1]
    hint = '; pip install -r requirements-benchmark.txt' if 'ModuleNotFound' in error else ''
    raise StudyError(f'benchmark side {self._options["kind"]}: {error}{hint}')

  def close(self) -> None:
    # With the processes that it started itself; those would keep its output open.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout, self._errors):
      with contextlib.suppress(BrokenPipeError):
        stream.close()


def work(network: str, width: float, image_size: int, classes: int = 10) -> tuple[float, float]:
  """Fewest floating-point operations, and bytes of dense kernels read, of a step at batch size 1.

  A multiplication and an addition count as two; three products a layer (forward, and both
  gradients), but none for the gradient of the images, nor for that of a dense kernel, which is
  an outer product that nothing needs written. A convolution in tiles (convolution.py) counts its
  products, not what leads to them. Dense kernels are read forward and backward.
  """
  model = models.AlexNet(models.PRESETS[network], classes, width)
  size, channels, flops = image_size, 3, 0.0
  for i, kernel in enumerate(models.KERNELS):
    settings = model.convolution(i)
    features, groups = settings['features'], settings['groups']
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    laid_out = jax.eval_shape(functools.partial(lay_out, **settings), images)
    size = (size + 2 * settings['padding'] - kernel) // settings['stride'] + 1
    plain = size**2 * kernel**2 * channels // groups * features
    in_tiles = sum(part.size for part in laid_out.groups) * features // groups
    flops += (2 if i == 0 else 3) * 2 * (in_tiles if laid_out.tiled else plain)
    if i in models.POOL_AFTER:
      size = (size - 3) // 2 + 1
    channels = features
  head = models.scaled(4096, width)
  kernels = size**2 * channels * head + head * head + head * classes
  return flops + 4 * kernels, 2 * 4 * kernels


def _floor(options: Mapping[str, Any], limits: list[dict[str, float]], seconds: list[float]) -> Any:
  """The share of the machine's own limits that our step reaches, layer by layer, in each round."""
  config = config_of(dict(options))
  flops, read = work(config.model.preset, config.model.width, config.image_size)
  shares = []
  for limit, second in zip(limits, seconds, strict=True):
    # Convolutions are bound by products, dense layers at batch size 1 by reading their kernels,
    # and a layer needs the one before it: the times add up.
    shares.append((flops / limit['flops'] + read / limit['bytes']) / second)
  return {
    'flops': flops,
    'bytes': read,
    'machine': {
      key: statistics.median(limit[key] for limit in limits)
      for key in limits[0]
      if key != 'seconds'
    },
    'share': statistics.median(shares),
  }


def table(result: Mapping[str, Any]) -> str:
  """A row as a Markdown table."""
  ladder = 'ladder' in result['row']
  unit = 'seconds' if ladder else 'ms a trial-step'
  lines = [
    f'**{result["title"]}**',
    '',
    f'| side | {unit} | ours to this | peak memory, GB a trial | to the first step, s |',
    '| --- | ---: | ---: | ---: | ---: |',
  ]
  for name, side in result['sides'].items():
    value = side['median'] * (1 if ladder else 1000)
    digits = '.0f' if value >= 1000 else '.3g'
    peak = side['memory']['peak'] / side['trials'] / 1e9
    lines.append(
      f'| {name} | {value:{digits}} | {side["ours_to_this"]:.2f} | {peak:.2f} | '
      f'{side["start_seconds"]:.0f} |'
    )
  if 'floor' in result:
    floor, machine = result['floor'], result['floor']['machine']
    lines += [
      '',
      f'The step needs {floor["flops"] / 1e9:.3g} GFLOP and {floor["bytes"] / 1e6:.3g} MB; this '
      f'machine does {machine["flops"] / 1e9:.0f} GFLOP/s and reads '
      f'{machine["bytes"] / 1e9:.1f} GB/s: {floor["share"]:.2f} of that is reached.',
    ]
  return '\n'.join(lines)
