"""What all tests share: four CPU devices, and the quick study shrunk to seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Programs are compiled far more often than run: at level 1 that takes a third of the time. Before
# JAX is imported, and in the environment for the commands that tests start.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=1'

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
sys.path.insert(0, str(Path(__file__).parent))

from PIL import Image  # noqa: E402

from configs import alexnet_letters  # noqa: E402
from lr_study.data.letters import render  # noqa: E402
from lr_study.sweep import run as run_study  # noqa: E402


def make_tiny(cache_dir):
  """The quick study on 80 letters with a network of a sixteenth of the width."""
  config = alexnet_letters.get_config('quick')
  config.image_size = 67
  config.model.width = 1 / 16
  config.data.per_class = 8
  config.data.cache_dir = cache_dir
  config.model.convolution = 'grouped'  # compiles faster; test_convolution.py has the other
  config.trials_per_call = 8  # together, as on a GPU; on a CPU a study trains each alone
  config.log_every_steps = 25
  return config


ROOT = Path(__file__).parents[1]
START = [sys.executable, str(ROOT / 'scripts' / 'sweep.py')]
CONFIG = """
from configs import alexnet_letters


def get_config():
  config = alexnet_letters.get_config('quick')
  config.image_size = 67
  config.model.width = 1 / 16
  config.data.per_class = 12
  config.data.cache_dir = {cache_dir!r}
  config.learning_rates = (1e1, 1e-4, 1e-5)
  config.epochs = 4
  config.schedule.every_epochs = 2.0
  config.log_every_steps = 40
  config.checkpoint_steps = {steps}
  return config
"""


def small_study(folder, cache_dir, steps=0):
  """Writes the config of a study of 360 steps; a checkpoint after so many, and each epoch."""
  file = folder / 'small_study.py'
  file.write_text(CONFIG.format(cache_dir=cache_dir, steps=steps))
  return file


def sweep(config_file, *arguments, devices=1):
  """Runs the main command."""
  return subprocess.run(
    [*START, f'--config={config_file}', *arguments],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)},
  )


def steps_saved(checkpoints, wave=0):
  """Of the newest checkpoint of a wave that is whole; 0 if there is none."""
  return max(
    (int(path.name) for path in checkpoints.glob(f'wave_{wave}/*') if path.name.isdigit()),
    default=0,
  )


@pytest.fixture(scope='module')
def config_file(tmp_path_factory, cache_dir):
  """The small study with a checkpoint every 30 steps."""
  return small_study(tmp_path_factory.mktemp('configs'), cache_dir, steps=30)


def make_small(cache_dir):
  """A study of seconds with the small network, on three letters."""
  config = alexnet_letters.get_config('quick')
  config.learning_rates = (1e5, 1e-2, 1e-3)
  config.epochs, config.batch_size, config.image_size = 6, 8, 64
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 32
  config.data.test_fraction = 0.25
  config.data.cache_dir = cache_dir
  config.input.grey = config.input.standardise = config.input.invert = True
  config.input.size, config.input.rotation, config.input.subtract = 20, 10.0, 'pixel'
  config.model.preset, config.model.width = 'small_cnn', 0.25
  config.model.convolution = 'grouped'
  config.schedule.name = 'constant'
  return config


@pytest.fixture(scope='session')
def small_finished(tmp_path_factory, cache_dir):
  """The work directory of `make_small`, finished. Tests leave it as it is."""
  workdir = tmp_path_factory.mktemp('studies') / 'small'
  run_study(make_small(cache_dir), workdir)
  return workdir


@pytest.fixture
def photos(tmp_path):
  """A folder of letters that `small_finished` has not seen: 6 E, 4 O, 10 T."""
  for letter, count in (('E', 6), ('O', 4), ('T', 10)):
    (tmp_path / 'photos' / letter).mkdir(parents=True)
    for i in range(count):
      pixels = render.render(9, letter, i, 64)
      Image.fromarray(pixels).save(tmp_path / 'photos' / letter / f'{i}.png')
  return tmp_path / 'photos'


# Python's start and the imports take seconds: each command is a child of one server.
SERVER = """
import json, os, runpy, sys, traceback
from lr_study import cli
from lr_study.use import classify, evaluate, explain, export

for line in sys.stdin:
  script, arguments, folder, out = json.loads(line)
  child = os.fork()
  if not child:
    os.chdir(folder)
    sys.argv, status = [script, *arguments], 1
    for number, name in ((0, os.devnull), (1, out + '.out'), (2, out + '.err')):
      os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    try:
      runpy.run_path(script, run_name='__main__')
      status = 0
    except SystemExit as end:
      status = end.code or 0
    except BaseException:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  _, status = os.waitpid(child, 0)
  print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  """A function (script, *arguments, folder) -> status, standard output, errors."""
  out = str(tmp_path_factory.mktemp('command') / 'of')
  server = subprocess.Popen(
    [sys.executable, '-W', 'ignore', '-c', SERVER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
  )

  def run(script, *arguments, folder=ROOT):
    line = json.dumps([str(ROOT / 'scripts' / script), list(map(str, arguments)), str(folder), out])
    server.stdin.write(line + '\n')
    server.stdin.flush()
    status = int(server.stdout.readline())
    return status, Path(out + '.out').read_text(), Path(out + '.err').read_text()

  yield run
  server.stdin.close()
  server.wait(timeout=10)
  server.stdout.close()


# The longest files first: the two processes that share them then end together.
LONG = ['test_faults.py', 'test_sweep.py', 'test_rounds.py', 'test_processes.py']


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: [*LONG, item.path.name].index(item.path.name))


@pytest.fixture(scope='session', autouse=True)
def compiled_programs(tmp_path_factory):
  """Kept from test to test, most of which train the same network; not in the user's own cache."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  os.environ['JAX_COMPILATION_CACHE_DIR'] = folder  # for the commands that tests start
  jax.config.update('jax_compilation_cache_dir', folder)
  yield
  del os.environ['JAX_COMPILATION_CACHE_DIR']


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory):
  """Where the tests build data sets: rendered once, never in the user's own cache."""
  return str(tmp_path_factory.mktemp('data_sets'))


@pytest.fixture
def tiny(cache_dir):
  """A config of its own for each test."""
  return make_tiny(cache_dir)
