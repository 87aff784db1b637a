"""The published experiment: AlexNet in NVIDIA DIGITS on ten letters of tombstones, seven rates.

  python scripts/sweep.py --config configs/alexnet_letters.py          days on a CPU
  python scripts/sweep.py --config configs/alexnet_letters.py:quick    minutes on two CPU cores

Mark III Systems, "Hyperparameters for Classifying Images with Convolutional Neural Networks - Part
1 - Learning Rate", https://www.markiiisys.com/blog/
hyperparameters-for-classifying-images-with-convolutional-neural-networks-part-1-learning-rate/

Published: batch size 1, 30 epochs, the rate divided by 10 every 10th epoch. Rates above 1e-4
failed to converge, 1e-4 was best with about 95 % training accuracy, and lower ones fell off.

Which of its two back ends DIGITS ran was not published. Only the TensorFlow one writes the
TensorBoard curves that were shown, so its network and its solver are the ones here; for the
other see alexnet_letters_caffe.py. The photographs were not published either. The letters are
rendered (lr_study/data/letters/), as many as were published. To read photographs of your own, see
alexnet_folder.py.

Each section below names a function, and its other fields are arguments of that function: those
that are not here have its defaults. The name may also be that of a function in a file of your own,
as in --config.model.name=my_models.py:MyNet.
"""

from ml_collections import ConfigDict


def get_config(variant: str = '') -> ConfigDict:
  """The config of the experiment, or of its `quick` variant."""
  config = ConfigDict()
  config.learning_rates = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # as published
  config.seeds = (0,)  # each rate trains once from each seed; published: one run per rate
  config.epochs = 30  # as published
  config.batch_size = 1  # as published
  config.axes = ConfigDict(allow_dotted_keys=True)  # what to try each rate with, such as
  # config.axes['optimizer.weight_decay'] = (0.0, 1e-4), or ['batch_size'] = (1, 4, 16)
  config.equal = 'epochs'  # what all batch sizes have the same number of; with 'steps', epochs are
  # those of batch_size
  config.image_size = 256  # DIGITS's default for AlexNet
  config.dtype = 'float32'  # of activations and products, or 'bfloat16'; weights stay float32
  config.parallel = 'auto'  # 'threads', one per trial: auto on CPUs; 'vmap', all trials in one
  # program: auto elsewhere; 'pmap' or 'shard_map' spread them over all devices
  config.accelerate = 'auto'  # faster ways to the same numbers, lr_study/accelerate/; or 'off'
  config.memory_gb = 0.0  # that the trials on a device may take; 0: what is free
  config.eval_batch_size = 50  # changes speed and memory only
  config.log_every_steps = 100  # steps between two points in TensorBoard, and their mean
  config.checkpoint_minutes = 10.0  # besides the one at the end of each epoch
  config.checkpoint_steps = 0  # and, if not 0, after so many steps; at the end of a chunk of steps
  config.sharpness_images = 0  # to measure sharpness on after each epoch, in one batch, against
  # the edge of stability, 2 (1 + momentum) / rate; it takes 20 products with the Hessian
  config.metrics = ('balanced_accuracy',)  # measured besides loss and accuracy; lr_study/metrics.py

  config.verdict = ConfigDict()
  config.verdict.measure = ''  # which metric says what is best, or 'loss'; '': the accuracy, or
  # balanced_accuracy where classes have different numbers of images
  config.verdict.epoch = 'last'  # or 'best'

  config.search = ConfigDict()
  config.search.name = 'grid'  # all rates at once; 'outside_in' and 'middle_out', as published;
  # 'bisect', 'refine', 'halving', 'optuna': see lr_study/search/strategies.py

  config.data = ConfigDict()
  config.data.name = 'tombstone_letters'  # 'image_folder', 'image_list', a set of TFDS, 'npz:PATH'
  config.data.classes = ()  # the classes to keep; all if empty (here the ten published ones)
  config.data.per_class = 0  # images of each class, all if 0 (here 700, as published)
  config.data.train_fraction = 0.75  # published: 525 of 700
  config.data.split = 'random'  # 'unseen': whole typefaces and stones (of tombstone_letters) are
  # in the validation images only, so that accuracy there is on what the network never saw
  config.data.test_fraction = 0.0  # kept out of the sweep, for an honest figure of its answer
  config.data.seed = 0  # of the split, and of the rendered letters
  config.data.reshuffle = True  # a new order each epoch, as DIGITS's TensorFlow back end; the
  # images left over by batch_size sit out, so without it they would always be the same ones

  config.input = ConfigDict()
  config.input.name = 'images'  # crops, augmentation and more: see lr_study/inputs.py
  config.input.subtract = 'image'  # the mean image (DIGITS's default), 'pixel' or 'none'
  config.input.scale = 1.0  # pixels stay 0 to 255, which is why stable rates are so small

  config.model = ConfigDict()
  config.model.name = 'digits_tensorflow'  # 'digits_caffe', 'small_cnn', 'resnet18', 'vit_tiny' and
  # others: see lr_study/models/
  config.model.width = 1.0  # factor on the features of every hidden layer
  config.model.dropout = 0.5  # after fc6 and fc7, as in DIGITS

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'  # 'caffe_sgd', or any of optax or optax.contrib, such as 'adamw'
  config.optimizer.momentum = 0.0  # DIGITS's TensorFlow back end runs plain SGD,
  config.optimizer.weight_decay = 0.0  # and its gradient has no decay

  config.schedule = ConfigDict()
  config.schedule.name = 'step_decay'  # 'constant', 'cosine', 'piecewise', 'exponential' (a range
  # test) and others: see lr_study/schedules.py
  config.schedule.every_epochs = 10.0  # as published
  config.schedule.factor = 0.1  # as published

  config.loss = ConfigDict()
  config.loss.name = 'cross_entropy'  # 'focal', 'binary_cross_entropy': see lr_study/losses.py

  if variant == 'quick':
    _make_small(config)
  elif variant:
    raise ValueError(f'there is no variant {variant!r} of this config, only quick')
  return config


def _make_small(config: ConfigDict) -> None:
  """A scaled-down study for two CPU cores: the answer has the same shape, not the same figures."""
  config.image_size = 84  # the network's smallest is 67
  config.model.width = 0.25  # 1.4 M parameters instead of 58 M
  config.model.dropout = 0.0  # with so few features, dropping half of them slows learning too much
  config.data.per_class = 500
  config.epochs = 3
  config.schedule.every_epochs = 1.0  # the decay in the same places: after each third
