"""Counts of the work that code does: instructions and calls, so that no test measures time.

Nothing is collected meanwhile, because a pass of the garbage collector may run other functions.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


@contextmanager
def _no_collection() -> Generator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def count_instructions(call: Callable[[], object]) -> int:
    """Return how many instructions of Python a call executes, in all functions that it calls."""
    # From Python 3.12 on, trace functions do not see the instructions of all functions.
    with _no_collection():
        return _monitored(call) if sys.version_info >= (3, 12) else _traced(call)


def _monitored(call: Callable[[], object]) -> int:
    count = 0

    def executed(code: CodeType, offset: int) -> None:
        nonlocal count
        count += 1

    monitoring: Any = getattr(sys, "monitoring")  # noqa: B009 - not in Python 3.11
    tool, event = monitoring.OPTIMIZER_ID, monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, "count_instructions")
    try:
        monitoring.register_callback(tool, event, executed)
        monitoring.set_events(tool, event)
        try:
            call()
        finally:
            monitoring.set_events(tool, 0)
    finally:
        monitoring.free_tool_id(tool)
    return count


def _traced(call: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def count_calls(call: Callable[[], object]) -> int:
    """Return how many functions of Python a call runs, itself among them."""
    count = 0

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    with _no_collection():
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(before)
    return count
