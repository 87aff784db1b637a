"""What --help and --help_config say, the names of commands, and configs by their names."""

import ast
import subprocess
import sys

import pytest
from command_line import answers
from commands import Command
from conftest import ROOT

from lr_study import configs, plugs, reference
from lr_study.commands import COMMANDS
from lr_study.config import SECTIONS
from lr_study.errors import StudyError


def lr_study(*arguments):
  """`lr-study`, which here must do without JAX."""
  code = f'import sys; sys.argv[1:] = {arguments!r}; from lr_study.commands import main; '
  code += 'import atexit; atexit.register(lambda: print("jax" in sys.modules)); main()'
  return subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=ROOT
  )


def test_the_commands_are_listed_at_once():
  listed = lr_study('--help')
  assert listed.returncode == 0
  assert listed.stdout.endswith('\nFalse\n')  # no JAX
  for name in COMMANDS:
    (line,) = (line for line in listed.stdout.splitlines() if line.split()[:1] == [name])
    assert line.endswith('.')
  assert lr_study().stdout == listed.stdout


@pytest.mark.parametrize(
  ('name', 'said'), [('sweap', "'sweap': no such command; did you mean sweep?"), ('x', 'commands:')]
)
def test_an_unknown_command_is_told_the_nearest(name, said):
  ended = lr_study(name, '--config=x')
  assert ended.returncode == 2
  assert ended.stderr.startswith('error: ')
  assert said in ended.stderr
  assert ended.stderr.count('\n') == 1


def test_every_command_has_a_script_usage_and_an_example():
  for name in COMMANDS:
    module = name.replace('-', '_')
    assert f"commands.run('{name}')" in (ROOT / 'scripts' / f'{module}.py').read_text()
    words = ast.get_docstring(
      ast.parse((ROOT / 'lr_study' / 'commands' / f'{module}.py').read_text())
    )
    assert f'\n\nusage: lr-study {name} ' in words, name
    assert f'\n  lr-study {name} --' in words, name


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_of_a_command_has_its_own_flags_alone(flag):
  ended = Command('classify.py', '--workdir=x', flag).wait()
  assert (ended.returncode, ended.stderr) == (0, '')
  assert 'usage: python scripts/classify.py --workdir STUDY' in ended.stdout
  flags = [line.split()[0] for line in ended.stdout.splitlines() if line.startswith('  --')]
  assert flags == [
    *('--workdir', '--part', '--learning_rate', '--seed', '--json', '--explain', '--axis'),
    '--moved',
  ]
  assert '--part validation|test\n' in ended.stdout
  assert 'repeat this option' not in ended.stdout


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  with answers(tmp_path_factory.mktemp('command')) as ask:
    yield ask


def test_help_config_explains_the_config_as_it_is_set(answer):
  status, text = answer(
    '--config=alexnet_letters:quick', '--config.search=bisect', '--axis=seed=0,1', '--help_config'
  )
  assert status == 0
  assert '\nepochs = 3   (default 10)\n    How often a trial' in text
  assert "\nsearch.name = 'bisect'   (default 'grid')\n" in text
  assert '\nsearch.factor = 1.25\n    How close these two rates are at the end' in text
  assert "\naxes = {'seed': (0, 1)}" in text
  assert 'passed' not in text  # it ends there


def test_help_config_works_without_a_config(answer):
  status, text = answer('--help_config')
  assert status == 0
  assert '\nlearning_rates = ()\n    The rates to try.' in text
  assert '\nepochs = 10\n' in text


def test_help_config_names_what_is_wrong(answer):
  status, text = answer('--config=alexnet_letters', '--config.model=resnet81', '--help_config')
  assert status == 2
  assert 'did you mean resnet18?' in text


def test_every_field_is_explained():
  fields = reference.of_study()
  for section in SECTIONS:
    for name in plugs.known(section):
      fields += reference.of_plug(section, name)
  for field in fields:
    about = field.about
    assert about, f'{field.name} has no description'
    assert about[0] == about[0].upper(), about
    assert about[-1] in '.!?', about


@pytest.mark.parametrize('section', SECTIONS)
def test_every_function_of_a_section_has_a_summary(section):
  for name in plugs.known(section):
    assert reference.summary(section, name)[-1] in '.?', name


def test_own_functions_are_explained_by_their_docstrings(tmp_path):
  (tmp_path / 'mine.py').write_text(
    'def net(classes, width=1.0, depth=2):\n'
    '  """A network. It has layers.\n\n  Args:\n    width: factor on\n      features\n  """\n'
  )
  name = f'{tmp_path}/mine.py:net'
  about = {field.name: field.about for field in reference.of_plug('model', name)}
  assert about['model.width'] == 'Factor on features.'
  assert about['model.depth'] == ''
  assert about['model.weights'].startswith('A file or folder of weights')
  assert reference.summary('model', name) == 'A network.'


def test_a_config_goes_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder = ROOT / 'configs'
  assert configs.find('alexnet_letters:quick') == f'{folder}/alexnet_letters.py:quick'
  assert configs.find('calibration') == f'{folder}/calibration.py'
  (tmp_path / 'alexnet_letters').write_text('')  # a file of the user's own goes first
  assert configs.find('alexnet_letters:quick') == 'alexnet_letters:quick'
  for name in ('alexnet_leters', 'configs/alexnet_leters.py:quick', '\0', 'x' * 5000, ''):
    with pytest.raises(StudyError, match='no such file'):
      configs.find(name)


def test_configs_import_each_other_as_modules_of_the_package():
  from lr_study.configs import alexnet_folder  # noqa: PLC0415

  assert alexnet_folder.get_config().data.name == 'image_folder'
