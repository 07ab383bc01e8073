"""The forks of this process: tells every open bus that it was copied into a child process.

A session is watched from its start to its end. `os.fork` has no other hook than one for the whole
process, so this module holds the one list of sessions; it keeps none of them alive.

Theory of operation. A fork copies an open bus, its sockets and, if it was made on the thread of the
run loop, its tasks. All of them belong to the parent. So before any other code runs in the child,
each copy refuses its callers, its tasks are stopped where they are, and the run loop gets an epoll
of its own. The hot path pays nothing: the child finds another owner and no routes.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from .._trio_internals import own_run_loop


class Forkable(Protocol):
    """A part of an open bus that has to learn of a fork."""

    def fork(self) -> None:
        """Become the copy of the parent's; called in the child, before any other code."""
        ...


watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def _fork_all() -> None:
    sessions = [*watched]
    watched.clear()
    for session in sessions:
        session.fork()
    if sessions:
        own_run_loop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_all)
