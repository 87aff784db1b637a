"""The networks and their training against PyTorch: the same weights, images, rates and losses."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import load, train
from ml_collections import ConfigDict

from configs import alexnet_letters_caffe
from lr_study import schedules, vectorize
from lr_study.accelerate import factored
from lr_study.models import alexnet, build

torch = pytest.importorskip(
  'torch', reason='PyTorch is not installed; pip install -r requirements-benchmark.txt'
)
from lr_study.benchmark import torch_sides  # noqa: E402

torch.set_num_threads(1)  # small products; more threads only wait for one another

STEPS = 200
NAMES = ('digits_tensorflow', 'digits_caffe', 'torchvision')


def with_weights(network, params):
  """PyTorch's network with the weights of a Flax one.

  Kernels turn from (rows, columns, inputs, outputs) to (outputs, inputs, rows, columns). The
  features that fc6 sees lie in the order (row, column, channel) here, (channel, row, column) there.
  """
  theirs = torch_sides.alexnet(network.clone(dropout=0.0))
  layers = [m for m in theirs if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
  channels = params['conv5']['bias'].shape[0]
  for (name, layer), module in zip(sorted(params.items()), layers, strict=True):
    kernel = np.asarray(layer['kernel'])
    if kernel.ndim == 4:
      kernel = kernel.transpose(3, 2, 0, 1)
    elif name == 'fc6':
      kernel = kernel.reshape(-1, channels, kernel.shape[1]).transpose(2, 1, 0)
    weight = torch.tensor(kernel.reshape(len(kernel), -1) if name == 'fc6' else kernel)
    weight = weight.T if name in ('fc7', 'fc8') else weight
    module.weight = torch.nn.Parameter(weight.contiguous())
    module.bias = torch.nn.Parameter(torch.tensor(np.asarray(layer['bias'])))
  return theirs


def channels_first(images):
  return torch.tensor(np.moveaxis(np.asarray(images), -1, 1))


def random_params(network, image_size):
  """Weights that keep signals at their size, whatever the width, and biases that are not 0."""
  rng = np.random.default_rng(1)
  images = np.zeros((1, image_size, image_size, 3), np.float32)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))['params']

  def draw(leaf):
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 1.0
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(
  ('name', 'width', 'image_size'),
  [
    # Where pooling windows may extend beyond the edge, that of the last pooling does at 84 pixels,
    # those of all three at 103, and none at 227.
    *((name, 1 / 16, size) for name in NAMES for size in (84, 103)),
    *((name, 0.5, 227) for name in NAMES),
  ],
)
def test_the_same_weights_give_the_same_logits(name, width, image_size):
  network = build({'name': name, 'width': width}, 10, 'float32')
  params = random_params(network, image_size)
  # Pixels, 0 to 255: local response normalisation does nothing to small activations.
  images = np.random.default_rng(0).uniform(-128, 127, (2, image_size, image_size, 3))
  images = images.astype(np.float32)
  apply = jax.jit(lambda p, x: network.apply({'params': p}, x, train=False))
  ours = np.asarray(apply(params, images))
  with torch.no_grad():
    theirs = with_weights(network, params)(channels_first(images)).numpy()
  size = np.abs(theirs).max()
  assert np.abs(ours[0] - ours[1]).max() > 0.01 * size  # the images do matter
  # By the largest: a logit near 0 is a difference of sums as large as the others, and float32
  # rounds those. A sum of n products errs by some sqrt(n) x 6e-8: 6e-6 with fc6's 9216 inputs.
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * size)


def variant(tiny, name, accelerate):
  """A config with every term of SGD, and a drop of the rate after 120 of 200 steps.

  With these a tenth more or less of any term moves a loss by 0.5 % or more.
  """
  tiny.data.per_class = 4  # 30 training letters
  tiny.epochs, tiny.schedule.every_epochs = 7, 4.0
  tiny.model.name, tiny.accelerate = name, accelerate
  tiny.optimizer = ConfigDict(alexnet_letters_caffe.get_config().optimizer)
  if name == 'digits_caffe':  # the rate inside the velocity, decay coupled to the rate
    tiny.optimizer.weight_decay = 10.0  # times the rate: enough to shrink the kernels in 200 steps
  else:
    tiny.optimizer.rate_in_velocity = tiny.optimizer.decay_per_rate = False
    tiny.optimizer.weight_decay = 0.1
    tiny.input.scale = 1 / 58
  tiny.optimizer.bias_decay = 0.5
  return tiny


def torch_losses(sweep, data_set, rate, params, order):
  """The losses of PyTorch's steps on these images, one per step, in float64: rounding aside."""
  network, config = with_weights(sweep.task.model, params).double(), sweep.config
  heights = schedules.heights(sweep.task.schedule, len(order))
  step_of = caffe_step if config.optimizer.rate_in_velocity else sgd_step
  take_step, losses = step_of(network, config.optimizer, rate), []
  for step, index in enumerate(order):
    pixels = (data_set.train.images[index] - data_set.mean) * np.float32(config.input.scale)
    label = torch.tensor([data_set.train.labels[index]]).long()
    logits = network(channels_first(pixels[None]).double())
    loss = torch.nn.functional.cross_entropy(logits, label)
    network.zero_grad()
    loss.backward()
    take_step(rate * float(heights[step]))
    losses.append(loss.item())
  return np.asarray(losses)


def kernels_and_biases(network):
  named = list(network.named_parameters())
  return [[p for name, p in named if name.endswith(end)] for end in ('weight', 'bias')]


def sgd_step(network, optimizer, rate):
  """torch.optim.SGD, with a group for the biases."""
  del rate
  decay = optimizer.weight_decay
  factors = ((1.0, 1.0), (optimizer.bias_rate, optimizer.bias_decay))
  groups = [
    {'params': params, 'lr': 0.0, 'weight_decay': decay * of_decay}
    for params, (_, of_decay) in zip(kernels_and_biases(network), factors, strict=True)
  ]
  sgd = torch.optim.SGD(groups, momentum=optimizer.momentum)

  def take_step(rate_now):
    for group, (of_rate, _) in zip(sgd.param_groups, factors, strict=True):
      group['lr'] = of_rate * rate_now
    sgd.step()

  return take_step


def caffe_step(network, optimizer, rate):
  """Caffe's form, sgd_solver.cpp: v = m v + rate g, w = w - v. torch.optim has none like it."""
  decay = optimizer.weight_decay * (rate if optimizer.decay_per_rate else 1.0)
  factors = ((1.0, 1.0), (optimizer.bias_rate, optimizer.bias_decay))
  params = [
    (p, torch.zeros_like(p), *of)
    for group, of in zip(kernels_and_biases(network), factors, strict=True)
    for p in group
  ]

  @torch.no_grad()
  def take_step(rate_now):
    for weight, velocity, of_rate, of_decay in params:
      gradient = weight.grad + decay * of_decay * weight
      velocity.mul_(optimizer.momentum).add_(of_rate * rate_now * gradient)
      weight.sub_(velocity)

  return take_step


@pytest.mark.parametrize(
  ('name', 'accelerate'),
  [
    ('digits_tensorflow', 'off'),
    ('digits_caffe', 'off'),
    ('digits_caffe', 'auto'),
    ('torchvision', 'auto'),
  ],
)
def test_200_steps_have_the_same_losses(tiny, name, accelerate, monkeypatch):
  # Caffe's Gaussian weights let no signal through a network of this width.
  for variable in ('_DIGITS_TENSORFLOW', '_DIGITS_CAFFE', '_TORCHVISION'):
    lively = dataclasses.replace(getattr(alexnet, variable), init='xavier')
    monkeypatch.setattr(alexnet, variable, lively)
  monkeypatch.setattr(factored, 'pays', lambda *_: True)
  config, data_set = load(variant(tiny, name, accelerate))
  rate = float(np.float32(3e-3))  # as the study holds it
  curves, _, sweep = train(config, data_set, [rate], [0], STEPS)
  assert (sweep.engine.settle is not None) == (accelerate == 'auto')
  images = len(data_set.train.labels)
  orders = [vectorize.order(0, epoch, images) for epoch in range(config.epochs)]
  params = sweep.engine.draw(vectorize.keys_of(0)[0])['params']
  theirs = torch_losses(sweep, data_set, rate, params, np.concatenate(orders)[:STEPS])
  assert theirs[-20:].mean() < theirs[:20].mean()  # it did train
  # Rounding, 6e-8 a step, grows to 1e-6 here, and to 4e-5 in PyTorch's own float32.
  np.testing.assert_allclose(curves['loss'][:, 0], theirs, rtol=1e-4)
