"""The training loop of trials that train together: steps, epochs, evaluations, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from lr_study import formats, plan, progress, trials
from lr_study.files import workdir
from lr_study.files.checkpoint import Checkpoints, steps_in
from lr_study.files.events import Events
from lr_study.files.history import History
from lr_study.files.points import Point, Points
from lr_study.interrupt import Interrupt, Stopped
from lr_study.search import rounds
from lr_study.search.rounds import Plan, Planned
from lr_study.time_limit import TimeIsUp
from lr_study.tracking import Run, Tracker
from lr_study.training_view import Board, TrainingView
from lr_study.trials import Running, Sweep
from lr_study.vectorize import tree_bytes

FINISHED = 'finished'  # a file next to the curves of trials that have ended

# Guesses at what ending a study takes, for a time limit, until it is measured.
_SAVED_BYTES = 50e6  # of a checkpoint, per second; two slow cores write 110 MB
_REPORT_SECONDS, _REPORT_TRIAL_SECONDS = 4.0, 1.0


class MayWrite(Protocol):
  """Called right before files are written; raises if this process must not write them any more."""

  def __call__(self, surely: bool = False) -> None:
    """`surely`: even if it was found a moment ago that it may."""


class Files(NamedTuple):
  """The files that trials write while they train."""

  history: History
  points: Points
  events: Events
  checkpoints: Checkpoints
  page: Callable[[], None]
  send: Callable[[int, int], None]  # the points of these steps, to a tracker
  may_write: 'MayWrite'


def curves(
  folder: Path, planned: Plan, number: int, sweep: Sweep, read_only: bool = True
) -> History:
  """The curves of wave `number` of the study in `folder`."""
  of_wave = planned.of_wave(number)
  epochs = of_wave[0].epochs
  steps = epochs * sweep.steps_per_epoch
  metrics = sweep.config.metrics
  return History(place(folder / 'history', number), steps, epochs, len(of_wave), metrics, read_only)


def place(folder: Path, number: int) -> Path:
  """The folder of wave `number` in `folder`, which is history/ or checkpoints/."""
  return folder / f'wave_{number}'


def is_finished(folder: Path, number: int) -> bool:
  """True if wave `number` of the study in `folder` was trained to its end."""
  return (place(folder / 'history', number) / FINISHED).exists()


def saved_steps(folder: Path, number: int) -> int:
  """Steps of the newest checkpoint of wave `number` of the study in `folder`; 0 without any."""
  return next(iter(steps_in(place(folder / 'checkpoints', number))), 0)


def restore(folder: Path, planned: Plan, number: int, sweep: Sweep) -> tuple[np.ndarray, Any]:
  """The state at the end of a finished wave.

  Returns:
    The columns of the trials that did not diverge, and their state, a tree of host arrays
    (columns, ...); the state is None if it is lost.
  """
  history = curves(folder, planned, number, sweep)
  total = len(history.steps['loss'])

  def like(done: int) -> Any:
    return trials.state_like(sweep, len(saved_columns(history, done, sweep)))

  saved = place(folder / 'checkpoints', number)
  with contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints:
    done, state = checkpoints.newest(like)
  return history.running(total), state if done == total else None


def train(
  sweep: Sweep,
  folder: Path,
  planned: Plan,
  number: int,
  title: str,
  count: int,
  board: Board,
  after_epoch: Callable[[Plan], None] = lambda _: None,
  tracker: Tracker | None = None,
  may_write: MayWrite = lambda surely=False: None,
) -> None:
  """Trains the trials of a wave from the newest checkpoint, or from the start, to its last epoch.

  Trials that an earlier round has trained continue from where they were.

  Args:
    sweep: of these trials.
    folder: the work directory.
    planned: the study's trials.
    number: of the wave.
    title: what people are told the wave is; '' if it is the only one.
    count: how many waves this process trains in this round; 0: do not time what it trains.
    board: what people are shown of the study's trials.
    after_epoch: is called with the study's trials after each epoch.
    tracker: what its curves are sent to.
    may_write: see `MayWrite`.

  Raises:
    Stopped, TimeIsUp: a signal or the time limit asked the study to stop; the state is saved.
  """
  check_time(sweep)
  total = sweep.epochs * sweep.steps_per_epoch
  history = curves(folder, planned, number, sweep, read_only=False)
  labels = [sweep.labels[t.setting] for t in sweep.trials]
  names = [rounds.title(trial.setting, sweep.labels) for trial in sweep.trials]
  points = points_from(sweep)
  events = Events(folder / 'tensorboard', sweep.trials, labels, sweep.measure)

  def send(first: int, done: int) -> None:
    track(tracker, sweep, planned, history, first, done)

  def like(done: int) -> Any:
    return trials.state_like(sweep, len(saved_columns(history, done, sweep)))

  with contextlib.closing(Checkpoints(place(folder / 'checkpoints', number))) as checkpoints:
    done, state = checkpoints.newest(like)
    if not done:
      done, state = _earlier(sweep, folder, planned, number, history)
    if done:
      progress.note(f'Resuming from step {done}' + (f' of {title}' if title else ''))
    for found, columns in points_of(points, history, 0, done, sweep):
      events.write(found, columns)
    send(0, done)
    columns = saved_columns(history, done, sweep)
    if done < total and len(columns):
      now, state_T, ahead = _start(sweep, columns, done, state, count)
      own = (history, points, events, checkpoints)
      files = Files(*own, lambda: after_epoch(planned), send, may_write)
      interrupt, shown = Interrupt(sweep.clock.limit), (total, sweep.epochs, title)
      view = TrainingView(board, sweep.trials, names, *shown, lambda: bool(interrupt.signum))
      with interrupt, view:
        _train_steps(sweep, files, view, interrupt, now, state_T, done, ahead)
    else:
      board.read(board.add(sweep.trials, names), history, total)
  may_write(surely=True)
  events.close(history.first_bad_steps(0, total, evaluated=True))
  history.flush()
  workdir.write_text(place(folder / 'history', number) / FINISHED, '')


def _earlier(
  sweep: Sweep, folder: Path, planned: Plan, number: int, history: History
) -> tuple[int, Any]:
  """Steps done and state of trials that an earlier round trained; 0 and None if there was none."""
  states, found = [], {}
  for column, planned_trial in enumerate(planned.of_wave(number)):
    earlier = rounds.before(planned, planned_trial)
    if earlier is None:
      return 0, None
    epochs = earlier.epochs
    if earlier.wave not in found:
      found[earlier.wave] = (
        curves(folder, planned, earlier.wave, sweep),
        *restore(folder, planned, earlier.wave, sweep),
      )
    curve, columns, state = found[earlier.wave]
    old = planned.column(earlier)
    places = np.flatnonzero(columns == old)  # empty for a trial that diverged
    if len(places) and state is None:
      progress.note('The weights of an earlier round are lost; its trials start from the beginning')
      return 0, None
    states += [jax.tree.map(lambda x, at=at: x[at], state) for at in places]
    history.copy(curve, old, column)
  state = jax.tree.map(lambda *x: np.stack(x), *states) if states else None
  return epochs * sweep.steps_per_epoch, state


def _start(
  sweep: Sweep, columns: np.ndarray, done: int, state: Any, waves: int
) -> tuple[Running, Any, float]:
  """The trials of a wave in their state at step `done`; 0 is the initial state.

  Returns:
    The trials, their state_T, and how many seconds may pass before a study that must stop can save.
  """
  total = sweep.epochs * sweep.steps_per_epoch
  now = trials.running(sweep, columns)
  with sweep.clock('start'):
    progress.note(f'How a trial is computed: {sweep.engine.about}')
    epochs = (total * waves - done) / sweep.steps_per_epoch
    step_seconds, eval_seconds = plan.announce(sweep, now, epochs) if waves else (0.0, 0.0)
    ahead = sweep.spread.ahead(sweep.config.log_every_steps) * step_seconds + eval_seconds
    if done:
      return now, sweep.spread.put(state), ahead
    return now, sweep.spread.init(now.hyper_T, now.seeds), ahead


def _train_steps(
  sweep: Sweep,
  files: Files,
  view: TrainingView,
  interrupt: Interrupt,
  now: Running,
  state_T: Any,
  done: int,
  ahead: float,
) -> None:
  """Trains from step `done` to the last epoch, or until all trials have diverged.

  Raises:
    Stopped, TimeIsUp: see `train`.
  """
  config, per_epoch, clock = sweep.config, sweep.steps_per_epoch, sweep.clock
  history, points, events, checkpoints, write_page, send, may_write = files
  total, saved, saved_at = sweep.epochs * per_epoch, done, time.monotonic()
  view.start(history, done)
  while done < total:
    _allow_for_end(sweep, checkpoints, state_T, ahead)
    epoch, stop = done // per_epoch, chunk_end(done + 1, sweep)
    chunk, start = _chunk_start(done, sweep), epoch * per_epoch
    with clock('steps'):
      state_T, metrics, ends = trials.train_steps(
        sweep, now, state_T, epoch, done - start, stop - start, interrupt
      )
    may_write()
    history.write_steps(done, metrics, now.columns)
    history.write_epoch(epoch, ends, now.columns)
    done += len(metrics['loss'])
    if done == stop:
      with clock('curves'):
        events.write(points.of_steps(history, chunk, done), now.columns)
        view.steps(done, now.columns, metrics, history.first_bad_steps(chunk, done))
      good = history.unbroken(chunk, done)[now.columns]
      if not good.any():
        return
      if not good.all():
        with clock('departures'):
          now, state_T = trials.keep(sweep, now, state_T, good)
    if done == start + per_epoch:
      with clock('evaluation'):
        means = trials.evaluate(sweep, now, state_T)
      means |= trials.measure_sharpness(sweep, now, state_T, done - 1)
      with clock('curves'):
        may_write()
        means |= history.epoch_means(start, done, now.columns)
        history.write_epoch(epoch, means, now.columns)
        events.write(points.of_epoch(history, epoch, done), now.columns)
        if done == total:
          view.diverged(history.first_bad_steps(chunk, done, evaluated=True))
        send(start, done)
        view.epoch(history.epochs[sweep.measure.field][epoch])
      with clock('page'):
        write_page()
    stops = interrupt.asked and done < total
    late = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
    due = late or done - saved >= (config.checkpoint_steps or total)
    if stops or due or done == start + per_epoch:
      with clock('checkpoints'):
        may_write(surely=True)
        history.flush()  # first: a checkpoint promises that the curves up to it are saved
        checkpoints.save(done, sweep.spread.get(state_T, len(now.columns)))
      saved, saved_at = done, time.monotonic()
    if stops and interrupt.signum:
      raise Stopped(interrupt.signum)
    if stops:
      raise TimeIsUp


def check_time(sweep: Sweep) -> None:
  """Raises TimeIsUp if what comes next would not end within the time limit."""
  if sweep.clock.limit and sweep.clock.limit.is_up:
    raise TimeIsUp


def _allow_for_end(sweep: Sweep, checkpoints: Checkpoints, state_T: Any, ahead: float) -> None:
  """Tells the time limit what it takes to get from here to a report; all of it as measured so far.

  Args:
    sweep: of the trials.
    checkpoints: theirs.
    state_T: their state.
    ahead: seconds of the steps under way and of an evaluation.
  """
  limit, longest = sweep.clock.limit, sweep.clock.longest
  if limit:
    measured = (
      longest.get(name, 0.0) for name in ('sharpness', 'departures', 'page', 'checkpoints')
    )
    saving = checkpoints.seconds or tree_bytes(state_T) / _SAVED_BYTES
    report = _REPORT_SECONDS + _REPORT_TRIAL_SECONDS * len(sweep.trials)
    limit.to_end = ahead + sum(measured) + saving + report


def saved_columns(history: History, done: int, sweep: Sweep) -> np.ndarray:
  """The trials in a checkpoint at `done` steps: diverged ones are dropped after their chunk."""
  return history.running(_chunk_start(done, sweep))


def _chunk_start(done: int, sweep: Sweep) -> int:
  """The first step of the chunk that contains the step after `done`."""
  epoch = done // sweep.steps_per_epoch * sweep.steps_per_epoch
  return epoch + (done - epoch) // sweep.config.log_every_steps * sweep.config.log_every_steps


def chunk_end(step: int, sweep: Sweep) -> int:
  """How many steps are done at the end of the chunk that contains `step` (from 1)."""
  epoch_end = ((step - 1) // sweep.steps_per_epoch + 1) * sweep.steps_per_epoch
  return min(_chunk_start(step - 1, sweep) + sweep.config.log_every_steps, epoch_end)


def points_of(
  points: Points, history: History, first: int, done: int, sweep: Sweep
) -> Iterator[tuple[list[Point], np.ndarray]]:
  """The points of steps `first` to `done`, chunk by chunk, and the columns of those that trained.

  `first` is where a chunk begins.
  """
  columns = history.running(first)
  while first < done and (stop := chunk_end(first + 1, sweep)) <= done:
    yield list(points.of_steps(history, first, stop)), columns
    columns = columns[history.unbroken(first, stop)[columns]]
    if stop % sweep.steps_per_epoch == 0:
      epoch = stop // sweep.steps_per_epoch - 1
      yield list(points.of_epoch(history, epoch, stop)), columns
    first = stop


def points_from(sweep: Sweep) -> Points:
  """That gives the points of the sweep's trials."""
  config = sweep.config
  at_best = sweep.measure if config.verdict.epoch == 'best' else None
  return Points(sweep.trials, sweep.height, config.log_every_steps, at_best)


def track(
  tracker: Tracker | None, sweep: Sweep, planned: Plan, history: History, first: int, done: int
) -> int:
  """Sends the points of steps `first` to `done` of a wave's trials to the tracker, if any.

  `first` is where a chunk begins; what is returned is where the first one begins that is not sent.
  """
  if tracker:
    found = points_of(points_from(sweep), history, first, done, sweep)
    tracker.reach([run_of(planned, trial, sweep) for trial in sweep.trials], found)
  return _chunk_start(done, sweep)


def run_of(planned: Plan, trial: Planned, sweep: Sweep) -> Run:
  """A trial as trackers show it."""
  rate = trial.learning_rate
  fields = {'learning_rate': rate, 'seed': trial.seed, **rounds.on_axes(trial.setting)}
  name = f'lr_{formats.rate(rate)}_seed_{trial.seed}'
  label = sweep.labels[trial.setting]
  name = f'{label}/{name}' if label else name
  return Run(rounds.origin(planned, trial), name, formats.rate(rate), fields)
