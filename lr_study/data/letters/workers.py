"""Renders in several processes: the same images in the same order, whatever their number."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lr_study.data.letters.render import render

_ROOT = Path(__file__).parents[3]
_WORTH_A_PROCESS = 100  # images; a process takes half a second to start


def render_files(
  seed: int, letters: str, per_class: int, size: int, processes: int | None = None
) -> Iterator[bytes]:
  """Yields a lossless image file for each image: `per_class` of each letter, letter by letter.

  Args:
    seed: seed of the data set.
    letters: one capital letter per class.
    per_class: images of each.
    size: height and width in pixels.
    processes: how many render; by default one per core, fewer for few images.

  Raises:
    RuntimeError: a process ended before its images were done.
  """
  total = len(letters) * per_class
  if processes is None:
    processes = max(1, min(os.cpu_count() or 1, total // _WORTH_A_PROCESS))
  if processes == 1:
    yield from _share(seed, letters, per_class, size, 0, 1)
    return
  # Not multiprocessing: a fork of a program that runs JAX may hang, and a spawn imports the whole
  # program again.
  program = f'from {__name__} import main; main()'
  command = [sys.executable, '-c', program, str(seed), letters, str(per_class), str(size)]
  environment = os.environ | {
    'PYTHONPATH': os.pathsep.join(filter(None, (str(_ROOT), os.environ.get('PYTHONPATH')))),
    'OPENBLAS_NUM_THREADS': '1',
  }
  workers = [
    subprocess.Popen([*command, str(k), str(processes)], stdout=subprocess.PIPE, env=environment)
    for k in range(processes)
  ]
  try:
    for i in range(total):
      stream = workers[i % processes].stdout
      length = int.from_bytes(stream.read(4), 'big')
      file = stream.read(length)
      if not length or len(file) < length:
        raise RuntimeError(f'a process that renders letters ended before image {i} of {total}')
      yield file
  finally:
    for worker in workers:
      worker.kill()
      worker.stdout.close()
      worker.wait()


def encode(pixels: np.ndarray) -> bytes:
  """Lossless WebP in its fastest mode: smaller than PNG, in a third of the time."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'WEBP', lossless=True, quality=0, method=0)
  return buffer.getvalue()


def _share(
  seed: int, letters: str, per_class: int, size: int, first: int, every: int
) -> Iterator[bytes]:
  for i in range(first, len(letters) * per_class, every):
    label, index = divmod(i, per_class)
    yield encode(render(seed, letters[label], index, size))


def main() -> None:
  """The program of a process: writes image files to standard output, each after its length."""
  seed, letters, *numbers = sys.argv[1:]
  try:
    for file in _share(int(seed), letters, *map(int, numbers)):
      sys.stdout.buffer.write(len(file).to_bytes(4, 'big') + file)
    sys.stdout.buffer.flush()
  except (BrokenPipeError, KeyboardInterrupt):  # the reader has ended, or was stopped
    os._exit(1)
