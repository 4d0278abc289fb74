"""The forward pass as numba kernels: leaf kernels below, one step function (step.py) above them."""
