"""Sides in PyTorch: the same network, loss, optimiser and images, with one model per rate."""

import concurrent.futures
import multiprocessing
import os
import time
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from lr_study.benchmark.side import LOOKS, RATES, config_of, data_of
from lr_study.models import KNOWN
from lr_study.models.alexnet import AlexNet
from lr_study.models.layers import scaled

_KERNELS, _POOL_AFTER = (11, 5, 3, 3, 3), (0, 1, 4)  # convolutions; those followed by pooling


def alexnet(ours: AlexNet) -> nn.Sequential:
  """The network of lr_study/models/alexnet.py, for images (batch, 3, height, width)."""
  variant, channels, head = ours.variant, 3, scaled(4096, ours.width)
  layers = []
  for i, kernel in enumerate(_KERNELS):
    groups = variant.groups[i]
    features = scaled(variant.features[i], ours.width, groups)
    stride = 4 if i == 0 else 1
    layers += [
      nn.Conv2d(channels, features, kernel, stride, variant.padding[i], groups=groups),
      nn.ReLU(),
    ]
    if variant.norm and i < 2:
      layers.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
    if i in _POOL_AFTER:
      layers.append(nn.MaxPool2d(3, 2, ceil_mode=variant.ceil_pool))
    channels = features
  if variant.adaptive_pool:
    layers.append(nn.AdaptiveAvgPool2d(6))
  layers.append(nn.Flatten())
  for _ in range(2):
    drop, linear = nn.Dropout(ours.dropout), nn.LazyLinear(head)
    activation = [nn.ReLU()] if variant.head_relu else []
    layers += [drop, linear, *activation] if variant.dropout_first else [linear, *activation, drop]
  return nn.Sequential(*layers, nn.LazyLinear(ours.classes))


class _Block(nn.Module):
  """A residual block of lr_study/models/resnet.py, without bottleneck."""

  def __init__(self, channels: int, features: int, stride: int):
    super().__init__()
    self._layers = nn.Sequential(
      nn.Conv2d(channels, features, 3, stride, 1, bias=False),
      nn.BatchNorm2d(features),
      nn.ReLU(),
      nn.Conv2d(features, features, 3, 1, 1, bias=False),
      nn.BatchNorm2d(features),
    )
    same = stride == 1 and channels == features
    self._shortcut = (
      nn.Identity()
      if same
      else nn.Sequential(
        nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features)
      )
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(self._shortcut(x) + self._layers(x))


def resnet18(classes: int) -> nn.Sequential:
  """ResNet-18 with the stem for small images."""
  layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
  channels = 64
  for stage in range(4):
    for i in range(2):
      features = 64 * 2**stage
      layers.append(_Block(channels, features, 2 if stage and not i else 1))
      channels = features
  return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class _OnTorch:
  """What all sides in PyTorch can say of their device."""

  @property
  def device(self) -> str:
    return 'gpu' if _device().type == 'cuda' else 'cpu'

  def on_device(self) -> int | None:
    return torch.cuda.max_memory_allocated() if _device().type == 'cuda' else None

  def reported(self) -> None:
    return None


class _Batches:
  """The images for a side's options, in order, repeated without end, on the device."""

  def __init__(self, options: dict[str, Any], config: ConfigDict):
    images, labels, mean = data_of(options, config.image_size)
    device = _device()
    self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    self._mean = torch.from_numpy(mean).permute(2, 0, 1).to(device)
    self._labels, self._done = torch.from_numpy(labels).long().to(device), 0
    self._size = config.batch_size

  def next(self) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(self._done, self._done + self._size, device=self._labels.device)
    index = index % len(self._labels)
    self._done += self._size
    return self._images[index].float() - self._mean, self._labels[index]


class Eager(_OnTorch):
  """One model in eager mode, as in one process per rate, or with torch.compile."""

  trials = 1

  def __init__(self, options: dict[str, Any]):
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    config = config_of(options | {'trials': 1})
    _exactly(config.dtype)
    self._batches, self._model = _Batches(options, config), _network(config)
    self._low = config.dtype == 'bfloat16'
    self._optimizer = _sgd(self._model, config, config.learning_rates[0])
    self._apply = torch.compile(self._model) if options['kind'] == 'torch_compile' else self._model

  def run(self, steps: int) -> None:
    for _ in range(steps):
      self._step(*self._batches.next())
    _finish()

  def _step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    self._optimizer.zero_grad()
    with torch.autocast(_device().type, torch.bfloat16, enabled=self._low):
      logits = self._apply(inputs)
    nn.functional.cross_entropy(logits.float(), labels).backward()
    self._optimizer.step()


class Graph(Eager):
  """One model whose whole step was recorded once, and is played back by the card: a CUDA graph."""

  def __init__(self, options: dict[str, Any]):
    super().__init__(options)
    self._given = [x.clone() for x in self._batches.next()]
    beside = torch.cuda.Stream()  # as PyTorch's notes on CUDA graphs ask for
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
      for _ in range(3):
        self._step(*self._given)
    torch.cuda.current_stream().wait_stream(beside)
    self._graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(self._graph):
      self._step(*self._given)

  def run(self, steps: int) -> None:
    for _ in range(steps):
      for ours, new in zip(self._given, self._batches.next(), strict=True):
        ours.copy_(new)
      self._graph.replay()
    _finish()


class Two(_OnTorch):
  """Two models at once, each in eager mode in a process of its own."""

  trials = 2

  def __init__(self, options: dict[str, Any]):
    context = multiprocessing.get_context('spawn')
    self._pools = [concurrent.futures.ProcessPoolExecutor(1, context) for _ in range(2)]
    self._options = options
    self.run(1)

  def run(self, steps: int) -> None:
    found = [pool.submit(_run_kept, self._options, steps) for pool in self._pools]
    for future in found:
      future.result()

  def on_device(self) -> int | None:
    held = [pool.submit(_held_by_kept).result() for pool in self._pools]
    known = [of for of in held if of is not None]
    return sum(known) if known else None


_kept: dict[str, Eager] = {}  # of a process of `Two`


def _run_kept(options: dict[str, Any], steps: int) -> None:
  if not _kept:
    _kept['side'] = Eager(options)
  _kept['side'].run(steps)


def _held_by_kept() -> int | None:
  return _kept['side'].on_device()


class Vmap(_OnTorch):
  """All models at once with torch.func: vmap over stacked parameters."""

  def __init__(self, options: dict[str, Any]):
    torch.manual_seed(0)
    self.trials, self._config = options['trials'], config_of(options)
    _exactly(self._config.dtype)
    self._batches = _Batches(options, self._config)
    model = _network(self._config)
    self._params = {
      name: torch.stack([p.detach()] * self.trials) for name, p in model.named_parameters()
    }
    self._velocity = {name: torch.zeros_like(p) for name, p in self._params.items()}
    self._rates = torch.tensor(self._config.learning_rates, device=_device())

    def loss_of(params, inputs, labels):
      logits = torch.func.functional_call(model, params, (inputs,))
      return nn.functional.cross_entropy(logits, labels)

    self._gradient = torch.func.vmap(
      torch.func.grad(loss_of), in_dims=(0, None, None), randomness='same'
    )

  def run(self, steps: int) -> None:
    momentum = self._config.optimizer.momentum
    for _ in range(steps):
      gradient = self._gradient(self._params, *self._batches.next())
      for name, param in self._params.items():
        update = gradient[name]
        if momentum:
          update = self._velocity[name].mul_(momentum).add_(update)
        param.sub_(self._rates.view(-1, *[1] * (param.ndim - 1)) * update)
    _finish()


class Ladder(_OnTorch):
  """The published grid of rates: one run after another, two at a time, by Ray Tune, or only one.

  `run(n)` trains on n images in all, in three epochs, with the rate divided by 10 after each. A run
  ends once it finds that its loss is not finite; it checks as often as ours.
  """

  def __init__(self, options: dict[str, Any]):
    self.trials, self._options = len(RATES), options
    self._how = options['kind'].removeprefix('torch_ladder_')
    if self._how == 'one':
      self.trials = 1
    if self._how == 'two':
      context = multiprocessing.get_context('spawn')
      self._pool = concurrent.futures.ProcessPoolExecutor(2, context)
      list(self._pool.map(_train, [(options, 1e-6, 3, 1)] * 2))  # start them

  def run(self, steps: int) -> dict[str, float] | None:
    if self._how == 'ray':
      return self._run_with_ray(steps)
    if self._how == 'one':
      _train((self._options, 1e-6, steps, os.cpu_count() or 1))
    elif self._how == 'seven':
      for rate in RATES:
        _train((self._options, rate, steps, os.cpu_count() or 1))
    else:
      list(self._pool.map(_train, [(self._options, rate, steps, 1) for rate in RATES]))
    return None

  def _run_with_ray(self, steps: int) -> dict[str, float]:
    import ray  # noqa: PLC0415
    from ray import tune  # noqa: PLC0415

    # Started for this run only, and not timed: Ray's servers would slow down the other sides.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='error')
    started = time.perf_counter()

    def trainable(config):
      _train((self._options, config['rate'], steps, 1))
      tune.report({'done': 1})

    tuner = tune.Tuner(
      tune.with_resources(trainable, {'cpu': 1}),
      param_space={'rate': tune.grid_search(list(RATES))},
      run_config=tune.RunConfig(verbose=0),
    )
    assert not tuner.fit().errors
    seconds = time.perf_counter() - started
    ray.shutdown()
    return {'seconds': seconds}


def _network(config: ConfigDict) -> nn.Sequential:
  settings = config.model
  if settings.name == 'resnet18':
    return resnet18(10).to(_device())
  model = alexnet(KNOWN[settings.name](10, settings.width, settings.dropout))
  model(torch.zeros(1, 3, config.image_size, config.image_size))  # sizes the lazy layers
  return model.to(_device())


def _device() -> torch.device:
  return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def _finish() -> None:
  """Waits for the card, which is only told what to do."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def _exactly(dtype: str) -> None:
  """As a study multiplies: float32 is no TensorFloat-32, which cuDNN uses by default."""
  coarse = dtype != 'float32'
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = coarse


def _sgd(model: nn.Module, config: ConfigDict, rate: float) -> torch.optim.Optimizer:
  return torch.optim.SGD(model.parameters(), rate, momentum=config.optimizer.momentum)


def _train(task: tuple[dict[str, Any], float, int, int]) -> None:
  """One run of the grid. task: options, rate, images, threads."""
  options, rate, steps, threads = task
  torch.manual_seed(0)
  torch.set_num_threads(threads)
  config = config_of(options | {'trials': 1})
  _exactly(config.dtype)
  images, labels, mean = data_of(options | {'images': steps // 3}, config.image_size)
  model, device = _network(config), _device()
  optimizer = _sgd(model, config, rate)
  schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
  for _ in range(3):
    for step, k in enumerate(np.random.permutation(len(labels))):
      inputs = torch.from_numpy(images[k].astype(np.float32) - mean).permute(2, 0, 1)[None]
      inputs = inputs.to(device)
      optimizer.zero_grad()
      loss = nn.functional.cross_entropy(model(inputs), torch.tensor([labels[k]]).long().to(device))
      loss.backward()
      optimizer.step()
      if step % max(1, steps // LOOKS) == 0 and not torch.isfinite(loss):
        return
    schedule.step()


KINDS = {
  'torch': Eager,
  'torch_compile': Eager,
  'torch_graph': Graph,
  'torch_two': Two,
  'torch_vmap': Vmap,
} | {f'torch_ladder_{how}': Ladder for how in ('one', 'seven', 'two', 'ray')}
