"""Does the best rate change with the width, and does it stay the same with muP?

  PYTHONPATH=. python examples/width_mup.py

In muP, Adam's rate for a layer whose inputs grow with the width is divided by that growth (Yang et
al. 2022, arXiv 2203.03466, table 8), and the head starts at 0. Each width has its own factors,
which a product of axes cannot express, so this program runs several studies.
"""

import flax.linen as nn

import lr_study

RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
LETTERS = {
  'data': {'name': 'tombstone_letters', 'per_class': 100},
  'image_size': 64,
  'input': {'subtract': 'none', 'grey': True, 'standardise': True, 'size': 16},
}


class Net(nn.Module):
  """Three dense layers and a head. The inputs of all but the first grow with the width."""

  classes: int
  width: int

  @nn.compact
  def __call__(self, x):
    """Maps images (batch, height, width, channels) to logits (batch, classes)."""
    x = x.reshape(len(x), -1)
    for name in ('first', 'second', 'third'):
      x = nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name=name)(x))
    return nn.Dense(self.classes, kernel_init=nn.initializers.zeros_init(), name='head')(x)


def main(widths=(32, 128, 512), rates=RATES, **study):
  """Two lists: the best rate of each width, without the factors and with them."""
  best = {'standard': [], 'muP': []}
  for width in widths:
    growing = ('second/kernel|third/kernel|head/kernel', widths[0] / width)
    for name, factors in (('standard', ()), ('muP', (growing,))):
      optimizer = {'name': 'adam', 'rate_factors': factors}
      model = {'name': Net, 'width': width}
      found = lr_study.sweep(model, learning_rates=rates, optimizer=optimizer, **LETTERS | study)
      best[name].append(found.verdict.learning_rate)
      print(f'width {width}, {name}: {found.verdict}')
  return best


if __name__ == '__main__':
  print(main())
