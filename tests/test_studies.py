"""The studies of what is published: their configs, their claims, and what is committed of them."""

import json
import math
import re
import shutil
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from commands import ROOT
from matplotlib.figure import Figure

import lr_study
from lr_study.commands import reproduce as command
from lr_study.config import check
from lr_study.configs.studies import _letters
from lr_study.errors import StudyError
from lr_study.search import rounds
from lr_study.studies import claims, page, reproduce, table
from lr_study.studies.claims import Claim

NAMES = reproduce.names()


@pytest.mark.parametrize('name', NAMES)
def test_a_config_is_short_and_every_part_of_it_is_a_study(name):
  module = reproduce.config_of(name)
  lines = (ROOT / f'configs/studies/{name}.py').read_text('utf-8').splitlines()
  assert len(lines) <= 60
  assert reproduce.question(name).endswith('?')
  for full in (False, True):
    parts = reproduce.parts_of(name, full)
    assert parts.keys() >= set(module.PARTS)
    for config in parts.values():
      assert rounds.settings(check(config))
  assert module.FULL


@pytest.mark.parametrize('name', page.committed())
def test_the_committed_claims_are_those_of_the_committed_trials(name, tmp_path):
  found = reproduce.stored(name)
  again = reproduce.analysis_of(name).claims(found.tables)
  # Other versions of NumPy and SciPy may round the last digits differently.
  for now, before in zip(again, found.claims, strict=True):
    for field, value in before.as_json().items():
      is_number = isinstance(value, float)
      expected = pytest.approx(value, rel=1e-4, abs=1e-9) if is_number else value
      assert getattr(now, field) == expected, (before.name, field)
  names = [claim.name for claim in found.claims]
  assert len(names) == len(set(names))
  assert all(of.tolerance >= 0 and of.sentence.endswith('.') for of in found.claims)
  pictures = {path.stem for path in (reproduce.RESULTS / name).glob('*.png')}
  summary = (reproduce.RESULTS / name / 'summary.md').read_text('utf-8')
  order = sorted(pictures, key=lambda stem: summary.find(f'({stem}.png)'))
  assert summary == reproduce.summary(name, found, order)
  size = sum(path.stat().st_size for path in (reproduce.RESULTS / name).iterdir())
  assert size < 1e6


def test_the_page_is_made_from_the_committed_results():
  assert page.FILE.read_text('utf-8') == page.text()


def test_the_published_experiment_is_told_as_it_came_out():
  """README.md and docs/published.md."""
  tables = reproduce.stored('published_100').tables
  both = [tables[name] for name in ('tensorflow', 'caffe')]
  about, readme = ((ROOT / name).read_text('utf-8') for name in ('docs/published.md', 'README.md'))
  rates = both[0]['learning_rate']
  for i, rate in enumerate(rates):
    found = [[of[f'{part}_accuracy'][i] for of in both] for part in ('train', 'validation')]
    cells = [
      'diverged' if of.diverged[i] else f'{100 * train:.0f} %, {100 * right:.1f} %'
      for of, train, right in zip(both, *found, strict=True)
    ]
    if np.isclose(rate, 1e-4):
      cells = [f'**{cell}**' for cell in cells]
      assert all(np.nanargmax(of['validation_accuracy']) == i for of in both)
    row = rf'\| 1e-0{-round(math.log10(rate))} \| .* \| {re.escape(" | ".join(cells))} \|\n'
    assert re.search(row, about)
  trained = [[f'{100 * share:.0f} %' for share in of['train_accuracy']] for of in both]
  below = ' | '.join(', '.join(of[4:]) for of in trained)
  for row in (
    '| 1e-01, 1e-02 | did not converge | diverged | diverged |',
    f'| 1e-03 | did not converge | diverged | {trained[1][2]} |',
    f'| 1e-04 | **best**, about 95 % | **best**, {trained[0][3]} | **best**, {trained[1][3]} |',
    f'| 1e-05, 1e-06, 1e-07 | falls with the rate | {below} |',
  ):
    assert row in readme
  high, best = (100 * both[1]['validation_accuracy'][i] for i in (2, 3))
  assert f'best with both, and by {best - high:.0f} points with Caffe.' in readme


class Own:
  """A study that no file holds: its config, of one part, and its analysis, with a measured one."""

  PARTS = ('sgd',)
  FULL = types.MappingProxyType({'seeds': (0, 1, 2), 'data': {'per_class': 4}})
  CURVES = ('loss', 'train_loss')

  @staticmethod
  def get_config(part):
    config = _letters.get_config(per_class=8)
    config.model = {'name': 'mlp', 'hidden': (8,)}
    config.learning_rates, config.seeds, config.epochs = (1e6, 1e-2), (0, 1), 2
    config.axes['optimizer.momentum'] = (0.0, 0.5)
    config.accelerate, config.parallel = 'off', 'vmap'
    return config

  @staticmethod
  def columns(study):
    return {'first_loss': study.curves['loss'][0]}

  @staticmethod
  def measured(folder, full):
    assert sorted(path.name for path in folder.iterdir()) == ['sgd']
    return {'more': table.Table({'x': np.asarray([1.5])})}

  @staticmethod
  def claims(tables):
    loss = float(np.nanmean(tables['sgd']['train_loss']))
    return [Claim('loss', loss, f'The loss is {loss:.3f}.', tolerance=0.1)]

  @staticmethod
  def figures(tables):
    figure = Figure()
    figure.subplots().plot(tables['sgd'].curves['loss'])
    return {'own': figure}


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """The study `Own`, run and written; its results are those of a checkout."""
  folder = tmp_path_factory.mktemp('studies')
  with pytest.MonkeyPatch.context() as patch:
    for name in ('config_of', 'analysis_of'):
      patch.setattr(reproduce, name, lambda name: Own)
    patch.setattr(reproduce, 'docstring', lambda name: 'Which?\n\nOne of two.')
    patch.setattr(reproduce, 'RESULTS', folder / 'results')
    found = reproduce.run('own', folder / 'runs')
    reproduce.write('own', found)
    yield found, folder, reproduce.stored('own')


def test_a_study_is_run_and_stored_and_analysed_again(own):
  found, folder, again = own
  assert {name: len(of) for name, of in found.tables.items()} == {'sgd': 8, 'more': 1}
  for name, part in found.tables.items():
    for column, values in part.columns.items():
      np.testing.assert_array_equal(again.tables[name][column], values, err_msg=column)
    for curve, values in part.curves.items():
      np.testing.assert_array_equal(again.tables[name].curves[curve], values, err_msg=curve)
  assert all(same for *_, same in claims.compare(again.claims, Own.claims(again.tables)))
  assert found.about['seconds'].keys() == {'sgd', 'measured'}
  written = folder / 'results/own'
  assert (written / 'own.png').stat().st_size > 10_000
  assert f'| {again.claims[0].sentence} | – | – |' in (written / 'summary.md').read_text('utf-8')


def test_the_full_size_is_a_study_of_its_own(own, monkeypatch):
  """In a folder of its own, so that neither replaces the other; on the page once it is there."""
  _, folder, small = own
  monkeypatch.setattr(
    Own, 'measured', lambda folder, full: {'more': table.Table({'x': np.asarray([full])})}
  )
  full = reproduce.run('own', folder / 'runs_full', full=True)
  assert len(full.tables['sgd']) == 12
  assert full.tables['sgd'].about['train'] == small.tables['sgd'].about['train'] // 2
  assert full.tables['more']['x'] == [True]
  assert not any('At full size' in line for line in page._section('own', small))
  reproduce.write('own', full, full=True)
  assert reproduce.stored('own').claims == small.claims
  assert reproduce.stored('own', full=True).claims[0].sentence == full.claims[0].sentence
  written = '\n'.join(page._section('own', small))
  start, end = written.split('At full size')
  assert start.count('(../results/own/own.png)') == 1
  assert end.count('(../results/own/full/own.png)') == 1
  assert f'| {full.claims[0].sentence} |' in end
  differ = "where these differ: seeds = (0, 1, 2), data = {'per_class': 4}."
  assert differ in end
  assert differ in (folder / 'results/own/full/summary.md').read_text('utf-8')
  assert differ not in (folder / 'results/own/summary.md').read_text('utf-8')
  assert 'reproduce.py own --full`: 13 trials' in end
  shutil.rmtree(folder / 'results/own/full')


def test_a_table_has_the_figures_of_the_trials(own):
  found, folder, _ = own
  study = lr_study.read(folder / 'runs/sgd')
  part = found.tables['sgd']
  assert len(study.trials) == 8
  for i, result in enumerate(study.trials):
    for name in ('learning_rate', 'seed', 'status', 'validation_loss'):
      value = getattr(result, name)
      expected = value if isinstance(value, str) else pytest.approx(value or 0, rel=1e-6)
      assert part[name][i] == expected or (value is None and math.isnan(part[name][i]))
    assert part['optimizer.momentum'][i] == result.axes['optimizer.momentum']
  assert part.diverged.sum() == 4
  np.testing.assert_allclose(part['first_loss'], study.curves['loss'][0], rtol=1e-6)
  whole = study.curves['loss'].astype(np.float64)
  ends = [np.mean(whole[start : start + part.window], 0) for start in range(0, 80, part.window)]
  ends = np.where(np.isfinite(ends), ends, np.nan)
  np.testing.assert_allclose(part.curves['loss'], ends, rtol=1e-6)


def test_the_command_tells_what_differs(own, capsys, monkeypatch):
  """Of a study that was tampered with, and of one that nothing is committed of."""
  _, folder, _ = own
  path = folder / 'results/own/results.json'
  before = path.read_text('utf-8')
  tampered = re.sub('"value":[0-9.]+', '"value":9', before)
  for changed, says in ((before, 'agrees'), (tampered, 'DIFFERS')):
    path.write_text(changed, 'utf-8')
    status = 0
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(stored=True):
      try:
        command.main('own')
      except SystemExit as ended:
        status = ended.code
    assert says in capsys.readouterr().out
    assert status == (says == 'DIFFERS')
  path.write_text(before, 'utf-8')
  with pytest.raises(StudyError, match='nothing to compare with'):
    reproduce.stored('another')


def test_a_claim_holds_to_within_its_tolerance():
  before = Claim('exponent', 0.5, 'It is 0.5.', tolerance=0.1)
  near, far = (Claim('exponent', value, '', 0.0) for value in (0.59, 0.61))
  gone, other = Claim('exponent', None, '', 0.0), Claim('other', 0.5, '', 0.0)
  same = [claims.compare([before], [now])[0][2] for now in (near, far, gone, other)]
  assert same == [True, False, False, False]
  assert gone.holds(gone)


def test_a_power_law_is_found_with_its_interval():
  """Of 200 sets of five seeds with noise, about 95 % have the true exponent in the interval."""
  random, x = np.random.default_rng(1), 2.0 ** np.arange(6)
  clean = claims.power_law(x, 3 * x**-0.7)
  assert (clean.exponent, clean.factor) == pytest.approx((-0.7, 3))
  inside = 0
  for _ in range(200):
    noisy = 3 * x[:, None] ** -0.7 * np.exp(0.3 * random.normal(size=(6, 5)))
    found = claims.power_law(x, noisy)
    inside += found.low <= -0.7 <= found.high
  assert inside >= 180  # 190 are expected, with a standard deviation of 3
  with pytest.raises(ValueError, match='three points'):
    claims.power_law(x[:3], [1, np.nan, 2])


def test_tables_select_and_store_what_a_trial_has_not():
  part = table.Table(
    {
      'learning_rate': np.asarray([0.1, 0.1, 0.2, 0.2]),
      'seed': np.asarray([0.0, 1.0, 0.0, 1.0]),
      'optimizer.momentum': np.asarray([0.9, 0.9, 0.9, 0.9]),
      'validation_loss': np.asarray([1.0, 2.0, np.nan, 4.0]),
      'status': np.asarray(['plateaued', 'plateaued', 'diverged', 'plateaued'], object),
    },
    {'train_loss': np.asarray([[1.0, 2, np.nan, 4], [0.5, 1, np.nan, 2]])},
  )
  again = table.from_json(json.loads(json.dumps(part.as_json(), allow_nan=False)))
  for of in (part, again):
    rates, seeds, losses = of.grid('validation_loss', 'learning_rate', 'seed')
    np.testing.assert_array_equal(losses, [[1, 2], [np.nan, 4]])
    assert (rates.tolist(), seeds.tolist()) == ([0.1, 0.2], [0, 1])
    assert of.diverged.tolist() == [False, False, True, False]
    own = of.where(seed=1, optimizer__momentum=0.9)
    np.testing.assert_array_equal(own.curves['train_loss'], [[2, 4], [1, 2]])
    assert [value for value, _ in of.by('learning_rate')] == [0.1, 0.2]
