"""A range test beside a sweep: the rate climbs through the sweep's, and is read off."""

import json

import numpy as np

from lr_study.answer.verdict import Result, Verdict
from lr_study.search import climb


def result(rate, accuracy):
  status = 'diverged' if accuracy is None else 'converged'
  figures = (None if accuracy is None else 1.0, accuracy) * 2
  return Result(rate, 0, 1, 'constant', status, '', None, None, 10, 2, *figures)


def test_the_rate_climbs_through_those_of_the_sweep(tiny):
  tiny.learning_rates, tiny.seeds = (1e2, 1e-4, 1e-6), (3, 4)
  found = climb.climb(tiny)
  assert len(found.rates) == len(found.losses) == 60
  np.testing.assert_allclose(found.rates[[0, -1]], [1e-6, 1e2], rtol=1e-4)
  np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e8) / 59, rtol=1e-3)
  assert np.isfinite(found.losses[:20]).all()
  assert not np.isfinite(found.losses).all()  # it ends far beyond the edge
  assert tiny.learning_rates == (1e2, 1e-4, 1e-6)  # the caller's config is as it was
  content = json.loads(json.dumps(climb.as_json(found), allow_nan=False))
  assert content['losses'][-1] is None


def test_a_suggestion_stands_beside_the_nearest_rate(tmp_path):
  suggested = {'valley': 2.4e-3, 'steep': 3e-2, 'minimum': None, 'lightning': 1e-4}
  found = climb.Climb(np.geomspace(1e-4, 1e-1, 50), np.linspace(2, 1, 50), suggested)
  results = [result(1e-1, None), result(1e-2, 0.5), result(1e-3, 0.7)]
  verdict = Verdict(1e-3, 1, 'constant', '', 'validation_accuracy', (1e-3,), None, {}, 1e-2, False)
  lines = climb.table(found, results, verdict).splitlines()
  assert "| fastai's valley, its default | 2.4e-03 | 1e-03 | 70.0 % |" in lines
  assert "| fastai's steepest fall | 3e-02 | 1e-02 | 50.0 % |" in lines
  assert "| a tenth of fastai's minimum | – | – | the curve is too short for it |" in lines
  assert lines[-1] == '| the sweep | 1e-03 | 1e-03 | 70.0 % |'
  climb.save(found, verdict, tmp_path / 'range.png')
  assert (tmp_path / 'range.png').stat().st_size > 1000
