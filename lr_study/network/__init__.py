"""The networks, and how their convolutions and dense kernels are computed."""
