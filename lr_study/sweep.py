"""A study from its data to its answer, and the waves of trials that train between them."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lr_study import data as datasets
from lr_study import figures, parallel, plan, progress, provenance, report, verdict, wave, workdir
from lr_study.config import check
from lr_study.errors import StudyError
from lr_study.events import write_experiment
from lr_study.history import History, join, read_waves, write_trials
from lr_study.processes import ALONE, Process, leave
from lr_study.schedule import make_schedule
from lr_study.training import Sweep, prepare, run_together


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
  for number in mine:
    wave.train(_part(sweep, waves == number), folder, number, waves, len(mine))
  if process.index:
    return None
  history = _gather(sweep, folder, waves, process.count)
  schedule = make_schedule(config.schedule, sweep.steps_per_epoch, config.epochs)
  guessing_loss = verdict.entropy(data.train.labels)
  diverged = [verdict.first_bad_step(history, trial) for trial in range(len(sweep.seeds))]
  run = [steps if bad is None else wave.chunk_end(bad, sweep) for bad in diverged]
  results = verdict.results(history, sweep.learning_rates, sweep.seeds, guessing_loss, run)
  answer = verdict.judge(results, data.validation.labels)
  with sweep.clock('figures'):
    figures.draw(folder / 'figures', history, results, answer, schedule, guessing_loss)
  study = study | {
    'seconds': round(time.monotonic() - started, 1),
    'seconds_of': {phase: round(seconds, 1) for phase, seconds in sweep.clock.seconds.items()},
    'trial_steps': {'planned': steps * len(results), 'run': sum(run)},
  }
  workdir.write_array(folder / workdir.MEAN, data.mean)
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


def _gather(sweep: Sweep, folder: Path, waves: np.ndarray, count: int) -> History:
  """Waits for the waves of the other ones of `count` processes; the history of all trials.

  Raises:
    StudyError: if a process has ended before its trials did.
  """
  pending = list(range(max(waves) + 1))
  while pending:
    file = workdir.place(folder / 'history', pending[0], waves) / wave.FINISHED
    if file.exists():
      del pending[0]
    elif not workdir.is_held(folder, pending[0] % count) and not file.exists():
      raise StudyError(
        f'process {pending[0] % count} has ended before its trials did; they are saved, and the '
        'same command goes on with them'
      )
    else:
      time.sleep(1)
  histories = [wave.curves(sweep, folder, number, waves) for number in range(max(waves) + 1)]
  return join(folder / 'history', histories, waves) if waves.any() else histories[0]
