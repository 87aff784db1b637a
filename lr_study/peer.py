"""The same study in PyTorch, one trial a process: what the benchmark measures against."""

from collections.abc import Callable

import torch
from torch import nn

from lr_study.model import Preset, feature_size, scaled


class AlexNet(nn.Module):
  """The network of lr_study/model.py in PyTorch, for (batch, 3, height, width)."""

  def __init__(self, preset: Preset, classes: int, width: float, dropout: float, image_size: int):
    """Draws PyTorch's own initial weights: the time of a step does not depend on them."""
    super().__init__()
    channels, layers = 3, []
    for i, kernel in enumerate((11, 5, 3, 3, 3)):
      features = scaled(preset.features[i], width, preset.groups[i])
      stride = 4 if i == 0 else 1
      layers.append(
        nn.Conv2d(channels, features, kernel, stride, preset.padding[i], groups=preset.groups[i])
      )
      layers.append(nn.ReLU(inplace=True))
      if preset.norm and i < 2:
        layers.append(nn.LocalResponseNorm(5))
      if i in (0, 1, 4):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=preset.ceil_pool))
      channels = features
    size = 6 if preset.adaptive_pool else feature_size(preset, image_size)
    if preset.adaptive_pool:
      layers.append(nn.AdaptiveAvgPool2d(6))
    layers.append(nn.Flatten())
    inputs, hidden = channels * size * size, scaled(4096, width)
    for _ in range(2):
      dense = [nn.Linear(inputs, hidden)] + [nn.ReLU(inplace=True)] * preset.head_relu
      drop = [nn.Dropout(dropout)]
      layers += drop + dense if preset.dropout_first else dense + drop
      inputs = hidden
    self.layers = nn.Sequential(*layers, nn.Linear(hidden, classes))

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Logits (batch, classes) of images (batch, 3, height, width)."""
    return self.layers(images)


def make_step(
  model: nn.Module, momentum: float, rate: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
  """A training step: step(images, labels) -> loss."""
  optimizer = torch.optim.SGD(model.parameters(), rate, momentum, fused=True)
  loss_of = nn.CrossEntropyLoss()

  def step(images, labels):
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()

  return step
