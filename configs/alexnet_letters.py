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
as --config.model.name=my_models.py:MyNet. --help_config says what every field is for; the comments
below say why this study has these values.
"""

from ml_collections import ConfigDict


def get_config(variant: str = '') -> ConfigDict:
  """The config of the experiment, or of its `quick` variant."""
  config = ConfigDict()
  config.learning_rates = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # as published
  config.seeds = (0,)  # published: one run per rate
  config.epochs = 30  # as published
  config.batch_size = 1  # as published
  config.axes = ConfigDict(allow_dotted_keys=True)  # or, say:
  # config.axes['optimizer.weight_decay'] = (0.0, 1e-4)
  config.equal = 'epochs'
  config.image_size = 256  # DIGITS's default for AlexNet
  config.dtype = 'float32'
  config.parallel = 'auto'
  config.accelerate = 'auto'
  config.memory_gb = 0.0
  config.eval_batch_size = 50
  config.log_every_steps = 100
  config.checkpoint_minutes = 10.0
  config.checkpoint_steps = 0
  config.sharpness_images = 0
  config.critical_sharpness_images = 0
  config.metrics = ('balanced_accuracy',)
  config.figure_style = ()

  config.verdict = ConfigDict()
  config.verdict.measure = ''
  config.verdict.epoch = 'last'

  config.search = ConfigDict()
  config.search.name = 'grid'  # published: 'outside_in' and 'middle_out'

  config.data = ConfigDict()
  config.data.name = 'tombstone_letters'
  config.data.classes = ()  # the ten published ones
  config.data.per_class = 0  # 700, as published
  config.data.train_fraction = 0.75  # published: 525 of 700
  config.data.split = 'random'
  config.data.test_fraction = 0.0
  config.data.seed = 0
  config.data.reshuffle = True  # as DIGITS's TensorFlow back end

  config.input = ConfigDict()
  config.input.name = 'images'
  config.input.subtract = 'image'  # DIGITS's default
  config.input.scale = 1.0  # pixels keep their range of 0 to 255, so stable rates are small

  config.model = ConfigDict()
  config.model.name = 'digits_tensorflow'
  config.model.width = 1.0
  config.model.dropout = 0.5  # as in DIGITS

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'
  config.optimizer.momentum = 0.0  # DIGITS's TensorFlow back end uses plain SGD ...
  config.optimizer.weight_decay = 0.0  # ... without weight decay

  config.schedule = ConfigDict()
  config.schedule.name = 'step_decay'
  config.schedule.every_epochs = 10.0  # as published
  config.schedule.factor = 0.1  # as published

  config.loss = ConfigDict()
  config.loss.name = 'cross_entropy'

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
