"""report.html and the comparison of studies: what is on them, and that nothing else can be."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import alexnet_letters
from lr_study import formats
from lr_study.answer import axes, verdict
from lr_study.answer.measure import ACCURACY, BALANCED, LOSS, Measure
from lr_study.config import check
from lr_study.data import Dataset, Part
from lr_study.errors import StudyError
from lr_study.files.history import History
from lr_study.report import colours, compare, matrices, page, report, tables
from lr_study.search import rounds
from lr_study.search.rounds import Planned, Setting
from lr_study.use import best, classify, evaluate

EPOCHS, PER_EPOCH, GUESS = 2, 30, float(np.log(4))
PHOTOGRAPHS = jax.ShapeDtypeStruct((64, 64, 3), 'uint8')
HOSTILE = (
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(2)>',
  '$\\frac{$ & --> ]]> {{ 7 * 7 }}',
  '字 an\nt \u202e',
)
VOID = {'meta', 'img', 'br', 'link', 'wbr'}


class Page(HTMLParser):
  """The elements of a page, [tag, attributes, text within], in the order in which they begin."""

  def __init__(self, text):
    super().__init__()
    self.elements, self._open = [], []
    self.feed(text)
    assert not self._open

  def handle_starttag(self, tag, attributes):
    assert len(dict(attributes)) == len(attributes)
    element = [tag, dict(attributes), '']
    self.elements.append(element)
    if tag not in VOID:
      self._open.append(element)

  def handle_startendtag(self, tag, attributes):
    self.elements.append([tag, dict(attributes), ''])

  def handle_endtag(self, tag):
    assert self._open.pop()[0] == tag

  def handle_data(self, data):
    for element in self._open:
      element[2] += data

  def all(self, *tags):
    return [element for element in self.elements if element[0] in tags]

  def attribute(self, name):
    return [attributes[name] for _, attributes, _ in self.elements if name in attributes]


def make_study(
  folder,
  rates=(1e-2, 1e-3),
  seeds=(0,),
  diverged=(1e-2,),
  examined=True,
  measure=ACCURACY,
  metrics=(),
  **changes,
):
  """A finished study's folder, as if it had been trained; the trials of `diverged` rates broke.

  `metrics`: further ones, as a Measure each.
  """
  config = alexnet_letters.get_config('quick')
  config.learning_rates, config.seeds, config.epochs = tuple(rates), tuple(seeds), EPOCHS
  config.batch_size = 4
  for name, value in changes.items():
    config[name] = value
  config = check(config)
  results, settings = [], rounds.settings(config)
  for setting, own in settings.items():
    steps = own.epochs * (4 * PER_EPOCH // own.batch_size)
    size, schedule, further = setting
    trials = [
      Planned(rate, seed, size, schedule, own.epochs, 0, 0, further)
      for rate in rates
      for seed in seeds
    ]
    label = rounds.label(setting, settings)
    names = [metric.field.removeprefix('validation_') for metric in metrics]
    history = History(folder / 'history' / label, steps, own.epochs, len(trials), names)
    loss = np.linspace(1.4, 0.3, steps)[:, None] * np.ones(len(trials))
    gone = [i for i, trial in enumerate(trials) if trial.learning_rate in diverged]
    loss[10:, gone] = np.nan
    history.write_steps(0, {'loss': loss, 'accuracy': 1 - loss / 3, 'gradient_norm': loss})
    ends = np.asarray([0.6 - 0.1 * rates.index(trial.learning_rate) for trial in trials])
    ends[gone] = np.nan
    for epoch in range(own.epochs):
      history.write_epoch(epoch, dict.fromkeys(history.epochs, ends))
    results += verdict.results(history, trials, np.arange(40) % 4, [steps] * len(trials), measure)
  whole = axes.answer(results, np.arange(40) % 4, measure, 1.4)
  answer = whole.verdict
  found = None
  if answer.learning_rate is not None and examined:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), np.uint8)
    files = best._draw(folder, pixels)
    found = {
      'learning_rate': answer.learning_rate,
      'seed': seeds[0],
      'confusion': [[9, 1, 0, 0], [0, 10, 0, 0], [3, 2, 4, 1], [0, 0, 0, 0]],
      'recall': [0.9, 1.0, 0.4, None],
      'mistakes': [
        {'file': file, 'true': HOSTILE[2], 'predicted': HOSTILE[i], 'probability': 0.875}
        for i, file in enumerate(files)
      ],
    }
  elif answer.learning_rate is not None:
    found = {'learning_rate': answer.learning_rate, 'seed': 0, 'missing': 'no <b>weights</b>'}
  study = {
    'config': config.to_dict(),
    'commit': None,
    'versions': {'python': '3.11.0'},
    'device': 'cpu',
    'data': {
      'name': 'image_folder',
      'fingerprint': 'f00d',
      'classes': list(HOSTILE),
      'checks': {'near': {'count': 2, 'line': f'2 near copies: {HOSTILE[0]}'}},
      'train': 4 * PER_EPOCH,
      'validation': 40,
      'test': 0,
      'left_out': [f'{HOSTILE[0]}/1.png (cut off)'],
      'shape': [64, 64, 3],
    },
    'seconds': 12.0,
    'seconds_of': {'steps': 11.0, 'evaluation': 0.5},
    'trial_steps': {'planned': 120, 'run': 100},
    'guessing_loss': GUESS,
    'measures': [metric._asdict() for metric in metrics],
  }
  report.write(folder, study, results, whole, found)
  return folder


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """Three rates, the largest of which diverges, and two seeds; its folder has a hostile name."""
  folder = tmp_path_factory.mktemp('pages') / HOSTILE[0].replace('/', '_')
  make_study(folder, (1e-2, 1e-3, 1e-4), (0, 7))
  page.write(folder)
  return folder


@pytest.fixture(scope='module')
def text(study):
  return (study / page.NAME).read_text()


def check_structure(text):
  """What holds for every page; returns it parsed."""
  found = Page(text)
  levels = [int(tag[1]) for tag, *_ in found.all('h1', 'h2', 'h3', 'h4')]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
  for _, attributes, _ in found.all('th'):
    assert attributes['scope'] in ('col', 'row')
  for _, attributes, _ in found.all('img'):
    assert attributes['alt']
    assert re.match('data:image/(jpeg|png);base64,', attributes['src'])
  ids = found.attribute('id')
  assert len(set(ids)) == len(ids)
  # Nothing from elsewhere, but what its scripts could fetch, which the browser is told not to.
  assert not found.attribute('href')
  own = re.sub('<script>.*?</script>', '', text, flags=re.S)
  assert 'http' not in re.sub('http-equiv', '', own)
  assert 'url(' not in own
  assert '@import' not in own
  assert not found.all('link', 'iframe', 'object', 'form')
  for _, attributes, _ in found.elements:
    assert not any(name.startswith('on') for name in attributes)
  # No script but the page's own, and the browser is told so.
  data, *scripts = found.all('script')
  assert data[1] == {'type': 'application/json', 'id': 'charts-data'}
  digests = [base64.b64encode(hashlib.sha256(of[2].encode()).digest()).decode() for of in scripts]
  hashes = ' '.join(f"'sha256-{digest}'" for digest in digests)
  (policy,) = (a['content'] for _, a, _ in found.all('meta') if 'http-equiv' in a)
  assert policy.split('; ') == [
    "default-src 'none'", 'img-src data:', "style-src 'unsafe-inline'",
    f'script-src {hashes}',
  ]  # fmt: skip
  return found


def drawn(text):
  """What the charts of a page draw."""
  return json.loads(Page(text).all('script')[0][2])


def test_a_page_is_whole_and_its_own(text):
  found = check_structure(text)
  headings = [text for _, _, text in found.all('h2')]
  assert headings == [
    'Next', 'The rates', 'Curves', 'Accuracy against the rate', 'Mistakes', 'Data checks',
    'How it was run',
  ]  # fmt: skip
  (answer,) = (element for element in found.all('p') if element[1].get('class') == 'answer')
  assert answer[2].startswith('Use 1e-03: validation accuracy 50.0 %')
  assert found.elements.index(answer) < found.elements.index(found.all('h2')[0])
  (rate,) = (element for element in found.all('p') if element[1].get('class') == 'rate')
  assert rate[2] == '1e-03'
  tables = [a['aria-label'] for _, a, _ in found.all('div') if a.get('role') == 'region']
  assert tables.index('Table of the rates') < tables.index('Table of the trials')
  # BokehJS is most of it.
  assert len(text) < 1_600_000


def test_the_table_has_a_row_a_trial(study, text):
  rows = re.search('"Table of the trials.*?<tbody>(.*?)</tbody>', text, re.S)[1].split('</tr>')[:-1]
  results, _ = report.read(study)
  assert len(rows) == len(results) == 6
  assert sum('class="best"' in row for row in rows) == 2  # both seeds of the recommended rate
  for row, result in zip(rows, results, strict=True):
    assert f'data-value="{result.learning_rate}"' in row
    assert f'data-value="{result.seed}"' in row
    assert result.evidence in row
  assert rows[0].count('data-value=""') == 4  # no figures, to be sorted last, of a diverged one
  assert rows[2].count('data-value="0.5"') == 3  # the validation loss and both accuracies
  assert rows[2].count(f'data-value="{results[2].train_loss_at_end}"') == 1


def test_of_very_many_trials_the_best_are_shown(study, tmp_path, monkeypatch):
  """In their places, so that a row is still that of its curve."""
  workdir = tmp_path / 'study'
  shutil.copytree(study, workdir)
  monkeypatch.setattr(tables, 'MOST', 2)
  page.write(workdir)
  text = (workdir / 'report.html').read_text('utf-8')
  results, _ = report.read(workdir)
  score = [ACCURACY.score(r.validation_accuracy or -1) for r in results]
  best = sorted(np.argsort(score)[-2:].tolist())
  assert best != [0, 1]
  assert [int(number) for number in re.findall(r'data-trial="(\d+)"', text)] == best
  title = f'The best 2 of {len(results)} trials; results.csv has all'
  assert f'<summary>{title}</summary>' in text


def test_names_are_text(study, text):
  """Wherever the name of a class, of a file or of the folder is shown, in HTML and in SVG."""
  found = Page(text)
  rows = [row for _, a, row in found.all('th') if a.get('class') == 'text']
  assert rows == [*HOSTILE[:3], '字 an\\nt \\u202e']
  (title,) = found.all('title')
  assert title[2].endswith(study.name)
  assert any(f'{HOSTILE[0]}/1.png' in item for _, _, item in found.all('li'))
  cells = [label for tag, _, label in found.all('th', 'span')]
  assert all(cells.count(name) >= 2 for name in rows)  # by rows and columns of the matrix, too
  assert len([a for _, a, _ in found.all('img') if a['alt'].endswith(HOSTILE[2])]) == 2


def test_the_best_trial(text):
  found = Page(text)
  classes = re.search('<h3>Accuracy of each class.*?<tbody>(.*?)</tbody>', text, re.S)[1]
  rows = classes.split('</tr>')
  assert '90.0 %' in rows[0]
  assert '&#34;&gt;&lt;img' in rows[0]  # predicted once
  assert 'width:40.0%' in rows[2]
  assert rows[2].index(' (3), ') < rows[2].index(' (2), ') < rows[2].index(' (1)<')
  assert '–' in rows[3]  # there are no images of it
  assert '30 validation images: 23 predicted right, 7 wrong' in text
  assert '2 of 7: those of each class' in text
  assert len(found.all('img')) == 2
  assert '87.5 %' in text


def test_the_rates_and_the_checks(text):
  rates = re.search('aria-label="Table of the rates".*?<tbody>(.*?)</tbody>', text, re.S)[1]
  cells = [re.findall('<t[dh].*?>(.*?)</t[dh]>', row) for row in rates.split('</tr>')[:-1]]
  best = '1e-03<span class="hidden"> (recommended)</span>'
  assert [row[0] for row in cells] == ['1e-02', best, '1e-04']
  assert cells[0][1:] == ['–', '–', '0.0 %', 'diverged']
  assert [row[1] for row in cells[1:]] == ['50.0 %', '40.0 %']
  assert all(re.fullmatch(r'[\d.]+ to [\d.]+ %', row[2]) for row in cells[1:])
  chances = [float(row[3].removesuffix(' %')) for row in cells]
  assert chances[1] > chances[2]
  assert sum(chances) == pytest.approx(100, abs=0.2)
  items = [item for _, _, item in Page(text).all('li')]
  assert f'2 near copies: {HOSTILE[0]}' in items


def test_several_batch_sizes_and_schedules(tmp_path):
  names = ('constant', 'step_decay')
  axes = {'batch_size': (1, 4), 'schedule.name': names}
  make_study(tmp_path, axes=ConfigDict(axes, allow_dotted_keys=True))
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  found = check_structure(text)
  labels = [f'Batch {size}, {name.replace("_", " ")}' for size in (1, 4) for name in names]
  titles = [title.partition(':')[0] for _, _, title in found.all('summary')]
  assert titles[:3] == labels[1:]  # the setting to use is open
  columns = [head for _, a, head in found.all('th') if a['scope'] == 'col']
  assert columns[:5] == ['batch size', 'schedule', 'rate to use', 'validation accuracy', 'interval']
  assert ['rate', 'batch size', 'schedule', 'seed'] in [columns[i : i + 4] for i in range(40)]
  settings = re.search('<h2>The settings.*?<tbody>(.*?)</tbody>', text, re.S)[1].split('</tr>')[:-1]
  cells = [re.findall('<t[dh].*?>(.*?)</t[dh]>', row) for row in settings]
  assert [row[:2] for row in cells] == [[str(size), name] for size in (1, 4) for name in names]
  assert all(row[2:4] == ['1e-03', '50.0 %'] for row in cells)
  assert ['class="best"' in row for row in settings] == [True, False, False, False]
  captions = [caption for _, _, caption in found.all('caption')]
  for name in names:
    start = f'{name.replace("_", " ").capitalize()}. Mean validation accuracy; outlined'
    assert sum(caption.startswith(start) for caption in captions) == 1
  assert drawn(text)['settings'] == [label.lower() for label in labels]
  out = tmp_path / 'c.html'
  compare.write([tmp_path, tmp_path], out)
  heads = re.search('<h2>Accuracy.*?<thead>(.*?)</thead>', out.read_text(), re.S)[1]
  assert heads.count(', batch 4, constant</th>') == 2
  assert heads.count('<th') == 1 + 2 * 4


def test_the_headline_of_several_settings_is_short(tmp_path):
  axes = ConfigDict({'optimizer.momentum': (0.0, 0.9)}, allow_dotted_keys=True)
  make_study(tmp_path, (1e-2, 1e-3, 1e-4), axes=axes)
  page.write(tmp_path)
  sentence = report.read(tmp_path)[1].sentence
  _, headline, rest, *_ = [text for _, _, text in Page((tmp_path / page.NAME).read_text()).all('p')]
  assert f'{headline} {rest}' == sentence
  assert headline.endswith(' --config.seeds=0,1,2 trains three.')
  assert page._headline(sentence, 1) == (sentence, '')


def test_further_axes_and_metrics(tmp_path):
  momentum = ConfigDict({'optimizer.momentum': (0.0, 0.9)}, allow_dotted_keys=True)
  metrics = (Measure('validation_top5'), Measure('validation_calibration_error', False, False))
  make_study(tmp_path, axes=momentum, metrics=metrics)
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  check_structure(text)
  assert drawn(text)['settings'] == ['momentum 0', 'momentum 0.9']
  assert drawn(text)['axes'] == [{'name': 'optimizer.momentum', 'values': ['0', '0.9']}]
  fields = ['train_loss', 'validation_loss', 'train_accuracy', 'validation_accuracy']
  fields += [metric.field for metric in metrics]
  assert [chart['name'] for chart in drawn(text)['charts']][:-1] == fields  # and sharpness
  heads = re.search('"Table of the trials.*?<thead>(.*?)</thead>', text, re.S)[1]
  heads = re.findall('<th.*?>(.*?)</th>', heads)
  assert heads[:3] == ['rate', 'optimizer.<wbr>momentum', 'seed']
  assert heads[-4:] == ['top5', 'calibration error', 'status', 'evidence']
  rows = re.search('"Table of the trials.*?<tbody>(.*?)</tbody>', text, re.S)[1].split('</tr>')[:-1]
  cells = re.findall('<t[dh].*?>(.*?)</t[dh]>', rows[-1])
  assert cells[1] == '0.9'
  assert cells[-4:-2] == ['50.0 %', '0.5']
  assert sum('class="best"' in row for row in rows) == 1


@pytest.mark.parametrize('seeds', [(0,), (0, 1, 2)])
def test_the_page_says_no_more_than_the_seeds_can_tell(tmp_path, seeds):
  make_study(tmp_path, seeds=seeds)
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  assert ('One seed cannot tell' in text) == (len(seeds) == 1)
  assert ('probability of being the best' in text) == (len(seeds) > 1)
  assert 'just as good' not in text  # no other rate learned
  assert 'Not told apart' not in text


def test_a_study_by_the_loss(tmp_path):
  make_study(tmp_path, (1e-2, 1e-3, 1e-4), measure=LOSS)
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  found = check_structure(text)
  assert found.all('p')[1][2] == report.read(tmp_path)[1].sentence
  assert found.all('p')[1][2].startswith('Use 1e-04: validation loss 0.4.')
  assert drawn(text)['measure'] == {'name': 'validation loss', 'share': False, 'up': False}
  assert 'Validation loss against the rate' in [title for _, _, title in found.all('h2')]
  assert 'Validation loss at the end: the mean over the seeds' in text


def test_a_study_where_all_diverged(tmp_path):
  make_study(tmp_path, diverged=(1e-2, 1e-3))
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  found = check_structure(text)
  assert 'There is no rate to use, so there is no best trial, and no confusion matrix.' in text
  assert found.all('p')[0][2] == 'none'
  assert 'No rate works: all diverged' in found.all('p')[1][2]
  assert 'class="best"' not in text
  curves = {chart['name']: chart['lines'] for chart in drawn(text)['charts']}
  assert not curves['validation_loss'] + curves['validation_accuracy']
  assert [len(line['y']) for line in curves['train_loss']] == [10, 10]  # the steps before


def test_weights_that_are_lost(tmp_path):
  make_study(tmp_path, examined=False)
  page.write(tmp_path)
  text = (tmp_path / page.NAME).read_text()
  check_structure(text)
  assert 'There is no confusion matrix: no &lt;b&gt;weights&lt;/b&gt;.' in text


def test_pictures_that_are_lost(study, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  shutil.rmtree(copy / best.MISTAKES)
  page.write(copy)
  text = (copy / page.NAME).read_text()
  check_structure(text)
  assert 'The pictures of its mistakes are no longer in figures/mistakes.' in text


def test_samples_that_are_no_images(study, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  content = report.read_content(copy)
  content['study']['data']['shape'], content['best_trial']['mistakes'] = [13], []
  (copy / 'results.json').write_text(json.dumps(content))
  page.write(copy)
  text = (copy / page.NAME).read_text()
  found = check_structure(text)
  assert '30 validation samples: 23 predicted right' in text
  assert 'samples' in [title for _, _, title in found.all('th')]
  assert 'There are no pictures: the samples are no images.' in text


def test_many_classes(study, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  content = report.read_content(copy)
  content['study']['data']['classes'] = [f'class {i}' for i in range(60)]
  wrong = np.arange(60)  # of 100 images a class, and none of class 0
  confusion = np.diag(np.where(wrong, 100 - wrong, 0))
  confusion[:, 0] += wrong
  content['best_trial'] = {  # as older studies wrote it
    'learning_rate': 1e-3,
    'seed': 0,
    'confusion': confusion.tolist(),
    'recall': [None, *(1 - wrong[1:] / 100)],
    'mistakes': [],
  }
  (copy / 'results.json').write_text(json.dumps(content))
  page.write(copy)
  text = (copy / page.NAME).read_text()
  check_structure(text)
  assert 'results.json has the matrix, under best_trial' in text
  assert f'{5900 - wrong.sum()} predicted right, {wrong.sum()} wrong' in text
  assert 'class 0 (59)' in text
  rows = re.findall('<th scope="row" class="text">(class [0-9]+)</th>', text)
  assert rows == [f'class {i}' for i in range(59, 9, -1)]  # the worst; the one without images not


def test_a_thousand_classes_stay_small(study, tmp_path):
  """A few numbers a class: not a million, which were 8 MB."""
  rng, count = np.random.default_rng(0), 1000
  labels = rng.integers(0, count, 50_000)
  predicted = np.where(rng.random(50_000) < 0.6, labels, rng.integers(0, count, 50_000))
  score = evaluate.count(tuple(f'n{i:08}' for i in range(count)), labels, predicted)
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  content = report.read_content(copy)
  before = len((copy / 'results.json').read_bytes())
  content['study']['data']['classes'] = list(score.classes)
  content['best_trial'] |= score.as_json() | {'mistakes': []}
  (copy / 'results.json').write_text(json.dumps(content, indent=1))
  assert len((copy / 'results.json').read_bytes()) - before < 250_000
  page.write(copy)
  text = (copy / page.NAME).read_text()
  check_structure(text)
  assert len(text) < 1_650_000  # BokehJS alone has 1.4 MB
  assert 'results.json has the most frequent mistakes of each class' in text
  worst = np.nanargmin(score.recall)
  assert f'{np.diag(score.confusion).sum()} predicted right' in text
  assert re.findall('<th scope="row" class="text">(n[0-9]+)</th>', text)[0] == f'n{worst:08}'
  result = evaluate.read_study(study).results[-1]
  trained = evaluate.Trained(ConfigDict({'axes': {}}),
                             score.classes, result, {}, None, PHOTOGRAPHS)  # fmt: skip
  found = classify.scored(trained, score, {})
  assert len(found.text) < 2_000
  assert len(json.dumps(found.content, indent=1)) < 250_000
  wrong = score.confusion - np.diag(np.diag(score.confusion))
  true, other = np.unravel_index(wrong.argmax(), wrong.shape)
  head, first, *_ = found.text.splitlines()[1:]
  assert head.split() == ['true', 'predicted', 'as', 'images', 'of']
  assert first.split()[2] == str(wrong.max())
  assert found.content['confused'][0] == (true, other, wrong.max())


def test_the_pairs_that_are_confused():
  confusion = np.asarray([[9, 1, 0, 5], [0, 10, 0, 0], [3, 2, 4, 1], [0, 0, 0, 0]])
  score = evaluate.Score(tuple('abcd'), confusion)
  assert score.confused() == [(0, 3, 5), (2, 0, 3), (2, 1, 2), (0, 1, 1), (2, 3, 1)]
  assert score.confused(1) == [(0, 3, 5), (2, 0, 3)]
  found = score.as_json()
  assert (found['confusion'], found['images_of']) == (confusion.tolist(), [15, 10, 10, 0])


def test_the_measure_that_leads_is_always_a_column(tmp_path):
  """Also where it happens to be the same as the accuracy."""
  for measure, columns in ((ACCURACY, 0), (BALANCED, 1)):
    folder = make_study(tmp_path / measure.field, measure=measure)
    page.write(folder)
    heads = [text for _, _, text in Page((folder / page.NAME).read_text()).all('th')]
    assert heads.count('balanced accuracy') == columns


@pytest.mark.parametrize('rate', [1e-3, 0.0123456789, 1.00000049e-3])
def test_the_recommended_rate_is_marked_whatever_its_digits(tmp_path, rate):
  folder = make_study(tmp_path / 'study', (rate, rate / 10))
  page.write(folder)
  found = check_structure((folder / page.NAME).read_text())
  marked = [text for tag, a, text in found.all('tr') if a.get('class') == 'best']
  assert len(marked) == 2  # in the table of trials, and in that of rates
  assert all(formats.rate(rate) in text for text in marked)


def test_what_is_not_finished_or_lost(study, tmp_path):
  with pytest.raises(StudyError, match='holds no finished study'):
    page.write(tmp_path)
  copy = tmp_path / 'copy'
  shutil.copytree(study, copy)
  with pytest.raises(StudyError, match=r'cannot write .*nowhere'):
    page.write(copy, tmp_path / 'nowhere' / 'x.html')
  shutil.rmtree(copy / 'history')
  with pytest.raises(StudyError, match=r'step_loss\.npy is lost'):
    page.write(copy)
  content = report.read_content(copy)
  del content['best_trial']
  (copy / 'results.json').write_text(json.dumps(content))
  with pytest.raises(StudyError, match=r"before studies kept 'best_trial'; delete it"):
    page.write(copy)


def test_mistakes_are_the_surest_of_each_class_in_turn():
  labels = np.repeat([0, 1, 2], [40, 4, 40])
  predicted = np.where(np.arange(84) % 2, labels, (labels + 1) % 3)
  sure = np.random.default_rng(0).permutation(84) / 84
  chosen = best._choose_mistakes(labels, predicted, sure)
  assert len(chosen) == best._COUNT
  assert (predicted[chosen] != labels[chosen]).all()
  assert np.bincount(labels[chosen]).tolist() == [11, 2, 11]
  of_first = chosen[labels[chosen] == 0]
  left = np.setdiff1d(np.arange(0, 40, 2), of_first)
  assert sure[of_first].min() > sure[left].max()
  assert best._choose_mistakes(labels, labels, sure).tolist() == []


def test_examining_without_weights(study):
  """The page of a study whose checkpoints are gone says so; one that never learned has none."""
  config, _, results, answer = evaluate.read_study(study)
  part = Part(np.zeros((4, 84, 84, 3), np.uint8), np.arange(4, dtype=np.int32))
  mean = np.zeros((84, 84, 3), np.float32)
  data = Dataset('x', HOSTILE, part, part, mean, 0, 'f00d', (), {})
  found = best.examine(study, config, data, results, answer)
  assert found.keys() == {'learning_rate', 'seed', 'missing'}
  assert 'has lost its history/ or checkpoints/' in found['missing']
  nothing = dataclasses.replace(answer, learning_rate=None)
  assert best.examine(study, config, data, results, nothing) is None


def test_batch_sizes():
  """A cell a rate and batch size, crosses where all diverged, a frame round each row's best."""

  @dataclasses.dataclass
  class Trial:
    learning_rate: float
    batch_size: int
    schedule: str
    status: str
    validation_accuracy: float | None
    metrics = ()

    @property
    def setting(self):
      return Setting(self.batch_size, self.schedule)

  trials = [
    Trial(1e-2, 1, 'constant', 'diverged', None),
    Trial(1e-2, 8, 'constant', 'plateaued', 0.8),
    Trial(1e-2, 8, 'constant', 'diverged', None),
    Trial(1e-3, 1, 'constant', 'plateaued', 0.75),
    Trial(1e-3, 8, 'constant', 'at_chance', 0.25),
  ]
  figure = matrices.build(trials, (), None, ACCURACY)['rate_and_batch_size']
  axes, _ = figure.axes
  places = {text.get_text(): text.get_position() for text in axes.texts}
  assert places == {'75.0 %': (0, 0), '80.0 %\n1 diverged': (1, 1), '25.0 %': (0, 1)}
  assert [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines] == [(1, 0)]
  assert [frame.get_xy() for frame in axes.patches] == [(-0.5, -0.5), (0.5, 0.5)]
  assert [t.get_text() for t in axes.get_xticklabels()] == ['1e-03', '1e-02']
  by_loss = Measure('validation_accuracy', is_share=False, larger_is_better=False)
  axes, _ = matrices.build(trials, (), None, by_loss)['rate_and_batch_size'].axes
  assert sorted(text.get_text() for text in axes.texts) == ['0.25', '0.75', '0.8\n1 diverged']
  assert [frame.get_xy() for frame in axes.patches] == [(-0.5, -0.5), (-0.5, 0.5)]
  assert matrices.build(trials[1:3], (), None, ACCURACY) == {}


def test_colours_stand_out_from_either_paper():
  drawn_colours = [
    f'#{r:02x}{g:02x}{b:02x}' for r in (0, 99, 255) for g in (0, 150) for b in (50, 255)
  ]
  for scheme, paper in colours.PAPER.items():
    for colour in (*drawn_colours, '#b0b0b0', '#ffff00'):
      for contrast in (3.0, 4.5):
        found = colours.readable(colour, scheme, contrast)
        assert colours.contrast_of(found, paper) >= contrast
  assert colours.contrast_of('#ffffff', '#000000') == pytest.approx(21)
  assert colours.readable('#1f77b4', 'light') == '#1f77b4'  # it does already


def test_the_command_writes_the_same_page_again(command, study, text, tmp_path):
  copy = tmp_path / 'study'
  shutil.copytree(study, copy)
  assert command('report.py', '--workdir', copy) == (0, f'{copy / page.NAME}\n', '')
  # The folder's name is in the title, and nowhere else is it another.
  own = (copy / page.NAME).read_text().split('</title>')[1]
  before, after = (
    of.partition('<section class="next">') for of in (own, text.split('</title>')[1])
  )
  assert before[0] == after[0]
  # It names the folder in the commands, too.
  assert before[2].split('</section>')[1] == after[2].split('</section>')[1]


def test_the_command_compares(command, study, tmp_path):
  other, out = make_study(tmp_path / 'b', (1e-3, 1e-4), epochs=2, batch_size=3), tmp_path / 'c.html'
  assert command('report.py', '--workdir', f'{study},{other}', '--out', out)[0] == 0
  found = check_structure(out.read_text())
  answers = [text for _, a, text in found.all('p') if 'answer' in a.get('class', '')]
  assert len(answers) == 2
  assert all('Use 1e-03' in answer for answer in answers)
  for arguments, message in (
    ((), '--workdir'),
    (('--workdir', study, '--workdir', other), '--out'),
  ):
    status, _, errors = command('report.py', *arguments)
    assert status == 2
    assert errors.startswith(f'error: no {message}')
    assert errors.count('\n') == 1


def test_what_a_comparison_says(study, tmp_path):
  other = make_study(tmp_path / 'b', (1e-3, 1e-5), diverged=(1e-3,), batch_size=5)
  content = report.read_content(other)
  out = tmp_path / 'c.html'
  compare.write([study, other], out)
  text = out.read_text()
  check_structure(text)
  assert 'All saw the same images (fingerprint f00d)' in text
  fields = re.findall('<th scope="row"><code>(.*?)</code></th>(.*?)</tr>', text)
  assert [field for field, _ in fields] == ['batch_size', 'learning_rates', 'seeds']
  assert re.findall('<code>(.*?)</code>', fields[0][1]) == ['4', '5']
  rates = re.search('<h2>Accuracy.*?<tbody>(.*?)</tbody>', text, re.S)[1].split('</tr>')[:-1]
  cells = [re.findall('<t[dh].*?>(.*?)</t[dh]>', row) for row in rates]
  assert cells == [
    ['1e-02', 'diverged', '–'],
    ['1e-03', '50.0 %', 'diverged'],
    ['1e-04', '40.0 %', '–'],
    ['1e-05', '–', '50.0 %'],
  ]
  assert study.name in drawn(text)['settings']
  content['study']['data']['fingerprint'] = 'beef'
  (other / 'results.json').write_text(json.dumps(content))
  compare.write([study, other], out)
  assert 'They did not all see the same images' in out.read_text()
  compare.write([study, study], out)
  assert '<p>Nothing.</p>' in out.read_text()


def test_a_comparison_by_the_loss(tmp_path):
  for name in 'ab':
    make_study(tmp_path / name, (1e-2, 1e-3, 1e-4), measure=LOSS)
  out = tmp_path / 'c.html'
  compare.write([tmp_path / name for name in 'ab'], out)
  text = out.read_text()
  found = check_structure(text)
  assert found.all('h2')[0][2] == 'Validation loss against the rate'
  assert found.all('caption')[0][2] == 'Validation loss at the end, the mean over seeds.'
  rates = re.search('<h2>Validation loss.*?<tbody>(.*?)</tbody>', text, re.S)[1].split('</tr>')[:-1]
  cells = [re.findall('<t[dh].*?>(.*?)</t[dh]>', row) for row in rates]
  assert cells == [
    ['1e-02', 'diverged', 'diverged'],
    ['1e-03', *2 * ['0.5']],
    ['1e-04', *2 * ['0.4']],
  ]
  assert drawn(text)['measure']['name'] == 'validation loss'


def test_studies_that_go_by_different_measures_are_compared_by_one(tmp_path):
  """By balanced accuracy: where classes are unequal the plain one misleads."""
  for name, measure in (('a', BALANCED), ('b', ACCURACY), ('c', LOSS)):
    make_study(tmp_path / name, measure=measure)
    content = report.read_content(tmp_path / name)
    for trial in content['trials']:
      if trial['validation_accuracy'] is not None:
        trial |= {'validation_accuracy': 0.75, 'validation_balanced_accuracy': 1 / 3}
    (tmp_path / name / 'results.json').write_text(json.dumps(content))
  out = tmp_path / 'c.html'
  for names in ('ab', 'ac', 'bc', 'abc'):
    compare.write([tmp_path / name for name in names], out)
    text = out.read_text()
    assert 'Validation balanced accuracy at the end, the mean over seeds.' in text
    assert 'so they are compared by validation balanced accuracy.' in text
    assert '33.3 %' in text
    assert '75.0 %' not in text.partition('<h2>')[2]
  assert '(a: validation balanced accuracy; b: validation accuracy; c: validation loss)' in text
  compare.write([tmp_path / 'a'] * 2, out)
  assert '<h2>Validation balanced accuracy against the rate</h2>' in out.read_text()
  compare.write([tmp_path / 'b'] * 2, out)
  assert 'they are compared by' not in out.read_text()
  assert 'Validation accuracy at the end' in out.read_text()
