"""A finished study's trial as a folder that runs without lr_study: program, weights, card."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax import export

from lr_study.data import images
from lr_study.errors import StudyError, is_full
from lr_study.files.workdir import write_array, write_text
from lr_study.use import card, evaluate
from lr_study.use.evaluate import Study, Trained

PLATFORMS = ('cpu', 'cuda')
_STANDALONE = Path(__file__).parent / 'standalone'
_SECONDS = 600  # for the check: a full AlexNet takes 20 on two cores

# Of the largest logit. The process that checks compiles the same operations for as many images,
# so the same bits are expected, and were found. Float32 resolves 6e-8: sums in another order, as
# another compiler would have them, come to about 6e-7, and a wrong weight, mean or channel to far
# more.
TOLERANCE = 1e-6


def save(study: Study, trained: Trained, out: Path) -> float:
  """Writes the folder, and tries it in a process that has not loaded lr_study.

  Args:
    study: the finished one.
    trained: its trial.
    out: the folder, which must not exist; it is there whole or not at all.

  Returns:
    The largest difference that the process found, of the largest logit.

  Raises:
    StudyError: if `out` exists or cannot be written.
    RuntimeError: if the process failed, or found other logits.
  """
  if os.path.lexists(out):
    raise StudyError(f'--out {out} exists already; name another folder, or delete it')
  with _whole(out) as folder:
    (folder / 'model.jax').write_bytes(serialise(trained))
    np.savez(folder / 'weights.npz', **flatten(trained))
    write_array(folder / 'mean.npy', trained.mean)
    given = {'size': trained.config.image_size, 'resize': trained.config.data.resize}
    write_text(folder / 'input.json', json.dumps(given) + '\n')
    write_text(folder / 'labels.json', json.dumps(trained.classes) + '\n')
    shutil.copyfile(images.__file__, folder / 'images.py')
    shutil.copyfile(_STANDALONE / 'predict.py', folder / 'predict.py')
    write_text(folder / 'README.md', card.write(study, trained))
    return check(trained, folder)


def flatten(trained: Trained) -> dict[str, np.ndarray]:
  """The weights by name, such as conv1/kernel."""
  return {
    f'{layer}/{name}': np.asarray(array)
    for layer, of_layer in trained.params.items()
    for name, array in of_layer.items()
  }


def serialise(trained: Trained) -> bytes:
  """The program (weights by name, mean, uint8 images (batch, size, size, 3)) -> logits.

  Preprocessing is inside, weights are not: XLA would copy and fold constants of that size. The
  batch is a symbol, so any size goes.
  """
  function = evaluate.logits_function(trained)

  def of_weights(weights, mean, batch):
    params = {}
    for name, array in weights.items():
      layer, _, leaf = name.partition('/')
      params.setdefault(layer, {})[leaf] = array
    return function(params, mean, batch)

  def form(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)

  size = trained.config.image_size
  (batch,) = export.symbolic_shape('batch')
  exported = export.export(jax.jit(of_weights), platforms=PLATFORMS)(
    jax.tree.map(form, flatten(trained)),
    form(trained.mean),
    jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8),
  )
  return bytes(exported.serialize())


def check(trained: Trained, folder: Path) -> float:
  """Compares the logits of the folder in a new process with the trial's own, on the CPU.

  There, since a GPU picks its convolutions anew in each process, and may round to TF32.

  Returns:
    The largest difference, as a share of the largest logit.

  Raises:
    RuntimeError: if it is above `TOLERANCE`, or the process failed.
  """
  size = trained.config.image_size
  # Noise, coarse and fine: all pixels, all channels and every weight have a say in the logits.
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (4, -(-size // 8), -(-size // 8), 3), np.uint8)
  pixels = np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))[:, :size, :size]
  pixels[2:] = rng.integers(0, 256, pixels[2:].shape, np.uint8)
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    # As the process will do it: one image, and all.
    own = np.concatenate([evaluate.predict(trained, pixels[:1]), evaluate.predict(trained, pixels)])
  with tempfile.TemporaryDirectory() as scratch:
    given, found = Path(scratch, 'images.npy'), Path(scratch, 'logits.npy')
    np.save(given, pixels)
    # -P: what lies beside check.py, or in the current folder, is not found by its imports.
    command = [sys.executable, '-P', str(_STANDALONE / 'check.py')]
    ran = subprocess.run(
      [*command, str(folder.resolve()), str(given), str(found)],
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      check=False,
    )
    if ran.returncode:
      raise RuntimeError(f'the exported model does not run by itself: {ran.stderr}')
    logits = np.load(found)
  difference = float(np.abs(logits - own).max() / np.abs(own).max())
  if not difference <= TOLERANCE:
    raise RuntimeError(f'the exported model differs by {difference:.1e} of the largest logit')
  return difference


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
  """A folder beside `out` that becomes `out` at the end, or goes if there is an error."""
  part = out.with_name(out.name + '.part')
  try:
    shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
    part.mkdir(parents=True)
    yield part
    part.rename(out)
  except OSError as error:
    if is_full(error):
      raise
    raise StudyError(
      f'cannot write --out {out}: {error.strerror or error}; name another folder'
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
