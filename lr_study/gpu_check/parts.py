"""The parts of the check. Each is a process, which prints what it finds as it finds it.

python -m lr_study.gpu_check.parts numbers '{"small": true, "folder": "/tmp/x"}'
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lr_study import formats
from lr_study.benchmark import rows
from lr_study.errors import StudyError

ROOT = Path(__file__).parents[2]
Tell = Callable[..., None]  # called with what is found, by names

_RATES = tuple(np.geomspace(3e-4, 1e-6, 7).tolist())  # below the edge of stability
_FLOAT32, _EARLY = 1e-4, 10  # what rounding may change in the first steps, as a share of the loss
_WITHIN = 0.1  # of what is taken, the plan of memory
_FRACTION = 0.02  # of the card, for the study that needs more than it may have


class Part(NamedTuple):
  """seconds: that it may take on an H100. about: what it tells."""

  seconds: int
  run: Callable[[dict[str, Any], Tell], None]
  about: str


def card(options: dict[str, Any], tell: Tell) -> None:
  """The card, its driver, and the versions of what computes on it."""
  import jax  # noqa: PLC0415  # here and below: a part that starts others leaves the card to them

  from lr_study.files import provenance  # noqa: PLC0415

  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  settings = {n: x for n, x in os.environ.items() if n.startswith(('XLA_', 'JAX_', 'CUDA_'))}
  machine = provenance.machine()
  limit = stats.get('bytes_limit')
  tell(
    machine=machine,
    nvidia_smi=_nvidia_smi(),
    platform=device.platform,
    bytes_limit=limit,
    settings=settings,
    ok=device.platform != 'cpu' or options['small'],
    said=f'{machine["device"]}, JAX {machine["jax"]}'
    + (f', {limit / 1e9:.3g} GB for JAX' if limit else ''),
  )


def _nvidia_smi() -> dict[str, str]:
  names = ('name', 'driver_version', 'memory.total', 'memory.used', 'clocks.max.sm', 'power.limit')
  command = ['nvidia-smi', f'--query-gpu={",".join(names)}', '--format=csv,noheader']
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
  except (OSError, subprocess.SubprocessError):
    return {}
  return dict(zip(names, done.stdout.splitlines()[0].split(', '), strict=False))


def numbers(options: dict[str, Any], tell: Tell) -> None:
  """Losses against the CPU's; seven trials against each alone, resumed, and next to a broken one.

  To rounding: `share` is the largest difference, divided by the loss, over the first steps and
  over all. Bitwise where that is promised, with operations that are deterministic.
  """
  steps, folder = (12 if options['small'] else 50), Path(options['folder'])
  rates = list(_RATES[:3] if options['small'] else _RATES)
  network: dict[str, Any] = {'network': 'tiny' if options['small'] else 'quick', 'steps': steps}
  network['rates'] = [1e9, *rates]
  every = list(range(1, len(rates) + 1))
  runs = {
    'together': {'columns': every},
    'tf32': {'columns': every, 'dtype': 'tensorfloat32'},
    'resumed': {'columns': every, 'stop': steps // 2},
    'beside': {'columns': [0, *every], 'stop': steps // 2},
    **{f'alone_{k}': {'columns': [k]} for k in every},
  }

  def trained(name: str, which: list[str], **environment: str) -> dict[str, np.ndarray]:
    file = folder / f'{name}.npz'
    asked = {'do': 'curves', 'out': str(file), 'runs': {n: runs[n] for n in which}, **network}
    _child(asked, **environment)
    return dict(np.load(file))

  host = trained('cpu', ['together'], JAX_PLATFORMS='cpu')['together']
  here = trained('device', list(runs))
  exact, coarse = (_shares(here[name], host) for name in ('together', 'tf32'))
  tell(
    against_cpu=exact,
    against_cpu_with_tf32=coarse,
    ok=exact['early'] < _FLOAT32,
    said=f'losses differ from a CPU by {exact["early"]:.1e} of their size in {_EARLY} steps, '
    f'{exact["all"]:.1e} in {steps}; with TensorFloat-32 by {coarse["early"]:.1e} and '
    f'{coarse["all"]:.1e}',
  )
  alone = np.concatenate([here[f'alone_{k}'] for k in every], 1)
  solo, beside = _shares(here['together'], alone), _shares(here['beside'][:, 1:], alone)
  left = bool(np.isnan(here['beside'][-1, 0]))
  fits = max(solo['early'], beside['early']) < _FLOAT32
  tell(
    against_alone=solo,
    beside_a_diverged_one=beside,
    diverged_left=left,
    ok=exact['early'] < _FLOAT32 and fits and left,
    said_of_trials=f'{len(rates)} trials differ from each alone by {solo["early"]:.1e}, and next '
    f'to one that diverged by {beside["early"]:.1e}; it {"left" if left else "stayed"}',
  )
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  fixed = trained('fixed', ['together', 'resumed'], XLA_FLAGS=flags)
  bitwise = {
    'with_deterministic_ops': bool((fixed['together'] == fixed['resumed']).all()),
    'without': bool((here['together'] == here['resumed']).all()),
  }
  tell(
    resumed_to_the_bit=bitwise,
    ok=exact['early'] < _FLOAT32 and fits and left and bitwise['with_deterministic_ops'],
    said_of_resuming='resumed to the same bits: '
    + ', '.join(f'{n.replace("_", " ")} {"yes" if x else "no"}' for n, x in bitwise.items()),
  )


def _shares(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
  """The largest difference of two curves (steps, trials), as a share of the second one."""
  share = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-3)
  return {'early': float(share[:_EARLY].max()), 'all': float(share.max())}


def answer(options: dict[str, Any], tell: Tell) -> None:
  """The quick study by its command, from rendering letters to the report; what it says."""
  folder = Path(options['folder'], 'quick')
  arguments = ['--config', 'alexnet_letters:quick', f'--workdir={folder}']
  if options['small']:
    arguments += ['--config.data.per_class=8', '--config.model.width=0.0625']
    arguments += ['--config.image_size=67', '--config.epochs=1']
    arguments += [f'--config.data.cache_dir={options["folder"]}/letters']
  done = _sweep(*arguments)
  if done.returncode:
    tell(ok=False, said=f'status {done.returncode}: {done.stderr.strip()[-500:]}')
    return
  content = json.loads((folder / 'results.json').read_text())
  study, verdict = content['study'], content['verdict']
  tell(
    sentence=verdict['sentence'],
    seconds=study['seconds'],
    seconds_of=study['seconds_of'],
    lines=done.stdout.splitlines()[:12],
    statuses={formats.rate(t['learning_rate']): t['status'] for t in content['trials']},
    ok=options['small'] or verdict['learning_rate'] in (1e-3, 1e-4),
    said=f'in {study["seconds"]:.0f} s: {verdict["sentence"]}',
  )


def move(options: dict[str, Any], tell: Tell) -> None:
  """A study begun on the device goes on on a CPU, and the other way round."""
  folder = Path(options['folder'])
  rng, data = np.random.default_rng(0), folder / 'noise.npz'
  np.savez(data, x=rng.integers(0, 256, (200, 16, 16, 3), np.uint8), y=np.arange(200) % 10)
  fields = {
    'learning_rates': [1e-4, 1e-5],
    'epochs': 2,
    'accelerate': 'off',  # compiles faster
    'batch_size': 2,
    'log_every_steps': 25,
    'data': {'name': f'npz:{data}'},
    'model': {'name': 'mlp', 'hidden': [128]},
    'input': {'subtract': 'pixel'},
  }
  here, host = {}, {'JAX_PLATFORMS': 'cpu'}

  def study(name: str, calls: int, environment: dict[str, str]) -> dict[str, Any]:
    asked = {'do': 'study', 'workdir': str(folder / name), 'fields': fields, 'calls': calls}
    return _child(asked, **environment)

  study('whole', 0, host)
  curves = {'whole': _loss(folder / 'whole')}
  ways = (('to_cpu', here, host), ('from_cpu', host, here))
  for name, first, second in ways[:1] if options['small'] else ways:
    stopped, ended = study(name, 8, first), study(name, 0, second)
    if stopped['ended'] or not ended['ended']:
      tell(ok=False, said=f'{name}: it did not stop and go on')
      return
    curves[name] = _loss(folder / name)
  whole = curves.pop('whole')
  shares = {name: _shares(curve, whole) for name, curve in curves.items()}
  worst = max(share['all'] for share in shares.values())
  tell(shares=shares, ok=worst < 1e-2, said=f'losses differ by {worst:.1e} from those of one CPU')


def _loss(folder: Path) -> np.ndarray:
  return np.load(folder / 'history' / 'step_loss.npy')


def memory(options: dict[str, Any], tell: Tell) -> None:
  """What trials take on the device, against what the plan says."""
  cases = (('tiny', 2),) if options['small'] else (('full', 7), ('quick', 64))
  found, parts = {}, []
  for network, trials in cases:
    # Else what the device holds for itself would count.
    asked = {'do': 'memory', 'network': network, 'trials': trials}
    of = _child(asked, XLA_PYTHON_CLIENT_PREALLOCATE='false')
    found[network], taken = of, of['taken']
    parts.append(f'{network}: planned {of["planned"] / 1e9:.3g} GB')
    if taken:
      parts[-1] += f', taken {taken / 1e9:.3g}'
  off = [abs(of['planned'] / of['taken'] - 1) for of in found.values() if of['taken']]
  none = '' if off else '; a CPU does not tell what was taken'
  tell(found=found, ok=max(off, default=0.0) < _WITHIN, said='; '.join(parts) + none)


def out_of_memory(options: dict[str, Any], tell: Tell) -> None:
  """A study that is told that there is more memory than there is ends as one line.

  On a GPU the same command without that goes on, in waves.
  """
  folder = Path(options['folder'])
  rng, data = np.random.default_rng(0), folder / 'few.npz'
  np.savez(data, x=rng.integers(0, 256, (40, 32, 32, 3), np.uint8), y=np.arange(40) % 2)
  hidden = 10**9 if options['small'] else _hidden(options)
  arguments = [
    '--config=alexnet_letters:quick', f'--config.data.name=npz:{data}',
    '--config.model.name=mlp', f'--config.model.hidden={hidden},', '--config.epochs=1',
    '--config.learning_rates=1e-4,1e-5,1e-6', '--config.seeds=0,1,2,3', '--config.batch_size=10',
    '--config.eval_batch_size=10', '--config.accelerate=off', f'--workdir={folder / "large"}',
  ]  # fmt: skip
  fraction = {'XLA_PYTHON_CLIENT_MEM_FRACTION': str(_FRACTION)}
  if options['small']:
    arguments = [a for a in arguments if not a.startswith('--config.seeds')]
  done = _sweep(*arguments, '--config.memory_gb=1e9', **fraction)
  lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  is_line = done.returncode == 1 and len(lines) == 1 and 'out of memory' in lines[0]
  last = (lines or done.stderr.strip().splitlines() or ['nothing'])[-1][:300]
  tell(status=done.returncode, line=last, ok=is_line, said=f'status {done.returncode}: {last}')
  if not options['small']:
    statuses = []
    while len(statuses) < 3 and statuses[-1:] != [0]:  # each halves what trains together
      statuses.append(_sweep(*arguments, **fraction).returncode)
    ended = statuses[-1] == 0
    text = f'the same command then ended with status {", then ".join(map(str, statuses))}'
    tell(goes_on=statuses, ok=is_line and ended, said_of_waves=text)


def _hidden(options: dict[str, Any]) -> int:
  """Features of a layer of which twelve trials take more than a process may have: 0.6 of that.

  As much again and more is for gradients.
  """
  asked = {'do': 'memory', 'network': 'tiny', 'trials': 1}
  limit = _child(asked, XLA_PYTHON_CLIENT_MEM_FRACTION=str(_FRACTION))['limit']
  return int(0.6 * limit / 12 / 4 / 32**2 / 3)


def _row(name: str, rounds: int) -> Callable[[dict[str, Any], Tell], None]:
  """A row of the benchmark, or the one for tests in its place."""

  def run(options: dict[str, Any], tell: Tell) -> None:
    found = rows.run(
      'tiny' if options['small'] else name,
      rounds,
      lambda line: print(line, file=sys.stderr, flush=True),
      hurry=True,
    )
    table = rows.table(found)
    tell(row=found, table=table, ok=True, said=_ratios(found))

  run.__doc__ = f'The row {name} of the benchmark.'
  return run


def _ratios(found: dict[str, Any]) -> str:
  ours, *others = found['sides'].items()
  # What failed, as where PyTorch is not installed, has an error in its place.
  parts = [f'{ours[0]} {1000 * ours[1]["median"]:.3g} ms a step per trial']
  parts += [
    f'{name} {side["error"][:40]}' if 'error' in side else f'{name} {1000 * side["median"]:.3g}'
    for name, side in others
  ]
  return ', '.join(parts)


PARTS: dict[str, Part] = {
  'card': Part(40, card, 'card, driver, versions'),
  'numbers': Part(110, numbers, 'losses against a CPU, alone, resumed, next to a diverged trial'),
  'step_full': Part(110, _row('step_full', 3), 'a step of the published network against PyTorch'),
  'ways_full': Part(90, _row('ways_full', 2), 'ways to compute it'),
  'answer': Part(120, answer, 'what the quick study says'),
  'memory': Part(60, memory, 'the plan of memory'),
  'out_of_memory': Part(80, out_of_memory, 'a study that does not fit'),
  'move': Part(60, move, 'a study that moves between the device and a CPU'),
  'trials_quick': Part(90, _row('trials_quick', 2), '1 to 4,096 small trials'),
  'step_quick': Part(90, _row('step_quick', 3), 'a step of the quick network against PyTorch'),
  'trials_full': Part(90, _row('trials_full', 2), '1 to 64 trials of the published network'),
  'resnet18': Part(90, _row('resnet18', 2), 'ResNet-18 at batch size 128'),
  'ways_quick': Part(90, _row('ways_quick', 2), 'ways to compute the quick network'),
  'ladder_full': Part(90, _row('ladder_full', 1), 'the published rates on few images'),
}


def _child(asked: dict[str, Any], **environment: str) -> dict[str, Any]:
  """What training.py answers, in a separate process."""
  done = _module('lr_study.gpu_check.training', json.dumps(asked), **environment)
  for line in done.stdout.splitlines():
    if line.startswith('RESULT '):
      return json.loads(line.removeprefix('RESULT '))
  sys.stderr.write(done.stderr)
  last = (done.stderr.strip().splitlines() or ['it ended'])[-1]
  raise StudyError(f'{asked["do"]}: {last[:300]}')


def _sweep(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
  done = _module('lr_study', 'sweep', *arguments, **environment)
  sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
  return done


def _module(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
  """Runs a module in a separate process, to its end."""
  return subprocess.run(
    [sys.executable, '-m', name, *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env={**os.environ, **environment},
  )


def main() -> None:
  name, options = sys.argv[1], json.loads(sys.argv[2])

  def tell(**found: Any) -> None:
    print('RESULT ' + json.dumps(found), flush=True)

  try:
    PARTS[name].run(options, tell)
  except StudyError as error:
    tell(ok=False, said=str(error))


if __name__ == '__main__':
  main()
