"""Why a trial diverged: its last steps once more, alone, up to the layer that broke first."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lr_study import curvature, factored, formats, parallel, workdir
from lr_study import data as datasets
from lr_study.checkpoint import Checkpoints
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.history import History, read_waves
from lr_study.schedule import make_schedule
from lr_study.training import (
  Running,
  Sweep,
  measure_sharpness,
  prepare,
  run_together,
  train_steps,
)
from lr_study.wave import curves, saved_columns

_SHOWN = 10  # steps whose gradients are shown
_SHARPNESS_IMAGES = 20  # where the study has no number of its own
_LARGEST = float(np.sqrt(np.finfo(np.float32).max))  # whose square float32 can hold


class Diagnosis(NamedTuple):
  """What a replay found. Steps count from 1.

  recorded: the first bad step in the study's curves. first_bad_step: that of the replay, None
  if it did not break. replayed_from: steps done at its start. losses, gradient_norms: of the
  steps up to the bad one, (steps,). sharpness and its edge: at the start of the replay.
  weight_norms: of each layer at the last finite state. broke: what was not finite first.
  saved: where the last finite state is.
  """

  learning_rate: float
  seed: int
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
  earlier or later. The last finite state goes to `folder/diverged/`.

  Raises:
    StudyError: if there is no such trial, or if it did not diverge.
  """
  config, data = _read(folder)
  with workdir.held(folder):
    sweep = prepare(config, data)
    trial = _column(sweep, learning_rate, seed)
    waves = read_waves(folder / 'history')
    if waves is None:
      raise StudyError(f'{folder} has no curves yet; run the study first')
    wave, column = waves[trial], int(np.sum(waves[:trial] == waves[trial]))
    history = curves(sweep, folder, wave, waves)
    recorded = _first_bad_step(history, column, sweep.learning_rates[trial])
    done, state = _restore(sweep, history, workdir.place(folder / 'checkpoints', wave, waves),
                           column, recorded)  # fmt: skip
    alone = sweep._replace(
      learning_rates=(sweep.learning_rates[trial],), seeds=(sweep.seeds[trial],)
    )
    running = run_together(alone, np.arange(1))
    state_T = running.trials.to_devices(state) if done else running.trials.init(running.seed_T)
    height = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)(done)
    sharpness = measure_sharpness(alone, running, state_T, float(height))
    found = _replay(alone, running, state_T, done, recorded + config.log_every_steps)
    return _describe(alone, running, found, folder, recorded, done, sharpness)


def describe(found: Diagnosis) -> str:
  """A diagnosis for people, in some lines."""
  rate, after = formats.rate(found.learning_rate), found.replayed_from
  lines = [
    f'learning rate {rate}, seed {found.seed}: in the study its first bad step was '
    f'{found.recorded}; replayed alone from step {after} on it '
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
  rows, finite, finite_at = [], _copy(state_T), done
  for step in range(done, min(stop, sweep.config.epochs * sweep.steps_per_epoch)):
    before, (epoch, position) = _copy(state_T), divmod(step, sweep.steps_per_epoch)
    state_T, found, _ = train_steps(sweep, running, state_T, epoch, position, position + 1)
    rows.append((found['loss'][0, 0], found['gradient_norm'][0, 0]))
    if not np.isfinite(rows[-1]).all():
      return _Replay(step + 1, before, finite, finite_at, *np.transpose(rows))
    finite, finite_at = before, step
  return _Replay(None, state_T, finite, finite_at, *np.transpose(rows))


def _copy(state_T: Any) -> Any:
  return jax.tree.map(jnp.copy, state_T)  # a step writes over the state that it is given


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
  about = (rate, seed, recorded, found.bad, done, found.losses, found.gradient_norms, sharp, edge)
  if found.bad is None:
    return Diagnosis(*about, {}, '', None)
  state = _first(running, found.finite)
  saved = folder / 'diverged' / f'lr_{formats.rate(rate)}_seed_{seed}'
  shutil.rmtree(saved, ignore_errors=True)
  with contextlib.closing(Checkpoints(saved)) as checkpoints:
    checkpoints.save(found.finite_at, state)
  norms = _norms(_params(running, found.finite))
  return Diagnosis(*about, norms, _broke(sweep, running, found), saved)


def _broke(sweep: Sweep, running: Running, found: _Replay) -> str:
  """The first thing that was not finite in a bad step: weights, an output or a gradient."""
  trials, config = running.trials, sweep.config
  weights = _params(running, found.before)
  if broken := [name for name, norm in _norms(weights).items() if not np.isfinite(norm)]:
    return f'the weights of {", ".join(broken)}, in the update of the step before'
  epoch, position = divmod(found.bad - 1, sweep.steps_per_epoch)
  order_T = trials.order(running.seed_T, epoch if config.data.reshuffle else 0, sweep.train)
  outputs, gradients = _first(running, trials.examine(
    trials.fold(_copy(found.before)), running.seed_T, sweep.train, order_T,
    position * config.batch_size,
  ))  # fmt: skip
  for name in outputs:
    if not np.isfinite(outputs[name]).all():
      return f'the output of {name}, in the forward pass'
  largest = max(float(np.abs(output).max()) for output in outputs.values())
  forward = f'in the backward pass, after outputs of up to {largest:.3g}'
  for name, norm in reversed(_norms(gradients).items()):
    if not norm < _LARGEST:
      what = 'the gradient' if not np.isfinite(norm) else 'the square of the gradient'
      return f'{what} of {name}, {forward}'
  return 'the loss, and no layer' if not np.isfinite(found.losses[-1]) else 'the gradient'


def _params(running: Running, state_T: Any) -> Any:
  """The plain weights of a state, on the host, without the trial axis."""
  state = _first(running, running.trials.fold(_copy(state_T)))
  return factored.merge(state.params, state.factors)


def _first(running: Running, tree_T: Any) -> Any:
  return jax.tree.map(lambda x: x[0], running.trials.to_host(tree_T))


def _norms(params: Any) -> dict[str, float]:
  """Of each layer's kernel and bias together, in float64: float32 squares may overflow."""
  return {
    name: float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in layer.values())))
    for name, layer in params.items()
  }


def _read(folder: Path) -> tuple[ConfigDict, datasets.Dataset]:
  """The config and the images of a study, finished or not."""
  file = folder / 'config.json'
  if not os.path.isfile(file):
    raise StudyError(f'--workdir {folder} holds no study: it has no config.json')
  try:
    study = json.loads(file.read_text())
    config, fingerprint = ConfigDict(_tuples(study['config'])), study['data']['fingerprint']
  except (KeyError, TypeError, ValueError) as error:
    raise StudyError(f'{file} is damaged ({error!r})') from error
  config = check(config)
  with config.unlocked():
    config.sharpness_images = config.sharpness_images or _SHARPNESS_IMAGES
  data = datasets.load(config.data, config.image_size)
  if data.fingerprint != fingerprint:
    raise StudyError(f'the images that {folder} was trained on have changed; run the study again')
  return config, data


def _tuples(value: Any) -> Any:
  """JSON has lists where a config has tuples."""
  if isinstance(value, dict):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(value) if isinstance(value, list) else value


def _column(sweep: Sweep, learning_rate: float, seed: int) -> int:
  trials: Sequence[tuple[float, int]] = list(zip(sweep.learning_rates, sweep.seeds, strict=True))
  for column, (rate, of_seed) in enumerate(trials):
    if np.isclose(rate, learning_rate, rtol=1e-5) and of_seed == seed:
      return column
  names = ', '.join(f'{formats.rate(rate)} with seed {of_seed}' for rate, of_seed in trials)
  raise StudyError(
    f'--learning_rate {formats.rate(learning_rate)} with --seed {seed} is not in the study, which '
    f'has {names}'
  )


def _first_bad_step(history: History, column: int, rate: float) -> int:
  """The first step, from 1, that is not finite though the study came as far as that."""
  finite = np.isfinite(history.steps['loss']) & np.isfinite(history.steps['gradient_norm'])
  reached = int(np.max(np.flatnonzero(~np.isnan(history.steps['loss']).all(1)), initial=-1)) + 1
  bad = np.flatnonzero(~finite[:reached, column])
  if not len(bad):
    raise StudyError(
      f'{formats.rate(rate)} did not diverge in the {reached} steps that the study has come to; '
      'name a --learning_rate that did'
    )
  return int(bad[0]) + 1


def _restore(
  sweep: Sweep, history: History, folder: Path, column: int, bad: int
) -> tuple[int, Any]:
  """Steps done, and the trial's state (1, ...), in the newest checkpoint before a step; 0, None."""

  def like(done: int) -> Any:
    return parallel.state_of(sweep.trial, len(saved_columns(history, done, sweep)))

  with contextlib.closing(Checkpoints(folder)) as checkpoints:
    done, state = checkpoints.newest(like, before=bad)
  if not done:
    return 0, None
  place = int(np.flatnonzero(saved_columns(history, done, sweep) == column)[0])
  return done, jax.tree.map(lambda x: x[place : place + 1], state)
