"""A work directory: what is deleted in it, which processes may use it, and readers."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import CAN_MOUNT

from lr_study.errors import StudyError
from lr_study.files import record, workdir
from lr_study.files.history import History


def study_of(**config):
  return {'config': {'epochs': 3} | config, 'data': {'fingerprint': 'f'}}


def files_of(folder):
  return {str(file.relative_to(folder)) for file in folder.rglob('*') if not file.is_dir()}


@pytest.fixture
def begun(tmp_path):
  """A study's folder with some of its files."""
  folder = tmp_path / 'study'
  with workdir.held(folder):
    workdir.claim(folder, study_of(), overwrite=False)
    History(folder / 'history' / 'wave_0', 4, 2, 1)
    record.add(folder / 'checkpoints' / 'wave_0' / '30', is_folder=True)
    workdir.write_text(folder / 'results.csv', 'x')
  for name in ('30', '30.orbax-checkpoint-tmp'):
    (folder / 'checkpoints' / 'wave_0' / name).mkdir(parents=True)
    (folder / 'checkpoints' / 'wave_0' / name / 'data').touch()
  (folder / 'history' / 'wave_0' / 'step_loss.npy.part').touch()  # a kill left it
  return folder


def overwrite(folder):
  with workdir.held(folder):
    workdir.claim(folder, study_of(epochs=4), overwrite=True)


def test_overwrite_deletes_all_that_is_on_record(begun):
  overwrite(begun)
  assert files_of(begun) == {'config.json', 'written'}
  assert [path.name for path in begun.iterdir() if path.is_dir()] == []
  assert json.loads((begun / 'config.json').read_text())['config']['epochs'] == 4
  assert (begun / 'written').read_text().splitlines()[1:] == ['config.json']


MINE = [
  'mine.txt',
  'figures/mine.png',
  'history/mine.npy',
  'history/wave_0/mine.npy',
  'checkpoints/my_model.bin',
  'checkpoints/wave_0/301/data',
  'checkpoints/wave_0/30.bak/data',
]


def test_overwrite_keeps_what_the_study_did_not_write(begun, capsys):
  for name in MINE:
    (begun / name).parent.mkdir(exist_ok=True, parents=True)
    (begun / name).write_text('kept')
  overwrite(begun)
  assert files_of(begun) == {'config.json', 'written', *MINE}
  assert 'because the study did not write it: checkpoints/my_model.bin, ' in capsys.readouterr().out


def test_a_record_deletes_nothing_outside(begun, tmp_path):
  """Neither by its names nor through links."""
  for name in ('outside', 'linked/file', 'elsewhere/30/file'):
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).touch()
  (begun / 'figures').symlink_to(tmp_path / 'linked')
  (begun / 'tensorboard').symlink_to(tmp_path / 'elsewhere')
  with (begun / 'written').open('a') as stream:
    stream.write(f'../outside\n{tmp_path}/outside\nfigures/file\ntensorboard/30/\n../elsewhere/\n')
  overwrite(begun)
  assert files_of(tmp_path) >= {'outside', 'linked/file', 'elsewhere/30/file'}


def test_a_record_that_a_kill_cut_off(begun):
  with (begun / 'written').open('a') as stream:
    stream.write('history/wave_0/epo')
  with workdir.held(begun):
    workdir.write_text(begun / 'summary.md', 'x')
  assert (begun / 'written').read_text().endswith('\nhistory/wave_0/epo\nsummary.md\n')
  overwrite(begun)
  assert files_of(begun) == {'config.json', 'written'}


def test_each_wave_of_a_cluster_has_a_record(begun):
  record.enter(begun, 1)
  (begun / 'history').mkdir(exist_ok=True)
  workdir.write_text(begun / 'history' / 'mine', '')
  assert (begun / 'written_1').read_text() == 'history/mine\n'
  record.delete(begun, keep=lambda name: name == 'config.json')  # another process does
  record.begin(begun)
  assert files_of(begun) == {'config.json', 'written'}
  (begun / 'history').mkdir()
  workdir.write_text(begun / 'history' / 'mine', '')
  assert (begun / 'written_1').read_text() == 'history/mine\n'
  record.leave(begun)
  with workdir.held(begun):
    record.adopt(begun, 1)
    record.adopt(begun, 1)  # a kill may have left it
    assert files_of(begun) == {'config.json', 'written', 'lock', 'history/mine'}
  assert (begun / 'written').read_text().endswith('\nhistory/mine\n')


def test_only_who_is_in_the_folder_writes_records(begun, tmp_path):
  before = (begun / 'written').read_text()
  workdir.write_text(begun / 'answers.json', 'of classify.py')
  with workdir.held(begun):
    workdir.write_text(tmp_path / 'other.json', 'x')
  assert (begun / 'written').read_text() == before


@pytest.mark.parametrize(
  'names', [MINE[:1], MINE[1:], ['config.json'], ['results.json'], ['written']]
)
def test_overwrite_without_a_study_is_refused(tmp_path, names):
  """Also if a config.json is not a study's: it is not overwritten."""
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text('{"architectures": []}')
  for flag in (True, False):
    with pytest.raises(StudyError, match='holds files, but not a study') as caught:
      workdir.claim(tmp_path, study_of(), overwrite=flag)
    assert '--overwrite' not in str(caught.value)
  assert files_of(tmp_path) == set(names)


def test_a_study_of_an_older_version_is_not_deleted(begun):
  """It resumes if it is the same study."""
  (begun / 'written').unlink()
  before = files_of(begun)
  with pytest.raises(StudyError, match=r'without a record of its files.*delete it yourself'):
    overwrite(begun)
  with pytest.raises(StudyError, match=r'epochs 3 -> 4; choose another --workdir$'):
    workdir.claim(begun, study_of(epochs=4), overwrite=False)
  (begun / 'history' / 'wave_0' / 'step_loss.npy').write_text('x')
  with pytest.raises(StudyError, match='start again in another --workdir'):
    History(begun / 'history' / 'wave_0', 4, 2, 1)
  with workdir.held(begun):
    workdir.claim(begun, study_of(), overwrite=False)
    workdir.write_text(begun / 'results.csv', 'y')
  assert files_of(begun) == before


def test_a_study_is_all_on_record(copy):
  """Nothing of one that was trained and drawn is left, but for what others put there."""
  assert len(files_of(copy)) > 40
  (copy / 'figures' / 'mine.png').touch()
  overwrite(copy)
  assert files_of(copy) == {'config.json', 'written', 'figures/mine.png'}


# Another process that holds the lock of the folder, by the function that is named.
HOLD = """
import fcntl, sys
stream = open(sys.argv[1], 'a+')
getattr(fcntl, sys.argv[2])(stream, fcntl.LOCK_EX)
print('process 7 on elsewhere', file=stream, flush=True)
print('held', flush=True)
sys.stdin.read()
"""


def without_locks(monkeypatch, number, *names):
  """A file system without these calls."""
  for name in names:

    def refuse(stream, how):
      raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, name, refuse)


@pytest.mark.parametrize('name', ['ENOSYS', 'ENOLCK', 'EOPNOTSUPP', 'EINVAL'])
def test_without_flock_another_lock_holds(tmp_path, monkeypatch, name):
  without_locks(monkeypatch, getattr(errno, name), 'flock')
  with workdir.held(tmp_path):
    probe = 'import fcntl; fcntl.lockf(open("lock", "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)'
    found = subprocess.run(
      [sys.executable, '-c', probe], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'BlockingIOError' in found.stderr
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kind', ['flock', 'lockf'])
def test_a_lock_that_is_held_is_in_use(tmp_path, monkeypatch, kind):
  if kind == 'lockf':
    without_locks(monkeypatch, errno.ENOSYS, 'flock')
  command = [sys.executable, '-c', HOLD, str(tmp_path / 'lock'), kind]
  holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  with holder:
    assert holder.stdout.readline() == 'held\n'
    with (
      pytest.raises(StudyError, match='is in use by process 7 on elsewhere'),
      workdir.held(tmp_path),
    ):
      pass
    holder.stdin.close()
  with workdir.held(tmp_path):
    pass


def test_without_any_locks_a_line_says_so(tmp_path, monkeypatch, capsys):
  without_locks(monkeypatch, errno.ENOLCK, 'flock', 'lockf')
  (tmp_path / 'lock').write_text('process 7 on elsewhere\n')
  with workdir.held(tmp_path):
    pass
  said = capsys.readouterr().out
  assert 'has no locks: run only one process in it; the last one was process 7' in said


def test_a_lock_of_something_else_is_left_alone(tmp_path):
  (tmp_path / 'lock').write_bytes(b'version = 4\xff\n')
  with pytest.raises(StudyError, match='lock is not the lock of a study'), workdir.held(tmp_path):
    pass
  assert (tmp_path / 'lock').read_bytes() == b'version = 4\xff\n'


def test_an_error_of_a_lock_is_not_hidden(tmp_path, monkeypatch):
  without_locks(monkeypatch, errno.EIO, 'flock')
  with pytest.raises(OSError, match=os.strerror(errno.EIO)), workdir.held(tmp_path):
    pass


@pytest.fixture
def copy(small_finished, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(small_finished, folder)
  return folder


SLOW = pytest.mark.slow


@pytest.mark.skipif(not CAN_MOUNT, reason='needs the right to mount a file system (unshare -rm)')
@pytest.mark.parametrize(
  ('script', 'says'),
  [
    ('classify.py', 'accuracy'),
    ('report.py', 'out'),
    pytest.param('diagnose.py', 'state is not kept: Read-only file system', marks=SLOW),
    pytest.param('export.py', 'computed the same logits', marks=SLOW),
    pytest.param('range_test.py', 'is not written: Read-only file system', marks=SLOW),
  ],
)
def test_a_finished_study_on_a_disk_that_cannot_be_written(
  copy, photos, tmp_path, command, script, says
):
  before = files_of(copy)
  arguments = {
    'classify.py': [photos],
    'export.py': ['--out', tmp_path / 'out'],
    'report.py': ['--out', tmp_path / 'out'],
    'diagnose.py': ['--learning_rate=1e5'],
  }.get(script, [])
  status, out, err = command(script, '--workdir', copy, *arguments, read_only=copy)
  assert (status, err) == (0, ''), out
  assert says in out
  assert files_of(copy) == before


def test_who_reads_a_study_writes_nothing_in_it(copy, photos, command):
  def state():
    return {path: path.lstat().st_mtime_ns for path in (copy, *copy.rglob('*'))}

  before = state()
  for arguments in (['classify.py', '--workdir', copy, photos], ['report.py', f'--workdir={copy}']):
    out = [] if arguments[0] == 'classify.py' else [f'--out={copy.parent / "page.html"}']
    status, _, err = command(*arguments, *out)
    assert (status, err) == (0, '')
  assert state() == before
