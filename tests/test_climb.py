"""A range test next to a sweep: the rate rises through those of the sweep."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from lr_study import data
from lr_study.answer.verdict import Result, Verdict
from lr_study.search import climb


def result(rate, accuracy):
  status = 'diverged' if accuracy is None else 'plateaued'
  figures = (None if accuracy is None else 1.0, accuracy) * 2
  return Result(rate, 0, 1, 'constant', status, '', None, None, 10, 2, *figures)


def make_mlp(tiny):
  """A study on 60 letters whose network compiles in no time."""
  tiny.model = ConfigDict({'name': 'mlp', 'hidden': (16,)})
  tiny.image_size, tiny.input.grey, tiny.input.size, tiny.input.scale = 64, True, 8, 1 / 58
  return tiny


@pytest.mark.parametrize('parallel', ['threads', 'vmap'])
def test_the_rate_climbs_through_those_of_the_sweep(tiny, parallel):
  tiny = make_mlp(tiny)
  tiny.parallel = parallel
  tiny.learning_rates, tiny.seeds = (1e14, 1e-4, 1e-6), (3, 4)
  axes = {'schedule.factor': (0.1, 0.5), 'batch_size': (1, 2)}
  tiny.axes = ConfigDict(axes, allow_dotted_keys=True)
  found = climb.climb(tiny, data.load(tiny.data, tiny.image_size))
  assert len(found.rates) == len(found.losses) == 60
  np.testing.assert_allclose(found.rates[[0, -1]], [1e-6, 1e14], rtol=1e-4)
  np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e20) / 59, rtol=1e-3)
  assert np.isfinite(found.losses[:20]).all()
  assert not np.isfinite(found.losses).all()  # it ends far beyond the edge
  assert tiny.learning_rates == (1e14, 1e-4, 1e-6)  # the caller's config is as it was
  content = json.loads(json.dumps(climb.as_json(found), allow_nan=False))
  assert content['losses'][-1] is None


def test_any_optimizer_can_climb(tiny):
  tiny = make_mlp(tiny)
  tiny.optimizer = ConfigDict({'name': 'adam'})
  tiny.learning_rates = (1e-1, 1e-4)
  found = climb.climb(tiny, data.load(tiny.data, tiny.image_size))
  np.testing.assert_allclose(found.rates[[0, -1]], [1e-4, 1e-1], rtol=1e-4)
  assert np.isfinite(found.losses).all()


def test_a_suggestion_is_listed_with_the_nearest_rate(tmp_path):
  suggested = {'valley': 2.4e-3, 'steep': 3e-2, 'minimum': None, 'lightning': 1e-4}
  found = climb.Climb(np.geomspace(1e-4, 1e-1, 50), np.linspace(2, 1, 50), suggested)
  results = [result(1e-1, None), result(1e-2, 0.5), result(1e-3, 0.7)]
  verdict = Verdict(1e-3, 1, 'constant', '', 'validation_accuracy', (1e-3,), None, {}, 1e-2, False)
  lines = climb.table(found, results, verdict).splitlines()
  assert "| fastai's valley, its default | 2.4e-03 | 1e-03 | 70.0 % |" in lines
  assert "| fastai's steepest fall | 3e-02 | 1e-02 | 50.0 % |" in lines
  assert "| a tenth of fastai's minimum | – | – | the curve is too short |" in lines
  assert lines[-1] == '| the sweep | 1e-03 | 1e-03 | 70.0 % |'
  loss = Verdict(
    1e-3, 1, 'constant', '', 'validation_loss', (), None, {}, 1e-2, False, is_share=False
  )  # fmt: skip
  assert climb.table(found, results, loss).splitlines()[-1] == '| the sweep | 1e-03 | 1e-03 | 1 |'
  climb.save(found, verdict, tmp_path / 'range.png')
  assert (tmp_path / 'range.png').stat().st_size > 1000
