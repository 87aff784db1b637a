"""Random configs and command lines: an answer or one line, whatever they hold."""

import contextlib
import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import alexnet_letters
from lr_study.config import FIELDS, check
from lr_study.errors import StudyError

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/alexnet_letters.py:quick'
HUGE = 10**400  # beyond floats

# The same examples each time: a test that fails now and then helps nobody. Times vary on a busy
# machine; the fixture is a server, the same for all examples.
FUZZ = settings(
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(),
  st.text(max_size=20),
  st.binary(max_size=5),
  st.complex_numbers(),
  st.fractions(),
  st.sampled_from(
    [HUGE, -HUGE, Fraction(HUGE), 5e-324, 1e308, np.float32(3), np.int64(3), np.zeros(3), object()]
  ),
  st.sampled_from([name for _, _, asks in FIELDS.values() for name in asks.split(', ')]),
)
VALUES = st.recursive(
  SCALARS,
  lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.lists(inner, max_size=4).map(tuple),
    st.dictionaries(st.text(max_size=5), inner, max_size=2),
  ),
  max_leaves=6,
)
PARTS = sorted({name.partition('.')[0] for name in FIELDS})
NAMES = st.one_of(st.sampled_from(sorted(FIELDS)), st.sampled_from(PARTS), st.text(max_size=8))


@settings(FUZZ, max_examples=400)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
@example({'learning_rates': (HUGE,)})
@example({'epochs': HUGE})
@example({'schedule.heights': (Fraction(HUGE),), 'schedule.from_epochs': (2,)})
def test_any_config_passes_or_is_refused_in_words(fields):
  config = alexnet_letters.get_config('quick')
  with config.ignore_type(), config.unlocked():
    for name, value in fields.items():
      *parents, last = name.split('.')
      inner = config
      for parent in parents:
        inner = inner[parent] if parent in inner else ConfigDict()
        if not isinstance(inner, ConfigDict):  # replaced by another value already
          break
      else:
        # Some names and values no config can hold.
        with contextlib.suppress(ArithmeticError, LookupError, TypeError, ValueError):
          inner[last] = value
  try:
    checked, refusal = check(config), None
  except StudyError as error:
    checked, refusal = None, str(error)
  if checked is None:
    assert 0 < len(refusal) < 1000
  else:
    assert all(0 < rate < math.inf for rate in checked.learning_rates)
    json.dumps(checked.to_dict(), allow_nan=False)  # as results.json and config.json hold it


# Python's start and JAX's import take seconds: a child of one server parses each command line.
SERVER = """
import json, os, sys, traceback
from lr_study import cli, config

def main():
  config.check(cli.study_config()[0])
  print('passed')

for line in sys.stdin:
  child = os.fork()
  if not child:
    sys.argv = json.loads(line)
    out = os.open(os.environ['OUT'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    status = 1
    try:
      cli.run(main)
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
def answer(tmp_path_factory):
  """A function: what the main command answers to these arguments, and its status."""
  out = tmp_path_factory.mktemp('command') / 'out'
  server = subprocess.Popen(
    [sys.executable, '-W', 'ignore', '-c', SERVER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=os.environ | {'OUT': str(out)},
  )

  def ask(*arguments):
    server.stdin.write(json.dumps(['sweep.py', *arguments]) + '\n')
    server.stdin.flush()
    status = int(server.stdout.readline())
    return status, out.read_text('utf-8')

  yield ask
  server.stdin.close()
  server.wait(timeout=10)
  server.stdout.close()


# What a shell can hand over: any bytes but NUL.
WORDS = st.binary(max_size=12).map(lambda text: os.fsdecode(text.replace(b'\0', b'')))
TEXTS = st.one_of(
  WORDS,
  st.text(max_size=12, alphabet=st.characters(exclude_characters='\0', codec='utf-8')),
  st.text(alphabet='0123456789(),.-+eE[]{}\'"_xjNnaifTru: \n', max_size=16),
  st.floats().map(str),
  st.integers().map(str),
  st.sampled_from(['README.md', 'configs', '/dev/null', f'{CONFIG}er', 'lr_study/cli.py']),
  st.sampled_from(['(' * 500, '[' * 300 + ']' * 300, '9' * 5000, '0x' + 'f' * 5000, '1' * 400]),
  st.sampled_from(['(1e-3, 1e-4)', '1e999', '-1', '{}', "{'a': 1}", '()', '(,)', 'None', '1e-3,']),
)
FLAG_NAMES = st.one_of(
  st.sampled_from(sorted(FIELDS)).map('config.{}'.format),
  st.sampled_from(PARTS).map('config.{}'.format),
  WORDS.map('config.{}'.format),
  st.sampled_from(['config', 'distributed', 'nodistributed', 'num_processes', 'flagfile', 'v']),
  st.sampled_from(['config.learning_rates[0]', 'config.data.classes[9]', 'config.', 'config..']),
)
OVERRIDES = st.builds(
  '--config.{}={}'.format,
  st.sampled_from(sorted(FIELDS)),
  st.one_of(st.sampled_from(['1', '0.5', 'True', '(0.1, 2)', '(3,)', 'small_cnn', '100']), TEXTS),
)
ARGUMENTS = st.one_of(
  OVERRIDES,
  OVERRIDES,
  OVERRIDES,
  st.builds('--{}={}'.format, FLAG_NAMES, TEXTS),
  st.one_of(st.builds('--{}'.format, FLAG_NAMES), TEXTS),
)


@settings(FUZZ, max_examples=300)
@example(arguments=['--config=' + 'x' * 300], with_config=False)
@given(
  arguments=st.lists(ARGUMENTS, min_size=1, max_size=3),
  with_config=st.sampled_from([True] * 4 + [False]),
)
def test_any_command_line_is_answered_in_words(answer, arguments, with_config):
  status, text = answer(*([f'--config={CONFIG}'] if with_config else []), *arguments)
  assert 'Traceback' not in text
  if status == 0:
    assert text == 'passed\n'
  else:
    assert status == 2
    assert text.startswith('error: ')
    assert text.count('\n') == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize(
  'override',
  [
    'learning_rates=__import__("pathlib").Path({!r}).touch()',
    'learning_rates=(__import__("pathlib").Path({!r}).touch(),)',
    'data.name=__import__("pathlib").Path({!r}).touch()',
    'data=__import__("pathlib").Path({!r}).touch()',
    'learning_rates[__import__("pathlib").Path({!r}).touch()]=1',
  ],
)
def test_no_override_is_evaluated(answer, tmp_path, override):
  file = tmp_path / 'evaluated'
  status, text = answer(f'--config={CONFIG}', '--config.' + override.format(str(file)))
  assert not file.exists()
  assert (status, text[:7]) in ((2, 'error: '), (0, 'passed\n'))  # a name may be any text
