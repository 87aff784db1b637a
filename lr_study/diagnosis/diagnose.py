"""Why a trial diverged: its last steps once more, alone, up to the layer that broke first."""

import contextlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lr_study import formats, parallel
from lr_study.diagnosis import curvature, restart
from lr_study.files import workdir
from lr_study.files.checkpoint import Checkpoints
from lr_study.network import factored
from lr_study.programs import keys_of
from lr_study.schedule import make_schedule
from lr_study.search import rounds
from lr_study.training import (
  Running,
  Sweep,
  chunks,
  in_setting,
  measure_sharpness,
  prepare,
  run_together,
  train_steps,
)
from lr_study.trial import State

_SHOWN = 10  # steps whose gradients are shown
_SHARPNESS_IMAGES = 20  # where the study has no number of its own
_LARGEST = float(np.sqrt(np.finfo(np.float32).max))  # whose square float32 can hold


class Diagnosis(NamedTuple):
  """What a replay found. Steps count from 1.

  setting: the label of its batch size and schedule, empty where the study has one.
  recorded: the first bad step in the study's curves. first_bad_step: that of the replay, None
  if it did not break. replayed_from: steps done at its start. losses, gradient_norms: of the
  steps up to the bad one, (steps,). sharpness and its edge: at the start of the replay.
  weight_norms: of each layer at the last finite state. broke: what was not finite first.
  saved: where the last finite state is.
  """

  learning_rate: float
  seed: int
  setting: str
  recorded: int
  first_bad_step: int | None
  replayed_from: int
  losses: np.ndarray
  gradient_norms: np.ndarray
  sharpness: float
  sharpness_edge: float
  weight_norms: dict[str, float]
  broke: str
  saved: Path | None


def diagnose(folder: Path, learning_rate: float, seed: int) -> Diagnosis:
  """Replays a diverged trial of the study in `folder` from the newest checkpoint before its end.

  Alone a trial rounds differently than beside others, so that it may break a step or two
  earlier or later. Of several settings it is the one where it broke first. The last finite state
  goes to `folder/diverged/`.

  Raises:
    StudyError: if there is no such trial, or if it did not diverge.
  """
  config, data = restart.read(folder)
  with config.unlocked():
    config.parallel = 'vmap'  # it is one trial
    config.sharpness_images = config.sharpness_images or _SHARPNESS_IMAGES
  with workdir.held(folder):
    shared, settings = prepare(config, data), rounds.settings(config)
    sweeps = {
      setting: in_setting(shared, own, rounds.label(setting, settings), len(data.classes))
      for setting, own in settings.items()
    }
    planned = rounds.read(folder / 'history')
    trial, recorded = restart.find(folder, planned, sweeps, learning_rate, seed)
    sweep = sweeps[trial.setting]._replace(trials=(trial,))
    done, state = restart.restore(folder, planned, trial, sweep, recorded)
    running = run_together(sweep, np.arange(1))
    trials, own = running.trials, sweep.config
    state_T = trials.to_devices(state) if done else trials.init(running.seed_T)
    height = make_schedule(own.schedule, sweep.steps_per_epoch, own.epochs)(done)
    folded_T = trials.fold(parallel.copy(state_T))  # it takes the state that it is given
    sharpness = measure_sharpness(sweep, running, folded_T, float(height))
    found = _replay(sweep, running, state_T, done, recorded + config.log_every_steps)
    return _describe(sweep, running, found, folder, recorded, done, sharpness)


def describe(found: Diagnosis) -> str:
  """A diagnosis for people, in some lines."""
  trial, after = f'learning rate {formats.rate(found.learning_rate)}', found.replayed_from
  if found.setting:
    trial += f', {found.setting.replace("_", " ")}'
  lines = [
    f'{trial}, seed {found.seed}: in the study its first bad step was {found.recorded}; '
    f'replayed alone from step {after} on it '
    + (f'was {found.first_bad_step}' if found.first_bad_step else 'did not break'),
    f'sharpness at step {after}: {found.sharpness:.3g}, '
    f'{curvature.side(found.sharpness, found.sharpness_edge)} the edge of stability, '
    f'{found.sharpness_edge:.3g} (2 (1 + momentum) / rate: a guide at small batch sizes)',
  ]
  if found.first_bad_step is None:
    return '\n'.join(lines)
  shown = range(max(0, len(found.losses) - _SHOWN), len(found.losses))
  lines += ['', f'{"step":>8}  {"loss":>10}  {"gradient norm":>13}']
  lines += [
    f'{after + k + 1:>8}  {found.losses[k]:>10.4g}  {found.gradient_norms[k]:>13.4g}' for k in shown
  ]
  finite = found.losses[np.isfinite(found.losses)]
  last = formats.loss(float(finite[-1]) if len(finite) else None)
  norms = ', '.join(f'{name} {norm:.4g}' for name, norm in found.weight_norms.items())
  return '\n'.join([
    *lines, '', f'last finite loss: {last}', f'norms of the weights then: {norms}',
    f'what broke first: {found.broke}', f'the last finite state: {found.saved}',
  ])  # fmt: skip


class _Replay(NamedTuple):
  """What was kept of it. bad: the first bad step; before: the state it began with."""

  bad: int | None
  before: Any
  finite: Any  # the newest state whose loss and gradient were finite
  finite_at: int  # steps done then
  losses: np.ndarray
  gradient_norms: np.ndarray


def _replay(sweep: Sweep, running: Running, state_T: Any, done: int, stop: int) -> _Replay:
  """Takes the steps after `done` until one's loss or gradient is not finite, to `stop` at most."""
  # Copies, since a step writes over the state that it is given.
  rows, finite, finite_at = [], parallel.copy(state_T), done
  for step in range(done, min(stop, sweep.epochs * sweep.steps_per_epoch)):
    before, (epoch, position) = parallel.copy(state_T), divmod(step, sweep.steps_per_epoch)
    state_T, found, _ = train_steps(sweep, running, state_T, epoch, position, position + 1)
    rows.append((found['loss'][0, 0], found['gradient_norm'][0, 0]))
    if not np.isfinite(rows[-1]).all():
      return _Replay(step + 1, before, finite, finite_at, *np.transpose(rows))
    finite, finite_at = before, step
  return _Replay(None, state_T, finite, finite_at, *np.transpose(rows))


def _describe(
  sweep: Sweep,
  running: Running,
  found: _Replay,
  folder: Path,
  recorded: int,
  done: int,
  sharpness: dict[str, np.ndarray],
) -> Diagnosis:
  rate, seed = sweep.learning_rates[0], sweep.seeds[0]
  sharp, edge = (float(value[0]) for value in sharpness.values())
  about = (
    rate, seed, sweep.label, recorded, found.bad, done, found.losses, found.gradient_norms, sharp,
    edge,
  )  # fmt: skip
  if found.bad is None:
    return Diagnosis(*about, {}, '', None)
  state = _first(running, found.finite)
  saved = folder / 'diverged' / sweep.label / f'lr_{formats.rate(rate)}_seed_{seed}'
  shutil.rmtree(saved, ignore_errors=True)
  with contextlib.closing(Checkpoints(saved)) as checkpoints:
    checkpoints.save(found.finite_at, state)
  norms = _norms(_weights(_folded(sweep, state)))
  return Diagnosis(*about, norms, _broke(sweep, running, found), saved)


def _broke(sweep: Sweep, running: Running, found: _Replay) -> str:
  """The first thing that was not finite in a bad step: weights, an output or a gradient."""
  one, state = sweep.trial, _folded(sweep, _first(running, found.before))
  weights = _norms(_weights(state))
  if broken := [name for name, norm in weights.items() if not np.isfinite(norm)]:
    return f'the weights of {", ".join(broken)}, in the update of the step before'
  epoch, position = divmod(found.bad - 1, sweep.steps_per_epoch)
  chunk = next(chunks(sweep, running, epoch, position, position + 1))
  start, (arrays,), (order,) = chunk.place * sweep.config.batch_size, chunk.arrays_S, chunk.order_S
  index = order[start : start + sweep.config.batch_size]
  key, step = keys_of(np.uint32(sweep.seeds[0]))[2], found.bad - 1
  inputs = one.prepare(arrays.images[index], sweep.mean, key, step)
  outputs, logits, gradients = jax.device_get(
    jax.jit(one.examine)(state, inputs, arrays.labels[index], key, step)
  )
  # The order of the names is that of the layers.
  outputs = {f'output of {name}': output for name, output in outputs.items()} | {'logits': logits}
  for name, output in outputs.items():
    if not np.isfinite(output).all():
      return f'the {name}, in the forward pass'
  largest = max(float(np.abs(output).max()) for output in outputs.values())
  forward = f'in the backward pass, after outputs of up to {largest:.3g}'
  for name, norm in reversed(_norms(gradients).items()):
    if not norm < _LARGEST:
      what = 'the gradient' if not np.isfinite(norm) else 'the square of the gradient'
      return f'{what} of {name}, {forward}'
  return 'the loss, and no layer' if not np.isfinite(found.losses[-1]) else 'the gradient'


def _folded(sweep: Sweep, state: State) -> State:
  return jax.device_get(jax.jit(sweep.trial.fold)(state))


def _weights(folded: State) -> Any:
  return factored.merge(folded.params, folded.factors)


def _first(running: Running, tree_T: Any) -> Any:
  return jax.tree.map(lambda x: x[0], running.trials.to_host(tree_T))


def _norms(params: Any) -> dict[str, float]:
  """Of each layer's kernel and bias together, in float64: float32 squares may overflow."""
  return {
    name: float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in layer.values())))
    for name, layer in params.items()
  }
