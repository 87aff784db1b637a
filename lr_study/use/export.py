"""Exports a trial as a folder that runs without lr_study: program, weights and model card."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from lr_study.data import images
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_array, write_text
from lr_study.use import card, classify, evaluate
from lr_study.use.evaluate import Study, Trained

PLATFORMS = ('cpu', 'cuda')
_STANDALONE = Path(__file__).parent / 'standalone'
_SECONDS = 600  # the limit for the check; a full AlexNet takes 20 on two cores

# A share of the largest logit. The process that checks compiles the same operations for the same
# number of images, so the same bits are expected, and were found. Float32 resolves 6e-8. Sums in
# another order, as from another compiler, would differ by about 6e-7, and a wrong weight, mean or
# channel by far more.
TOLERANCE = 1e-6


def save(study: Study, trained: Trained, out: Path) -> float:
  """Writes the folder, and tests it in a process that has not loaded lr_study.

  Args:
    study: the finished one.
    trained: its trial.
    out: the folder, which must not exist. It is written completely or not at all.

  Returns:
    The largest difference of logits in the test, as a share of the largest logit.

  Raises:
    StudyError: `out` exists or cannot be written.
    RuntimeError: the process failed, or computed other logits.
  """
  if os.path.lexists(out):
    raise StudyError(f'--out {out} already exists; choose another folder, or delete it')
  with _whole(out) as folder:
    (folder / 'model.jax').write_bytes(serialise(trained))
    np.savez(folder / 'weights.npz', **flatten(trained))
    write_array(folder / 'mean.npy', trained.mean)
    write_text(folder / 'input.json', json.dumps(_input(trained)) + '\n')
    write_text(folder / 'labels.json', json.dumps(trained.classes) + '\n')
    if evaluate.takes_files(trained.config):
      shutil.copyfile(images.__file__, folder / 'images.py')
    shutil.copyfile(_STANDALONE / 'predict.py', folder / 'predict.py')
    write_text(folder / 'README.md', card.write(study, trained))
    return check(trained, folder)


def flatten(trained: Trained) -> dict[str, np.ndarray]:
  """All variables by name, such as params/conv1/kernel; bfloat16 becomes float32."""

  def portable(array):
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array

  flat = flatten_dict(trained.variables, sep='/')
  return {name: portable(np.asarray(array)) for name, array in flat.items()}


def serialise(trained: Trained) -> bytes:
  """The program (variables by name, mean, images (batch, ...)) -> logits (batch, classes).

  It includes preprocessing but not the weights, because XLA would copy and fold constants of that
  size. The batch size is symbolic, so any size works.
  """
  function = evaluate.logits_function(trained)
  types = {name: array.dtype for name, array in flatten_dict(trained.variables, sep='/').items()}

  def of_batch(weights, mean, batch):
    flat = {name: array.astype(types[name]) for name, array in weights.items()}
    return function(unflatten_dict(flat, sep='/'), mean, batch)

  def one_by_one(weights, mean, batch):
    return jax.vmap(lambda image: of_batch(weights, mean, image[None])[0])(batch)

  def form(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)

  (batch,) = export.symbolic_shape('batch')
  arguments = (
    jax.tree.map(form, flatten(trained)),
    form(trained.mean),
    jax.ShapeDtypeStruct((batch, *trained.stored.shape), trained.stored.dtype),
  )
  try:
    exported = export.export(jax.jit(of_batch), platforms=PLATFORMS)(*arguments)
  except Exception:  # a network may need the number of images, as in len(x): then use one by one
    exported = export.export(jax.jit(one_by_one), platforms=PLATFORMS)(*arguments)
  return bytes(exported.serialize())


def _input(trained: Trained) -> dict[str, Any]:
  """What predict.py must know about its inputs."""
  if evaluate.takes_files(trained.config):
    return {
      'size': trained.config.image_size,
      'resize': classify.resize_mode(trained.config),
      'scale': trained.scale and list(trained.scale),
    }
  return {'shape': list(trained.stored.shape), 'dtype': trained.stored.dtype.name}


def check(trained: Trained, folder: Path) -> float:
  """Compares the folder's logits, computed in a new process, with the trial's.

  This runs on the CPU, because a GPU chooses its convolutions again in each process, and may round
  to TF32.

  Returns:
    The largest difference, as a share of the largest logit.

  Raises:
    RuntimeError: the difference is above `TOLERANCE`, or the process failed.
  """
  pixels = _noise(trained)
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    # As in the process: one image, then all.
    own = np.concatenate([evaluate.predict(trained, pixels[:1]), evaluate.predict(trained, pixels)])
  with tempfile.TemporaryDirectory() as scratch:
    given, found = Path(scratch, 'images.npy'), Path(scratch, 'logits.npy')
    np.save(given, pixels)
    # -P: imports do not look next to check.py or in the current folder.
    command = [sys.executable, '-B', '-P', str(_STANDALONE / 'check.py')]
    ran = subprocess.run(
      [*command, str(folder.resolve()), str(given), str(found)],
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      check=False,
    )
    if ran.returncode:
      raise RuntimeError(f'the exported model does not run on its own: {ran.stderr}')
    logits = np.load(found)
  difference = float(np.abs(logits - own).max() / np.abs(own).max())
  if not difference <= TOLERANCE:
    raise RuntimeError(f'the exported model differs by {difference:.1e} of the largest logit')
  return difference


def _noise(trained: Trained) -> np.ndarray:
  """Four images, coarse and fine, so that all pixels, channels and weights affect the logits."""
  rng, (shape, dtype) = np.random.default_rng(0), (trained.stored.shape, trained.stored.dtype)
  if dtype != np.uint8:
    return (trained.mean + rng.standard_normal((4, *shape))).astype(dtype)
  noise = rng.integers(0, 256, (4, *shape), np.uint8)
  if evaluate.takes_files(trained.config):
    size = shape[0]
    coarse = rng.integers(0, 256, (2, -(-size // 8), -(-size // 8), 3), np.uint8)
    noise[:2] = np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))[:, :size, :size]
  return noise


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
  """A folder next to `out` that is renamed to `out` at the end, or deleted after an error."""
  # With a unique name: a folder `model.part` may be the user's.
  part = out.with_name(f'{out.name}.part_{os.getpid()}_{time.time_ns()}')
  try:
    part.mkdir(parents=True)
    yield part
    part.rename(out)
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(
      f'cannot write --out {out}: {error.strerror or error}; choose another folder'
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
