"""`python -m goevent` is the command `goevent`."""

from goevent.cli import main

if __name__ == "__main__":
    main()
