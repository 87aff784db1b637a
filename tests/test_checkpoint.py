"""Checkpoints: what is whole is never put aside."""

import contextlib
import json

import numpy as np
import pytest

from lr_study.errors import StudyError
from lr_study.files.checkpoint import Checkpoints

STATE = {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3), 'step': np.zeros(2, np.int32)}


@pytest.fixture
def folder(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path / 'checkpoints')) as checkpoints:
    checkpoints.save(4, STATE)
  return tmp_path / 'checkpoints'


def newest(folder, like):
  with contextlib.closing(Checkpoints(folder)) as checkpoints:
    return checkpoints.newest(lambda done: like)


def test_what_was_saved_comes_back(folder):
  done, state = newest(folder, STATE)
  assert done == 4
  for name, array in STATE.items():
    assert state[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
  ('like', 'says'),
  [
    (STATE | {'kernel': np.zeros((2, 4), np.float32)}, r"\['kernel'\] is \(2, 3\) float32, not"),
    (STATE | {'kernel': np.zeros((2, 3))}, r'float32, not \(2, 3\) float64'),
    (STATE | {'bias': np.zeros(2, np.float32)}, r"\['bias'\] is none, not \(2,\) float32"),
  ],
)
def test_a_state_of_another_form_is_no_damage(folder, like, says):
  """As where a network in a file of the user's own has changed: one line, and nothing is moved."""
  before = sorted(folder.rglob('*'))
  with pytest.raises(StudyError, match=says):
    newest(folder, like)
  assert sorted(folder.rglob('*')) == before
  assert newest(folder, STATE)[0] == 4


def test_a_wrong_sum_is_damage(folder, capsys):
  (file,) = (path for path in folder.rglob('*') if path.is_file() and 'crc32' in _text(path))
  content = json.loads(file.read_text())
  content['crc32'] += 1
  file.write_text(json.dumps(content))
  assert newest(folder, STATE) == (0, None)
  assert (folder / 'damaged_4').is_dir()
  assert 'is damaged' in capsys.readouterr().out


def _text(path):
  return path.read_text(errors='replace')
