"""The pictures in docs/ are as the code draws them."""

import importlib.util

import numpy as np
import pytest
from commands import ROOT

from lr_study.files.history import History


@pytest.fixture(scope='module')
def script():
  found = importlib.util.spec_from_file_location('of_docs', ROOT / 'scripts/make_docs_figures.py')
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module


def test_no_picture_is_older_than_the_code_that_draws_it(script):
  assert script.outdated() == [], 'run `python scripts/make_docs_figures.py` and look at them'


def test_a_picture_is_out_of_date_once_code_or_data_change(script, tmp_path, monkeypatch):
  for folder in ('lr_study/report', 'docs'):
    (tmp_path / folder).mkdir(parents=True)
  code, data = tmp_path / 'lr_study/report/style.py', tmp_path / 'docs/results.json'
  monkeypatch.setattr(script, 'ROOT', tmp_path)
  monkeypatch.setattr(script, 'DOCS', tmp_path / 'docs')
  monkeypatch.setattr(script, 'PICTURES', {'a.png': (['report/style.py'], ['results.json'])})
  stamps = []
  for text, content in (
    ('def f():\n  return 1', '1'),
    ('def f():\n  """About."""\n  return 1  # why', '1'),
    ('def f():\n  return 2', '1'),
    ('def f():\n  return 2', '2'),
  ):
    code.write_text(text)
    data.write_text(content)
    stamps.append(script.stamp('a.png'))
  assert stamps[0] == stamps[1]
  assert len(set(stamps)) == 3


def test_curves_that_are_kept_give_the_figures_of_the_study(script, tmp_path, monkeypatch):
  history = History(tmp_path / 'history', 300, 3, 2)
  curve = np.random.default_rng(0).random((300, 2), np.float32)
  history.write_steps(0, dict.fromkeys(('loss', 'accuracy', 'gradient_norm'), curve))
  for epoch in range(3):
    history.write_epoch(epoch, {name: [0.5, epoch] for name in history.epochs})
  history.flush()
  (tmp_path / 'results.json').write_text('{}')
  monkeypatch.setattr(script.report, 'of_settings', lambda content: {})
  script.take(tmp_path, tmp_path / 'kept')
  kept = script.kept(tmp_path / 'kept')
  means = curve.reshape(75, 4, 2).mean(1)
  np.testing.assert_allclose(kept.steps['loss'].reshape(75, 4, 2).mean(1), means, rtol=1e-5)
  np.testing.assert_array_equal(kept.epochs['validation_loss'], history.epochs['validation_loss'])
