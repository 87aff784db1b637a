"""The charts of a page, the page of a study that trains, and the commands to go on with."""

import json
import shlex
import shutil
import subprocess
import types

import numpy as np
import pytest
from conftest import make_small
from ml_collections import ConfigDict
from test_page import Page, check_structure, drawn, make_study

from lr_study import cli, prepare, progress, trials
from lr_study import study as studies
from lr_study.answer.measure import ACCURACY, LOSS
from lr_study.config import check
from lr_study.report import charts, html, live, next_steps, page, report
from lr_study.search import rounds
from lr_study.use import evaluate


def trials_of(folder):
  results, _ = report.read(folder)
  return charts.trials_of(folder, results, report.of_settings(report.read_content(folder)))


def test_curves_are_means_up_to_where_a_trial_diverged(tmp_path):
  make_study(tmp_path, (1e-2, 1e-3), epochs=20, batch_size=1)  # 2400 steps: 150 windows of 16
  of = trials_of(tmp_path)
  found = charts.content(of, ACCURACY, (), 1.4, 0.25)
  curves = {chart['name']: chart for chart in found['charts']}
  (line,) = curves['train_loss']['lines']  # the other one diverged in its first window
  assert line['trial'] == 1
  loss = np.linspace(1.4, 0.3, 2400)
  np.testing.assert_allclose(line['y'], loss.reshape(150, 16).mean(1), rtol=1e-4)
  np.testing.assert_allclose(curves['train_loss']['x'][0], np.arange(1, 151) * 16 / 120, 1e-4)
  assert curves['train_loss']['level'] == {'value': 1.4, 'name': 'guessing'}
  assert charts.undrawn_words(of) == '1e-02 at step 11'
  later = [of[0], of[0]._replace(bad_step=13)]
  assert charts.undrawn_words(later) == '1e-02 at steps 11 to 13 (2 trials)'
  (line,) = curves['validation_loss']['lines']
  assert line['y'] == [0.5] * 20
  assert curves['validation_loss']['x'] == [list(range(1, 21))]
  assert curves['validation_accuracy']['level'] == {'value': 0.25, 'name': 'guessing'}
  assert [trial['diverged'] for trial in found['trials']] == [11, None]
  later = charts.content([of[1]._replace(bad_step=100)], ACCURACY, (), 1.4, 0.25)['charts'][0]
  (line,) = later['lines']
  assert len(line['y']) == 99 // 16  # whole windows of finite losses
  assert [trial['value'] for trial in found['trials']] == [None, 0.5]


def test_many_trials_have_fewer_points(tmp_path):
  make_study(tmp_path, (1e-2, 1e-3), epochs=20, batch_size=1, diverged=())
  (trial, _) = trials_of(tmp_path)
  found = charts.content([trial] * 1000, LOSS, (), 1.4, None)
  lengths = {len(line['y']) for chart in found['charts'] for line in chart['lines']}
  assert max(lengths) <= 40
  assert found['charts'][0]['lines'][0]['y'][-1] == pytest.approx(0.3, abs=0.02)  # to the end


def test_a_rate_has_one_colour_that_can_be_seen(tmp_path):
  make_study(tmp_path, (1e-2, 1e-3, 1e-4))
  page.write(tmp_path)
  rates = drawn((tmp_path / page.NAME).read_text())['rates']
  assert [rate['name'] for rate in rates] == ['1e-02', '1e-03', '1e-04']
  assert len({rate['light'] for rate in rates}) == len({rate['dark'] for rate in rates}) == 3


def test_what_is_drawn_cannot_end_its_script():
  text = html._data({'name': '</script><script>alert(1)</script><!--', 'x': [None, 1.5]})
  assert '<' not in text
  assert json.loads(text)['name'].startswith('</script>')
  with pytest.raises(ValueError, match='JSON'):
    html._data([float('nan')])


def test_figures_for_print_are_those_of_the_folder(tmp_path):
  make_study(tmp_path)
  page.write(tmp_path)
  assert 'class="still"' not in (tmp_path / page.NAME).read_text()
  file = tmp_path / 'figures' / 'all_rates.png'
  file.write_bytes(b'\x89PNG')
  page.write(tmp_path)
  found = check_structure((tmp_path / page.NAME).read_text())
  (still,) = (a for _, a, _ in found.all('img') if a.get('class') == 'still')
  assert still['src'] == 'data:image/png;base64,iVBORw=='


ARGUMENTS = (
  'python scripts/',
  '--config=configs/alexnet_letters.py:quick',
  '--config.seeds=0',
  '--axis=seed=0',
)


def steps_of(folder, arguments=ARGUMENTS, **changes):
  """The commands of a study's page, as lists of arguments."""
  make_study(folder, **changes)
  content = report.read_content(folder)
  content['study'] |= {'command': list(arguments)} if arguments else {}
  report.write_content(folder, content)
  page.write(folder)
  found = Page((folder / page.NAME).read_text()).all('pre')
  return [shlex.split(text) for _, _, text in found]


def test_commands_to_go_on_with(tmp_path):
  folder = tmp_path / "it's a <b>study"
  seeds, finer, classify, export = steps_of(folder, rates=(1e-2, 1e-3, 1e-4))
  start = ['python', 'scripts/sweep.py', f'--workdir={folder}', '--extend', ARGUMENTS[1]]
  assert seeds == [*start, '--config.seeds=0,1,2']
  rates = '--config.learning_rates=1e-02,3.16e-03,1e-03,3.16e-04,1e-04'
  assert finer == [*start, *ARGUMENTS[2:], rates]
  assert classify == ['python', 'scripts/classify.py', f'--workdir={folder}', '--part=validation']
  assert export[-1] == f'--out={folder}_model'
  # Those that fit an installation; who called the function has no config file.
  assert steps_of(tmp_path / 'b', ('lr-study', '--config=x'))[0][:2] == ['lr-study', 'sweep']
  starts = [command[:4] for command in steps_of(tmp_path / 'c', ())]
  assert starts == [['python', '-m', 'lr_study', name] for name in ('classify', 'export')]


def test_a_stopped_study_is_continued(tmp_path):
  """Its so_far/ has no weights, and is not where it trains."""
  folder = tmp_path / 'study' / 'so_far'
  make_study(folder, examined=False)
  content = report.read_content(folder)
  content['study'] |= {'command': list(ARGUMENTS), 'stopped': 'Stopped by --time_limit.'}
  report.write_content(folder, content | {'best_trial': None})
  page.write(folder)
  text = (folder / page.NAME).read_text()
  (only,) = [shlex.split(text) for _, _, text in Page(text).all('pre')]
  assert only == ['python', 'scripts/sweep.py', f'--workdir={folder.parent}', *ARGUMENTS[1:]]
  assert 'Mistakes are counted when the study has ended.' in text
  assert 'There is no rate to use' not in text


def test_more_seeds_than_the_study_has():
  """Where they would tell more: with one, with two, or where rates cannot be told apart."""
  verdict = types.SimpleNamespace(learning_rate=1e-2, indistinguishable=(1e-2,))

  def wanted(seeds, alike=1):
    verdict.indistinguishable = (1e-2, 1e-3)[:alike]
    return next_steps._wanted_seeds(seeds, verdict)

  assert [wanted(1), wanted(2), wanted(3), wanted(3, 2), wanted(7, 2)] == [3, 4, 0, 6, 0]


def test_a_study_of_objects_goes_on_in_python(tmp_path):
  make_study(tmp_path)
  config, study, *found = evaluate.read_study(tmp_path)
  config = config.copy_and_resolve_references().unlock()
  config.data.name = 'object:arrays'
  (step,) = next_steps.steps('runs/a', study, config, *found)
  assert step.command == "lr_study.read('runs/a').best.export('runs/a_model')"
  config.model.name, config.metrics = 'object:0123abcd:Net', ('f1', 'object:0123abcd:margin')
  (step,) = next_steps.steps('runs/a', study, config, *found)
  own = "'runs/a', model=Net, metrics=['f1', margin]"
  assert step.command == f"lr_study.read({own}).best.export('runs/a_model')"


def test_commands_where_the_grid_ends_or_nothing_learned(tmp_path):
  for name, changes, expected in (
    ('largest', {'rates': (1e-3, 1e-4), 'diverged': ()}, '1e-02,1e-03,3.16e-04,1e-04'),
    ('all diverged', {'diverged': (1e-2, 1e-3)}, '1e-02,1e-03,1e-04,1e-05'),
  ):
    *_, words = [a for of in steps_of(tmp_path / name, seeds=(0, 1, 2), **changes) for a in of
                 if a.startswith('--config.learning_rates=')]  # fmt: skip
    assert words == f'--config.learning_rates={expected}'
  optuna = ConfigDict({'name': 'optuna', 'trials': 2})
  found = steps_of(tmp_path / 'optuna', search=optuna, seeds=(0, 1, 2))
  assert [command[1] for command in found] == ['scripts/classify.py', 'scripts/export.py']


def test_a_command_is_kept_as_it_was_given(monkeypatch):
  """But for what is not of the study, such as its folder."""
  given = ['--workdir', 'w', '--config', 'a.py:b', '-axis', 'batch_size=1,2', '--config.seeds=0,1']
  further = ['--config.input.grey', '--noconfig.input.invert', '--extend', '--ray=auto']
  monkeypatch.setattr(cli, '_ARGV', ['x', *given, *further])
  monkeypatch.setattr(cli.sys, 'argv', ['lr-study sweep', *given, *further])
  assert cli.study_command() == [
    'lr-study', '--config=a.py:b', '--axis=batch_size=1,2', '--config.seeds=0,1',
    '--config.input.grey', '--noconfig.input.invert',
  ]  # fmt: skip


def test_the_commands_of_a_page_run(command, whole, tmp_path):
  """All of them, as they stand on the page of a study that was run by the command."""
  folder = tmp_path / 'study'
  shutil.copytree(whole[0], folder)
  config, study, results, verdict = evaluate.read_study(folder)
  found = next_steps.steps(folder, study, config, results, verdict)
  assert [shlex.split(step.command)[1] for step in found] == [
    'scripts/sweep.py', 'scripts/sweep.py', 'scripts/classify.py', 'scripts/export.py',
  ]  # fmt: skip
  for step in (found[0], found[2]):
    _, script, *arguments = shlex.split(step.command)
    status, out, errors = command(script.removeprefix('scripts/'), *arguments, draws=False)
    assert (status, errors) == (0, ''), out
  assert {result.seed for result in report.read(folder)[0]} == {0, 1, 2}


def test_a_page_while_a_study_trains(tmp_path, cache_dir, monkeypatch):
  config = make_small(cache_dir)
  config.epochs, config.learning_rates = 3, (1e5, 1e-2)
  config.model = ConfigDict({'name': 'mlp', 'hidden': (8,), 'dropout': 0.0})
  monkeypatch.setattr(live, '_SHARE', 1e9)  # after every epoch
  monkeypatch.setattr('lr_study.report.pictures.build', lambda *_: {})
  evaluate_now, calls = trials.evaluate, []

  def interrupted(*arguments):
    calls.append(len(calls))
    if len(calls) == 3:
      raise KeyboardInterrupt
    return evaluate_now(*arguments)

  monkeypatch.setattr(trials, 'evaluate', interrupted)
  with pytest.raises(KeyboardInterrupt):
    studies.run(config, tmp_path)
  text = (tmp_path / page.NAME).read_text()
  found = check_structure(text)
  assert found.all('p')[0][2] == 'Epoch 2 of 3'
  assert 'there is no verdict yet. 1 of 2 trials have finished or diverged.' in text
  rows = [row for _, a, row in found.all('tr') if 'data-rate' in a]
  assert rows[0].startswith('1e+05')
  assert rows[0].startswith('1e+050 of 3')  # it has not trained an epoch
  assert rows[0].endswith('–diverged')
  assert rows[1].startswith('1e-022 of 3')
  assert rows[1].endswith(' %training')
  curves = {chart['name']: chart['lines'] for chart in drawn(text)['charts']}
  assert [len(line['y']) for line in curves['validation_loss']] == [2]
  (charted,) = (chart for chart in drawn(text)['charts'] if chart['name'] == 'train_loss')
  assert charted['x'][0][-1] == 2  # not the last epoch that is still to come
  assert not page.is_final(tmp_path)
  of_study = live.Study(tmp_path, {}, sweeps_of(config), np.zeros(0), 0.0, ())
  wave_is_left_out_while_its_files_are_created(of_study)
  answer = studies.run(config, tmp_path)
  # While later waves train, as the page has it of those before.
  ended = live._trials(of_study, rounds.read(tmp_path / 'history'))
  assert [live._status(trial) for trial in ended] == ['diverged', 'finished']
  assert page.is_final(tmp_path)
  assert answer.sentence in Page((tmp_path / page.NAME).read_text()).all('p')[1][2]


def sweeps_of(config):
  of_study = rounds.settings(check(config))
  with progress.quiet():
    return prepare.sweeps(config, of_study, prepare.load(config, of_study))


def wave_is_left_out_while_its_files_are_created(study):
  """As those of another worker of a cluster, one after the other."""
  folder, (sweep,) = study.folder, study.sweeps.values()
  planned = rounds.read(folder / 'history')
  assert live._wave(folder, planned, 0, sweep) is not None
  last = folder / 'history' / 'wave_0' / 'epoch_sharpness.npy'
  for there in (b'', None):
    content = last.read_bytes()
    last.unlink() if there is None else last.write_bytes(there)
    assert live._wave(folder, planned, 0, sweep) is None
    last.write_bytes(content)


def test_a_page_takes_no_more_than_a_hundredth_of_the_time(monkeypatch):
  now, written = [0.0], []
  monkeypatch.setattr(live.time, 'monotonic', lambda: now[0])

  def write(study, planned):
    written.append(now[0])
    now[0] += 0.5

  monkeypatch.setattr(live, 'write', write)
  write_page = live.Page(None)
  for second in range(200):
    now[0] = max(now[0], second)
    write_page(rounds.Plan())
  assert written == [0, 50, 100, 150]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='needs chromium')
def test_a_browser_draws_a_page_without_a_word(tmp_path):
  make_study(tmp_path, (1e-2, 1e-3, 1e-4), (0, 7))
  page.write(tmp_path)
  options = ('--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=5000')
  logs = ('--enable-logging=stderr', '--v=0', '--dump-dom')
  done = subprocess.run(
    ['chromium', *options, *logs, f'file://{tmp_path / page.NAME}'],
    capture_output=True, text=True, check=True, timeout=120,
  )  # fmt: skip
  said = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
  assert [line for line in said if 'ResizeObserver loop' not in line] == []  # which means nothing
  assert done.stdout.count('class="bk-Figure"') == 6  # loss and accuracy, sharpness, by the rate
