"""Processes of our own, which nothing reaches that is set for other programs."""
