"""Texts of any length -> how likely a model finds them, and their vectors."""
