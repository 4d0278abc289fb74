"""Kernels -> object code, kept for the next process and linked without a compiler."""
