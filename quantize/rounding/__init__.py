"""Weights -> groups of codes with a scale, and back: the definition of each format."""
