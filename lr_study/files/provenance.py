"""Records what a study ran with: code, libraries and device."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lr_study.data import Dataset

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'tensorflow-datasets',
  'grain',
  'orbax-checkpoint',
  'numpy',
  'pillow',
)


def describe(config: ConfigDict, data: Dataset) -> dict[str, Any]:
  """The content of "study" in results.json, without times."""
  return {
    'config': config.to_dict(),
    'commit': _commit(),
    'versions': _versions(_PACKAGES),
    'device': device(),
    'data': describe_data(data),
  }


def describe_data(data: Dataset) -> dict[str, Any]:
  """The content of "data" in it: what the images are, and how many.

  shape, dtype: of one stored image. counts: training images of each class. scale: the values of
  black and white, for files whose values need a scale; null if none do.
  """
  return {
    'name': data.name,
    'fingerprint': data.fingerprint,
    'classes': list(data.classes),
    'shape': list(data.train.images.shape[1:]),
    'dtype': data.train.images.dtype.name,
    'train': len(data.train.labels),
    'counts': np.bincount(data.train.labels, minlength=len(data.classes)).tolist(),
    'validation': len(data.validation.labels),
    'test': data.test,
    'left_out': list(data.left_out),
    'scale': data.scale and list(data.scale),
    'checks': {name: finding._asdict() for name, finding in data.checks.items()},
  }


def device() -> str:
  """The devices that trials train on: `cpu`, `4 x NVIDIA A100-SXM4-40GB`."""
  devices = jax.local_devices()
  count = f'{len(devices)} x ' if len(devices) > 1 else ''
  return f'{count}{devices[0].device_kind}'


def machine() -> dict[str, Any]:
  """The machine and libraries that a benchmark ran with."""
  cpu = Path('/proc/cpuinfo')
  lines = cpu.read_text().splitlines() if cpu.exists() else []
  names = [line.partition(': ')[2] for line in lines if line.startswith('model name')]
  return {
    'cpu': names[0] if names else platform.processor(),
    'cores': os.cpu_count(),
    'device': device(),
    'commit': _commit(),
  } | _versions(('jax', 'jaxlib', 'torch', 'ray', 'numpy'))


def _versions(packages: Sequence[str]) -> dict[str, str]:
  """The versions of Python and of those packages that are installed."""
  found = {'python': platform.python_version()}
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def _commit() -> str | None:
  """The commit of this code, with + if files differ from it; None outside a git checkout."""
  root = Path(__file__).parents[2]
  if not (root / '.git').exists():  # installed, perhaps inside another repository
    return None

  def git(*arguments: str) -> str:
    command = ['git', '-C', str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

  try:
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return None
