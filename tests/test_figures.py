"""The figures of a study: what they show, and that they can be printed as they are."""

import dataclasses
import io
import re

import numpy as np
import pytest
from commands import ROOT
from helpers import planned
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from lr_study.answer import verdict
from lr_study.answer.measure import ACCURACY, LOSS, Measure
from lr_study.errors import StudyError
from lr_study.files.history import EPOCH_CURVES, History
from lr_study.report import drawing, figures, matrices, plotting, style
from lr_study.report.plotting import Label

RATES, GUESS = [1e-2, 1e-3, 1e-4], float(np.log(10))
ENDS = {'accuracy': [0.5, np.nan, 0.6, 0.7, 0.3, 0.2], 'loss': [1.5, np.nan, 1.2, 1.1, 2, 2.1]}
SMALL = {'lines.linewidth': 3.0, 'axes.prop_cycle': "cycler('color', ['111111', '222222'])"}


@pytest.fixture(autouse=True)
def all_formats(monkeypatch):
  monkeypatch.setattr(figures, 'FORMATS', ('png', 'pdf', 'svg'))


def heights(steps):
  return np.where(np.asarray(steps) < 30, 1.0, 0.1)


def history_in(folder):
  """Two seeds of three rates, 60 steps in two epochs; the second trial diverges at step 11."""
  history = History(folder / 'history', 60, 2, 6)
  loss = np.linspace(2.3, 0.3, 60)[:, None] * [1, 1, 1, 1.2, 1, 1]
  loss[10:, 1] = np.nan
  history.write_steps(0, {'loss': loss, 'accuracy': 1 - loss / 5, 'gradient_norm': loss})
  for epoch in range(2):
    history.write_epoch(epoch, dict.fromkeys(EPOCH_CURVES, ENDS['accuracy']))
    history.write_epoch(epoch, {'validation_loss': ENDS['loss']})
  return history


def judged(history, measure=ACCURACY, rates=RATES):
  rates = np.repeat(rates, 6 // len(rates))
  seeds = [i % (6 // len(set(rates))) for i in range(6)]
  labels = np.arange(2000) % 10
  results = verdict.results(history, planned(rates.tolist(), seeds, 2), labels, [60] * 6)
  return results, verdict.judge(results, labels, measure)


@pytest.fixture
def history(tmp_path):
  return history_in(tmp_path)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  """The figures of `history_in`. Tests leave them as they are."""
  history = history_in(tmp_path_factory.mktemp('drawn'))
  return figures.build(history, *judged(history), heights, GUESS)


def texts_of(axes):
  """Texts that are to be seen, by what they say."""
  return {text.get_text(): text for text in axes.texts if text.get_text()}


def lines_of(axes, rate, rates=RATES):
  """The lines of a rate that are curves."""
  colour = style.colour(rate, rates)
  lines = [line for line in axes.lines if to_hex(line.get_color()) == colour]
  return [line for line in lines if line.get_transform() == axes.transData]


def overlaps(texts):
  boxes = [text.get_window_extent() for text in texts]
  return sum(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])


def test_each_figure_is_there_for_screen_and_print(drawn, tmp_path):
  figures.draw(tmp_path / 'figures', drawn)
  files = {file.name for file in (tmp_path / 'figures').iterdir()}
  names = ('accuracy_by_rate', 'all_rates', 'rate_by_rate', 'schedule', 'sharpness')
  assert files == {f'{name}.{kind}' for name in names for kind in figures.FORMATS}
  for name in names:
    with Image.open(tmp_path / 'figures' / f'{name}.png') as image:
      assert np.asarray(image.convert('L')).std() > 10  # more than a blank sheet
      inches = image.width / 300
    assert inches in (pytest.approx(3.3, abs=0.01), pytest.approx(6.8, abs=0.01))
    assert '<svg' in (tmp_path / 'figures' / f'{name}.svg').read_text()


def test_a_printed_figure_embeds_true_type_and_tells_no_time(drawn):
  files = {}
  for kind in figures.FORMATS:
    both = [io.BytesIO(), io.BytesIO()]
    for stream in both:
      figures.save(drawn['accuracy_by_rate'], stream, kind)
    assert both[0].getvalue() == both[1].getvalue()
    files[kind] = both[0].getvalue()
  assert b'/FontFile2' in files['pdf']  # TrueType; Type 3 has none
  assert b'/Type3' not in files['pdf']
  assert b'CreationDate' not in files['pdf']
  assert b'<dc:date>' not in files['svg']


def test_training_stands_beside_validation(drawn, history):
  losses, validation, accuracies, measured = drawn['all_rates'].axes
  assert [axes.get_title() for axes in (losses, validation)] == ['training', 'validation']
  assert [axes.get_ylabel() for axes in (losses, accuracies)] == ['loss (nats)', 'accuracy']
  (line,) = lines_of(measured, 1e-3)
  assert line.get_ydata().tolist() == pytest.approx([0.65, 0.65])
  (line,) = lines_of(validation, 1e-3)
  assert line.get_ydata().tolist() == pytest.approx([1.15, 1.15])
  (line,) = lines_of(losses, 1e-4)
  np.testing.assert_allclose(line.get_ydata(), history.steps['loss'][:, 4], rtol=1e-5)
  band = measured.collections[1].get_paths()[0].vertices[:, 1]
  assert (band.min(), band.max()) == pytest.approx((0.2, 0.3))  # of 1e-04; the best is drawn last
  # The rate of which one seed diverged goes on with the other one, to its last step.
  (line,) = lines_of(losses, 1e-2)
  assert line.get_ydata()[-1] == pytest.approx(0.3)


def test_the_recommended_rate_is_thick_and_chance_is_a_line(drawn):
  for axes, level in zip(drawn['all_rates'].axes, (GUESS, GUESS, 0.1, 0.1), strict=True):
    widths = {rate: lines_of(axes, rate)[0].get_linewidth() for rate in RATES}
    assert widths[1e-3] > 2 * widths[1e-4] == 2 * widths[1e-2]
    assert [list(line.get_ydata()) for line in axes.lines].count([level, level]) == 1
    labels = texts_of(axes)
    assert labels.keys() == {'1e-02', '1e-03', '1e-04', 'chance'}
    assert labels['1e-03'].get_weight() == 'bold'
    assert labels['1e-02'].get_color() == style.colour(1e-2, RATES)


def test_a_rate_has_one_colour_in_all_settings(history):
  """The largest rate of the study may be in another setting."""
  results, answer = judged(history)
  drawn = figures.build(history, results, answer, heights, GUESS, [*RATES, 1.0])
  for name in ('all_rates', 'schedule'):
    assert lines_of(drawn[name].axes[0], 1e-3, [*RATES, 1.0])
    assert not lines_of(drawn[name].axes[0], 1e-2)  # whose colour would be that of 1.0


def test_labels_of_lines_that_end_together_do_not_overlap(history):
  history.steps['loss'][:] = np.linspace(2.3, 1, 60)[:, None]
  history.epochs['validation_loss'][:] = 1
  drawn = figures.build(history, *judged(history, rates=[10.0**-i for i in range(6)]), heights, 2.3)
  figure = drawn['all_rates']
  FigureCanvasAgg(figure).draw()
  for axes in figure.axes:
    labels = texts_of(axes).values()
    assert len(labels) in (6, 7)  # one of them diverged
    assert not overlaps(labels)
    for label in labels:  # within the sheet
      box = label.get_window_extent()
      assert box.x1 <= figure.bbox.x1
      assert box.y0 >= 0


@pytest.mark.parametrize(
  ('wanted', 'found'),
  [
    ([0.2, 0.5], [0.2, 0.5]),
    ([0.5, 0.5], [0.45, 0.55]),
    ([0, 0, 0], [0, 0.1, 0.2]),
    ([0.3, 1, 1], [0.3, 0.9, 1]),
    ([0.1, 0.5, 0.52, 0.54], [0.1, 0.42, 0.52, 0.62]),
  ],
)
def test_places_stay_apart_and_near(wanted, found):
  assert plotting.apart(np.asarray(wanted, float), 0.1).tolist() == pytest.approx(found)


def test_of_too_many_labels_the_bold_one_stays():
  figure, ((axes,),) = plotting.sheet(3.3, 1.5)
  labels = [Label(i / 50, f'rate {i}', '#000000', i == 17) for i in range(50)]
  texts = plotting.end_labels(axes, labels)
  FigureCanvasAgg(figure).draw()
  assert not overlaps(texts)
  assert 4 < len(texts) < 20
  assert [t.get_text() for t in texts if t.get_weight() == 'bold'] == ['rate 17']
  assert {'rate 0', 'rate 49'} <= {text.get_text() for text in texts}


def test_crosses_are_below_the_axis_and_count_what_diverged(drawn):
  (axes,) = drawn['accuracy_by_rate'].axes
  (crosses,) = (line for line in axes.lines if line.get_marker() == 'x')
  assert crosses.get_xdata() == [1e-2]
  assert axes.get_ylim()[0] < crosses.get_ydata()[0] < 0
  assert texts_of(axes).keys() == {'1/2', '1e-03'}
  assert 'diverged' in [label.get_text() for label in axes.get_yticklabels()]


def test_intervals_and_what_the_points_are(history, drawn):
  _, answer = judged(history)
  (axes,) = drawn['accuracy_by_rate'].axes
  bars = [tuple(line.get_ydata()) for line in axes.lines if len(set(line.get_xdata())) == 1]
  for rate in ('1e-03', '1e-04'):
    assert answer.intervals[rate] in bars
  (legend,) = drawn['accuracy_by_rate'].legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[:2] == [
    'training accuracy, epoch mean',
    'validation accuracy, 90 % interval',
  ]
  assert {'recommended', 'chance'} <= set(labels)


def test_no_interval_is_promised_where_none_is_drawn(history):
  """As of results from before there were intervals."""
  results, answer = judged(history)
  old = dataclasses.replace(answer, intervals=dict.fromkeys(answer.intervals))
  drawn = figures.build(history, results, old, heights, GUESS, in_detail=False)
  labels = [t.get_text() for t in drawn['accuracy_by_rate'].legends[0].get_texts()]
  assert labels[1] == 'validation accuracy'


def test_figures_by_the_loss(history):
  results, answer = judged(history, LOSS)
  drawn = figures.build(history, results, answer, heights, GUESS)
  (axes,) = drawn['accuracy_by_rate'].axes
  assert axes.get_ylabel() == 'validation loss at the end'
  labels = [text.get_text() for text in drawn['accuracy_by_rate'].legends[0].get_texts()]
  assert labels[:2] == ['training loss, epoch mean', 'validation loss, 90 % interval']
  assert [axes.get_ylabel() for axes in drawn['all_rates'].axes][2] == 'accuracy'
  one_seed = verdict.judge(results[2::2], np.arange(9), Measure('validation_own', False))
  assert one_seed.learning_rate is None  # not measured
  own = [dataclasses.replace(r, metrics={'validation_own': 30.0 + r.seed}) for r in results[2:]]
  answer = verdict.judge(own, np.arange(9), Measure('validation_own', False))
  history.epochs['validation_own'] = history.epochs['validation_loss']
  drawn = figures.build(history, own, answer, heights, GUESS)
  (axes,) = drawn['accuracy_by_rate'].axes
  assert axes.get_ylim()[1] > 30
  assert drawn['all_rates'].axes[3].get_ylabel() == 'own'


def test_there_is_no_panel_of_what_diverged_at_once(history):
  history.steps['loss'][2:, :2] = np.nan  # both seeds of 1e-02
  results, answer = judged(history)
  drawn = figures.build(history, results, answer, heights, GUESS)
  titles = [axes.get_title() for axes in drawn['rate_by_rate'].axes]
  assert [title.split(':')[0] for title in titles if title] == ['1e-03', '1e-04']
  (note,) = (text.get_text() for text in drawn['all_rates'].texts)
  assert note.endswith('× diverged: 1e-02 at step 3.')
  history.steps['loss'][0] = np.nan
  results, answer = judged(history)
  drawn = figures.build(history, results, answer, heights, GUESS)
  assert 'rate_by_rate' not in drawn
  stream = io.BytesIO()
  figures.save(drawn['all_rates'], stream)
  assert len(stream.getvalue()) > 1000


def test_many_rates_have_one_figure_of_those_near_the_best(tmp_path):
  rates = np.logspace(-1, -6, 40).tolist()
  history = History(tmp_path / 'many', 30, 1, 40)
  loss = np.full((30, 40), 2.0)
  history.write_steps(0, {'loss': loss, 'accuracy': loss / 4, 'gradient_norm': loss})
  accuracy = np.full(40, 0.3)
  accuracy[5] = 0.9
  history.write_epoch(0, dict.fromkeys(EPOCH_CURVES, accuracy))
  labels = np.arange(1000) % 10
  results = verdict.results(history, planned(rates, [0] * 40, 1), labels, [30] * 40)
  drawn = figures.build(history, results, verdict.judge(results, labels), heights, GUESS)
  assert drawn.keys() == {
    'all_rates', 'accuracy_by_rate', 'schedule', 'rate_by_rate', 'sharpness',
  }  # fmt: skip
  panels = [axes for axes in drawn['rate_by_rate'].axes if axes.get_title()]
  assert len(panels) == 12
  assert [axes.title.get_weight() for axes in panels].count('bold') == 1


def test_the_darkest_cell_is_the_best(history):
  results, _ = judged(history)
  results = [
    dataclasses.replace(r, axes={'optimizer.momentum': m}) for m in (0.0, 0.9) for r in results
  ]
  drawn = matrices.build(results, ['a', 'b'], {'confusion': [[9, 1], [4, 6]]}, ACCURACY)
  assert drawn.keys() == {'confusion', 'rate_and_optimizer_momentum'}
  for figure in drawn.values():
    axes, bar = figure.axes
    (cells,) = axes.collections
    values = cells.get_array()
    assert cells.norm(values.max()) == 1  # the dark end, however small it is
    assert bar.get_ylabel()
  assert drawn['rate_and_optimizer_momentum'].axes[0].get_ylabel() == 'optimizer.\nmomentum'
  assert '55.0 %' not in texts_of(axes)  # the diverged seed is told of
  assert '50.0 %\n1 diverged' in texts_of(axes)
  with drawing.style():
    losses = matrices.heat_map(results, 'optimizer.momentum', LOSS)
  (cells,) = losses.axes[0].collections
  best = cells.to_rgba(cells.get_array().min())
  assert sum(best[:3]) < sum(cells.to_rgba(cells.get_array().max())[:3])


def test_a_style_of_the_users_is_drawn_in(history, tmp_path):
  file = tmp_path / 'my.mplstyle'
  file.write_text('\n'.join(f'{key}: {value}' for key, value in SMALL.items()) + '\n# end')
  with drawing.using([str(file)]):
    drawn = figures.build(history, *judged(history), heights, GUESS)
  (line,) = (x for x in drawn['schedule'].axes[0].lines if x.get_linewidth() == 3 * plotting.THICK)
  assert to_hex(line.get_color()) == '#222222'
  assert to_hex(style.colour(1e-3, RATES)) not in map(to_hex, ['#111111', '#222222'])
  with drawing.using(['ggplot']), drawing.style():
    assert Figure().add_subplot().get_facecolor() != (1, 1, 1, 1)
  with drawing.style():
    assert Figure().add_subplot().get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (None, r'gone\.mplstyle is neither a style of Matplotlib nor a file$'),
    ('lines.linewdth: 2', r"Matplotlib has no setting 'lines\.linewdth'; did you mean lines\.line"),
    ('lines.linewidth: wide', 'cannot be read: .*wide'),
    ('\xff', 'cannot be read: '),
  ],
)
def test_a_style_that_cannot_be_read_is_one_line(tmp_path, capsys, content, said):
  file = tmp_path / 'gone.mplstyle'
  if content:
    file.write_bytes(content.encode('latin-1'))
  with pytest.raises(StudyError, match=said) as error:
    drawing.load(str(file))
  assert '\n' not in str(error.value)
  with drawing.using([str(file)]):  # of a finished study: its figures are drawn all the same
    pass
  assert re.match(r'Drawn without it: ', capsys.readouterr().out)


def test_a_style_that_is_misspelt():
  with pytest.raises(StudyError, match=r'neither .* nor a file; did you mean ggplot'):
    drawing.load('gplot')


def test_a_style_that_is_misspelt_is_told_before_training(command, tmp_path):
  config = f'--config={ROOT}/configs/alexnet_letters.py:quick'
  style_of, folder = '--config.figure_style=gplot', f'--workdir={tmp_path}/study'
  status, _, errors = command('sweep.py', config, style_of, folder)
  assert status == 2
  assert errors.count('\n') == 1
  assert 'config.figure_style: gplot is neither' in errors
  assert not (tmp_path / 'study').exists()


@pytest.mark.parametrize(
  ('rates', 'marks'),
  [
    ([1e-6, 1e-1], ['1e-05', '1e-03', '1e-01']),
    (RATES, ['1e-04', '1e-03', '1e-02']),
    ([1e-3, 1e-2], ['1e-03', '2e-03', '5e-03', '1e-02']),
    ([1.8e-3, 2.1e-3], ['1.8e-03', '1.9e-03', '2e-03', '2.1e-03']),
    ([3e-3], ['2e-03', '5e-03']),
    ([], []),
  ],
)
def test_an_axis_of_rates_has_them_as_they_are_written(rates, marks):
  axes = Figure().add_subplot(xscale='log')
  axes.plot(rates, rates)
  plotting.rate_axis(axes.xaxis)
  axes.figure.draw_without_rendering()
  shown = [label.get_text() for label in axes.get_xticklabels()]
  assert set(marks) <= set(shown)
  assert len(set(shown)) == len(shown) <= 12
  assert not len(axes.xaxis.get_minorticklocs())
