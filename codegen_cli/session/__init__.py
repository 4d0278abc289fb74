"""A chosen model made ready to run, and what a program does with it."""
