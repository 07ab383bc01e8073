"""A function that runs in the thread of a portal's bus, for a caller outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any

import trio

from .._errors import BusClosed


class PortalCall:
    """One call of a function, from the caller to its result.

    Args:
        function: The function, or an `async def` for Trio.
        args: Its arguments.

    Attributes:
        context: The caller's context. The task of the call runs in it.
        result: What the function returns or raises. The caller waits for it.
        scope: Its cancellation cancels the function.
    """

    __slots__ = ("_args", "_function", "context", "result", "scope")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self.context: Context = copy_context()
        self.scope: trio.CancelScope = trio.CancelScope()
        self.result: Future[Any] = Future()

    async def run(self, finished: Callable[[PortalCall], None]) -> None:
        """Call the function in a task of Trio, and answer the caller.

        Args:
            finished: Called before a caller whose call was cancelled gets its answer.
        """
        try:
            with self.scope:
                result = self._function(*self._args)
                if inspect.isawaitable(result):
                    result = await result
                self.result.set_result(result)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self.result.set_exception(error)
        finally:
            finished(self)
            self.refuse(BusClosed("the portal closed before the call returned"))

    def refuse(self, reason: Exception) -> None:
        """Have the caller raise an error, unless it has its answer."""
        if not self.result.done():
            self.result.set_exception(reason)
