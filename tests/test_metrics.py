"""Metrics: sums over batches, and the figures made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lr_study import metrics
from lr_study.errors import StudyError
from lr_study.trial import Metric

CLASSES = 6
NAMES = ('top3', 'top5', 'calibration_error', 'f1', 'top2')


def loss(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def build(*names, classes=CLASSES):
  return metrics.build(names, classes, loss)


@pytest.fixture(scope='module')
def answers():
  """Logits that are often right, and labels; class 4 has no image, class 5 is never predicted."""
  rng = np.random.default_rng(0)
  labels = rng.choice([0, 0, 0, 1, 1, 2, 3, 5], 90)
  logits = rng.normal(size=(90, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
  logits[:, 5] -= 20
  return logits.astype(np.float32), labels.astype(np.int32)


def measured(metric, logits, labels, batches=1):
  """The figure of one trial from so many batches, each with two images of padding."""
  total, images = None, len(labels)
  for x, y in zip(np.split(logits, batches), np.split(labels, batches), strict=True):
    weight = np.repeat(np.float32([1, 0]), [len(y), 2])
    padded = np.pad(x, ((0, 2), (0, 0)), constant_values=np.nan), np.pad(y, (0, 2)), weight
    sums = jax.device_get(jax.jit(metric.sums)(*padded))
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64)[None], sums)
    total = sums if total is None else jax.tree.map(np.add, total, sums)
  value = metric.value(total, images)
  assert value.shape == (1,)
  return value[0]


def by_hand(logits, labels):
  predicted = logits.argmax(1)
  hits = predicted == labels
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  bins = np.ceil(p.max(1) * 15)
  gaps = [
    (bins == b).mean() * abs(hits[bins == b].mean() - p.max(1)[bins == b].mean())
    for b in np.unique(bins)
  ]
  f1 = [
    2 * np.sum(hits & (labels == c)) / (np.sum(labels == c) + np.sum(predicted == c))
    for c in np.union1d(labels, predicted)
  ]
  top = np.argsort(-logits, 1)
  return {
    'loss': -np.log(p[np.arange(len(labels)), labels]).mean(),
    'accuracy': hits.mean(),
    'balanced_accuracy': np.mean([hits[labels == c].mean() for c in np.unique(labels)]),
    'top2': (top[:, :2] == labels[:, None]).any(1).mean(),
    'top3': (top[:, :3] == labels[:, None]).any(1).mean(),
    'top5': (top[:, :5] == labels[:, None]).any(1).mean(),
    'calibration_error': np.sum(gaps),
    'f1': np.mean(f1),
  }


def test_all_by_hand_and_additive_over_batches(answers):
  expected = by_hand(*answers)
  built = build(*NAMES)
  assert tuple(built) == (*metrics.ALWAYS, *NAMES)
  for name, metric in built.items():
    for batches in (1, 3):
      found = measured(metric, *answers, batches)
      assert found == pytest.approx(expected[name], rel=1e-5), name


def test_nan_logits_of_one_image_are_a_nan_in_every_figure(answers):
  """In training that is a trial that diverged; argmax alone would count it as class 0."""
  logits, labels = answers
  logits = logits.copy()
  logits[7, 2] = np.nan
  for name, metric in build(*NAMES).items():
    assert np.isnan(measured(metric, logits, labels)), name


def test_equal_logits_are_at_chance(answers):
  labels = np.repeat(np.arange(CLASSES), 5)
  found = {n: measured(m, np.zeros((30, CLASSES)), labels) for n, m in build(*NAMES).items()}
  assert found['accuracy'] == found['balanced_accuracy'] == pytest.approx(1 / CLASSES)
  assert found['top3'] == pytest.approx(0.5)
  assert found['calibration_error'] == pytest.approx(0, abs=1e-6)
  assert found['loss'] == pytest.approx(np.log(CLASSES))


def test_a_value_per_trial(answers):
  """Of sums with a leading axis of trials."""
  logits = np.stack([answers[0], -answers[0]])
  weight = np.ones(90, np.float32)
  for name, metric in build(*NAMES).items():
    sums = jax.vmap(metric.sums, (0, None, None))(logits, answers[1], weight)
    values = metric.value(jax.tree.map(lambda x: np.asarray(x, np.float64), sums), 90)
    expected = [by_hand(x, answers[1])[name] for x in logits]
    np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=name)


def test_what_leads_and_what_is_counted():
  built = build(*NAMES)
  lower = {name for name, metric in built.items() if not metric.larger_is_better}
  assert lower == {'loss', 'calibration_error'}
  shares = {name for name, metric in built.items() if metric.is_share}
  assert shares == {'accuracy', 'balanced_accuracy', 'top2', 'top3', 'top5'}
  assert tuple(build('accuracy', 'loss')) == metrics.ALWAYS


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('calibration', 'did you mean calibration_error?'),
    ('top0', 'is .top0.; it must be one of accuracy'),
    ('top6', 'metrics.top6 is always 100 % for 6 classes'),
  ],
)
def test_no_such_metric(name, words):
  with pytest.raises(StudyError, match=words.replace('?', r'\?')) as error:
    build(name)
  assert '\n' not in str(error.value)


OWN = """
import jax.numpy as jnp
from lr_study.trial import Metric

def margin(logits, labels, weight):
  top = jnp.sort(logits, -1)
  return top[:, -1] - top[:, -2]

def right(logits, labels, weight):
  return logits.argmax(-1) == labels

def share_of(classes):
  def sums(logits, labels, weight):
    return jnp.zeros(classes).at[labels].add(weight)
  return Metric(sums, lambda sums, images: sums[:, 0] / images, is_share=False)

def whole():
  return share_of(3)

def one_number(logits, labels, weight):
  return jnp.mean(logits)

def no_metric(classes):
  return classes

def breaks(logits, labels, weight):
  return logits - labels

def no_value(classes):
  return Metric(lambda logits, labels, weight: jnp.sum(logits), lambda sums, images: 1.0)

def accuracy(logits, labels, weight):
  return logits[:, 0]
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'own.py'
  path.write_text(OWN)
  return path


def test_metrics_of_the_users_own(file, answers):
  logits, labels = answers
  built = build(*(f'{file}:{name}' for name in ('margin', 'right', 'share_of')), 'f1')
  assert tuple(built) == (*metrics.ALWAYS, 'margin', 'right', 'share_of', 'f1')
  assert all(isinstance(metric, Metric) for metric in built.values())
  top = np.sort(logits, 1)
  assert measured(built['margin'], logits, labels, 3) == pytest.approx(
    (top[:, -1] - top[:, -2]).mean(), rel=1e-5
  )
  assert measured(built['right'], logits, labels) == (logits.argmax(1) == labels).mean()
  assert measured(built['share_of'], logits, labels) == (labels == 0).mean()
  assert not built['margin'].is_share
  assert 'whole' in build(f'{file}:whole', classes=3)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('one_number', r'^one_number .*own.py:20\) gave float32 \(\) for the logits, labels and wei'),
    ('no_metric', r'^no_metric .* gave 6 for 6 classes; it must return an lr_study.Metric'),
    ('breaks', r'own.py:27: in breaks'),
    ('no_value', r'^no_value .* has the shape \(\); it must be one number per trial, \(2,\)$'),
    ('accuracy', 'own.py:accuracy has the name of another metric, accuracy; rename one'),
    ('absent', 'has no absent'),
  ],
)
def test_a_function_that_is_no_metric_is_one_line(file, name, words):
  with pytest.raises(StudyError, match=words) as error:
    build(f'{file}:{name}')
  assert '\n' not in str(error.value)


def test_the_loss_of_the_study_is_its_own_loss(answers):
  metric = metrics.build((), CLASSES, lambda logits, labels: logits[:, 0] * 2)['loss']
  assert measured(metric, *answers) == pytest.approx(2 * answers[0][:, 0].mean(), rel=1e-5)
  assert jnp.ndim(metric.sums(*answers, jnp.ones(90))) == 0
