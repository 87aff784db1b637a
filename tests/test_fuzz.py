"""Random configs and command lines give an answer or one line, whatever they contain."""

import contextlib
import importlib
import json
import math
import os
import re
from fractions import Fraction

import numpy as np
import pytest
from command_line import CONFIG, answers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import alexnet_letters
from lr_study import plugs
from lr_study.config import check, flatten
from lr_study.errors import StudyError

FIELDS = sorted(flatten(check(alexnet_letters.get_config('quick'))))
PLUGS = [n for module in plugs.MODULES.values() for n in importlib.import_module(module).KNOWN]
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
  st.sampled_from([*PLUGS, 'epochs', 'steps', 'bfloat16', 'off', 'best', 'pmap', 'configs.py:f']),
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
PARTS = sorted({name.partition('.')[0] for name in FIELDS} | {'axes'})
NAMES = st.one_of(st.sampled_from(FIELDS), st.sampled_from(PARTS), st.text(max_size=8))


@settings(FUZZ, max_examples=400)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
@example({'learning_rates': (HUGE,)})
@example({'epochs': HUGE})
@example({'schedule.name': 'piecewise', 'schedule.heights': (Fraction(HUGE),)})
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


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  """A function: what the main command answers to these arguments, and its status."""
  with answers(tmp_path_factory.mktemp('command')) as ask:
    yield ask


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
  st.sampled_from(FIELDS).map('config.{}'.format),
  st.sampled_from(PARTS).map('config.{}'.format),
  WORDS.map('config.{}'.format),
  st.sampled_from(['config', 'overwrite', 'nooverwrite', 'ray_cpus', 'flagfile', 'axis']),
  st.sampled_from(['config.learning_rates[0]', 'config.data.classes[9]', 'config.', 'config..']),
)
OVERRIDES = st.builds(
  '--config.{}={}'.format,
  st.sampled_from(FIELDS),
  st.one_of(st.sampled_from(['1', '0.5', 'True', '(0.1, 2)', '(3,)', *PLUGS, '100']), TEXTS),
)
ARGUMENTS = st.one_of(
  OVERRIDES,
  OVERRIDES,
  OVERRIDES,
  st.builds('--{}={}'.format, FLAG_NAMES, TEXTS),
  st.one_of(st.builds('--{}'.format, FLAG_NAMES), TEXTS),
)


@settings(FUZZ, max_examples=200)
@example(arguments=['--config=' + 'x' * 300], with_config=False)
@given(
  arguments=st.lists(ARGUMENTS, min_size=1, max_size=3),
  with_config=st.sampled_from([True] * 4 + [False]),
)
def test_any_command_line_is_answered_in_words(answer, arguments, with_config):
  status, text = answer(*([f'--config={CONFIG}'] if with_config else []), *arguments)
  assert 'Traceback' not in text
  *notes, last = text.splitlines()
  assert all(re.fullmatch(r'\w+\.name is .* (is|are) dropped', line) for line in notes)
  if status == 0:
    assert last == 'passed'
  else:
    assert status == 2
    assert last.startswith('error: ')
    assert last.isprintable()


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
