"""What a study writes and shows: history, TensorBoard, tables, figures, the folder."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from helpers import planned
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lr_study import formats
from lr_study.answer import axes, verdict
from lr_study.answer.axes import Answer
from lr_study.answer.measure import BALANCED, LOSS, Measure
from lr_study.errors import StudyError
from lr_study.files import workdir
from lr_study.files.events import Events, write_experiment
from lr_study.files.history import EPOCH_CURVES, History, join, window_means
from lr_study.files.points import Points
from lr_study.report import describe, report
from lr_study.search.rounds import Setting

RATES, SEEDS, GUESS = [1e-2, 1e-3, 1e-4], [0, 0, 0], float(np.log(10))
TRIALS = planned(RATES, SEEDS, epochs=2)


def heights(steps):
  return np.where(np.asarray(steps) < 30, 1.0, 0.1)


def height(step, column):
  del column
  return float(heights(step))


@pytest.fixture
def history(tmp_path):
  """60 steps in two epochs; the largest rate diverges at step 11."""
  history = History(tmp_path / 'history', 60, 2, 3)
  loss = np.linspace(2.3, 0.3, 60)[:, None] * [1, 1, 2]
  loss[10:, 0] = np.nan
  history.write_steps(0, {'loss': loss, 'accuracy': 1 - loss / 5, 'gradient_norm': loss})
  for epoch in range(2):
    history.write_epoch(epoch, {name: [np.nan, 0.5, 0.25] for name in EPOCH_CURVES})
  return history


@pytest.fixture
def finished(history):
  results = verdict.results(history, TRIALS, np.arange(200) % 10, [60] * 3)
  return results, verdict.judge(results, np.arange(200) % 10)


def test_history_is_on_disk_and_opens_again(history, tmp_path):
  history.flush()
  loss = np.load(tmp_path / 'history' / 'step_loss.npy')
  assert loss.shape == (60, 3)
  np.testing.assert_array_equal(loss, history.steps['loss'])
  again = History(tmp_path / 'history', 60, 2, 3)
  np.testing.assert_array_equal(again.steps['loss'], loss)


def test_histories_of_waves_are_joined(tmp_path):
  waves = np.asarray([0, 1, 0])
  parts = [History(tmp_path / f'wave_{wave}', 4, 2, (waves == wave).sum()) for wave in (0, 1)]
  parts[0].write_steps(0, {'loss': np.full((4, 2), [1, 3])})
  parts[1].write_steps(0, {'loss': np.full((4, 1), 2)})
  parts[1].write_epoch(1, {'train_loss': [5]})
  whole = join(tmp_path, [(parts[0], 0), (parts[1], 0), (parts[0], 1)], 4, 2)
  assert whole.steps['loss'].tolist() == [[1, 2, 3]] * 4
  np.testing.assert_array_equal(whole.epochs['train_loss'], [[np.nan] * 3, [np.nan, 5, np.nan]])
  longer = join(tmp_path / 'longer', [(parts[0], 0), (History(tmp_path / 'l', 6, 3, 1), 0)], 6, 3)
  assert np.isnan(longer.steps['loss'][4:, 0]).all()
  assert longer.steps_per_epoch == 2
  assert np.load(tmp_path / 'step_loss.npy').tolist() == [[1, 2, 3]] * 4


def test_a_damaged_history_is_one_line(history, tmp_path):
  history.flush()
  file = tmp_path / 'history' / 'step_loss.npy'
  file.write_bytes(file.read_bytes()[:200])
  with pytest.raises(StudyError, match=r'step_loss\.npy is damaged'):
    History(tmp_path / 'history', 60, 2, 3)


def test_history_that_is_not_reached_is_nan(tmp_path):
  history = History(tmp_path, 5, 1, 3)
  history.write_steps(0, {'loss': np.zeros((2, 3))})
  assert np.isnan(history.steps['loss'][2:]).all()
  assert np.isnan(history.epochs['train_loss']).all()


def test_window_means():
  ends, means = window_means(np.arange(7.0)[:, None], 3)
  assert ends.tolist() == [3, 6, 7]
  assert means[:, 0].tolist() == [1, 4, 6]
  big = np.full((4, 1), 3e38, np.float32)
  assert window_means(big, 4)[1][0, 0] == pytest.approx(3e38)


def scalars(folder, tag):
  events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
  events.Reload()
  return [(event.step, event.value) for event in events.Scalars(tag)]


def write_events(history, folder, settings=()):
  write_experiment(folder, len(RATES), settings)
  points, events = Points(TRIALS, height, 10), Events(folder, TRIALS)
  for epoch in range(2):
    for first in range(0, 30, 10):
      start = 30 * epoch + first
      events.write(points.of_steps(history, start, start + 10), history.running(start))
    done = 30 * (epoch + 1)
    events.write(points.of_epoch(history, epoch, done), history.running(done))
  events.close([11, 0, 0])


def test_tensorboard_holds_the_curves(history, tmp_path):
  folder = tmp_path / 'tensorboard'
  for _ in range(2):  # a second writer starts again: no step twice
    write_events(history, folder)
  assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == [
    'lr_1e-02_seed_0', 'lr_1e-03_seed_0', 'lr_1e-04_seed_0',
  ]  # fmt: skip
  run = folder / 'lr_1e-03_seed_0'
  ends, means = window_means(history.steps['loss'][:, 1], 10)
  found = scalars(run, 'curves/loss')
  assert [step for step, _ in found] == ends.tolist()
  np.testing.assert_allclose([value for _, value in found], means, rtol=1e-6)
  # Training and validation loss are in one chart: they have one tag.
  assert scalars(run / 'validation', 'curves/loss') == [(30, 0.5), (60, 0.5)]
  rates = [value for _, value in scalars(run, 'training/learning_rate')]
  np.testing.assert_allclose(rates, [1e-3] * 3 + [1e-4] * 3, rtol=1e-6)
  assert len(scalars(run, 'answer/accuracy')) == len(scalars(run, 'training/gradient_norm')) == 6
  assert [step for step, _ in scalars(run / 'validation', 'answer/accuracy')] == [30, 60]
  # The curve of a trial that left ends with the chunk in which it diverged.
  left = folder / 'lr_1e-02_seed_0'
  assert [step for step, _ in scalars(left, 'curves/loss')] == [10, 20]
  assert scalars(left, 'training/diverged_at_step') == [(11, 11)]
  assert [texts(of).get('status') for of in (left, run)] == ['diverged at step 11', None]


def texts(run):
  events = EventAccumulator(str(run))
  events.Reload()
  found = {tag: events.Tensors(tag)[0].tensor_proto for tag in events.Tags()['tensors']}
  return {tag: of.string_val[0].decode() for tag, of in found.items() if of.string_val}


def hparams(run):
  events = EventAccumulator(str(run))
  events.Reload()
  plugin = events.summary_metadata
  return {tag: found.plugin_data.content for tag, found in plugin.items() if '_hparams_' in tag}


def experiment_of(folder):
  return metadata.parse_experiment_plugin_data(hparams(folder)[metadata.EXPERIMENT_TAG])


def start_of(run):
  return metadata.parse_session_start_info_plugin_data(
    hparams(run)[metadata.SESSION_START_INFO_TAG]
  )


def test_tensorboard_hparams(history, tmp_path):
  folder = tmp_path / 'tensorboard'
  write_events(history, folder, [TRIALS[0].setting])
  experiment = experiment_of(folder)  # no columns of what is the same in all trials
  assert [info.name for info in experiment.hparam_infos] == ['learning_rate', 'log10_learning_rate']
  names = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
  assert names == [
    ('validation', 'answer/accuracy'), ('validation', 'curves/loss'),
    ('', 'training/diverged_at_step'), ('', 'curves/loss'), ('', 'answer/accuracy'),
  ]  # fmt: skip
  for rate, status in ((1e-2, 2), (1e-3, 1)):  # STATUS_FAILURE where it diverged, STATUS_SUCCESS
    run = folder / f'lr_{formats.rate(rate)}_seed_0'
    start, end = start_of(run), hparams(run)[metadata.SESSION_END_INFO_TAG]
    assert start.hparams['log10_learning_rate'].number_value == pytest.approx(np.log10(rate))
    study = f'{tmp_path.parent.name}/{tmp_path.name}'
    assert start.group_name.startswith(study)
    assert start.group_name.endswith(f': {formats.rate(rate)} batch 1 constant')
    assert metadata.parse_session_end_info_plugin_data(end).status == status


def test_two_studies_under_one_logdir_have_groups_of_their_own(history, tmp_path):
  """TensorBoard averages what has one group: the seeds of a trial, and not those of two studies."""
  groups = set()
  for study in ('a/quick', 'b/quick', 'b/other', 'c/a/quick'):
    folder = tmp_path / study / 'tensorboard'
    write_events(history, folder)
    groups.add(start_of(folder / 'lr_1e-03_seed_0').group_name)
  assert len(groups) == 4


@pytest.mark.parametrize(('measure', 'best'), [(BALANCED, [0.5, 0.75, 0.75]), (LOSS, [3, 2, 2])])
def test_the_tab_leads_with_what_the_study_goes_by(tmp_path, measure, best):
  """With best epochs, the last point of a curve, which the tab shows, is the best one."""
  history = History(tmp_path / 'history', 60, 3, 2)
  values = {BALANCED: [0.5, 0.75, 0.25], LOSS: [3, 2, 2.5]}[measure]
  folder = tmp_path / 'tensorboard'
  write_experiment(folder, 2, measure=measure, at_best=True)
  points = Points(TRIALS[:2], height, 10, at_best=measure)
  events = Events(folder, TRIALS[:2], measure=measure)
  for epoch, value in enumerate(values):
    history.write_epoch(epoch, {measure.field: [value, [np.nan, 0.5, np.nan][epoch]]})
    events.write(points.of_epoch(history, epoch, 20 * (epoch + 1)), [0, 1])
  events.close([0, 0])
  name = measure.field.removeprefix('validation_')
  curve, run = f'answer/best_{name}', folder / 'lr_1e-02_seed_0' / 'validation'
  assert [value for _, value in scalars(run, curve)] == best
  other = [value for _, value in scalars(folder / 'lr_1e-03_seed_0' / 'validation', curve)]
  np.testing.assert_array_equal(other, [np.nan, 0.5, 0.5])
  infos = experiment_of(folder).metric_infos
  assert [info.name.tag for info in infos][:2] == [curve, f'answer/{name}']
  assert len({(info.name.tag, info.name.group) for info in infos}) == len(infos)


def test_axes_and_metrics_in_tensorboard(tmp_path):
  history = History(tmp_path / 'history', 20, 1, 2, ['top5'])
  history.write_steps(0, {name: np.ones((20, 2)) for name in history.steps})
  history.write_epoch(0, {'validation_top5': [0.5, 0.75]})
  warmups = (('schedule.warmup_epochs', 0.0),), (('schedule.warmup_epochs', 2.0),)
  trials = [trial._replace(axes=axes) for trial, axes in zip(TRIALS[:1] * 2, warmups, strict=True)]
  folder, labels = tmp_path / 'tensorboard', ['warmup_epochs_0', 'warmup_epochs_2']
  write_experiment(folder, 2, [trial.setting for trial in trials], ['validation_top5'])
  points = Points(trials, lambda step, column: 1 - column / 2, 10)
  events = Events(folder, trials, labels)
  events.write(points.of_steps(history, 0, 20), [0, 1])
  events.write(points.of_epoch(history, 0, 20), [0, 1])
  events.close([0, 0])
  run = folder / 'warmup_epochs_2' / 'lr_1e-02_seed_0'
  assert scalars(run / 'validation', 'curves/top5') == [(20, 0.75)]
  rates = [value for _, value in scalars(run, 'training/learning_rate')]
  np.testing.assert_allclose(rates, [5e-3] * 2)
  start = start_of(run)
  assert start.hparams['schedule.warmup_epochs'].number_value == 2
  assert start.group_name.endswith(': 1e-02 batch 1 constant, schedule.warmup_epochs 2')
  experiment = experiment_of(folder)
  assert [info.name for info in experiment.hparam_infos][2:] == ['schedule.warmup_epochs']
  assert 'curves/top5' in [info.name.tag for info in experiment.metric_infos]


def test_tensorboard_shows_the_answer(small_finished):
  """The verdict as text; the confusion matrix and mistakes as images, instead of those before."""
  run = small_finished / 'tensorboard' / 'answer'
  _, answer = report.read(small_finished)
  assert answer.sentence.split(':')[0] in texts(run)['answer/verdict']
  assert '| **1e-02** | ' in texts(run)['answer/verdict']
  events = EventAccumulator(str(run), size_guidance={'images': 0})
  events.Reload()
  shown = events.Tags()['images']
  assert {'answer/confusion', 'answer/accuracy_by_rate'} < set(shown)
  wrong = report.read_content(small_finished)['best_trial']['mistakes']
  mistakes = [tag for tag in shown if tag.startswith('mistakes/')]
  assert len(mistakes) == len(wrong)
  assert not wrong or f'{wrong[0]["true"]} predicted as {wrong[0]["predicted"]}' in mistakes[0]


STUDY = {
  'config': {
    'model': {'name': 'digits_tensorflow', 'width': 0.25},
    'optimizer': {'name': 'sgd', 'momentum': 0.9},
    'schedule': {'name': 'constant', 'warmup_epochs': 0.0},
    'loss': {'name': 'cross_entropy'},
    'data': {'name': 'image_folder'},
    'dtype': 'float32',
    'image_size': 64,
    'epochs': 2,
    'batch_size': 1,
  },
  'data': {
    'name': 'image_folder',
    'train': 30, 'validation': 10, 'classes': ['a', 'b'], 'left_out': ['a/1.png (cut off)'],
    'fingerprint': 'f', 'checks': {
      'constant': {'count': 2, 'line': '2 images are of one colour: a/`2.png'},
      'near_across_split': {'count': 0, 'line': 'no near copies'},
    },
  },
  'seconds': 12.0,
  'seconds_of': {'steps': 11.0, 'evaluation': 0.5},
  'trial_steps': {'planned': 180, 'run': 130},
  'device': 'cpu',
}  # fmt: skip


def of_one_setting(verdict):
  return Answer(verdict, {Setting(1, 'constant'): verdict}, (), ())


def test_report(finished, tmp_path):
  results, answer = finished
  report.write(tmp_path, STUDY, results, of_one_setting(answer), {'confusion': [[1]]})
  content = json.loads((tmp_path / 'results.json').read_text())
  assert content['verdict']['learning_rate'] == 1e-3
  assert content['trials'][0]['status'] == 'diverged'
  assert content['trials'][0]['train_loss'] is None
  assert content['trials'][0]['first_bad_step'] == 11
  assert content['best_trial'] == {'confusion': [[1]]}
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert [float(row['learning_rate']) for row in rows] == RATES
  assert rows[1]['validation_accuracy'] == '0.5'
  assert rows[0]['validation_accuracy'] == ''
  assert not {'metrics', 'axes'} & rows[0].keys()
  assert [row['measure'] for row in rows] == ['validation_accuracy'] * 3
  assert [row['measured'] for row in rows] == ['', '0.5', '0.25']
  summary = (tmp_path / 'summary.md').read_text()
  assert answer.sentence in summary
  assert 'a/1.png (cut off)' in summary
  assert '    2 images are of one colour: a/`2.png' in summary
  assert 'no near copies' not in summary
  assert 'saved 27.8 % of the 180 steps' in summary
  assert (
    'digits_tensorflow (width 0.25), on 30 training and 10 validation images of 2 classes of '
    'image_folder, 64 px; 2 epochs at batch size 1, sgd (momentum 0.9), schedule constant; 12 s on '
    'cpu.'
  ) in summary
  read_results, read_answer = report.read(tmp_path)
  assert read_results == results
  assert read_answer.sentence == answer.sentence
  assert not list(tmp_path.glob('*.part'))


def test_a_study_whose_statuses_were_tested_otherwise_is_refused(finished, tmp_path):
  results, answer = finished
  old = [dataclasses.replace(results[0]), dataclasses.replace(results[1], status='converged')]
  report.write(tmp_path, STUDY, old, of_one_setting(answer), None)
  with pytest.raises(StudyError, match='called trials converged by other tests; delete it, and'):
    report.read(tmp_path)


def test_one_seed_claims_nothing_of_the_best(finished, two_seeds, tmp_path):
  """Nobody knows which rates may be the best; which may be just as good, the images say."""
  for name, (*_, results, answer), said in (
    ('one', finished, 'In bold: the rate to use, and those that may be just as good.'),
    ('two', two_seeds, 'In bold: the rates that may be the best.'),
  ):
    (tmp_path / name).mkdir()
    report.write(tmp_path / name, STUDY, results, of_one_setting(answer), None)
    assert said in (tmp_path / name / 'summary.md').read_text().splitlines()


def test_every_file_has_the_balanced_accuracy_where_it_leads(finished, tmp_path):
  """With unequal classes, where plain accuracy is high for always predicting the largest class."""
  results = [
    result if result.validation_accuracy is None
    else dataclasses.replace(result, validation_accuracy=0.75, validation_balanced_accuracy=1 / 3)
    for result in finished[0]
  ]  # fmt: skip
  answer = verdict.judge(results, np.repeat([0, 1, 2], [60, 12, 8]), BALANCED)
  report.write(tmp_path, STUDY, results, of_one_setting(answer), None)
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert rows[1]['measure'] == 'validation_balanced_accuracy'
  assert float(rows[1]['measured']) == pytest.approx(1 / 3)
  lines = (tmp_path / 'summary.md').read_text().splitlines()
  (head,) = (line for line in lines if 'training accuracy' in line)
  row = lines[lines.index(head) + 3]
  cells = dict(zip(head.split(' | '), row.split(' | '), strict=True))
  assert cells['validation balanced accuracy'] == '33.3 %'


def test_axes_and_metrics_are_columns(finished, tmp_path):
  results = [
    dataclasses.replace(
      result, metrics={'validation_top5': value}, axes={'optimizer.momentum': momentum}
    )
    for momentum in (0.0, 0.9)
    for result, value in zip(finished[0], (None, 0.75, 0.5), strict=True)
  ]
  whole = axes.answer(results, np.arange(200) % 10, Measure('validation_top5'), 2.3)
  report.write(tmp_path, STUDY, results, whole, None)
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert [row['optimizer.momentum'] for row in rows] == ['0.0'] * 3 + ['0.9'] * 3
  assert [row['validation_top5'] for row in rows[:3]] == ['', '0.75', '0.5']
  content = report.read_content(tmp_path)
  assert content['trials'][1]['metrics'] == {'validation_top5': 0.75}
  assert content['trials'][-1]['axes'] == {'optimizer.momentum': 0.9}
  read_results, read_answer = report.read(tmp_path)
  assert read_results == results
  assert read_answer.leads == Measure('validation_top5')
  assert report.of_settings(content).keys() == whole.of_setting.keys()
  lines = (tmp_path / 'summary.md').read_text().splitlines()
  assert '## Momentum 0.9' in lines
  heads = '| optimizer.momentum | rate to use | validation top5 | 90 % interval |'
  rows = lines[lines.index(heads) + 2 :][:2]
  assert [row.rpartition(' | ')[0] for row in rows] == [
    '| 0 | **1e-03** | 75.0 %', '| 0.9 | **1e-03** | 75.0 %',
  ]  # fmt: skip
  assert sum(line.startswith('In bold') for line in lines) == 1
  assert any(line.startswith('| **1e-03** | 75.0 % |') for line in lines)
  assert any('| optimizer.momentum | rate |' in line for line in lines)
  assert any(
    '| 0.9 | 1e-03 | 0 |' in line and '| 75.0 % | still improving |' in line for line in lines
  )
  assert '![Validation top5 against the rate (momentum 0.9)](figures/momentum_0.9/' in ''.join(
    lines
  )


def test_the_loss_that_validates_is_told_where_it_is_swept():
  assert describe.evaluation(STUDY['config']) == ''
  config = STUDY['config'] | {
    'loss': {'name': 'cross_entropy', 'smoothing': 0.0},
    'axes': {'loss.smoothing': [0.0, 0.1]},
  }
  assert 'with loss.smoothing 0, as the config has it' in describe.evaluation(config)
  config['axes'] = {'loss.name': ['cross_entropy', 'focal']}
  assert describe.evaluation(config).startswith('Settings that differ in loss.name have losses of')


def test_a_run_is_described_by_what_differs_from_the_defaults():
  config = STUDY['config'] | {
    'model': {'name': 'gone/my_models.py:Net', 'width': 0.5, 'sizes': [1, 2], 'norm': 'group'},
    'schedule': {'name': 'piecewise', 'from_epochs': [9, 12], 'heights': [0.1, 0.01]},
    'loss': {'name': 'cross_entropy', 'smoothing': 0.1},
    'optimizer': {'name': 'adamw', 'weight_decay': 0.1, 'b1': 0.9},
    'dtype': 'bfloat16',
    'axes': {'optimizer.weight_decay': [0.0, 1e-4]},
  }
  assert describe.run(config) == (
    'gone/my_models.py:Net (width 0.5, norm group), adamw (weight_decay 0/1e-04), schedule '
    'piecewise (from_epochs 9 12), loss cross_entropy (smoothing 0.1), bfloat16'
  )
  assert 'schedules constant and piecewise,' in describe.run(config, ('constant', 'piecewise'))
  record = STUDY['data'] | {'name': 'npz', 'classes': ['a'], 'shape': [3, 100]}
  arrays = describe.data(config | {'data': {'name': 'npz:x.npz'}}, record)
  assert arrays == '30 training and 10 validation samples of 1 classes of npz'


@pytest.fixture
def two_seeds(tmp_path):
  """Two seeds of three rates; the largest rate diverges with one of them, at step 11."""
  history = History(tmp_path / 'two_seeds', 60, 2, 6)
  loss = np.linspace(2.3, 0.3, 60)[:, None] * [1, 1, 1, 2, 1, 1]
  loss[10:, 1] = np.nan
  history.write_steps(0, {'loss': loss, 'accuracy': 1 - loss / 5, 'gradient_norm': loss})
  for epoch in range(2):
    ends = [0.5, np.nan, 0.6, 0.7, 0.3, 0.2]
    history.write_epoch(epoch, dict.fromkeys(EPOCH_CURVES, ends))
  rates = np.repeat(RATES, 2).tolist()
  results = verdict.results(history, planned(rates, [0, 1] * 3, 2), np.arange(2000) % 10, [60] * 6)
  return history, results, verdict.judge(results, np.arange(2000) % 10)


def test_a_table_of_rates_in_the_summary(two_seeds, tmp_path):
  _, results, answer = two_seeds
  report.write(tmp_path, STUDY, results, of_one_setting(answer), None)
  lines = (tmp_path / 'summary.md').read_text().splitlines()
  assert lines[4].startswith('| rate | validation accuracy | 90 % interval | probability')
  low, high = (f'{100 * end:.1f}' for end in answer.intervals['1e-03'])
  sure = formats.percent(answer.probability_best['1e-03'])
  assert f'| **1e-03** | 65.0 % | {low} to {high} % | {sure} | still improving |' in lines
  assert '| 1e-02 | – | – | 0.0 % | 1 still improving, 1 diverged |' in lines
  assert report.read(tmp_path)[1].probability_best == answer.probability_best


def study_of(**config):
  return {
    'config': {'epochs': 3, 'data': {'dir': 'a', 'seed': 0}} | config,
    'data': {'fingerprint': 'f'},
  }


def test_a_work_directory_belongs_to_one_study(tmp_path):
  folder = tmp_path / 'runs' / 'a'
  workdir.claim(folder, study_of(epochs=2), overwrite=False)
  workdir.claim(folder, study_of(), overwrite=False)  # the first one left nothing but its config
  (folder / 'history').mkdir()
  workdir.claim(folder, study_of(), overwrite=False)
  with pytest.raises(StudyError, match=r'data\.seed 0 -> 1, epochs 3 -> 4; .*--overwrite'):
    workdir.claim(folder, study_of(epochs=4, data={'dir': 'b', 'seed': 1}), overwrite=False)
  other = study_of(data={'dir': 'b', 'seed': 0}) | {'data': {'fingerprint': 'g'}}
  with pytest.raises(StudyError, match=r"other images: .* was f and is g, data\.dir 'a' -> 'b'; "):
    workdir.claim(folder, other, overwrite=False)


@pytest.mark.parametrize('content', ['', '{', '{}', '[]'])
def test_damaged_files_are_named(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  (tmp_path / 'history').mkdir()
  with pytest.raises(StudyError, match=r'config\.json is damaged'):
    workdir.claim(tmp_path, study_of(), overwrite=False)
  (tmp_path / 'results.json').write_text(content)
  with pytest.raises(StudyError, match=r'results\.json is damaged'):
    report.read(tmp_path)


def test_a_kill_in_the_first_write_is_no_obstacle(tmp_path):
  (tmp_path / 'config.json.part').write_text('{')
  workdir.claim(tmp_path, study_of(), overwrite=False)
  assert json.loads((tmp_path / 'config.json').read_text()) == study_of()


def test_files_are_utf_8_whatever_they_hold(tmp_path):
  workdir.write_text(tmp_path / 'x', '\u2013 \udcff')
  assert (tmp_path / 'x').read_bytes() == b'\xe2\x80\x93 \\udcff'


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(StudyError, match='holds files, but not a study'):
    workdir.claim(tmp_path, study_of(), overwrite=False)
  assert [file.name for file in tmp_path.iterdir()] == ['thesis.tex']


def test_a_work_directory_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(StudyError, match=r'cannot write .*choose another --workdir'):
    workdir.claim(tmp_path / 'file' / 'runs', study_of(), overwrite=False)


def test_formats():
  assert [formats.rate(r) for r in (0.1, 1e-7, 2.5e-3, 1.0)] == [
    '1e-01', '1e-07', '2.5e-03', '1e+00',
  ]  # fmt: skip
  assert formats.percent(0.9314) == '93.1 %'
  assert formats.loss(2.3026) == '2.3'
  assert [formats.duration(s) for s in (5, 89, 700, 12_000, 400_000)] == [
    '5 s', '89 s', '12 min', '3 h 20 min', '4 days 15 h',
  ]  # fmt: skip
