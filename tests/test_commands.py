"""How commands end without a reader or after Ctrl-C, and wrong flags."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from command_line import CONFIG, answers
from commands import Command
from conftest import ROOT, small_study

from lr_study import cli
from lr_study.errors import StudyError


def unread(script, *arguments, **options):
  """The status and the errors of a command whose output has no reader."""
  started = Command(script, *arguments, **options)
  started.stop_reading()
  ended = started.wait()
  return ended.returncode, ended.stderr


def test_a_command_goes_quiet_when_nobody_reads_on(small_finished, photos, tmp_path, cache_dir):
  """As with `| head -1`: no traceback, and the status of SIGPIPE."""
  study, workdir = small_study(tmp_path, cache_dir), f'--workdir={small_finished}'
  for script, *arguments in (
    ('classify.py', workdir, photos),
    ('report.py', workdir, workdir, f'--out={tmp_path}/compared.html'),
    ('show_data.py', f'--config={study}', f'--out={tmp_path}/shown'),
    ('sweep.py', f'--config={study}', f'--workdir={tmp_path}/study'),
    ('sweep.py', '--help'),
  ):
    assert unread(script, *arguments) == (141, ''), script
  assert (tmp_path / 'compared.html').exists()  # what was done before is kept


def test_every_command_ends_by_the_one_door():
  for script in (ROOT / 'scripts').glob('*.py'):
    if script.stem == 'make_docs_figures':
      continue  # for those who write the documentation
    door = r'^  (cli\.run\(main|commands\.run\()'
    assert re.search(door, script.read_text(), re.MULTILINE), script


def test_another_pipe_that_breaks_is_told(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['sweep.py'])

  def main():
    raise BrokenPipeError

  with pytest.raises(BrokenPipeError):
    cli.run(main)


@pytest.mark.parametrize('called', ['lr_study.use.classify:answer', 'lr_study.use.evaluate:load'])
def test_ctrl_c_is_one_line(small_finished, photos, called):
  at = (called, 1, signal.SIGINT)
  ended = Command('classify.py', f'--workdir={small_finished}', photos / 'O', at=at).wait()
  assert ended.returncode == 130
  assert ended.stderr == '\nstopped; to resume a study, run the same command again\n'


def test_ctrl_c_while_a_config_is_read():
  ended = Command(
    'show_data.py', f'--config={ROOT}/{CONFIG}', at=('lr_study.config:complete', 1, signal.SIGINT)
  ).wait()
  assert (ended.returncode, ended.stdout) == (130, '')
  assert 'Traceback' not in ended.stderr


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  with answers(tmp_path_factory.mktemp('command')) as ask:
    yield ask


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--epochs=3'], '--epochs: no such flag; to set a field of the config, use --config.epochs'),
    (
      ['--batch-size', '4'],
      '--batch-size: no such flag; to set a field .* use --config.batch_size',
    ),
    (['--momentum=0.9'], '--momentum: no such flag; .* --config.optimizer.momentum'),
    (['--data.per_class=9'], '--data.per_class: no such flag; .* use --config.data.per_class'),
    (['--learning_rate=0.1'], r'--learning_rate: no such .* mean --config.learning_rates\?'),
    (['--qqq=1'], '--qqq: no such flag'),
    (['--config.verdict=loss'], 'verdict is a group of fields; set one of them: --config.verdict.'),
    (['--config.axes=0.1'], 'axes is a group of fields; give --axis NAME=V1,V2,...'),
    (['--config.model={'], 'model is a group of fields; set one of them: --config.model.dropout'),
    (
      ['--config.batch_size=32,64'],
      r'--config.batch_size=32,64: it must be a whole number; .* use --axis batch_size=32,64',
    ),
    (['--config.epochs=2.5'], r'--config.epochs=2.5: it must be a whole number$'),
    (['--config.optimizer.name=optax.lion'], r'optimizer.name is .optax.lion.; .* mean lion\?'),
    (
      ['--config.model.name=lenet,resnet18'],
      r'to try several values, use --axis model.name=lenet,resnet18$',
    ),
    (['--flagfile=/nowhere'], 'Unable to open flagfile: .* No such file'),
  ],
)
def test_flags_that_are_refused(answer, flags, said):
  status, text = answer(f'--config={CONFIG}', *flags)
  assert status == 2
  assert re.fullmatch(f'error: .*{said}.*\n', text), text
  assert 'object at 0x' not in text


def test_a_flag_file_may_hold_a_whole_command(tmp_path):
  file = tmp_path / 'flags'
  file.write_text(f'--config={CONFIG}\n--config.search=bisect\n--config.epochs=5\n')
  with answers(tmp_path, SHOW='1') as ask:
    status, text = ask(f'--flagfile={file}')
  assert status == 0
  *_, shown, _ = text.splitlines()
  config = json.loads(shown)
  assert (config['epochs'], config['search']['name']) == (5, 'bisect')


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path):
  class Flag:
    name, value = 'json', None

  cli.check_writable(Flag)
  for value, message in (
    (tmp_path / 'no' / 'x.json', 'no is not a folder; create it first'),
    (tmp_path, 'cannot be written; choose another file'),
    ('/proc/self/x.json', 'cannot be written; choose another file'),
  ):
    Flag.value = str(value)
    if value == '/proc/self/x.json' and os.access('/proc/self', os.W_OK):
      continue  # root may write anywhere, as far as the system tells
    with pytest.raises(StudyError, match=message):
      cli.check_writable(Flag)
  Flag.value = str(tmp_path / 'x.json')
  cli.check_writable(Flag)


@pytest.mark.parametrize('closed', ['>&-', '2>&-'])
def test_a_command_without_an_output_works(closed):
  command = f'{sys.executable} -c "from lr_study import cli; cli.run(lambda: print(1))" {closed}'
  ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=ROOT)
  assert (ended.returncode, ended.stderr) == (0, '')
