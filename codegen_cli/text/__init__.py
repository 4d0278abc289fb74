"""Prompt text -> token ids, and token ids -> whole characters."""
