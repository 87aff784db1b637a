"""What the AlexNets of NVIDIA DIGITS's two back ends and of torchvision differ in."""

import dataclasses

KERNELS = (11, 5, 3, 3, 3)  # of the five convolutions, in every preset
POOL_AFTER = (0, 1, 4)  # max pooling, 3 x 3 with stride 2, follows these convolutions


@dataclasses.dataclass(frozen=True)
class Preset:
  """What the three AlexNets differ in. Five entries where a field holds one a convolution."""

  features: tuple[int, ...]
  padding: tuple[int, ...]
  groups: tuple[int, ...]
  init: str  # 'xavier' | 'gaussian' | 'torch'
  norm: bool  # local response normalisation after the first two
  ceil_pool: bool  # pooling windows may hang over the edge
  head_relu: bool  # ReLU after fc6 and fc7
  dropout_first: bool  # dropout before fc6 and fc7, not after them
  adaptive_pool: bool  # average to 6 x 6 before fc6


PRESETS = {
  # DIGITS 6.1.1, standard-networks/tensorflow/alexnet.py. Its head is linear: DIGITS left
  # the activations out.
  'digits_tensorflow': Preset(
    features=(96, 256, 384, 384, 256),
    padding=(0, 2, 1, 1, 1),
    groups=(1, 1, 1, 1, 1),
    init='xavier',
    norm=False,
    ceil_pool=False,
    head_relu=False,
    dropout_first=False,
    adaptive_pool=False,
  ),
  # DIGITS 6.1.1, standard-networks/caffe/alexnet.prototxt; layers as in Caffe.
  'digits_caffe': Preset(
    features=(96, 256, 384, 384, 256),
    padding=(0, 2, 1, 1, 1),
    groups=(1, 2, 1, 2, 2),
    init='gaussian',
    norm=True,
    ceil_pool=True,
    head_relu=True,
    dropout_first=False,
    adaptive_pool=False,
  ),
  # torchvision.models.alexnet: the single tower of "One weird trick" (Krizhevsky, 2014).
  'torchvision': Preset(
    features=(64, 192, 384, 256, 256),
    padding=(2, 2, 1, 1, 1),
    groups=(1, 1, 1, 1, 1),
    init='torch',
    norm=False,
    ceil_pool=False,
    head_relu=True,
    dropout_first=True,
    adaptive_pool=True,
  ),
}

# standard deviation of the kernel and value of the bias, layer by layer, in alexnet.prototxt
GAUSSIAN = {
  'conv1': (0.01, 0.0),
  'conv2': (0.01, 0.1),
  'conv3': (0.01, 0.0),
  'conv4': (0.01, 0.1),
  'conv5': (0.01, 0.1),
  'fc6': (0.005, 0.1),
  'fc7': (0.005, 0.1),
  'fc8': (0.01, 0.0),
}


def feature_size(preset: Preset, image_size: int) -> int:
  """Height and width of the last pooling's output for an image, 0 if the image is too small."""
  size = image_size
  for i, kernel in enumerate(KERNELS):
    size = (size + 2 * preset.padding[i] - kernel) // (4 if i == 0 else 1) + 1
    if i in POOL_AFTER:
      size = (size - 3 + (1 if preset.ceil_pool else 0)) // 2 + 1
    if size < 1:
      return 0
  return size


def smallest_image(preset: Preset) -> int:
  """The smallest image, in pixels, that leaves at least one feature."""
  return next(size for size in range(1, 1000) if feature_size(preset, size) > 0)
