"""The command `goevent`: runs a bus, describes it, and asks its broker; the extra `cli`.

Each command is a module of this room, which is imported when the command is used: `goevent --help`
imports neither Trio nor a driver. A command prints to stdout, reports faults to stderr in one line,
and exits with 0 if all is fine, 1 for a finding, and 2 for wrong use. This room uses the public
names of goevent and of the other rooms. Nothing imports it.
"""
