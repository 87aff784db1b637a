"""The published experiment: AlexNet in NVIDIA DIGITS on ten letters of tombstones, seven rates.

  python scripts/sweep.py --config configs/alexnet_letters.py          days on a CPU
  python scripts/sweep.py --config configs/alexnet_letters.py:quick    minutes on two CPU cores

Published: batch size 1, 30 epochs, the rate divided by 10 every 10th epoch; rates above 1e-4
failed to converge, 1e-4 was best with about 95 % training accuracy, lower ones fell off.

Which of its two back ends DIGITS ran was not published. Only the TensorFlow one writes the
TensorBoard curves that were shown, so its network and its solver are the ones here; for the
other see alexnet_letters_caffe.py. The photographs were not published either; the letters are
rendered (lr_study/data/letters/), in the same numbers. To read photographs of your own, see
alexnet_folder.py.
"""

from ml_collections import ConfigDict


def get_config(variant: str = '') -> ConfigDict:
  """The config of the experiment, or of its `quick` variant."""
  config = ConfigDict()
  config.learning_rates = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # as published
  config.seeds = (0,)  # each rate trains once from each seed; published: one run a rate
  config.epochs = 30  # as published
  config.batch_size = 1  # as published
  config.batch_sizes = ()  # to try each rate at each of these; only at batch_size if empty
  config.schedules = ()  # to try each rate with each of these; only with schedule.name if empty
  config.equal = 'epochs'  # what is the same for all batch sizes; or 'steps': epochs are then
  # those of batch_size
  config.image_size = 256  # DIGITS's default for AlexNet
  config.parallel = 'vmap'  # all trials on one device; 'pmap' spreads them over all
  config.trials_per_call = 0  # that a device trains in one call; 0: one on a CPU, else all
  config.memory_gb = 0.0  # that the trials on a device may take; 0: what is free
  config.eval_batch_size = 50  # changes speed and memory only; a multiple of 10 is fastest on a CPU
  config.log_every_steps = 100  # steps between two points in TensorBoard, and their mean
  config.checkpoint_minutes = 10.0  # besides the one at the end of each epoch
  config.checkpoint_steps = 0  # and, if not 0, after so many steps; at the end of a chunk of steps

  config.search = ConfigDict()
  config.search.name = 'grid'  # the order that rates are tried in: 'outside_in' and 'middle_out',
  # as published; 'bisect', 'refine', 'halving', 'optuna': see lr_study/search/strategies.py
  config.search.epochs = 1  # of a short run: of bisect, and of halving's first
  config.search.factor = 1.25  # bisect and refine: no rates nearer than this to one another
  config.search.keep = 2  # halving: one in so many rates goes on, for so many times the epochs
  config.search.trials = 20  # optuna: rates in all

  config.sharpness_images = 0  # to measure sharpness on after each epoch, in one batch, against
  # the edge of stability, 2 (1 + momentum) / rate; it takes 20 products with the Hessian

  config.data = ConfigDict()
  config.data.name = 'tombstone_letters'  # 'image_folder', 'image_list'; or a set of TFDS
  config.data.dir = ''  # of image_folder: one sub-folder a class; of image_list: the lists
  config.data.validation_dir = ''  # of image_folder: validate on these; split data.dir if empty
  config.data.classes = ()  # the classes to keep; all if empty (here the ten published ones)
  config.data.per_class = 0  # images of each class, all if 0 (here 700, as published)
  config.data.train_fraction = 0.75  # published: 525 of 700
  config.data.split = 'random'  # 'unseen': whole typefaces and stones (of tombstone_letters) are
  # in the validation images only, so that accuracy there is on what the network never saw
  config.data.test_fraction = 0.0  # kept out of the sweep, for an honest figure of its answer
  config.data.seed = 0  # of the split, and of the rendered letters
  config.data.resize = 'squash'  # DIGITS's default; 'crop', 'fill', 'half_crop'
  config.data.reshuffle = True  # a new order each epoch, as DIGITS's TensorFlow back end; the
  # images left over by batch_size sit out, so without it they would always be the same ones
  config.data.skip_unreadable = False  # leave broken files out, and list them
  config.data.resident = True  # in memory, if they fit; False: read from their files step by step
  config.data.cache_dir = ''  # where data sets are built; TFDS's own folder if empty

  config.input = ConfigDict()
  config.input.subtract = 'image'  # the mean image (DIGITS's default), 'pixel' or 'none'
  config.input.scale = 1.0  # pixels stay 0 to 255, which is why stable rates are so small
  config.input.crop = 0  # random crop in training, centre crop in validation; 0: none
  config.input.mirror = False  # random mirror in training: wrong for letters
  config.input.bgr = False  # Caffe's order of the channels
  config.input.grey = False  # one channel of brightness: colours of stones tell no letters
  config.input.size = 0  # what images are scaled to inside the step; 0: image_size
  config.input.standardise = False  # each image to mean 0, variance 1: exposure is no matter then
  # Augmentation: a draw an image and step in training, the same for all trials of a seed. It
  # stands for photographs that the data set lacks; the published experiment had none.
  config.input.rotation = 0.0  # up to so many degrees either way
  config.input.shift = 0.0  # up to this share of the side, each way
  config.input.zoom = 0.0  # in or out by up to this share: 0.1 is 1 / 1.1 to 1.1
  config.input.stretch = 0.0  # width to height, likewise
  config.input.shear = 0.0  # up to so many pixels aside a pixel down: italics
  config.input.brightness = 0.0  # up to so many grey levels more or less
  config.input.contrast = 0.0  # up or down by up to this share
  config.input.invert = False  # bright for dark in every other image: paint is pale or dark
  config.input.noise = 0.0  # standard deviation in grey levels, of each image up to this

  config.model = ConfigDict()
  config.model.preset = 'digits_tensorflow'  # 'digits_caffe', 'torchvision', 'small_cnn'
  config.model.width = 1.0  # factor on the features of every hidden layer
  config.model.dropout = 0.5  # after fc6 and fc7, as in DIGITS
  config.model.convolution = 'auto'  # computed as 'grouped' on a GPU, as 'matmul' on a CPU
  config.model.dense = 'auto'  # 'plain': kernels updated each step; 'factored': network/factored.py

  config.schedule = ConfigDict()
  config.schedule.name = 'step_decay'  # 'constant', 'piecewise', 'exponential': a range test
  config.schedule.every_epochs = 10.0  # of step_decay, as published
  config.schedule.factor = 0.1  # of step_decay, as published
  config.schedule.from_epochs = (11, 20)  # of piecewise: the published example of ...
  config.schedule.heights = (0.1, 0.01)  # ... 1e-3, then 1e-4 from epoch 11, 1e-5 from 20
  config.schedule.warmup_epochs = 0.0  # of any schedule: a linear rise from 0
  config.schedule.start_height = 1e-8  # of exponential, which climbs from there to 1: fastai's span

  config.optimizer = ConfigDict()
  config.optimizer.momentum = 0.0  # DIGITS's TensorFlow back end runs plain SGD
  config.optimizer.rate_in_velocity = False  # Caffe's momentum; see lr_study/optimizer.py
  config.optimizer.weight_decay = 0.0  # none in DIGITS's TensorFlow gradient
  config.optimizer.decay_per_rate = False  # decay = weight_decay x rate, as DIGITS sets Caffe's
  config.optimizer.bias_rate = 1.0  # factor on the rate of biases
  config.optimizer.bias_decay = 1.0  # factor on the weight decay of biases

  if variant == 'quick':
    _make_small(config)
  elif variant:
    raise ValueError(f'there is no variant {variant!r} of this config, only quick')
  return config


def _make_small(config: ConfigDict) -> None:
  """The same study small enough for two CPU cores: the shape of the answer, not its figures."""
  config.image_size = 84  # the network's smallest is 67
  config.model.width = 0.25  # 1.4 M parameters instead of 58 M
  config.model.dropout = 0.0  # so few features learn too slowly if half of them are dropped
  config.eval_batch_size = 250  # its dense layers then read their kernels five times less often
  config.data.per_class = 500
  config.epochs = 3
  config.schedule.every_epochs = 1.0  # the decay in the same places: after each third
