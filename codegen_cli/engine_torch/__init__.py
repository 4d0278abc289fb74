"""A packed file's forward pass in PyTorch, for GPUs."""
