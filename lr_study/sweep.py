"""The loop of a study: steps, epochs, and what is kept and shown of them on the way."""

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import (
  figures,
  parallel,
  plan,
  progress,
  provenance,
  report,
  verdict,
  workdir,
)
from lr_study.checkpoint import Checkpoints
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.events import Events, write_experiment
from lr_study.history import History, join, read_waves, write_trials
from lr_study.interrupt import Interrupt, Stopped
from lr_study.processes import ALONE, Process, leave
from lr_study.schedule import make_schedule
from lr_study.training import (
  Running,
  Sweep,
  evaluate,
  keep,
  prepare,
  run_together,
  train_steps,
)

FINISHED = 'finished'  # a file beside the curves of trials that have ended


class Files(NamedTuple):
  """What the trials that train together write while they train."""

  history: History
  events: Events
  checkpoints: Checkpoints


def run(
  config: ConfigDict, folder: Path, overwrite: bool = False, process: Process = ALONE
) -> verdict.Verdict | None:
  """Runs a study, goes on with a stopped one, or reads a finished one, and prints its answer.

  Args:
    config: every field of configs/alexnet_letters.py.
    folder: the work directory.
    overwrite: delete the study that the work directory holds first.
    process: where a study has several, each calls this; each trains its share of the trials,
      and process 0 gathers them.

  Returns:
    The answer, in process 0.

  Raises:
    StudyError: for what the user can mend; nothing was written then.
    Stopped: if a signal asked for it; all is saved then.
  """
  config = check(config)
  with workdir.held(folder, process):
    if process.index:
      leave()  # together with process 0, which has built the data then
    data = datasets.load(config.data, config.image_size)
    leave()
    if config.batch_size > len(data.train.labels):
      raise StudyError(
        f'batch_size is {config.batch_size}, but there are {len(data.train.labels)} training images'
      )
    parallel.keep_compiled_programs()
    study = provenance.describe(config, data)
    if process.index:
      workdir.wait_until_planned(folder, process)
    workdir.claim(folder, study, overwrite and not process.index)
    finished = report.read(folder) or _train(config, data, folder, study, process)
  if finished is None or process.index:
    progress.note(f'Process {process.index} is done; process 0 tells the answer')
    return None
  results, answer = finished
  progress.print_answer(results, answer.sentence)
  progress.note(
    f'{folder}: summary.md, figures/, results.json; tensorboard --logdir {folder}/tensorboard'
  )
  return answer


def _train(
  config: ConfigDict,
  data: datasets.Dataset,
  folder: Path,
  study: dict[str, Any],
  process: Process,
) -> tuple[list[verdict.Result], verdict.Verdict] | None:
  """Trains this process's trials; process 0 then waits for the others' and writes the results."""
  started = time.monotonic()
  sweep = prepare(config, data)
  steps = config.epochs * sweep.steps_per_epoch
  waves = _waves(sweep, folder, process)
  mine = range(process.index, max(waves) + 1, process.count)
  for wave in mine:
    _train_wave(_part(sweep, waves == wave), folder, wave, waves, len(mine))
  if process.index:
    return None
  history = _gather(sweep, folder, waves, process.count)
  schedule = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)
  guessing_loss = verdict.entropy(data.train.labels)
  diverged = [verdict.first_bad_step(history, trial) for trial in range(len(sweep.seeds))]
  run = [steps if bad is None else _chunk_end(bad, sweep) for bad in diverged]
  results = verdict.results(history, sweep.learning_rates, sweep.seeds, guessing_loss, run)
  answer = verdict.judge(results, data.validation.labels)
  with sweep.clock('figures'):
    figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = study | {
    'seconds': round(time.monotonic() - started, 1),
    'seconds_of': {phase: round(seconds, 1) for phase, seconds in sweep.clock.seconds.items()},
    'trial_steps': {'planned': steps * len(results), 'run': sum(run)},
  }
  report.write(folder, study, results, answer)
  return results, answer


def _waves(sweep: Sweep, folder: Path, process: Process) -> np.ndarray:
  """The wave of each trial, (trials,): as the study began, however many processes it has now."""
  waves = read_waves(folder / 'history')
  if waves is None:
    count = len(sweep.seeds)
    with sweep.clock('start'):
      progress.note(f'Compiling for {count} trials on {provenance.device()}')
      trials = run_together(sweep, np.arange(count)).trials
      limit = sweep.config.memory_gb * 1e9
      waves = np.asarray(plan.waves(trials, sweep.train, count, process.count, limit))
    write_trials(folder / 'history', sweep.learning_rates, sweep.seeds, waves.tolist())
  if not process.index:
    write_experiment(folder / 'tensorboard', len(waves))
    workdir.tell_planned(folder)
  return waves


def _part(sweep: Sweep, chosen: np.ndarray) -> Sweep:
  """The sweep of the trials that are `chosen`, (trials,)."""
  rates, seeds = (
    tuple(value for value, keeps in zip(values, chosen, strict=True) if keeps)
    for values in (sweep.learning_rates, sweep.seeds)
  )
  return sweep._replace(learning_rates=rates, seeds=seeds)


def _history(sweep: Sweep, folder: Path, wave: int, waves: np.ndarray) -> History:
  """The history of a wave; where it is the only one, that of the study."""
  steps, trials = sweep.config.epochs * sweep.steps_per_epoch, int((waves == wave).sum())
  return History(_place(folder / 'history', wave, waves), steps, sweep.config.epochs, trials)


def _place(folder: Path, wave: int, waves: np.ndarray) -> Path:
  return folder / f'wave_{wave}' if waves.any() else folder


def _gather(sweep: Sweep, folder: Path, waves: np.ndarray, count: int) -> History:
  """Waits for the waves of the other ones of `count` processes; the history of all trials.

  Raises:
    StudyError: if a process has ended before its trials did.
  """
  pending = list(range(max(waves) + 1))
  while pending:
    file = _place(folder / 'history', pending[0], waves) / FINISHED
    if file.exists():
      del pending[0]
    elif not workdir.is_held(folder, pending[0] % count) and not file.exists():
      raise StudyError(
        f'process {pending[0] % count} has ended before its trials did; they are saved, and the '
        'same command goes on with them'
      )
    else:
      time.sleep(1)
  histories = [_history(sweep, folder, wave, waves) for wave in range(max(waves) + 1)]
  return join(folder / 'history', histories, waves) if waves.any() else histories[0]


def _train_wave(sweep: Sweep, folder: Path, wave: int, waves: np.ndarray, count: int) -> None:
  """Trains the trials of a wave from the newest checkpoint, or from the start, to the last epoch.

  Args:
    sweep: of these trials.
    folder: the study's.
    wave: which.
    waves: of all trials of the study.
    count: how many waves this process trains.
  """
  config, total = sweep.config, sweep.config.epochs * sweep.steps_per_epoch
  schedule = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)
  history = _history(sweep, folder, wave, waves)
  events = Events(
    folder / 'tensorboard', sweep.learning_rates, sweep.seeds, schedule, config.log_every_steps
  )
  title = f'wave {wave + 1} of {max(waves) + 1}' if waves.any() else 'training'

  def like(done: int) -> Any:
    return parallel.state_of(sweep.trial, len(history.running(_chunk_start(done, sweep))))

  with contextlib.closing(Checkpoints(_place(folder / 'checkpoints', wave, waves))) as checkpoints:
    done, state = checkpoints.newest(like)
    if done:
      progress.note(f'Going on from step {done}' + (f' of {title}' if waves.any() else ''))
    _replay(events, history, done, sweep)
    columns = history.running(_chunk_start(done, sweep))
    if done < total and len(columns):
      running, state_T = _start(sweep, columns, done, state, count)
      files = Files(history, events, checkpoints)
      view = progress.TrainingView(sweep.learning_rates, sweep.seeds, total, config.epochs, title)
      with Interrupt() as interrupt, view:
        _train_steps(sweep, files, view, interrupt, running, state_T, done)
  trials = range(len(sweep.seeds))
  events.close([verdict.first_bad_step(history, trial) is not None for trial in trials])
  workdir.write_text(_place(folder / 'history', wave, waves) / FINISHED, '')


def _start(
  sweep: Sweep, columns: np.ndarray, done: int, state: Any, waves: int
) -> tuple[Running, Any]:
  """The trials of a wave as they were at step `done`, and at the start if that is 0."""
  total = sweep.config.epochs * sweep.steps_per_epoch
  running = run_together(sweep, columns)
  with sweep.clock('start'):
    progress.note(sweep.trial.computed)
    epochs = (total * waves - done) / sweep.steps_per_epoch
    plan.announce(sweep.config, *running[1:], sweep.train, sweep.images, epochs)
    if done:
      return running, running.trials.to_devices(state)
    return running, running.trials.init(running.seed_T)


def _train_steps(
  sweep: Sweep,
  files: Files,
  view: progress.TrainingView,
  interrupt: Interrupt,
  running: Running,
  state_T: Any,
  done: int,
) -> None:
  """Trains trials from step `done` to the last epoch, or until all diverged.

  Raises:
    Stopped: if a signal asked for it; the state is saved then.
  """
  config, per_epoch, clock = sweep.config, sweep.steps_per_epoch, sweep.clock
  history, events, checkpoints = files
  total, saved, saved_at = config.epochs * per_epoch, done, time.monotonic()
  view.start(done)
  while done < total:
    epoch, stop = done // per_epoch, _chunk_end(done + 1, sweep)
    chunk, start = _chunk_start(done, sweep), epoch * per_epoch
    with clock('steps'):
      state_T, curves = train_steps(
        sweep, running, state_T, epoch, done - start, stop - start, interrupt
      )
    history.write_steps(done, curves, running.columns)
    done += len(curves['loss'])
    if done == stop:
      with clock('curves'):
        events.write_steps(history, chunk, done, running.columns)
        view.steps(done, epoch + 1, running.columns, curves)
      good = history.unbroken(chunk, done)[running.columns]
      if not good.any():
        return
      if not good.all():
        with clock('departures'):
          running, state_T = keep(sweep, running, state_T, good)
    if done == start + per_epoch:
      with clock('evaluation'):
        means = evaluate(sweep, running, state_T)
      with clock('curves'):
        means |= history.epoch_means(start, done, running.columns)
        history.write_epoch(epoch, means, running.columns)
        events.write_epoch(history, epoch, done, running.columns)
        view.epoch(epoch + 1, history.epochs['validation_accuracy'][epoch])
    stops = interrupt.signum and done < total
    late = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
    due = late or done - saved >= (config.checkpoint_steps or total)
    if stops or due or done == start + per_epoch:
      with clock('checkpoints'):
        history.flush()  # first: a checkpoint promises the curves up to it
        checkpoints.save(done, running.trials.to_host(state_T))
      saved, saved_at = done, time.monotonic()
    if stops:
      raise Stopped(interrupt.signum)


def _chunk_start(done: int, sweep: Sweep) -> int:
  """Where the chunk of steps begins that the step after `done` is in."""
  epoch = done // sweep.steps_per_epoch * sweep.steps_per_epoch
  return epoch + (done - epoch) // sweep.config.log_every_steps * sweep.config.log_every_steps


def _chunk_end(step: int, sweep: Sweep) -> int:
  """The steps done, from 1, at the end of the chunk of steps that `step` is in."""
  epoch_end = ((step - 1) // sweep.steps_per_epoch + 1) * sweep.steps_per_epoch
  return min(_chunk_start(step - 1, sweep) + sweep.config.log_every_steps, epoch_end)


def _replay(events: Events, history: History, done: int, sweep: Sweep) -> None:
  """Writes the events of the first `done` steps again."""
  columns, first = np.arange(len(sweep.seeds)), 0
  while first < done and (stop := _chunk_end(first + 1, sweep)) <= done:
    events.write_steps(history, first, stop, columns)
    columns = columns[history.unbroken(first, stop)[columns]]
    if stop % sweep.steps_per_epoch == 0:
      events.write_epoch(history, stop // sweep.steps_per_epoch - 1, stop, columns)
    first = stop
