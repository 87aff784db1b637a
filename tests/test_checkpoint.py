"""Checkpoints: intact ones are never set aside, and a reader changes nothing."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lr_study.errors import StudyError
from lr_study.files.checkpoint import Checkpoints

STATE = {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3), 'step': np.zeros(2, np.int32)}


@pytest.fixture
def folder(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path / 'checkpoints')) as checkpoints:
    checkpoints.save(2, STATE)
    checkpoints.save(4, STATE)
  return tmp_path / 'checkpoints'


def newest(folder, like=STATE, read_only=False):
  with contextlib.closing(Checkpoints(folder, read_only)) as checkpoints:
    return checkpoints.newest(lambda done: like)


def listing(folder):
  """Every file and folder, with its bytes and its modification time."""
  return {
    str(path.relative_to(folder)): (
      path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None
    )
    for path in folder.rglob('*')
  }  # fmt: skip


def is_state(state):
  return all(state[name].tobytes() == array.tobytes() for name, array in STATE.items())


def files_of(checkpoint):
  return sorted(path for path in checkpoint.rglob('*') if path.is_file())


def cut(file):
  os.truncate(file, file.stat().st_size // 2)


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


def break_disk(file):
  """The system's own read error: nobody has mapped the first bytes of the memory."""
  file.unlink()
  file.symlink_to('/proc/self/mem')


def test_what_was_saved_comes_back(folder):
  for read_only in (True, False):
    done, state = newest(folder, read_only=read_only)
    assert done == 4
    assert is_state(state)


def test_who_reads_makes_no_folder(tmp_path):
  assert newest(tmp_path / 'none', read_only=True) == (0, None)
  assert list(tmp_path.iterdir()) == []


def test_who_reads_leaves_what_is_being_written(folder):
  (folder / '6.orbax-checkpoint-tmp').mkdir()
  before = listing(folder)
  assert newest(folder, read_only=True)[0] == 4
  assert listing(folder) == before


@pytest.mark.parametrize(
  ('like', 'says'),
  [
    (STATE | {'kernel': np.zeros((2, 4), np.float32)}, r"\['kernel'\] is \(2, 3\) float32, not"),
    (STATE | {'kernel': np.zeros((2, 3))}, r'float32, not \(2, 3\) float64'),
    (STATE | {'bias': np.zeros(2, np.float32)}, r"\['bias'\] is none, not \(2,\) float32"),
  ],
)
def test_a_state_of_another_form_is_no_damage(folder, like, says):
  """For example after a user's network has changed: one line, and nothing is moved."""
  before = listing(folder)
  for read_only in (True, False):
    with pytest.raises(StudyError, match=says):
      newest(folder, like, read_only)
  assert listing(folder) == before
  assert newest(folder)[0] == 4


@pytest.mark.parametrize('damage', [cut, flip, Path.unlink])
def test_damage_to_any_file_is_found_or_does_no_harm(folder, tmp_path, capsys, damage):
  names = [file.relative_to(folder / '4') for file in files_of(folder / '4')]
  found = 0
  for number, name in enumerate(names):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    damage(copy / '4' / name)
    before = listing(copy)
    done, state = newest(copy, read_only=True)
    assert is_state(state), name
    assert listing(copy) == before
    said = capsys.readouterr().out
    assert ('is damaged (' in said and 'it is skipped' in said) == (done == 2), name
    assert newest(copy)[0] == done, name
    assert (copy / 'damaged_4').is_dir() == (done == 2), name
    found += done == 2
  assert found >= 4


def test_damage_again_at_the_same_step_is_put_aside_too(folder):
  for aside in ('damaged_4', 'damaged_4_2'):
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
      if aside != 'damaged_4':
        checkpoints.save(4, STATE)
    flip(max(files_of(folder / '4' / 'state'), key=lambda file: file.stat().st_size))
    assert newest(folder)[0] == 2
    assert (folder / aside).is_dir()


@pytest.mark.skipif(not Path('/proc/self/mem').exists(), reason='asks Linux for a read error')
def test_a_read_error_of_any_file_moves_nothing(folder, tmp_path):
  needed = [file for file in files_of(folder / '4') if file.parent.name != '4']
  for number, file in enumerate([*needed, folder / '4' / 'files.json']):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    broken = copy / '4' / file.relative_to(folder / '4')
    break_disk(broken)
    names = sorted(copy.rglob('*'))
    for read_only in (True, False):
      with pytest.raises(StudyError) as caught:
        newest(copy, read_only=read_only)
      assert f'{broken} cannot be read: {os.strerror(errno.EIO)}; nothing was' in str(caught.value)
    assert sorted(copy.rglob('*')) == names
    shutil.copy(file, broken.parent / 'again')
    (broken.parent / 'again').replace(broken)
    assert newest(copy)[0] == 4


@pytest.mark.parametrize('fails', [1, 2])
@pytest.mark.parametrize('sealed', [True, False])
def test_what_cannot_be_read_and_is_whole_is_not_damaged(folder, monkeypatch, fails, sealed):
  """A temporary error is ignored; a lasting one is attributed to another version."""
  if not sealed:  # as older versions left it
    (folder / '4' / 'files.json').unlink()
  before, read, calls = listing(folder), Checkpoints._read, []

  def failing(self, *arguments):
    calls.append(arguments)
    if len(calls) <= fails:
      raise ValueError('NOT_FOUND: Error opening "zarr" driver')
    return read(self, *arguments)

  monkeypatch.setattr(Checkpoints, '_read', failing)
  if fails == 1:
    assert newest(folder)[0] == 4
  else:
    whole = 'its files are as they were written' if sealed else 'it may be damaged'
    with pytest.raises(
      StudyError, match=rf'4 cannot be read \(NOT_FOUND.*{whole}.*move that folder away'
    ):
      newest(folder)
  assert listing(folder) == before


def test_a_wrong_sum_is_damage(folder, capsys):
  """Also for a checkpoint written by an older version."""
  (file,) = (path for path in files_of(folder / '4' / 'sum') if 'crc32' in _text(path))
  content = json.loads(file.read_text())
  content['crc32'] += 1
  file.write_text(json.dumps(content))
  (folder / '4' / 'files.json').unlink()
  assert newest(folder)[0] == 2
  assert (folder / 'damaged_4').is_dir()
  assert 'is damaged (its checksum does not match)' in capsys.readouterr().out


def _text(path):
  return path.read_text(errors='replace')
