"""A study has its answer before it draws, and keeps it even if drawing fails."""

import errno
import json
import os
import shutil

import pytest
from conftest import make_small

from lr_study import faults
from lr_study.report import curves, page, pictures
from lr_study.study import run
from lr_study.use import best, evaluate


@pytest.fixture
def undrawn(small_finished, tmp_path):
  """The folder that a kill right after the answer leaves."""
  folder = tmp_path / 'small'
  shutil.copytree(small_finished, folder)
  shutil.rmtree(folder / 'figures')
  (folder / page.NAME).unlink()
  content = json.loads((folder / 'results.json').read_text())
  known = {name: content['best_trial'][name] for name in ('learning_rate', 'seed')}
  content['best_trial'] = known | {'missing': best.NOT_YET}
  del content['study']['seconds_of']['figures'], content['study']['seconds_of']['best trial']
  (folder / 'results.json').write_text(json.dumps(content))
  return folder


def failing(error):
  def fail(*arguments, **keywords):
    raise error

  return fail


def test_what_cannot_be_drawn_costs_that_picture(
  undrawn, small_finished, cache_dir, monkeypatch, capsys
):
  monkeypatch.setattr(curves, 'schedule', failing(RuntimeError('latex could not be found\nx')))
  answer = run(make_small(cache_dir), undrawn)
  said = capsys.readouterr().out
  assert said.index(answer.sentence) < said.index(
    'Not drawn: schedule (latex could not be found)\n'
  )
  assert said.count('Not drawn') == 1
  names = {path.name for path in (small_finished / 'figures').rglob('*')}
  assert {path.name for path in (undrawn / 'figures').rglob('*')} == {
    name for name in names if not name.startswith('schedule.')
  }
  text = (undrawn / page.NAME).read_text()
  assert text.count('class="still"') == 2
  assert 'The rate over the epochs' not in text
  assert faults.results(undrawn) == faults.results(small_finished)


def test_what_cannot_be_looked_at_costs_that_look(
  undrawn, small_finished, cache_dir, monkeypatch, capsys, without_figures
):
  monkeypatch.setattr(evaluate, 'predict', failing(FloatingPointError('no kernel')))
  answer = run(make_small(cache_dir), undrawn)
  said = capsys.readouterr().out
  assert 'The best trial cannot be examined: no kernel\n' in said
  assert answer.sentence in said
  found, expected = faults.results(undrawn), faults.results(small_finished)
  assert found.pop('best_trial')['missing'] == 'it cannot be examined: no kernel'
  del expected['best_trial']
  assert found == expected


@pytest.mark.parametrize(
  'error', [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
)
@pytest.mark.parametrize(
  'place', [(evaluate, 'predict'), (pictures, 'build')], ids=['look', 'draw']
)
def test_a_stop_or_a_full_disk_is_no_failure_to_draw(
  undrawn, small_finished, cache_dir, monkeypatch, error, place, without_figures
):
  """The same command resumes it."""
  before = (undrawn / 'results.json').read_bytes()
  with monkeypatch.context() as patch:
    patch.setattr(*place, failing(error))
    with pytest.raises(type(error)):
      run(make_small(cache_dir), undrawn)
  assert (undrawn / 'results.json').read_bytes() == before
  run(make_small(cache_dir), undrawn)
  assert faults.results(undrawn) == faults.results(small_finished)
