"""The published experiment: AlexNet in NVIDIA DIGITS on ten letters of tombstones, seven rates.

  python scripts/sweep.py --config configs/alexnet_letters.py          days on a CPU
  python scripts/sweep.py --config configs/alexnet_letters.py:quick    minutes on two CPU cores

Mark III Systems, "Hyperparameters for Classifying Images with Convolutional Neural Networks - Part
1 - Learning Rate", https://www.markiiisys.com/blog/
hyperparameters-for-classifying-images-with-convolutional-neural-networks-part-1-learning-rate/

Published: batch size 1, 30 epochs, the rate divided by 10 every 10th epoch. Rates above 1e-4
failed to converge, 1e-4 was best with about 95 % training accuracy, and lower rates did worse.

It was not published which of its two back ends DIGITS used. Only the TensorFlow back end writes the
TensorBoard curves that were shown, so this config has its network and solver;
alexnet_letters_caffe.py has those of the other. The photographs were not published either. The
letters here are rendered (lr_study/data/letters/), with the published number of images. For your
own photographs, see alexnet_folder.py.

Each section below names a function. Its other fields are arguments of that function; those not set
here have the function's defaults. The name may also be that of a function in your own file, such
as --config.model.name=my_models.py:MyNet.
"""

from ml_collections import ConfigDict


def get_config(variant: str = '') -> ConfigDict:
  """The config of the experiment, or of its `quick` variant."""
  config = ConfigDict()
  config.learning_rates = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # as published
  config.seeds = (0,)  # each rate trains once with each seed; published: one run per rate
  config.epochs = 30  # as published
  config.batch_size = 1  # as published
  config.axes = ConfigDict(allow_dotted_keys=True)  # other values to try with each rate, such as
  # config.axes['optimizer.weight_decay'] = (0.0, 1e-4), or ['batch_size'] = (1, 4, 16)
  config.equal = 'epochs'  # what is the same for all batch sizes: 'epochs', or 'steps', with
  # config.epochs then for config.batch_size
  config.image_size = 256  # DIGITS's default for AlexNet
  config.dtype = 'float32'  # of activations and products, or 'bfloat16'; weights stay float32
  config.parallel = 'auto'  # 'threads', one per trial: auto on CPUs; 'vmap', all trials in one
  # program: auto elsewhere; 'pmap' or 'shard_map' spread trials over all devices
  config.accelerate = 'auto'  # compute the same numbers faster, see lr_study/accelerate/; or 'off'
  config.memory_gb = 0.0  # what the trials on a device may use; 0: all that is free
  config.eval_batch_size = 50  # affects only speed and memory
  config.log_every_steps = 100  # steps between two points in TensorBoard, which are means over them
  config.checkpoint_minutes = 10.0  # in addition to one at the end of each epoch
  config.checkpoint_steps = 0  # if not 0, also after this many steps, when a chunk of steps ends
  config.sharpness_images = 0  # images on which sharpness is measured after each epoch, in one
  # batch; 20 Hessian products. It is compared with the edge of stability, 2 (1 + momentum) / rate
  config.metrics = ('balanced_accuracy',)  # besides loss and accuracy; see lr_study/metrics.py

  config.verdict = ConfigDict()
  config.verdict.measure = ''  # the metric that decides which rate is best, or 'loss'; '' means
  # accuracy, or balanced_accuracy if classes have different numbers of images
  config.verdict.epoch = 'last'  # or 'best'

  config.search = ConfigDict()
  config.search.name = 'grid'  # all rates at once; 'outside_in' and 'middle_out', as published;
  # 'bisect', 'refine', 'halving', 'optuna': see lr_study/search/strategies.py

  config.data = ConfigDict()
  config.data.name = 'tombstone_letters'  # 'image_folder', 'image_list', a TFDS name, 'npz:PATH'
  config.data.classes = ()  # the classes to keep; all if empty (here the ten published ones)
  config.data.per_class = 0  # images of each class, all if 0 (here 700, as published)
  config.data.train_fraction = 0.75  # published: 525 of 700
  config.data.split = 'random'  # 'unseen' (tombstone_letters only): some typefaces and stones occur
  # only in validation images, so that accuracy there is on what the network never saw
  config.data.test_fraction = 0.0  # kept out of the sweep, for an unbiased test of its answer
  config.data.seed = 0  # of the split, and of the rendered letters
  config.data.reshuffle = True  # a new order each epoch, as in DIGITS's TensorFlow back end; images
  # left over by batch_size are not used in that epoch, so False always leaves out the same ones

  config.input = ConfigDict()
  config.input.name = 'images'  # crops, augmentation and more: see lr_study/inputs.py
  config.input.subtract = 'image'  # the mean image (DIGITS's default), 'pixel' or 'none'
  config.input.scale = 1.0  # pixels keep their range of 0 to 255, so stable rates are small

  config.model = ConfigDict()
  config.model.name = 'digits_tensorflow'  # 'digits_caffe', 'small_cnn', 'resnet18', 'vit_tiny' and
  # others: see lr_study/models/
  config.model.width = 1.0  # a factor on the number of features of every hidden layer
  config.model.dropout = 0.5  # after fc6 and fc7, as in DIGITS

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'  # 'caffe_sgd', or any of optax or optax.contrib, such as 'adamw'
  config.optimizer.momentum = 0.0  # DIGITS's TensorFlow back end uses plain SGD ...
  config.optimizer.weight_decay = 0.0  # ... without weight decay

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
  """Scales the study down for two CPU cores: rates behave alike, but figures differ."""
  config.image_size = 84  # the network's smallest is 67
  config.model.width = 0.25  # 1.4 M parameters instead of 58 M
  config.model.dropout = 0.0  # with so few features, dropout slows learning too much
  config.data.per_class = 500
  config.epochs = 3
  config.schedule.every_epochs = 1.0  # as published, after each third of the run
