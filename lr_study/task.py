"""Builds the task that trials share from a config."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import inputs, losses, metrics, models, optimizers, plugs, schedules, weights
from lr_study.config import float_type
from lr_study.parts import Origin
from lr_study.trial import Task

_SOME_STEPS, _SOME_CLASSES = 1000, 2  # of an epoch, and of the data, where these are not known


def make_task(
  config: ConfigDict,
  classes: int,
  counts: np.ndarray,
  stored: jax.ShapeDtypeStruct,
  steps_per_epoch: int,
  origin: Origin | None = None,
) -> Task:
  """Builds every part that the config names.

  Args:
    config: a checked one.
    classes: how many.
    counts: training images of each class, int (classes,).
    stored: shape and dtype of one stored image.
    steps_per_epoch: of the trials.
    origin: of another task of the same network; by default, weights are read as `model` says.

  Raises:
    StudyError: a part does not fit the others; the message names it.
  """
  sweep = {part: swept(config, part) for part in ('optimizer', 'schedule', 'loss')}
  loss = losses.build(config.loss, counts, sweep['loss'])
  model = models.build(config.model, classes, float_type(config))
  shape = inputs.shape(config.input, stored.shape, classes, stored.dtype)
  models.check(model, shape, classes, float_type(config), config.model.name)
  task = Task(
    model=model,
    optimizer=optimizers.build(config.optimizer, sweep['optimizer']),
    schedule=schedules.build(config.schedule, steps_per_epoch, config.epochs, sweep['schedule']),
    loss=loss,
    inputs=inputs.build(config.input, classes),
    metrics=metrics.build(config.metrics, classes, loss),
    shape=shape,
    dtype=float_type(config),
  )
  return dataclasses.replace(task, origin=origin or weights.origin(task, config.model))


def check(config: ConfigDict) -> None:
  """Builds what needs no data, so that mistakes in it are told before these are read.

  Args:
    config: a checked one.

  Raises:
    StudyError: as of `make_task`, but for what depends on the images or on how many there are.
  """
  optimizers.build(config.optimizer, swept(config, 'optimizer'))
  schedules.build(config.schedule, _SOME_STEPS, config.epochs, swept(config, 'schedule'))
  # The user's own may be for one number of classes alone.
  if not plugs.is_own(plugs.find('input', config.input.name)):
    inputs.build(config.input, _SOME_CLASSES)
  if not plugs.is_own(plugs.find('model', config.model.name)):
    models.build(config.model, _SOME_CLASSES, config.dtype)


def swept(config: ConfigDict, part: str) -> tuple[str, ...]:
  """The arguments of a part that are axes of the study: each trial has its own value of them."""
  prefix = f'{part}.'
  return tuple(name.removeprefix(prefix) for name in config.axes if name.startswith(prefix))
