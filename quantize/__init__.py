"""Checkpoint -> tensors -> quantized blocks -> packed file."""
