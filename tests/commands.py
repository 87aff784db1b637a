"""Runs commands in tests, as children of one server, because the imports take seconds."""

import contextlib
import ctypes
import functools
import importlib
import itertools
import multiprocessing
import os
import resource
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import psutil
from absl import flags as absl_flags

ROOT = Path(__file__).parents[1]
_SERVER = multiprocessing.get_context('forkserver')
# Of all that the commands import, what takes long.
_SERVER.set_forkserver_preload([
  'lr_study.cli', 'lr_study.study', 'lr_study.use.classify', 'lr_study.use.evaluate',
  'lr_study.use.explain', 'lr_study.use.export', 'matplotlib.backends.backend_agg',
  'matplotlib.backends.backend_svg', 'scipy.special',
])  # fmt: skip
_NEW_MOUNTS, _NEW_USER, _PRIVATE, _DETACH = 0x20000, 0x10000000, 0x44000, 2  # as in Linux's headers
_READ_ONLY, _REMOUNT, _BIND = 0x1, 0x20, 0x1000
CAN_MOUNT = not subprocess.run(
  ['unshare', '-rm', 'true'], capture_output=True, check=False
).returncode
_TMPFS_BYTES = 16 * 2**20

# Instead of which functions studies that draw nothing call which.
DRAWING = (
  ('lr_study.report.pictures', 'build', lambda *_: {}),
  ('lr_study.report.page', 'write', lambda _: None),
  ('lr_study.report.live', 'write', lambda *_: None),
)


class Command:
  """A script of scripts/ that has been started, like `python scripts/NAME ARGUMENTS`."""

  def __init__(
    self,
    script,
    *arguments,
    folder=ROOT,
    devices=None,
    draws=True,
    parses=False,
    at=None,
    largest_file=None,
    disk=None,
    read_only=None,
    **variables,
  ):
    """Starts it.

    Args:
      script: its name.
      arguments: of the command line.
      folder: the current one.
      devices: how many CPU devices JAX has.
      draws: False: no figures and no page, which take as long as the trials of a small study.
      parses: True: its flags are parsed, and its config is checked; that is all.
      at: ('module:function', n, signal): the command sends itself the signal when it calls this
        function for the n-th time, before the function does anything.
      largest_file: the most bytes that a file may have, to simulate a full disk.
      disk: (folder, bytes): for the command, this folder is a separate file system with this many
        free bytes.
      read_only: a folder that the command cannot write, as if it were mounted read-only.
      variables: added to the environment.
    """
    variables |= {} if devices is None else {'JAX_NUM_CPU_DEVICES': str(devices)}
    argv = [str(ROOT / 'scripts' / script), *map(str, arguments)]
    self._pipes, writers = zip(*(_SERVER.Pipe(duplex=False) for _ in range(2)), strict=True)
    self._text = [b'', b'']
    self._process = _SERVER.Process(
      target=_run,
      args=(
        argv,
        str(folder),
        writers,
        os.environ | variables,
        draws,
        parses,
        at,
        largest_file,
        disk,
        read_only,
      ),
    )
    self._process.start()
    for writer in writers:
      writer.close()
    for pipe in self._pipes:
      os.set_blocking(pipe.fileno(), False)
    self.pid = self._process.pid

  @property
  def stdout(self):
    """The output so far."""
    return self._read(0)

  @property
  def stderr(self):
    """The error output so far."""
    return self._read(1)

  def stop_reading(self):
    """Closes its output pipe, as `| head -1` does."""
    self._read(0)
    self._pipes[0].close()

  def is_running(self):
    for number in (0, 1):
      self._read(number)  # or it would wait for a reader
    return self._process.exitcode is None

  def wait_until(self, happened, seconds=300):
    """Waits until `happened()` is true, or the command has ended."""
    deadline = time.monotonic() + seconds
    while self.is_running() and not happened():
      if time.monotonic() > deadline:
        self.kill()
        raise TimeoutError(self.stdout + self.stderr)
      time.sleep(0.01)

  def wait_until_stopped(self):
    """Waits until it is stopped by SIGSTOP."""
    self.wait_until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

  def send_signal(self, number):
    os.kill(self.pid, number)

  def kill(self):
    self._process.kill()
    self._process.join()

  def wait(self, seconds=300):
    """Waits for its end; returns status, standard output and errors, like subprocess.run."""
    self.wait_until(lambda: False, seconds)
    found = subprocess.CompletedProcess([], self._process.exitcode, self.stdout, self.stderr)
    for pipe in self._pipes:
      pipe.close()
    return found

  def _read(self, number):
    if not self._pipes[number].closed:
      try:
        while part := os.read(self._pipes[number].fileno(), 2**16):
          self._text[number] += part
      except BlockingIOError:
        pass
    return self._text[number].decode('utf-8', 'replace')


def _run(argv, folder, pipes, environment, draws, parses, at, largest_file, disk, read_only):
  """In the child: becomes the command."""
  os.environ.clear()
  os.environ.update(environment)
  for number, (name, pipe) in enumerate(zip(('stdout', 'stderr'), pipes, strict=True), 1):
    os.dup2(pipe.fileno(), number)
    pipe.close()
    stream = open(number, 'w', buffering=1, encoding='utf-8', closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)
  _set_up_jax(environment)
  os.chdir(folder)
  sys.argv = argv
  importlib.import_module('lr_study.report.figures').FORMATS = ('png',)  # others take long
  if not draws:
    for module, name, function in DRAWING:
      setattr(importlib.import_module(module), name, function)
  if parses:
    _only_parse()
  if at:
    _send_itself(*at)
  if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
  if read_only:
    _mount_read_only(bytes(read_only))
  if disk is None:
    runpy.run_path(argv[0], run_name='__main__')
    return
  mounted, free = disk
  with _on_full_disk(Path(mounted), free):
    runpy.run_path(argv[0], run_name='__main__')


def _only_parse():
  """Commands parse their flags, and check their config."""
  cli, configs = map(importlib.import_module, ('lr_study.cli', 'lr_study.config'))
  run = cli.run

  def parse(main, takes_arguments=False):
    def check(*arguments):
      if 'config' in absl_flags.FLAGS and absl_flags.FLAGS['config'].present:
        configs.check(cli.study_config()[0])

    run(check, takes_arguments)

  cli.run = parse


def _set_up_jax(environment):
  """What JAX read from the environment when the server imported it."""
  for name in jax.config.values:
    value = environment.get(name.upper())
    if value:
      plain = {'True': True, 'False': False}.get(value, value)
      jax.config.update(name, int(value) if value.isdigit() else plain)


def _send_itself(target, count, number):
  module, _, path = target.partition(':')
  *outer, name = path.split('.')
  holder = functools.reduce(getattr, outer, importlib.import_module(module))
  function, calls = getattr(holder, name), itertools.count(1)

  @functools.wraps(function)
  def wrapped(*arguments, **keywords):
    if next(calls) == count:
      os.kill(os.getpid(), number)
    return function(*arguments, **keywords)

  setattr(holder, name, wrapped)


def _own_mounts():
  """Gives this process its own mounts, which no other process sees."""
  libc, user = ctypes.CDLL(None, use_errno=True), (os.getuid(), os.getgid())
  if libc.unshare(_NEW_USER | _NEW_MOUNTS):
    raise OSError(ctypes.get_errno(), 'unshare')
  Path('/proc/self/setgroups').write_text('deny')
  for name, own in zip(('uid_map', 'gid_map'), user, strict=True):
    Path('/proc/self', name).write_text(f'0 {own} 1')
  libc.mount(b'none', b'/', None, _PRIVATE, None)
  return libc


def _mount_read_only(folder):
  libc = _own_mounts()
  for flags in (_BIND, _BIND | _REMOUNT | _READ_ONLY):
    if libc.mount(folder, folder, None, flags, None):
      raise OSError(ctypes.get_errno(), 'mount')


@contextlib.contextmanager
def _on_full_disk(folder, free):
  """Makes the folder, with its content, a small file system that only this process sees."""
  libc = _own_mounts()
  kept = folder.with_name(folder.name + '_kept')
  folder.rename(kept)
  folder.mkdir()
  size = f'size={_TMPFS_BYTES}'.encode()
  if libc.mount(b'tmpfs', bytes(folder), b'tmpfs', 0, size):
    raise OSError(ctypes.get_errno(), 'mount')
  shutil.copytree(kept, folder, dirs_exist_ok=True)
  filler, disk = folder / 'filler', os.statvfs(folder)
  filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - free)))
  try:
    yield
  finally:
    filler.unlink()
    shutil.rmtree(kept)
    shutil.copytree(folder, kept)
    libc.umount2(bytes(folder), _DETACH)
    folder.rmdir()
    kept.rename(folder)
