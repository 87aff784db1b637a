"""Set-up and fixtures of all tests: four CPU devices, and the quick study scaled to seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# Programs are compiled far more often than run: at level 1 that takes a third of the time. Before
# JAX is imported, and in the environment for the commands that tests start.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=1'
# Results hold the commit, which may change while tests run; here there is none.
os.environ['GIT_DIR'] = os.devnull

import jax
import pytest

# As in a terminal: what a shell runs in the background ignores Ctrl-C, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
sys.path.insert(0, str(Path(__file__).parent))

import commands  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402
from PIL import Image  # noqa: E402

from configs import alexnet_letters  # noqa: E402
from lr_study.data.letters import render  # noqa: E402
from lr_study.report import figures  # noqa: E402
from lr_study.study import run as run_study  # noqa: E402

# Studies draw only PNG files here: the other formats take long. Those of `whole` and the figures of
# test_figures.py have all.
figures.FORMATS = ('png',)


def make_tiny(cache_dir):
  """The quick study on 80 letters, with a sixteenth of the network's width."""
  config = alexnet_letters.get_config('quick')
  config.image_size = 67
  config.model.width = 1 / 16
  config.data.per_class = 8
  config.data.cache_dir = cache_dir
  config.accelerate = 'off'  # compiles faster; test_accelerate.py has the other
  config.parallel = 'vmap'  # together, as on a GPU; on a CPU a study trains each alone
  config.log_every_steps = 25
  return config


ROOT = commands.ROOT
CONFIG = """
from ml_collections import ConfigDict

from configs import alexnet_letters

NETWORKS = {{
  '': {{'name': 'mlp', 'hidden': (192,), 'dropout': 0.1}},  # its first kernel is kept as factors
  'resnet': {{'name': '{root}/tests/own/my_resnet.py:MyResNet', 'features': 4, 'depth': 1}},
  'resnet18': {{'name': 'resnet18', 'width': 1 / 32}},
}}
NETWORKS['resnet_grid'] = NETWORKS['resnet']


def get_config(variant=''):
  config = alexnet_letters.get_config('quick')
  config.image_size = 64
  # Few classes, so that 30 images can tell a network that learned from guessing.
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 40
  config.data.cache_dir = {cache_dir!r}
  config.input.size, config.input.subtract = 16, 'pixel'
  config.input.grey = config.input.standardise = True
  config.model = ConfigDict(NETWORKS[variant])
  config.epochs = 4
  config.schedule.every_epochs = 2.0
  config.learning_rates = (1e5, 1e-2, 1e-3)
  config.log_every_steps = 40
  config.checkpoint_steps = {steps}
  if variant:  # with BatchNorm, by AdamW
    config.batch_size = 6
    config.optimizer = ConfigDict({{'name': 'adamw'}})
    config.learning_rates = (1e30, 1e-2, 1e-3)
    config.log_every_steps = 6
    config.checkpoint_steps = {steps} // 6
  if variant == 'resnet_grid':
    config.seeds = (0, 1)
    config.axes['optimizer.weight_decay'] = (1e-4, 1e-2)
  return config
"""


def small_study(folder, cache_dir, steps=0):
  """Writes the config of a study of 360 steps with checkpoints every `steps` steps and each epoch.

  Its variants, `resnet`, `resnet18` and `resnet_grid`, have 60 steps.
  """
  file = folder / 'small_study.py'
  file.write_text(CONFIG.format(root=ROOT, cache_dir=cache_dir, steps=steps))
  return file


def sweep(config_file, *arguments, **options):
  """Runs the main command; for options see `commands.Command`."""
  return start(config_file, *arguments, **options).wait()


def start(config_file, *arguments, devices=1, **options):
  """Starts the main command."""
  arguments = (f'--config={config_file}', *arguments)
  return commands.Command('sweep.py', *arguments, devices=devices, **options)


def steps_saved(checkpoints, wave=0):
  """The steps of the newest intact checkpoint of a wave; 0 if there is none."""
  return max(
    (int(path.name) for path in checkpoints.glob(f'wave_{wave}/*') if path.name.isdigit()),
    default=0,
  )


@pytest.fixture(scope='session')
def config_file(tmp_path_factory, cache_dir):
  """The small study with a checkpoint about every 30 steps."""
  return small_study(tmp_path_factory.mktemp('configs'), cache_dir, steps=30)


@pytest.fixture(scope='session')
def whole(config_file, tmp_path_factory):
  """The undisturbed small study: its work directory, and the output of the command."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  done = subprocess.run(  # a Python of its own, as users start it
    [sys.executable, 'scripts/sweep.py', f'--config={config_file}', f'--workdir={folder}'],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  return folder, done


def make_small(cache_dir):
  """A study with the small network on three letters, which takes seconds."""
  config = alexnet_letters.get_config('quick')
  config.learning_rates = (1e5, 1e-2, 1e-3)
  config.epochs, config.batch_size, config.image_size = 8, 8, 64
  config.data.classes, config.data.per_class = ('O', 'T', 'E'), 32
  config.data.test_fraction = 0.25
  config.data.cache_dir = cache_dir
  config.input.grey = config.input.standardise = config.input.invert = True
  config.input.size, config.input.rotation, config.input.subtract = 20, 10.0, 'pixel'
  config.model = ConfigDict({'name': 'small_cnn', 'width': 0.25, 'dropout': 0.0})
  config.accelerate = 'off'
  config.schedule = ConfigDict({'name': 'constant'})
  return config


@pytest.fixture(scope='session')
def small_finished(tmp_path_factory, cache_dir):
  """The finished work directory of `make_small`. Tests must not change it."""
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


@pytest.fixture(scope='session')
def command():
  """A function (script, *arguments, folder) -> status, standard output, errors."""

  def run(script, *arguments, seconds=300, **options):
    done = commands.Command(script, *arguments, **options).wait(seconds)
    return done.returncode, done.stdout, done.stderr

  return run


@pytest.fixture
def without_figures(monkeypatch):
  """Makes studies in this process draw nothing, as that takes as long as their trials."""
  for module, name, function in commands.DRAWING:
    monkeypatch.setattr(f'{module}.{name}', function)


# The longest files first: the two processes that share them then end together.
LONG = ['test_faults.py', 'test_sweep.py', 'test_rounds.py']


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: [*LONG, item.path.name].index(item.path.name))


@pytest.fixture(scope='session', autouse=True)
def compiled_programs(tmp_path_factory):
  """A cache of compiled programs for all tests, most of which train the same network."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  os.environ['JAX_COMPILATION_CACHE_DIR'] = folder  # for the commands that tests start
  jax.config.update('jax_compilation_cache_dir', folder)
  yield
  del os.environ['JAX_COMPILATION_CACHE_DIR']


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory):
  """The cache in which tests build data sets, not the user's; letters are rendered once."""
  return str(tmp_path_factory.mktemp('data_sets'))


@pytest.fixture
def tiny(cache_dir):
  """A fresh config for each test."""
  return make_tiny(cache_dir)
