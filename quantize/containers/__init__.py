"""Checkpoints' files -> tensors, mapped, with every offset checked."""
