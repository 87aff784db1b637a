"""Builds the task that trials share from a config."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study import inputs, losses, metrics, models, optimizers, schedules, weights
from lr_study.parts import Origin
from lr_study.trial import Task


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
  model = models.build(config.model, classes, config.dtype)
  shape = inputs.shape(config.input, stored.shape, classes, stored.dtype)
  models.check(model, shape, classes, config.dtype, config.model.name)
  task = Task(
    model=model,
    optimizer=optimizers.build(config.optimizer, sweep['optimizer']),
    schedule=schedules.build(config.schedule, steps_per_epoch, config.epochs, sweep['schedule']),
    loss=loss,
    inputs=inputs.build(config.input, classes),
    metrics=metrics.build(config.metrics, classes, loss),
    shape=shape,
    dtype=config.dtype,
  )
  return dataclasses.replace(task, origin=origin or weights.origin(task, config.model))


def swept(config: ConfigDict, part: str) -> tuple[str, ...]:
  """The arguments of a part that are axes of the study: each trial has its own value of them."""
  prefix = f'{part}.'
  return tuple(name.removeprefix(prefix) for name in config.axes if name.startswith(prefix))
