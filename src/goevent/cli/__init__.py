"""The command `goevent`: runs a bus, describes it, and asks its broker; the extra `cli`.

Each command is a module of this room, which is imported when the command is used: `goevent --help`
imports neither Trio nor a driver. A command prints to stdout, reports faults to stderr in one line,
and exits with 0 if all is fine, 1 for a finding, and 2 for wrong use. This room uses the public
names of goevent and of the other rooms. Nothing imports it.

- `group`: the command itself, and the look-up of its commands in the table of `commands`.
- `run`: the command of this name; `worker` serves a bus, `workers` and `reloading` start processes
  by `worker_process`, and `early_signals` takes the signals that come before the bus is open.
- `top`: the command of this name; `meter` makes its frames, `screen` shows them, and `page_client`
  asks a live page.
- `targets`: the bus that a text stands for.
- `asked_broker`: the driver of a target in a bus of its own; `keyed_driver` gives its events a key.
- `output`: tables, JSON and progress bars.
- `failures`: the line and the exit code of an error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command `goevent`, and end the process.

    Args:
        arguments: The arguments; None for those of the process.

    Raises:
        SystemExit: Always, with the exit code: 0 if all is fine, 1 for a finding or a failure, 2
            for wrong use, 130 after Ctrl-C.
    """
    try:
        from .failures import run
        from .group import group
    except ImportError as error:
        if error.name != "click":
            raise
        # Without the packages of the extra, the command still says what to do.
        sys.stderr.write("goevent: the command needs an extra: pip install 'goevent[cli]'\n")
        sys.exit(2)
    sys.exit(run(group, sys.argv[1:] if arguments is None else arguments))
