"""Which rate for scikit-learn's digits? Loads 1,797 images as arrays with a function.

pip install scikit-learn
python scripts/sweep.py --config examples/digits.py
"""

from ml_collections import ConfigDict


def load():
  """Images, float32 (1797, 64) from 0 to 1, and labels, (1797,)."""
  from sklearn.datasets import load_digits  # noqa: PLC0415  # only needed here

  x, y = load_digits(return_X_y=True)
  return x.astype('float32') / 16, y


def get_config() -> ConfigDict:
  """Six rates from five seeds."""
  config = ConfigDict()
  config.learning_rates = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3)
  config.seeds = (0, 1, 2, 3, 4)
  config.epochs = 20
  config.batch_size = 32
  config.data = ConfigDict({'name': f'{__file__}:load'})
  config.model = ConfigDict({'name': 'mlp', 'hidden': (64,)})
  config.optimizer = ConfigDict({'name': 'sgd', 'momentum': 0.9})
  config.schedule = ConfigDict({'name': 'cosine'})
  return config
