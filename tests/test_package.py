"""The package: what a wheel holds, and that it runs in an environment of its own."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement

import lr_study

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel of this checkout, as `pip wheel .` builds it."""
  folder = tmp_path_factory.mktemp('wheel')
  code = f'from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))'
  built = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT
  )
  return folder / built.stdout.strip()


def test_the_wheel_holds_the_package_and_the_configs(wheel):
  with zipfile.ZipFile(wheel) as file:
    held = {name for name in file.namelist() if '.dist-info/' not in name}
    points = file.read(f'lr_study-{lr_study.__version__}.dist-info/entry_points.txt').decode()
  package, configs = (
    {
      path.relative_to(ROOT).as_posix()
      for path in (ROOT / folder).rglob('*')
      if path.is_file() and '__pycache__' not in path.parts
    }
    for folder in ('lr_study', 'configs')
  )
  assert held == package | {f'lr_study/{name}' for name in configs}
  assert 'lr_study/py.typed' in held
  assert 'lr-study = lr_study.commands:main' in points


def test_exact_versions_are_within_the_bounds():
  exact = {}
  others = {ROOT / f'requirements-{name}.txt' for name in ('cuda13', 'oldest')}
  for file in {*ROOT.glob('requirements-*.txt')} - others:
    for line in file.read_text().splitlines():
      if not line or line.startswith(('#', '-')):
        continue
      found = Requirement(line)
      if found.marker is None or found.marker.evaluate():  # of this Python and this system
        name, version = found.name.replace('_', '-').lower(), str(found.specifier)[2:]
        assert exact.setdefault(name, version) == version, f'{file.name} has another {name}'
  extras = PROJECT['optional-dependencies']
  asked = [*PROJECT['dependencies'], *(line for name in extras for line in extras[name])]
  for requirement in map(Requirement, asked):
    name = requirement.name.replace('_', '-').lower()
    if name != 'lr-study':
      assert name in exact, f'{name} is in no requirements file'
      assert requirement.specifier.contains(exact[name]), str(requirement)


def test_the_oldest_set_is_that_of_the_lower_bounds():
  lines = (ROOT / 'requirements-oldest.txt').read_text().splitlines()
  oldest = {line for line in lines if not line.startswith('#')}
  bounds = {re.sub('>=', '==', line).replace('_', '-') for line in PROJECT['dependencies']}
  assert {line for line in oldest if not line.startswith('fontpkg-')} == bounds


def test_the_citation_is_of_this_version():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['version'] == lr_study.__version__
  assert citation['license'] == PROJECT['license']
  assert f'({lr_study.__version__})' in (ROOT / 'CHANGELOG.md').read_text()


def test_the_workflows_and_hooks_name_files_and_tools_that_exist():
  dev = (ROOT / 'requirements-dev.txt').read_text()
  for path in [*(ROOT / '.github').rglob('*.yml'), ROOT / '.pre-commit-config.yaml']:
    text = path.read_text()
    yaml.safe_load(text)
    for name in re.findall(r'requirements-?\w*\.txt|tests/\w+\.py', text):
      assert (ROOT / name).exists(), f'{path} names {name}'
  for hook in yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']:
    assert f'\n{hook["entry"].split()[0]}==' in dev


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_runs_the_quick_study(wheel, tmp_path):
  """Outside the checkout, on fewer images. What lr_study needs is taken from this environment."""
  venv, home = tmp_path / 'venv', tmp_path / 'home'
  home.mkdir()
  # Within a repository of the user's, whose commit says nothing of lr_study.
  git = ['git', '-C', str(tmp_path), '-c', 'user.name=me', '-c', 'user.email=me@example.org']
  bare = {name: value for name, value in os.environ.items() if name != 'GIT_DIR'}
  for command in (['init', '-q'], ['commit', '-q', '--allow-empty', '-m', 'Begin']):
    subprocess.run([*git, *command], check=True, env=bare)
  subprocess.run([sys.executable, '-m', 'venv', str(venv)], check=True)
  python, lr_study_command = venv / 'bin' / 'python', venv / 'bin' / 'lr-study'
  (of_this,) = (path for path in sys.path if path.endswith('site-packages'))
  (packages,) = venv.glob('lib/python*/site-packages')
  (packages / 'needed.pth').write_text(f'{of_this}\n')
  install = [python, '-m', 'pip', 'install', '--no-index', '--no-deps', '--force-reinstall', wheel]
  subprocess.run(install, check=True, capture_output=True)
  environment = {'PATH': os.environ['PATH'], 'HOME': str(home)}

  def run(*arguments):
    return subprocess.run(
      [lr_study_command, *arguments],
      capture_output=True,
      text=True,
      check=True,
      cwd=home,
      env=environment,
    ).stdout

  where = [python, '-c', 'import lr_study; print(lr_study.__file__)']
  at = subprocess.run(where, capture_output=True, text=True, check=True, cwd=home).stdout
  assert Path(at.strip()).is_relative_to(venv)
  assert 'range-test' in run('--help')
  config = ('--config', 'alexnet_letters:quick', '--config.data.per_class=40')
  assert 'Use ' in run('sweep', *config)
  workdir = home / 'runs' / 'alexnet_letters_quick'
  content = json.loads((workdir / 'results.json').read_text())
  assert len(content['trials']) == 7
  assert content['study']['commit'] is None
  assert (workdir / 'report.html').exists()
  assert run('report', '--workdir', workdir).endswith('report.html\n')
  run('export', '--workdir', workdir, '--out', home / 'model')
  assert (home / 'model' / 'README.md').exists()
