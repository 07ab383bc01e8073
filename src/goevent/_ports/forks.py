"""The forks of this process: tells every open bus that it was copied into a child process.

A session is watched from its start to its end. `os.fork` has no other hook than one for the whole
process, so this module holds the one list of sessions; it keeps none of them alive.

Theory of operation. A fork copies an open bus, its sockets and, if it was made on the thread of the
run loop, its tasks. All of them belong to the parent. So before any other code runs in the child,
each copy refuses its callers, its tasks are stopped where they are, and the run loop gets an epoll
of its own. The hot path pays nothing: the child finds another owner and no routes.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import Protocol

from .._trio_internals import own_run_loop

logger = logging.getLogger("goevent")


class Forkable(Protocol):
    """A part of an open bus that has to learn of a fork."""

    def fork(self) -> None:
        """Become the copy of the parent's; called in the child, before any other code."""
        ...


watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def _fork_all() -> None:
    sessions = [*watched]
    watched.clear()
    if sessions:
        own_run_loop()
    for session in sessions:
        try:
            session.fork()
        except Exception:
            logger.exception("the driver of a bus failed to leave the bus to the parent process")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_all)
