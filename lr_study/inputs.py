"""Turns stored images into the network's inputs, inside the compiled step."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from lr_study import plugs, shapes
from lr_study.data import Dataset, checks
from lr_study.errors import StudyError
from lr_study.plugs import AT_LEAST_0, BELOW_1, COUNT_OR_0, POSITIVE, limits, one_of
from lr_study.trial import Batch

Inputs = Callable[[Batch, jax.Array | None], tuple[jax.Array, jax.Array]]

# `classes`: how many. The rest are the arguments of a user's f(batch, key).
SUPPLIED = ('classes', 'batch', 'key')

_LOOKED_AT = 1000  # images, to find the range of the inputs
_USUAL = 10  # a standard deviation of inputs that is larger, or less than 1 / 10, is reported

# In training, each image is sampled through a square that is moved by a random amount.
_MOVES = ('rotation', 'shift', 'zoom', 'stretch', 'shear')
_OF_COLOURS = ('grey', 'bgr')
_OF_SQUARES = ('size', 'crop', *_MOVES, 'cutmix')
_OF_IMAGES = (*_OF_COLOURS, *_OF_SQUARES, 'mirror', 'brightness', 'contrast', 'invert')


@limits(
  subtract=one_of(('image', 'pixel', 'none')),
  scale=POSITIVE,
  crop=COUNT_OR_0,
  size=(lambda n: 0 <= n <= 65536, 'a whole number from 0 to 65536'),
  rotation=(lambda x: 0 <= x <= 180, 'degrees from 0 to 180'),
  shift=BELOW_1,
  zoom=AT_LEAST_0,
  stretch=AT_LEAST_0,
  shear=AT_LEAST_0,
  brightness=AT_LEAST_0,
  contrast=AT_LEAST_0,
  noise=AT_LEAST_0,
  mixup=AT_LEAST_0,
  cutmix=AT_LEAST_0,
)
@dataclasses.dataclass(frozen=True)
class Images:
  """Preprocessing and augmentation of images or other arrays: f(batch, key) -> inputs, targets.

  Inputs are float32, (batch, height, width, channels) for images. Targets are the labels, int
  (batch,), or with mixup or cutmix in training shares of the classes, float32 (batch, classes). The
  key is used for random draws in training, one per image. It is None in evaluation, which does not
  augment, and uses the centre if there is a crop. `batch.mean` is subtracted first, before images
  are cropped or moved (as in Caffe, data_transformer.cpp).

  Arrays of other shapes than (height, width, channels) can use `subtract` ('image' or 'none'),
  `scale`, `standardise`, `noise` and `mixup`.

  Attributes:
    classes: how many.
    subtract: 'image', the mean image, as DIGITS does by default; 'pixel', its mean per channel; or
      'none'.
    scale: a factor on the values. The default leaves pixels at 0 to 255, as in DIGITS, which is
      why stable rates are so small there.
    crop: pixels of a random crop in training, of the centre in evaluation; 0: no crop.
    mirror: flip half of the images left to right in training, at random.
    bgr: use Caffe's order of the channels.
    grey: use one channel of brightness instead of three of colour.
    size: height and width in pixels to which images are scaled before the crop; 0: as stored.
    standardise: scale each image to mean 0 and variance 1.
    rotation: the largest rotation in training, in degrees either way.
    shift: the largest shift in training, as a share of the side, each way.
    zoom: the largest zoom in training, in or out: 0.1 means a factor of 1 / 1.1 to 1.1.
    stretch: the largest stretch in training: as `zoom`, but width and height change inversely.
    shear: the largest shear in training, in pixels sideways per pixel down.
    brightness: the largest change of brightness in training, in grey levels up or down.
    contrast: the largest change of contrast in training: 0.1 means a factor of 1 / 1.1 to 1.1.
    invert: swap bright and dark in half of the images in training, at random.
    noise: the largest standard deviation of noise in training, in grey levels; drawn per image.
    mixup: alpha of the Beta distribution that mixes pairs of images in training; 0: none.
    cutmix: alpha of the Beta distribution for the size of boxes that are cut from one image into
      another in training; 0: none. With `mixup` too, each image gets one of the two.

  Raises:
    ValueError: two arguments exclude each other.
    StudyError: when called, on arrays that an option does not work on.
  """

  classes: int
  subtract: str = 'image'
  scale: float = 1.0
  crop: int = 0
  mirror: bool = False
  bgr: bool = False
  grey: bool = False
  size: int = 0
  standardise: bool = False
  rotation: float = 0.0
  shift: float = 0.0
  zoom: float = 0.0
  stretch: float = 0.0
  shear: float = 0.0
  brightness: float = 0.0
  contrast: float = 0.0
  invert: bool = False
  noise: float = 0.0
  mixup: float = 0.0
  cutmix: float = 0.0

  def __post_init__(self):
    if self.size and self.crop > self.size:
      raise ValueError(f'crop is {self.crop}, more than input.size {self.size}')
    if self.grey and self.bgr:
      raise ValueError('bgr is True, but input.grey leaves one channel; set one to False')

  def __call__(self, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """See the class."""
    _check(self, batch.images.shape, training=key is not None)
    x = batch.images.astype(jnp.float32) - batch.mean
    keys = dict.fromkeys(_RANDOM) if key is None else _keys(key)
    if x.ndim == 4:
      x = self._view(x, keys)
    if key is not None:
      x = _recolour(self, x, keys)
    x = x * self.scale
    if self.standardise:
      x = _standardise(x, self._grey_level(batch.images))
    if self.bgr:
      x = x[..., ::-1]
    if key is None or not (self.mixup or self.cutmix):
      return x, batch.labels
    return _mix(self, x, jax.nn.one_hot(batch.labels, self.classes), key)

  def _view(self, x: jax.Array, keys: Mapping[str, jax.Array | None]) -> jax.Array:
    """Geometric changes: grey, moves, size, crop and mirror. The keys are None in evaluation."""
    if self.grey:
      x = x @ jnp.float32([[0.299], [0.587], [0.114]])  # ITU-R BT.601, as Pillow's mode L
    size = self.size or x.shape[1]
    if keys['move'] is not None and any(getattr(self, name) for name in _MOVES):
      x = _move(self, x, size, keys['move'])
    elif size != x.shape[1]:
      x = jax.image.resize(x, (x.shape[0], size, size, x.shape[3]), 'linear')
    if self.crop:
      x = _crop(x, self.crop, keys['crop'])
    if self.mirror and keys['mirror'] is not None:
      flip = jax.random.bernoulli(keys['mirror'], 0.5, (x.shape[0], 1, 1, 1))
      x = jnp.where(flip, x[:, :, ::-1], x)
    return x

  def _grey_level(self, images: jax.Array) -> float:
    # A guess for numbers that are not whole: most range from 0 to 1.
    whole = jnp.issubdtype(images.dtype, jnp.integer)
    return self.scale if whole else self.scale / 255


KNOWN: dict[str, Callable[..., Inputs]] = {'images': Images}


def build(
  config: Mapping[str, Any],
  classes: int,
  stored: tuple[int, ...] | None = None,
  dtype: Any = 'uint8',
) -> Inputs:
  """The function of a config: f(batch, key) -> inputs, targets; see `Images`.

  A user's function, 'file.py:name', is either a factory like `Images`, or f(batch, key) itself,
  with these names. Its other arguments are fields of the config.

  Args:
    config: the `input` part: its name and arguments.
    classes: how many.
    stored: the shape of one image; if given, the function's result is checked for it.
    dtype: of the images.

  Raises:
    StudyError: an argument is wrong or does not fit the images, or the user's function does not
      return inputs and targets.
  """
  factory = plugs.find('input', config['name'])
  values = plugs.checked('input', factory, config)
  own = plugs.is_own(factory)
  if own and 'batch' in inspect.signature(factory).parameters:
    supplied = {'classes': classes} if 'classes' in inspect.signature(factory).parameters else {}
    function = lambda batch, key: factory(batch, key, **supplied | values)  # noqa: E731
  else:
    function = plugs.call('input', factory, {'classes': classes}, values)
  if stored is not None:
    for key in (None, jax.random.key(0)):
      _try(factory, function, _batch(stored, dtype), key, classes)
  return function


def shape(
  config: Mapping[str, Any], stored: tuple[int, ...], classes: int = 2, dtype: Any = 'uint8'
) -> tuple[int, ...]:
  """The shape of one input of the network.

  Args:
    config: the `input` part.
    stored: the shape of one stored image.
    classes: how many.
    dtype: of the stored images.

  Raises:
    StudyError: see `build`.
  """
  function = build(config, classes, stored, dtype)
  return jax.eval_shape(lambda b: function(b, None)[0], _batch(stored, dtype)).shape[1:]


def evaluation(
  config: Mapping[str, Any], classes: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """f(mean, images (batch, ...)) -> inputs, as in an evaluation."""
  function = build(config, classes)

  def inputs(mean, images):
    labels = jnp.zeros(images.shape[0], jnp.int32)
    return function(Batch(jnp.asarray(images), labels, mean), None)[0]

  return inputs


def subtracted(config: Mapping[str, Any], mean: np.ndarray) -> np.ndarray:
  """The array that a study subtracts from images, `Batch.mean`.

  Args:
    config: the `input` part of its config; `subtract` says which array.
    mean: the mean of the training images, float32, with the shape of one.

  Raises:
    StudyError: `subtract` is 'pixel', but samples are not images.
  """
  subtract = config.get('subtract', 'image')
  if subtract == 'none':
    return np.zeros(mean.shape[-1:], np.float32)
  if subtract == 'pixel':
    if mean.ndim != 3:
      raise StudyError(_wrong('subtract', f'images, {_IMAGES}', mean.shape))
    return mean.mean((0, 1))
  return mean


def check_range(config: Mapping[str, Any], data: Dataset) -> Dataset:
  """Adds a finding on how large the network's inputs are, for arrays with the 'images' input.

  Learning rates in the literature assume inputs of about 1, while uint8 ranges from 0 to 255.
  Image files are not checked: their inputs are those of DIGITS.

  Args:
    config: the `input` part of a study's config.
    data: the study's data.
  """
  train = data.train.images
  if not data.is_arrays or config['name'] != 'images' or config.get('standardise'):
    return data
  some = train[:: max(1, len(train) // _LOOKED_AT)][:_LOOKED_AT]
  found = (some - subtracted(config, data.mean)) * config.get('scale', 1.0)
  spread = float(found.std())
  is_odd = spread > _USUAL or 0 < spread < 1 / _USUAL
  line = f'inputs go from {found.min():.3g} to {found.max():.3g}, with a deviation of {spread:.3g}'
  if is_odd:
    scale = config.get('scale', 1.0) / spread
    line += f': usual rates assume about 1, which --config.input.scale={scale:.2g} gives'
  finding = checks.Finding(int(is_odd), line)
  return data._replace(checks=data.checks | {'input_range': finding})


_IMAGES = '(height, width, channels)'


def _wrong(option: str, what: str, shape: tuple[int, ...]) -> str:
  return f'input.{option} needs {what}; those of this study are {shape}'


def _check(of: Images, shape: tuple[int, ...], training: bool) -> None:
  """Raises StudyError naming an option that does not work on images (batch, ...) of this shape."""

  def first(options):
    return next((name for name in options if getattr(of, name)), None)

  count, shape = shape[0], shape[1:]
  if training and count == 1 and (option := first(('mixup', 'cutmix'))):
    raise StudyError(f'input.{option} mixes the images of a batch, but batch_size is 1')
  if len(shape) != 3:
    option = 'subtract' if of.subtract == 'pixel' else first(_OF_IMAGES)
    if option:
      raise StudyError(_wrong(option, f'images, {_IMAGES}', shape))
    return
  height, width, channels = shape
  if channels != 3 and (option := first(_OF_COLOURS)):
    raise StudyError(_wrong(option, 'images of 3 channels', shape))
  if height != width and (option := first(_OF_SQUARES)):
    raise StudyError(_wrong(option, 'square images', shape))
  if of.crop > (of.size or height):
    raise StudyError(f'input.crop is {of.crop}, more than image_size {height}')


_RANDOM = ('crop', 'mirror', 'move', 'brightness', 'contrast', 'invert', 'noise')


def _keys(key: jax.Array) -> dict[str, jax.Array]:
  # The first two as in earlier versions: a seed must keep giving the same crops.
  first, further = jax.random.split(key), jax.random.split(jax.random.fold_in(key, 1), 5)
  return dict(zip(_RANDOM, [*first, *further], strict=True))


def _per_image(x: jax.Array) -> tuple[int, ...]:
  """The shape of one number per image, such as (batch, 1, 1, 1)."""
  return (x.shape[0], *(1,) * (x.ndim - 1))


def _uniform(key: jax.Array, x: jax.Array, limit: float) -> jax.Array:
  """One draw per image, (batch, 1, ...), between -limit and limit."""
  return jax.random.uniform(key, _per_image(x), minval=-limit, maxval=limit)


def _crop(x: jax.Array, crop: int, key: jax.Array | None) -> jax.Array:
  room = x.shape[1] - crop
  if key is None:
    top = left = jnp.full(x.shape[0], room // 2)
  else:
    top, left = jax.random.randint(key, (2, x.shape[0]), 0, room + 1)
  window = (crop, crop, x.shape[3])
  return jax.vmap(lambda image, y, x: jax.lax.dynamic_slice(image, (y, x, 0), window))(x, top, left)


def _move(of: Images, x: jax.Array, size: int, key: jax.Array) -> jax.Array:
  """Rotates, shifts, zooms, stretches and shears each image about its centre, to `size` pixels."""
  draws = jax.random.uniform(key, (6, x.shape[0]), minval=-1.0)
  angle = jnp.radians(of.rotation) * draws[0]
  # Logarithms: half the size is as likely as twice the size.
  zoom, stretch = (jnp.exp(jnp.log1p(y) * draws[i]) for i, y in ((1, of.zoom), (2, of.stretch)))
  shear, down, right = of.shear * draws[3], of.shift * draws[4], of.shift * draws[5]
  steps = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
  y, x_ = steps[:, None], steps[None, :]

  def one(image, angle, zoom, stretch, shear, down, right):
    # Maps a place in the result to its place in the image, in shares of the side.
    across = (x_ + shear * y) * stretch * zoom
    along = y / stretch * zoom
    rows = jnp.sin(angle) * across + jnp.cos(angle) * along + down
    columns = jnp.cos(angle) * across - jnp.sin(angle) * along + right
    places = [(place + 0.5) * image.shape[0] - 0.5 for place in (rows, columns)]
    return jnp.stack(
      [map_coordinates(image[..., c], places, 1, mode='reflect') for c in range(image.shape[2])], -1
    )

  return jax.vmap(one)(x, angle, zoom, stretch, shear, down, right)


def _recolour(of: Images, x: jax.Array, keys: dict[str, jax.Array]) -> jax.Array:
  """Changes brightness and contrast, inverts, and adds noise, in grey levels."""
  if of.contrast or of.invert:
    factor = jnp.exp(_uniform(keys['contrast'], x, np.log1p(of.contrast)))
    if of.invert:
      turned = jax.random.bernoulli(keys['invert'], 0.5, factor.shape)
      factor = jnp.where(turned, -factor, factor)
    middle = x.mean((1, 2, 3), keepdims=True)
    x = middle + factor * (x - middle)
  if of.brightness:
    x = x + _uniform(keys['brightness'], x, of.brightness)
  if of.noise:
    amount_key, noise_key = jax.random.split(keys['noise'])
    amount = jax.random.uniform(amount_key, _per_image(x), maxval=of.noise)
    x = x + amount * jax.random.normal(noise_key, x.shape)
  return x


def _standardise(x: jax.Array, grey_level: float) -> jax.Array:
  axes = tuple(range(1, x.ndim))
  x = x - x.mean(axes, keepdims=True)
  # At least one grey level: a constant image has no contrast to amplify.
  return x / jnp.maximum(x.std(axes, keepdims=True), grey_level)


def _mix(
  of: Images, x: jax.Array, shares: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mixes each image with another of its batch, by mixup or cutmix, and returns class shares."""
  of_order, of_mixup, of_cutmix, of_which = jax.random.split(jax.random.fold_in(key, 2), 4)
  others = jax.random.permutation(of_order, x.shape[0])
  share = jnp.ones(_per_image(x))
  if of.mixup:
    share = _beta(of_mixup, of.mixup, x)
  if of.cutmix:
    cut = _outside_box(of_cutmix, of.cutmix, x)
    if of.mixup:
      share = jnp.where(jax.random.bernoulli(of_which, 0.5, _per_image(x)), share, cut)
    else:
      share = cut
  of_class = share.mean(tuple(range(1, x.ndim)))[:, None]
  return share * x + (1 - share) * x[others], of_class * shares + (1 - of_class) * shares[others]


def _beta(key: jax.Array, alpha: float, x: jax.Array) -> jax.Array:
  """The share of itself that each image keeps (Zhang et al. 2018, "mixup", algorithm 1)."""
  return jax.random.beta(key, alpha, alpha, _per_image(x))


def _outside_box(key: jax.Array, alpha: float, x: jax.Array) -> jax.Array:
  """1 outside a random box, 0 inside, (batch, side, side, 1) (Yun et al. 2019, "CutMix", eq. 2).

  The box covers 1 - Beta(alpha, alpha) of an image, less any part of it beyond the edge.
  """
  of_share, of_centre = jax.random.split(key)
  half = jnp.sqrt(1 - _beta(of_share, alpha, x)) / 2
  centre = jax.random.uniform(of_centre, (2, *_per_image(x)))
  pixels = (jnp.arange(x.shape[1]) + 0.5) / x.shape[1]
  rows = jnp.abs(pixels[:, None, None] - centre[0]) < half
  columns = jnp.abs(pixels[:, None] - centre[1]) < half
  return 1.0 - (rows & columns)


def _batch(stored: tuple[int, ...], dtype: Any) -> Batch:
  images = shapes.array((3, *stored), dtype)
  return Batch(images, shapes.array((3,), 'int32'), shapes.array(stored))


def _try(factory: Callable, function: Inputs, batch: Batch, key: Any, classes: int) -> None:
  """Raises StudyError if the function does not return inputs and targets for a batch."""
  found = shapes.of('input', factory, lambda b: function(b, key), batch)
  if isinstance(found, tuple) and len(found) == 2:
    inputs, targets = found
    labels = shapes.is_array(targets, batch.labels.shape, jnp.integer)
    mixed = shapes.is_array(targets, (*batch.labels.shape, classes), jnp.floating)
    leading = getattr(inputs, 'shape', ())[:1]
    if leading == batch.labels.shape and (labels or (mixed and key is not None)):
      return
  raise StudyError(
    f'{plugs.title("input", factory)} gave {shapes.words(found)} for a batch of 3 images '
    f'{batch.images.shape[1:]} and {"no" if key is None else "a"} key; it must return inputs '
    '(3, ...) and targets, int (3,)' + ('' if key is None else f' or float (3, {classes})')
  )
