"""The comparisons, whose sides run in turn, and their tables."""

import contextlib
import functools
import itertools
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

import flax.linen as nn
import jax
import jax.numpy as jnp

from lr_study import models
from lr_study.accelerate.convolution import lay_out
from lr_study.benchmark.side import config_of
from lr_study.config import float_type
from lr_study.errors import StudyError

ROOT = Path(__file__).parents[2]

_BEFORE = 'before'  # the side that runs another checkout
_ROUND_SECONDS = 0.5  # of a side in a round on a GPU


class Row(NamedTuple):
  """A comparison: sides by name, each with its options (side.py); ours is the first."""

  title: str
  steps: int  # of each side in a round
  sides: dict[str, dict[str, Any]]
  trial_steps: int = 0  # at least, over all trials of a side: with few trials it takes more steps


_ON_GPU = 'on_gpu'  # an option of a side that needs a GPU; it is left out elsewhere


def _step(network: str, momentum: float, steps: int) -> Row:
  options = {'network': network, 'trials': 7, 'momentum': momentum}
  kinds = ('lr_study', 'torch', 'torch_compile', 'torch_vmap', 'jax_one', 'jax_vmap', 'floor')
  title = f'one step of a trial, {network} AlexNet, 7 trials, momentum {momentum:g}'
  sides = {kind: options | {'kind': kind} for kind in kinds}
  for kind in ('torch_graph', 'torch_two'):
    sides[kind] = options | {'kind': kind, _ON_GPU: True}
  return Row(title, steps, sides)


def _growth(
  network: str,
  steps: int,
  what: str,
  values: tuple[int, ...],
  trial_steps: int = 0,
  on_gpu: tuple[int, ...] = (),
  **more: Any,
) -> Row:
  base = {'kind': 'lr_study', 'network': network, 'trials': 4} | more
  sides = {f'{what} {value}': base | {what: value} for value in values}
  sides |= {f'{what} {value}': base | {what: value, _ON_GPU: True} for value in on_gpu}
  return Row(f'cost by {what}, {network} AlexNet', steps, sides, trial_steps)


def _ways(network: str, steps: int) -> Row:
  """Ways to compute a step on a GPU; a CPU can take them too."""
  base = {'kind': 'lr_study', 'network': network, 'trials': 7, 'parallel': 'vmap'}
  ways = [(dtype, how) for dtype in ('float32', 'tensorfloat32') for how in _HOW]
  ways.append(('bfloat16', 'off'))
  sides = {f'{d}, {how}': base | {'dtype': d, 'accelerate': how} for d, how in ways}
  return Row(f'ways to compute a step, {network} AlexNet, 7 trials', steps, sides)


def _resnet18(steps: int) -> Row:
  base = {'network': 'resnet18', 'trials': 4, 'batch_size': 128, 'images': 128 * 17}
  sides = {
    f'{kind}, {dtype}': base | {'kind': kind, 'dtype': dtype}
    for dtype in ('float32', 'tensorfloat32', 'bfloat16')
    for kind in ('lr_study', 'torch', 'torch_graph', 'torch_compile')
  }
  for options in sides.values():
    options[_ON_GPU] = options['kind'] == 'torch_graph'
  return Row('ResNet-18, 64 pixels, batch size 128, 4 trials', steps, sides)


def _ladder(network: str, steps: int) -> Row:
  kinds = ('jax_ladder', 'torch_ladder_one', 'torch_ladder_seven', 'torch_ladder_two')
  sides = {kind: {'kind': kind, 'network': network} for kind in (*kinds, 'torch_ladder_ray')}
  title = f'the published grid of rates, {network} AlexNet, {steps} images, the rate dropped twice'
  return Row(title, steps, sides)


_HOW = ('auto', 'off', 'products', 'all')  # of config.accelerate

ROWS: dict[str, Row] = {
  'step_full': _step('full', 0.0, 4),
  'step_full_momentum': _step('full', 0.9, 4),
  'step_quick': _step('quick', 0.0, 128),
  'step_quick_momentum': _step('quick', 0.9, 128),
  'ladder_full': _ladder('full', 120),
  'ladder_quick': _ladder('quick', 600),
  'trials_full': _growth('full', 2, 'trials', (4, 1, 16, 48), trial_steps=32, on_gpu=(64,)),
  'trials_quick': _growth(
    'quick', 16, 'trials', (4, 1, 16, 64, 256, 1024), trial_steps=1024, on_gpu=(4096,)
  ),
  'ways_full': _ways('full', 2),
  'ways_quick': _ways('quick', 64),
  'resnet18': _resnet18(2),
  'images': _growth('quick', 64, 'images', (100, 1000, 10000)),
  'image_size': _growth('full', 2, 'image_size', (256, 128, 192, 320)),
  'accelerate': Row(
    'with accelerators and without, full AlexNet, 7 trials',
    2,
    {
      f'{accelerate}, {parallel}': {
        'kind': 'lr_study',
        'network': 'full',
        'trials': 7,
        'accelerate': accelerate,
        'parallel': parallel,
      }
      for accelerate, parallel in itertools.product(('auto', 'off'), ('threads', 'vmap'))
    },
  ),
  'batch_size': _growth('quick', 16, 'batch_size', (1, 2, 4, 16, 64)),
  'devices': _growth('quick', 64, 'devices', (1, 2, 4), parallel='pmap'),
  'tiny': Row(
    'for tests',
    3,
    {
      kind: {'kind': kind, 'network': 'tiny', 'trials': 2}
      for kind in ('lr_study', 'jax_vmap', 'floor')
    },
  ),
}


def run(
  name: str,
  rounds: int,
  tell: Callable[[str], None],
  against: Path | None = None,
  hurry: bool = False,
) -> dict[str, Any]:
  """Runs a row: each side once per round, in turn.

  Args:
    name: one of `ROWS`.
    rounds: how many, after one that warms up.
    tell: called with a line of progress from time to time.
    against: another checkout of this project. There are then two sides: the row's first one, and
      'before', which is the same side in that checkout.
    hurry: start the sides together; one that fails, for example without PyTorch, is left out.

  Returns:
    The row as JSON: for each side the seconds per step of a trial in every round, their median, and
    the median over rounds of our seconds divided by them; memory in bytes; joules per step of a
    trial if a GPU reports them. For a side that failed, `error`.

  Raises:
    StudyError: there is no such row or checkout, or a side's library is not installed.
  """
  if name not in ROWS:
    raise StudyError(f'--rows: there is no row {name!r}; choose from {", ".join(ROWS)}')
  if against and not (against / 'lr_study' / 'benchmark' / 'side.py').is_file():
    raise StudyError(f'--against {against} is not a checkout of lr_study: it has no benchmark')
  row = ROWS[name]
  ours = next(iter(row.sides))
  asked = {ours: row.sides[ours], _BEFORE: row.sides[ours]} if against else row.sides
  with contextlib.ExitStack() as ending:
    tell(f'{name}: starting {ours}')
    sides = {ours: _start(asked[ours], ROOT, ending)}
    device = sides[ours].wait().get('device', 'cpu')
    before = against or ROOT
    for side, options in asked.items():
      if side == ours or (options.get(_ON_GPU) and device == 'cpu'):
        continue
      tell(f'{name}: starting {side}')
      sides[side] = _start(options, before if side == _BEFORE else ROOT, ending)
      if not hurry:
        sides[side].wait()
    failed = {} if not hurry else _without_failed(sides, ours, lambda process: process.wait())
    for process in sides.values():
      process.steps = max(row.steps, row.trial_steps // process.wait()['trials'])
    failed |= _rounds(name, rounds, sides, tell, hurry)
    memory = {side: process.ask('memory') for side, process in sides.items()}
  found = {}
  for side, process in sides.items():
    # A whole grid is compared by its total time, everything else by the step of a trial.
    count = 1 if 'ladder' in name else process.steps * process.wait()['trials']
    of_side = _measured(process.answers, count, memory[side], found.get(ours, {}))
    found[side] = process.wait() | of_side
  result: dict[str, Any] = {'row': name, 'title': row.title}
  if 'floor' in found:
    result['floor'] = _floor(row.sides[ours], sides['floor'].answers, found[ours]['seconds'])
    del found['floor']
  return result | {'sides': found | failed}


def _start(options: Mapping[str, Any], root: Path, ending: contextlib.ExitStack) -> '_Process':
  process = _Process(options, root)
  ending.callback(process.close)
  return process


def _without_failed(
  sides: dict[str, '_Process'], ours: str, do: Callable[['_Process'], Any]
) -> dict[str, dict[str, str]]:
  """Does something with each side; those that fail are taken out of `sides`, and why is said."""
  failed = {}
  for side, process in list(sides.items()):
    try:
      do(process)
    except StudyError as error:
      if side == ours:
        raise
      failed[side] = {'error': str(error)}
      sides.pop(side).close()
  return failed


def _rounds(
  name: str, rounds: int, sides: dict[str, '_Process'], tell: Callable[[str], None], hurry: bool
) -> dict[str, dict[str, str]]:
  """Lets each side take its steps once a round, after one that warms up and does not count.

  Returns:
    The sides that failed, if `hurry`; they are taken out of `sides`.
  """
  ours, failed = next(iter(sides)), {}
  # A GPU takes many steps in the time that it takes to tell it to.
  is_short = sides[ours].wait().get('device', 'cpu') != 'cpu' and 'ladder' not in name
  for k in range(rounds + 1):
    tell(f'{name}: round {k} of {rounds}')
    if hurry:
      failed |= _without_failed(sides, ours, _Process.take)
    else:
      for process in sides.values():
        process.take()
    if not k:
      for process in sides.values():
        warm = process.answers.pop()['seconds']
        if is_short:
          process.steps = max(process.steps, int(process.steps * _ROUND_SECONDS / warm))
  return failed


def _measured(
  answers: list[dict[str, Any]], count: int, memory: dict[str, Any], ours: Mapping[str, Any]
) -> dict[str, Any]:
  """What is known of a side that took `count` steps of trials in each round."""
  seconds = [answer['seconds'] / count for answer in answers]
  ratios = [a / b for a, b in zip(ours.get('seconds', seconds), seconds, strict=True)]
  found = {
    'seconds': seconds,
    'median': statistics.median(seconds),
    'ours_to_this': statistics.median(ratios),
    'memory': memory,
    'last': answers[-1],
  }
  used = [answer['joules'] / count for answer in answers if 'joules' in answer]
  return found | ({'joules': statistics.median(used)} if used else {})


class _Process:
  def __init__(self, options: Mapping[str, Any], root: Path):
    command = [sys.executable, '-m', 'lr_study.benchmark.side', json.dumps(options)]
    self._options = options
    self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115
    # Sides live beside each other: none may take the card's memory before it needs it.
    own = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ}
    self._process = subprocess.Popen(
      command,
      env=own,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      cwd=root,
      start_new_session=True,
    )
    self._started: dict[str, Any] | None = None
    self.steps, self.answers = 1, []  # that it takes at once, and what it said each time

  def take(self) -> None:
    """Takes its steps once more."""
    self.answers.append(self.ask(f'run {self.steps}'))

  def wait(self) -> dict[str, Any]:
    """What it says once it has taken its first step."""
    if self._started is None:
      self._started = self._answer()
    return self._started

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
    # Including the processes that it started, which would keep its output open.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout, self._errors):
      with contextlib.suppress(BrokenPipeError):
        stream.close()


def work(model: nn.Module, image_size: int) -> tuple[float, float]:
  """The minimum of floating-point operations and of bytes of dense kernels read, per step.

  This is for batch size 1. A multiplication and an addition count as two operations. A layer has
  three products: forward and for both gradients. The gradient of the images is not needed, and
  neither is that of a dense kernel, an outer product that need not be written. A convolution in
  tiles (convolution.py) counts its products, not the transforms before and after. Dense kernels are
  read forward and backward.
  """
  flops, kernels = [], []

  def count(next_call, arguments, keywords, context):
    y, layer = next_call(*arguments, **keywords), context.module
    if type(layer) is nn.Conv and context.method_name == '__call__':
      products = 2 if not flops else 3  # the first layer's inputs are the images
      flops.append(products * 2 * _products(layer, arguments[0], y))
    elif type(layer) is nn.Dense and context.method_name == '__call__':
      kernels.append(arguments[0].shape[-1] * layer.features)
    return y

  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  with nn.intercept_methods(count):
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  return sum(flops) + 4 * sum(kernels), 2 * 4 * sum(kernels)


def _products(layer: nn.Conv, x: jax.Array, y: jax.Array) -> int:
  """Multiplications of a convolution with a square kernel, equal strides and padding in pixels."""
  (size, _), groups, features = layer.kernel_size, layer.feature_group_count, layer.features
  of_images = functools.partial(
    lay_out,
    features=features,
    size=size,
    stride=layer.strides or 1,
    padding=layer.padding,
    groups=groups,
  )
  laid_out = jax.eval_shape(of_images, x)
  if laid_out.tiled:
    return sum(part.size for part in laid_out.groups) * features // groups
  return y.size * size**2 * x.shape[-1] // groups


def _floor(options: Mapping[str, Any], limits: list[dict[str, float]], seconds: list[float]) -> Any:
  """The share of the machine's limits that our step reaches."""
  config = config_of(dict(options))
  flops, read = work(models.build(config.model, 10, float_type(config)), config.image_size)
  shares = []
  for limit, second in zip(limits, seconds, strict=True):
    # At batch size 1, convolutions are limited by products and dense layers by reading kernels. A
    # layer needs the result of the one before it, so the times add up.
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
  unit = 'seconds' if ladder else 'ms per step and trial'
  lines = [
    f'**{result["title"]}**',
    '',
    f'| side | {unit} | ours / this | peak memory, GB per trial | to the first step, s |',
    '| --- | ---: | ---: | ---: | ---: |',
  ]
  for name, side in result['sides'].items():
    if 'error' in side:
      lines.append(f'| {name} | – | – | – | {side["error"].replace("|", "/")[:80]} |')
      continue
    value = side['median'] * (1 if ladder else 1000)
    digits = '.0f' if value >= 1000 else '.3g'
    peak = max(0.0, side['memory']['peak']) / side['trials'] / 1e9  # a difference of two readings
    lines.append(
      f'| {name} | {value:{digits}} | {side["ours_to_this"]:.2f} | {peak:.3g} | '
      f'{side["start_seconds"]:.0f} |'
    )
  used = {name: side['joules'] for name, side in result['sides'].items() if 'joules' in side}
  if used:
    told = ', '.join(f'{name} {1000 * joules:.3g}' for name, joules in used.items())
    lines += ['', f'Millijoules a step per trial, by the meter of the card: {told}.']
  if 'floor' in result:
    floor, machine = result['floor'], result['floor']['machine']
    lines += [
      '',
      f'The step needs {floor["flops"] / 1e9:.3g} GFLOP and {floor["bytes"] / 1e6:.3g} MB. This '
      f'machine computes {machine["flops"] / 1e9:.0f} GFLOP/s and reads '
      f'{machine["bytes"] / 1e9:.1f} GB/s. The step reaches {floor["share"]:.2f} of these limits.',
    ]
  return '\n'.join(lines)
