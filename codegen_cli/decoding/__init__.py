"""Logits -> the next token, until something says stop."""
