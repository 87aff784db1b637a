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
  for file in ('cpu', 'dev', 'docs', 'optuna', 'benchmark'):
    for line in (ROOT / f'requirements-{file}.txt').read_text().splitlines():
      if found := re.match(r'([\w.-]+)(?:\[\w+\])?==([\w.]+)', line):
        exact[found[1].replace('_', '-').lower()] = found[2]
  extras = PROJECT['optional-dependencies']
  asked = [*PROJECT['dependencies'], *(line for name in extras for line in extras[name])]
  for requirement in map(Requirement, asked):
    name = requirement.name.replace('_', '-').lower()
    if name != 'lr-study':
      assert name in exact, f'{name} is in no requirements file'
      assert requirement.specifier.contains(exact[name]), str(requirement)


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_runs_the_quick_study(wheel, tmp_path):
  """Outside the checkout, on fewer images. What lr_study needs is taken from this environment."""
  venv, home = tmp_path / 'venv', tmp_path / 'home'
  home.mkdir()
  subprocess.run([sys.executable, '-m', 'venv', str(venv)], check=True)
  python, command = venv / 'bin' / 'python', venv / 'bin' / 'lr-study'
  (of_this,) = (path for path in sys.path if path.endswith('site-packages'))
  (packages,) = venv.glob('lib/python*/site-packages')
  (packages / 'needed.pth').write_text(f'{of_this}\n')
  install = [python, '-m', 'pip', 'install', '--no-index', '--no-deps', '--force-reinstall', wheel]
  subprocess.run(install, check=True, capture_output=True)
  environment = {'PATH': os.environ['PATH'], 'HOME': str(home)}

  def run(*arguments):
    return subprocess.run(
      [command, *arguments],
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
