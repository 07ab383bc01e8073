"""`python -m goevent` is the command `goevent`."""
