"""What does the boundary between rates that train and rates that diverge look like?

A network with one hidden layer of 8 tanh and a linear output is trained by gradient descent on all
of 72 random points, as many as it has weights, for 200 steps. The hidden and the output layer have
a rate each: a grid of 256 x 256 pairs of rates is one compiled program. Then it zooms in, five
times by a factor of 5, each time to a window with a typical part of the boundary. A pair converges
if the mean of its last 20 losses is below its first one.

Published:

- This boundary is a fractal over more than ten decades of scale, with dimensions from 1.17 to 1.98
  for several networks: J. Sohl-Dickstein, "The boundary of neural network trainability is fractal",
  2024, arXiv 2402.06184. That paper has 16 hidden units and 500 or 1,000 steps. Its criterion of
  convergence and its estimate of the dimension, the median slope of the box counts, are used here.
"""

PARTS = ()  # it is a program of its own, not a sweep

HIDDEN = 8
STEPS = 200
SIZE = 256  # rates along each side of the grid
LOWEST, DECADES = (-1.0, -1.0), 4.0  # log10 of the rates of the hidden and of the output layer
FACTOR, ZOOMS = 5, 5
SEED = 0
FULL = {'HIDDEN': 16, 'STEPS': 500, 'SIZE': 512}
