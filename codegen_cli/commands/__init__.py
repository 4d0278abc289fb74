"""The command line: one module per command, and app.py that joins them."""
