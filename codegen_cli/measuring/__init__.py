"""How fast this machine is, and how fast models run on it."""
