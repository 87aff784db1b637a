"""Runs an exported model in a separate process: python check.py FOLDER images.npy logits.npy"""

import sys
from pathlib import Path

import numpy as np

folder, images, logits = map(Path, sys.argv[1:])
sys.path.insert(0, str(folder))

import predict  # noqa: E402, of that folder

model = predict.load(folder)
pixels = np.load(images)
# One image, then all: the program must work for any number.
one, every = model(pixels[:1]), model(pixels)
np.save(logits, np.concatenate([one, every]))
foreign = {'lr_study', 'flax', 'optax', 'orbax', 'tensorflow_datasets'} & sys.modules.keys()
if Path(predict.__file__).parent != folder or foreign:
  sys.exit(f'it needs more than its folder: {sorted(foreign)}')
