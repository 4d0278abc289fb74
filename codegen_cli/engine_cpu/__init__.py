"""The engine for CPUs: a packed file -> logits, in compiled kernels on a team of threads."""
