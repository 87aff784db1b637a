"""Is Muon better than SGD with momentum, each at its own best rate, and what without any rate?

  PYTHONPATH=. python configs/examples/optimizers.py

Prodigy finds its rate itself: what is swept for it is a factor on that, and 1 should be good.
"""

import lr_study

LETTERS = {
  'data': {'name': 'tombstone_letters', 'per_class': 200},
  'image_size': 64,
  'input': {'subtract': 'none', 'grey': True, 'standardise': True, 'size': 32},
}
SIDES = {
  'SGD': ({'name': 'sgd', 'momentum': 0.9}, (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)),
  'Muon': ({'name': 'muon'}, (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)),
  'Prodigy': ({'name': 'prodigy'}, (3.0, 1.0, 0.3)),
}


def main(model=None, sides=tuple(SIDES), **study):
  """A study for each optimiser, by its name."""
  model = model or {'name': 'small_cnn', 'width': 0.5, 'dropout': 0.0}
  found = {}
  for name in sides:
    optimizer, rates = SIDES[name]
    found[name] = lr_study.sweep(
      model, learning_rates=rates, optimizer=optimizer, schedule='cosine', **LETTERS | study
    )
    print(f'{name}: {found[name].verdict}')
  return found


if __name__ == '__main__':
  main()
