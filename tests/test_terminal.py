"""What a person sees: screens of a terminal, drawn again and again, and plain lines elsewhere."""

import contextlib
import os
import re
import sys
import threading
import time

import numpy as np
import pyte
import pytest
from helpers import planned

from lr_study import progress
from lr_study.answer import verdict
from lr_study.answer.measure import LOSS
from lr_study.files.history import EPOCH_CURVES, History
from lr_study.report import terminal
from lr_study.training_view import Board, TimeLeft, TrainingView

RATES, SEEDS = [1e-2] * 2 + [1e-3] * 2, [0, 1] * 2
TRIALS = planned(RATES, SEEDS, epochs=2)
GOOD = np.zeros(4, int)


class Screen:
  """A terminal that the standard output of this process is."""

  def __init__(self, monkeypatch, columns, lines):
    for name in ('COLUMNS', 'LINES', 'NO_COLOR', 'FORCE_COLOR', 'TTY_COMPATIBLE'):
      monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm-256color')
    self._asked, (self._ours, theirs) = 0, os.openpty()
    self._screen = pyte.HistoryScreen(columns, lines)
    self._stream, self._ended = pyte.ByteStream(self._screen), threading.Event()
    self.resize(columns, lines)
    self.file = os.fdopen(theirs, 'w', buffering=1)
    for name in ('stdout', 'stderr'):
      monkeypatch.setattr(sys, name, self.file)
    # Rich asks the standard streams of the process, which are those of the tests.
    monkeypatch.setattr(os, 'get_terminal_size', lambda _: os.terminal_size(self._size))
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self):
    with contextlib.suppress(OSError):  # the other end was closed
      while data := os.read(self._ours, 2**16):
        self._stream.feed(data)

  def resize(self, columns, lines):
    self._size = columns, lines
    self._screen.resize(lines, columns)

  def shown(self):
    """Its lines, once all that was written has come."""
    self._asked += 1
    self.file.write(f'\x1b]0;{self._asked}\x07')  # the window's title
    self.file.flush()
    deadline = time.monotonic() + 20
    while self._screen.title != str(self._asked) and time.monotonic() < deadline:
      time.sleep(0.01)
    return [line.rstrip() for line in self._screen.display]

  def text(self):
    return [line for line in self.shown() if line]


@pytest.fixture
def screen(monkeypatch):
  made = []

  def make(columns=80, lines=24):
    made.append(Screen(monkeypatch, columns, lines))
    return made[-1]

  yield make
  for one in made:
    one.file.close()


def history_of(folder, diverging=0):
  """60 steps in two epochs; the first `diverging` trials diverge at step 11."""
  history = History(folder, 60, 2, 4)
  loss = np.linspace(2.3, 0.3, 60)[:, None] * [1, 1, 2, 4]
  loss[10:, :diverging] = np.nan
  history.write_steps(0, {'loss': loss, 'accuracy': loss, 'gradient_norm': loss})
  for epoch in range(2):
    history.write_epoch(epoch, {name: [0.125, 0.375, 0.5, 0.75] for name in EPOCH_CURVES})
  return history


def view_of(trials=TRIALS, board=None, steps=60, epochs=2, **options):
  return TrainingView(board or Board(), trials, [''] * len(trials), steps, epochs, **options)


def chunk(view, done, bad=GOOD, columns=range(4), loss=1.0):
  columns = np.asarray(columns)
  view.steps(done, columns, {'loss': np.full((10, len(columns)), loss)}, np.asarray(bad))


def test_the_time_left_comes_first_and_a_rate_is_a_row(screen, tmp_path):
  seen = screen()
  with view_of() as view:
    view.start(history_of(tmp_path), 0)
    chunk(view, 30, [11, 11, 0, 25])
    view.epoch(np.asarray([np.nan, np.nan, 0.5, np.nan]))
    lines = seen.text()
  assert re.search(r'━ 50 %, \d+ s left: epoch 1 of 2, step 30 of 60', lines[0])
  rows = [line.split() for line in lines if line.startswith('1e-')]
  assert rows == [
    ['1e-02', '2', '–', '–', 'diverged', 'at', 'step', '11'],
    ['1e-03', '1', 'of', '2', '1', '50.0', '%', 'training,', '1', 'diverged'],
  ]
  assert seen.text() == []  # nothing is left of it


def test_a_resumed_study_shows_at_once_what_is_known(screen, tmp_path):
  """Its trials that diverged, the last evaluation, and the trials of waves that have ended."""
  seen, history, board = screen(), history_of(tmp_path, diverging=2), Board()
  earlier = planned([1e-4], [0], epochs=2)
  ended = History(tmp_path / 'ended', 60, 2, 1)
  ended.write_steps(0, {name: np.ones((60, 1)) for name in ('loss', 'gradient_norm')})
  ended.write_epoch(1, {name: [0.25] for name in EPOCH_CURVES})
  board.read(board.add(earlier, ['']), ended, 60)
  with view_of(board=board) as view:
    view.start(history, 40)
    view._drawn.update()
    lines = seen.text()
  assert 'timing: epoch 2 of 2, step 40 of 60' in lines[0]
  rows = [' '.join(line.split()) for line in lines if line.startswith('1e-')]
  assert rows[0] == '1e-02 2 – – diverged at step 11'
  assert rows[1].endswith(' 62.5 % training')
  assert rows[2] == '1e-04 1 1 25.0 % finished'


@pytest.mark.parametrize(('columns', 'lines'), [(80, 24), (40, 12), (40, 6), (20, 3)])
def test_it_is_never_taller_or_wider_than_the_window(screen, tmp_path, columns, lines):
  """Of 50 rates the best are shown, and the others counted."""
  rates = [10**-k for k in range(1, 51)]
  trials, seen = planned(rates, [0] * 50, epochs=2), screen(columns, lines)
  history = History(tmp_path, 60, 2, 50)
  print('first')
  with view_of(trials) as view:
    view.start(history, 0)
    chunk(view, 30, [11] * 20 + [0] * 30, range(50))
    view.epoch(np.asarray([np.nan] * 20 + [k / 100 for k in range(30)]))
    shown = seen.shown()
  if lines > 3:
    assert shown[0] == 'first'  # nothing was scrolled away
    assert 'left' in ' '.join(shown[1:3])
    said = ' '.join(shown)
    assert 'more rates, 20 of them diverged' in said
    assert '29.0 %' in said or lines < 12  # the best one
    assert ('loss' in said) == (columns > 40)  # figures are whole, and heads
    if lines >= 12:
      assert 'accuracy' in said
      assert '…' not in said
  assert seen.text() == ['first']


def test_a_narrower_window_leaves_nothing_torn(screen, tmp_path):
  """A terminal that wraps its lines anew has more of them than were drawn."""
  seen = screen(80, 24)
  print('first')
  with view_of() as view:
    view.start(history_of(tmp_path), 0)
    chunk(view, 30)
    before = seen.shown()
    wrapped = [line[k : k + 40] for line in before for k in range(0, max(1, len(line)), 40)]
    seen.resize(40, 24)
    # pyte cuts lines off where others wrap them: write what those would show.
    seen._screen.reset()
    rows = wrapped[: 1 + max(i for i, line in enumerate(wrapped) if line)]
    seen._stream.feed('\r\n'.join(rows).encode())
    view._drawn.update()
    after = seen.text()
  assert after[0] == 'first'
  assert sum('left' in line for line in after) == 1
  assert sum(line.startswith('1e-02') for line in after) == 1
  assert seen.text() == ['first']


def test_lines_in_between_come_above(screen, tmp_path):
  seen = screen()
  with view_of() as view:
    view.start(history_of(tmp_path), 0)
    chunk(view, 30)
    progress.note('a note')
    print('an error', file=sys.stderr)
    lines = seen.text()
  assert lines[:2] == ['a note', 'an error']
  assert sum(line.startswith('1e-02') for line in lines) == 1
  assert seen.text() == ['a note', 'an error']


def test_after_an_error_nothing_is_left(screen, tmp_path):
  seen = screen()
  with contextlib.suppress(KeyboardInterrupt), view_of() as view:
    view.start(history_of(tmp_path), 0)
    raise KeyboardInterrupt
  print('error: this')
  assert seen.text() == ['error: this']
  with progress.Drawn(lambda _: 'another') as drawn:
    assert drawn.is_shown  # the place is free again


def test_ctrl_c_is_acknowledged(screen, tmp_path):
  seen, asked = screen(), []
  with view_of(is_stopping=lambda: bool(asked)) as view:
    view.start(history_of(tmp_path), 0)
    asked.append(2)
    view._drawn.update()
    assert 'Stopping: finishing the current steps' in ' '.join(seen.text())


def test_a_spinner_says_what_takes_a_while(screen):
  seen = screen(40, 12)
  with progress.working('Rendering 7000 letters of 84 px, at once and once for all'):
    lines = seen.text()
    progress.note('in between')
  assert [line.lstrip('⠋⠙⠹ ') for line in lines] == [
    'Rendering 7000 letters of 84 px, at', 'once and once for all',
  ]  # fmt: skip
  assert seen.text() == [
    'in between', 'Rendering 7000 letters of 84 px, at once', 'and once for all',
  ]  # fmt: skip
  with progress.working('Drawing', keep=False):
    pass
  assert len(seen.text()) == 3


@pytest.mark.parametrize('forced', ['', '1'])
def test_spinners_are_lines_where_no_terminal_is(capsys, monkeypatch, forced):
  monkeypatch.setenv('FORCE_COLOR', forced)  # as in a notebook
  with progress.working('Compiling'), progress.working('Timing', keep=False):
    assert capsys.readouterr().out == 'Compiling\n'
  assert capsys.readouterr().out == ''


def test_lines_break_between_words(screen, capsys):
  path = '/a/' + 'long_name/' * 6
  progress.note(f'There is one word that is too long: {path} and others')
  assert capsys.readouterr().out == f'There is one word that is too long: {path} and others\n'
  seen = screen(40, 12)
  progress.note(f'There is one word that is too long: {path} and others')
  assert seen.text() == ['There is one word that is too long:', path[:40], path[40:], 'and others']


def test_a_line_per_epoch_where_no_terminal_is(tmp_path, capsys):
  rates = [10**-k for k in range(1, 51)]
  trials = planned(rates, [0] * 50, epochs=2)
  with view_of(trials, title='round 2') as view:
    view.start(History(tmp_path, 60, 2, 50), 0)
    for done in (10, 20, 30):
      chunk(view, done, [11, 11] + [0] * 48, range(50))
    view.epoch(np.asarray([np.nan] * 2 + [0.5 - k / 100 for k in range(48)]))
    chunk(view, 60, [0] * 50, range(50))
    view.epoch(np.asarray([np.nan] * 50))
  said = re.sub(r'\d+ s left', '0 s left', capsys.readouterr().out)
  assert said.splitlines() == [
    'round 2: epoch 1 of 2, step 30 of 60, 0 s left: validation accuracy 50.0 % at 1e-03, 49.0 % '
    'at 1e-04, 48.0 % at 1e-05, 47.0 % at 1e-06, 46.0 % at 1e-07, and 43 worse; diverged: 1e-01, '
    '1e-02',
    'round 2: epoch 2 of 2: validation accuracy 50.0 % at 1e-03, 49.0 % at 1e-04, 48.0 % at 1e-05, '
    '47.0 % at 1e-06, 46.0 % at 1e-07, and 43 worse; diverged: 1e-01, 1e-02',
  ]


def test_settings_and_another_measure(screen, tmp_path, capsys):
  names = ['momentum 0', 'momentum 0', 'momentum 0.9', 'momentum 0.9']
  board = Board(LOSS)
  trials = planned([1e-2, 1e-3] * 2, [0] * 4, epochs=2)
  with TrainingView(board, trials, names, 60, 2) as view:
    view.start(history_of(tmp_path), 0)
    chunk(view, 60)
    view.epoch(np.asarray([0.51234, np.nan, 0.25, 3]))
  assert capsys.readouterr().out == (
    'epoch 2 of 2: validation loss 0.25 at 1e-02 (momentum 0.9), 0.512 at 1e-02 (momentum 0), '
    '3 at 1e-03 (momentum 0.9)\n'
  )
  seen = screen(100, 24)
  with TrainingView(board, trials, names, 60, 2) as view:
    view._drawn.update()
    rows = [' '.join(line.split()) for line in seen.text() if line.startswith('momentum')]
  assert rows[2] == 'momentum 0.9 1e-02 1 1 0.25 finished'


def test_the_time_left_counts_departures():
  """Steps of 100 ms with four trials, evaluations of a second; then two trials leave."""
  left = TimeLeft(1000, 10)
  left.start(50.0, 0)
  left.stepped(60.0, 100, 4)
  assert left.seconds(60.0, 4) == pytest.approx(90)
  left.evaluated(61.0, 4)
  assert left.seconds(61.0, 4) == pytest.approx(90 + 9)
  assert left.seconds(63.0, 4) == pytest.approx(90 + 9 - 2)  # the clock goes on
  assert left.seconds(61.0, 2) == pytest.approx((90 + 9) / 2)
  left.stepped(68.0, 200, 2)  # 70 ms a step: half the trials are not half the time
  assert left.seconds(68.0, 2) == pytest.approx(800 * 0.07 + 8 * 0.5)


def test_the_view_and_the_answer_name_the_same_bad_step(tmp_path):
  """Whether the loss broke, the gradient, or the evaluation after the last step."""
  history = history_of(tmp_path, diverging=1)
  history.steps['gradient_norm'][35, 1] = np.inf
  history.epochs['validation_loss'][-1, 2] = np.nan
  results = verdict.results(history, TRIALS, np.arange(200) % 10, [60] * 4)
  assert [r.first_bad_step for r in results] == [11, 36, 60, None]
  view = view_of()
  for first in range(0, 60, 15):
    chunk(view, first + 15, history.first_bad_steps(first, first + 15))
  assert [trial.bad_step for trial in view._trials] == [11, 36, 0, 0]
  view.diverged(history.first_bad_steps(45, 60, evaluated=True))
  assert [trial.bad_step for trial in view._trials] == [11, 36, 60, 0]
  gone_on = view_of()  # of a study that was stopped at step 40
  gone_on.start(history, 40)
  assert [trial.bad_step for trial in gone_on._trials] == [11, 36, 0, 0]


def answered(folder, settings=1):
  history = history_of(folder, diverging=1)
  results, verdicts = [], {}
  for k in range(settings):
    axes = (('optimizer.momentum', k / 2),)
    trials = [trial._replace(axes=axes) for trial in TRIALS]
    own = verdict.results(history, trials, np.arange(200) % 10, [60] * 4)
    results += own
    verdicts[own[0].setting] = verdict.judge(own, np.arange(200) % 10)
  return results, verdicts, next(iter(verdicts.values()))


def test_the_answer_has_a_row_for_each_rate(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  results, verdicts, answer = answered(tmp_path)
  terminal.tell(results, verdicts, answer)
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == answer.sentence
  rows = [' '.join(line.split()) for line in lines if line.startswith('1e-')]
  low, high = (f'{100 * end:.1f}' for end in answer.intervals['1e-03'])
  assert rows[0] == '1e-02 – – 0.0 % 1 diverged, 1 still improving'
  assert rows[1] == f'1e-03 62.5 % {low} to {high} % 100.0 % still improving'


def test_the_answer_of_several_settings(tmp_path, screen):
  results, verdicts, answer = answered(tmp_path, settings=2)
  seen = screen(60, 40)
  terminal.tell(results, verdicts, answer)
  lines = [' '.join(line.split()) for line in seen.text()]
  assert any(line.startswith('0.5 1e-03 62.5 %') for line in lines)
  assert 'The rates at momentum 0:' in lines
  assert sum(line.startswith('1e-03 62.5 %') for line in lines) == 1
