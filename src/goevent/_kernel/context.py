"""Runs a part of a task in a context of its own.

`Task.context` belongs to a whole task. Listeners share the tasks of the workers, and an awaited
inline listener runs on its dispatcher's task, so the kernel needs a context for one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from contextvars import Context


class InContext:
    """Awaits a coroutine in a context.

    It drives each step of the coroutine inside the context. It looks like a coroutine itself, so
    that Trio and debuggers see the frames of the listener (`Task.iter_await_frames`).
    """

    __slots__ = ("_coroutine", "_run")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, object]) -> None:
        self._run = context.run
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, object]:
        return cast("Generator[Any, Any, object]", self)

    def __iter__(self) -> InContext:
        return self

    def __next__(self) -> Any:
        return self._run(self._coroutine.send, None)

    def send(self, value: Any) -> Any:
        return self._run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    @property
    def cr_frame(self) -> Any:
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self._coroutine, "cr_await", None)
