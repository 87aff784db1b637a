"""Finds out why a trial diverged: replays its last steps to find the layer that broke first."""

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from lr_study import formats, freeze, models, trial, trials
from lr_study.accelerate.threads import copy
from lr_study.diagnosis import curvature, restart
from lr_study.errors import StudyError, is_full
from lr_study.files import workdir
from lr_study.files.checkpoint import Checkpoints
from lr_study.paths import Moved
from lr_study.progress import note
from lr_study.search import rounds
from lr_study.trial import Batch, State, Task
from lr_study.trials import Running, Sweep
from lr_study.vectorize import keys_of

_SHOWN = 10  # steps whose gradients are shown
_SHOWN_LAYERS = 12  # layers whose norms are shown: those with the largest
_SHARPNESS_IMAGES = 20  # if the study does not set sharpness_images
_LARGEST = float(np.sqrt(np.finfo(np.float32).max))  # float32 can hold its square


class Diagnosis(NamedTuple):
  """The result of a replay. Steps count from 1.

  setting: the label of the trial's setting, '' if the study has only one. recorded: the first bad
  step in the study's curves. first_bad_step: the first bad step in the replay; None if it did not
  diverge. replayed_from: how many steps were done when the replay started. losses, gradient_norms:
  of the steps up to the bad one, (steps,). sharpness, sharpness_edge: at the start of the replay;
  the edge is NaN for an optimiser that has none. weight_norms: of each layer in the last finite
  state, in the order of the calls. broke: what was not finite first. saved: the location of the
  last finite state, if it could be saved.
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


def diagnose(
  folder: Path,
  learning_rate: float,
  seed: int,
  moved: Moved = (),
  setting: Mapping[str, Any] = rounds.ANY,
) -> Diagnosis:
  """Replays a diverged trial of the study in `folder` from the newest checkpoint before its end.

  If the study trained all trials in one call, a trial alone is rounded differently, so it may break
  a step or two earlier or later. If several settings fit `setting` (see `rounds.matching`), the one
  in which the trial broke first is taken. The last finite state is saved in `folder/diverged/`.

  Raises:
    StudyError: there is no such trial, or it did not diverge.
  """
  config, data = restart.read(folder, moved)
  with config.unlocked():
    if config.parallel in ('pmap', 'shard_map'):
      config.parallel = 'vmap'  # there is only one trial
    config.sharpness_images = config.sharpness_images or _SHARPNESS_IMAGES
    config.critical_sharpness_images = 0
  shared = trials.prepare(config, data)
  sweeps = {
    setting: trials.in_setting(shared, own) for setting, own in rounds.settings(config).items()
  }
  planned = rounds.read(folder / 'history')
  found, recorded = restart.find(folder, planned, sweeps, learning_rate, seed, setting)
  sweep = sweeps[found.setting]._replace(trials=(found,))
  done, state = restart.restore(folder, planned, found, sweep, recorded)
  now = trials.running(sweep, np.arange(1))
  state_T = sweep.spread.put(state) if done else sweep.spread.init(now.hyper_T, now.seeds)
  sharpness = trials.measure_sharpness(sweep, now, _settled(sweep, state_T), done)
  if not done and sweep.config.optimizer.name == 'adam':  # it has no preconditioner yet
    sharpness['sharpness_edge'] = np.full(1, np.nan)
  replay = _replay(sweep, now, state_T, done, recorded + config.log_every_steps)
  return _describe(sweep, now, replay, folder, recorded, done, sharpness)


def describe(found: Diagnosis) -> str:
  """A diagnosis for people, in several lines."""
  which, after = f'learning rate {formats.rate(found.learning_rate)}', found.replayed_from
  if found.setting:
    which += f', {found.setting.replace("_", " ")}'
  edge = (
    'the edge of stability is not known for this optimiser at this step'
    if np.isnan(found.sharpness_edge)
    else f'{curvature.side(found.sharpness, found.sharpness_edge)} the edge of stability, '
    f'{found.sharpness_edge:.3g} (a guide at small batch sizes)'
  )
  lines = [
    f'{which}, seed {found.seed}: its first bad step in the study was {found.recorded}; '
    f'replayed alone from step {after}, it '
    + (f'was {found.first_bad_step}' if found.first_bad_step else 'did not diverge'),
    f'sharpness at step {after}: {found.sharpness:.3g}, {edge}',
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
  return '\n'.join([
    *lines, '', f'last finite loss: {last}', _norms_line(found.weight_norms),
    f'what broke first: {found.broke}',
    *[f'the last finite state: {kept}' for kept in (found.saved,) if kept],
  ])  # fmt: skip


def _norms_line(norms: Mapping[str, float]) -> str:
  largest = sorted(norms, key=norms.get, reverse=True)[:_SHOWN_LAYERS]
  shown = ', '.join(f'{name} {norm:.4g}' for name, norm in norms.items() if name in largest)
  some = f', the {_SHOWN_LAYERS} largest of {len(norms)}' if len(norms) > len(largest) else ''
  return f'norms of the weights at that step{some}: {shown}'


class _Replay(NamedTuple):
  """What a replay keeps. States are in the spread's own form.

  bad: the first bad step. before, after: the states before and after it. finite: the newest state
  with a finite loss and gradient. finite_at: how many steps were done then.
  """

  bad: int | None
  before: Any
  after: Any
  finite: Any
  finite_at: int
  losses: np.ndarray
  gradient_norms: np.ndarray


def _replay(sweep: Sweep, now: Running, state_T: Any, done: int, stop: int) -> _Replay:
  """Takes steps from `done` until a loss or gradient is not finite, but at most to `stop`."""
  # Copies, because a step overwrites the state that it is given.
  rows, before, finite, finite_at = [], None, copy(state_T), done
  stop = min(stop, sweep.epochs * sweep.steps_per_epoch)
  for step in range(done, stop):
    before, (epoch, position) = copy(state_T), divmod(step, sweep.steps_per_epoch)
    state_T, found, _ = trials.train_steps(sweep, now, state_T, epoch, position, position + 1)
    rows.append((found['loss'][0, 0], found['gradient_norm'][0, 0]))
    if not np.isfinite(rows[-1]).all():
      return _Replay(step + 1, before, state_T, finite, finite_at, *np.transpose(rows))
    finite, finite_at = before, step
  # No loss shows what the last update broke, and running statistics only show in evaluations.
  bad = stop if _not_finite(_plain(sweep, now, state_T)) else None
  return _Replay(bad, before, state_T, finite, finite_at, *np.transpose(rows))


def _describe(
  sweep: Sweep,
  now: Running,
  found: _Replay,
  folder: Path,
  recorded: int,
  done: int,
  sharpness: dict[str, np.ndarray],
) -> Diagnosis:
  rate, seed = sweep.trials[0].learning_rate, sweep.trials[0].seed
  label = sweep.labels[sweep.trials[0].setting]
  sharp, edge = (float(sharpness[name][0]) for name in ('sharpness', 'sharpness_edge'))
  about = (
    rate, seed, label, recorded, found.bad, done, found.losses, found.gradient_norms, sharp,
    edge,
  )  # fmt: skip
  if found.bad is None:
    return Diagnosis(*about, {}, '', None)
  name = Path('diverged', label, f'lr_{formats.rate(rate)}_seed_{seed}')
  saved = _save(folder, name, found.finite_at, _first(sweep.spread.get(found.finite, 1)))
  broke, order = _broke(sweep, now, found)
  params, model_state, _ = _plain(sweep, now, found.finite)
  norms = _norms(freeze.whole(params, model_state)['params'], order)
  return Diagnosis(*about, norms, broke, saved)


def _save(folder: Path, name: Path, done: int, state: Any) -> Path | None:
  """Saves a state in the study's folder, unless that is not writable or in use."""
  saved = folder / name
  try:
    with workdir.held(folder):
      for before in saved.glob('[0-9]*'):
        shutil.rmtree(before)
      with contextlib.closing(Checkpoints(saved)) as checkpoints:
        checkpoints.save(done, state)
  except (OSError, StudyError) as error:
    if is_full(error):
      raise
    note(f'The last finite state is not saved: {getattr(error, "strerror", None) or error}')
    return None
  return saved


def _broke(sweep: Sweep, now: Running, found: _Replay) -> tuple[str, Sequence[str]]:
  """What was not finite first in a bad step, and the layers in the order of the calls."""
  outputs, logits, gradients = _examine(sweep, now, found)
  order = list(outputs)
  if broken := _not_finite(_plain(sweep, now, found.before)):
    return f'{broken}, in the update of the step before', order
  outputs = {f'output of {name}': output for name, output in outputs.items()} | {'logits': logits}
  for name, output in outputs.items():
    if not np.isfinite(output).all():
      return f'the {name}, in the forward pass', order
  largest = max(float(np.abs(output).max()) for output in outputs.values())
  forward = f'in the backward pass, after outputs of up to {largest:.3g}'
  for name, norm in reversed(_norms(gradients, order).items()):
    if not norm < _LARGEST:
      what = 'the gradient' if not np.isfinite(norm) else 'the square of the gradient'
      return f'{what} of {name}, {forward}', order
  if not np.isfinite(found.losses[-1]):
    return 'the loss, but no layer', order
  if not np.isfinite(found.gradient_norms[-1]):
    return 'the gradient', order
  return f'{_not_finite(_plain(sweep, now, found.after))}, in the last step', order


def _examine(
  sweep: Sweep, now: Running, found: _Replay
) -> tuple[dict[str, np.ndarray], np.ndarray, Any]:
  """The layers' outputs in the order of the calls, the logits and the gradients in the bad step."""
  epoch, position = divmod(found.bad - 1, sweep.steps_per_epoch)
  chunk = next(trials.chunks(sweep, now.seeds, epoch, position, position + 1))
  index, data = chunk.index_of[now.seeds[0]][0], chunk.data
  batch = Batch(data.images[index], data.labels[index], data.mean)
  task, names = sweep.task, []

  def examine(state, hyper, batch):
    key, step = keys_of(np.uint32(now.seeds[0]))[2], np.int32(found.bad - 1)
    loss = trial.loss_fn(task, state.model_state, hyper, batch, key, step)
    gradients, (logits, *_) = jax.grad(loss, has_aux=True)(state.params)
    outputs = layer_outputs(task, state, batch, key, step)
    names[:] = outputs  # a compiled function returns dictionaries in alphabetical order
    return outputs, logits, gradients

  settled_T = _settled(sweep, found.before)
  outputs, *rest = _first(sweep.spread.apply(examine, settled_T, now.hyper_T, batch))
  return {name: outputs[name] for name in names}, *rest


def layer_outputs(
  task: Task, state: State, batch: Batch, key: jax.Array, step: jax.Array
) -> dict[str, jax.Array]:
  """What every layer returns in the step that `trial.train_step` takes with these arguments.

  Returns:
    Arrays (batch, ...) by path, such as 'block0/conv1', in the order of the calls.
  """
  of_inputs, of_dropout = jax.random.split(jax.random.fold_in(key, step))
  inputs, _ = task.inputs(batch, of_inputs)

  def low(x):
    return x.astype(task.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

  # As in trial.apply.
  variables = freeze.whole(state.params, state.model_state)
  if not hasattr(task.model, 'dtype'):
    variables['params'] = jax.tree.map(low, variables['params'])
  rngs = {'dropout': of_dropout, 'params': of_dropout}
  with freeze.held(state.model_state):
    return models.outputs(task.model, variables, low(inputs), train=True, rngs=rngs)[0]


def _settled(sweep: Sweep, state_T: Any) -> Any:
  return sweep.spread.settle(copy(state_T))  # settling overwrites the state that it is given


def _plain(sweep: Sweep, now: Running, state_T: Any) -> State:
  """The weights and the network's other collections, on the host, without the optimiser's state."""
  of_any = now.hyper_T, sweep.sharpness
  return _first(sweep.spread.apply(_without_optimizer, _settled(sweep, state_T), *of_any))


def _without_optimizer(state: State, hyper: Any, batch: Batch) -> State:
  del hyper, batch
  return state._replace(opt_state=None)


def _first(tree_T: Any) -> Any:
  return jax.tree.map(lambda x: x[0], tree_T)


def _not_finite(state: State) -> str:
  """Names the parts of a state that are not finite: 'the weights of conv1, conv2'; '' if none."""
  found = []
  for kind, tree in {'weights': state.params, **state.model_state}.items():
    if kind in ('constants', freeze.FROZEN):  # of an NNX module: a mask may hold infinity
      continue
    broken = [name for name, norm in _norms(tree).items() if not np.isfinite(norm)]
    found += [f'the {kind} of {", ".join(broken)}'] if broken else []
  return ' and '.join(found)


def _norms(tree: Any, order: Iterable[str] = ()) -> dict[str, float]:
  """The norm of all arrays of each layer, in float64, as float32 squares may overflow.

  Layers are named by their paths. Those in `order` come first. An array outside of a layer has its
  own name.
  """
  squares = dict.fromkeys(order, 0.0)
  for path, x in flatten_dict(tree, sep='/').items():
    layer, _, own = path.rpartition('/')
    name = layer or own
    squares[name] = squares.get(name, 0.0) + np.sum(np.square(np.asarray(x, np.float64)))
  return {name: float(np.sqrt(square)) for name, square in squares.items()}
