"""Train every learning rate of a config and say which one to use.

usage: lr-study sweep --config CONFIG [FLAGS]

  lr-study sweep --config alexnet_letters:quick
  lr-study sweep --config alexnet_folder --config.data.dir=PHOTOS --workdir runs/photos

The work directory receives the answer (summary.md, report.html, results.json), figures and
checkpoints. The same command continues a study that was stopped.
"""

import contextlib
from pathlib import Path

from absl import flags

from lr_study import cli, study, time_limit, tracking
from lr_study.cluster import driver
from lr_study.errors import StudyError
from lr_study.waves import Trainer

cli.study_flags()
_WORKDIR = cli.path_flag(
  'workdir', 'Where results go. The default is runs/ and the name of the config.'
)
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Delete the study in --workdir first.')
_EXTEND = flags.DEFINE_bool(
  'extend',
  False,
  'Keep the trials of the study in --workdir, and train only the rates, seeds, values and epochs '
  'that the config adds.',
)
_TRACK = flags.DEFINE_enum(
  'track',
  None,
  tracking.TRACKERS,
  'Send every trial, its curves, the answer and the report to this experiment tracker.',
)
_TIME_LIMIT = flags.DEFINE_string(
  'time_limit',
  None,
  'Stop before this much time, such as 8m30s or 12h, has passed since the start: save, report what '
  'there is, and exit with status 75. The same command continues the study.',
)
_RAY = flags.DEFINE_string(
  'ray',
  None,
  "Train on a Ray cluster: 'auto' finds the one that this machine is part of, ray://HOST:PORT is "
  "another, and 'local' is one of this machine's GPUs.",
)
_RAY_CPUS = flags.DEFINE_integer(
  'ray_cpus',
  None,
  'With --ray and without GPUs: cores of each wave. The default is all of the smallest machine.',
  lower_bound=1,
)


def main() -> None:
  limit = time_limit.parse(_TIME_LIMIT.value) if _TIME_LIMIT.value is not None else None
  config, name = cli.study_config()
  workdir = _WORKDIR.value or Path('runs', name)
  command = cli.study_command()
  more = (_EXTEND.value, command, _TRACK.value, limit)
  with _trainer() as trainer:
    study.run(config, workdir, _OVERWRITE.value, *more, trainer)


def _trainer() -> contextlib.AbstractContextManager[Trainer | None]:
  if _RAY.value is not None:
    return driver.connected(_RAY.value, _RAY_CPUS.value)
  if _RAY_CPUS.value is not None:
    raise StudyError('--ray_cpus is for --ray')
  return contextlib.nullcontext()
