"""Paths -> bytes that were checked, and back: files are read by their limits and written whole."""
