"""RESP3 by hiredis, with bounds for what a hostile server can make it do.

hiredis bounds the nesting of frames, but allocates a list as long as its header says. So headers
with four or more digits are looked at before hiredis sees them. That costs a search of each chunk,
a quarter of what parsing it costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import hiredis

from .errors import ProtocolBroken
from .replies import error_reply
from .resp_python import MIN_ELEMENT, Encodable

if tuple(map(int, hiredis.__version__.split(".")[:2])) < (3, 5):
    # Earlier ones do not bound the nesting, or do not tell push frames from replies.
    raise ImportError("hiredis 3.5 or newer is needed")

_NOT_ENOUGH = object()
_LARGE = re.compile(rb"\n(?:[*~%>]([0-9]{4,})|\|)")
_CUT_HEADER = re.compile(rb"\n[*~%>|][0-9]{0,20}\Z")


class HiredisReader:
    """Reads the frames of one connection with hiredis; see `Reader`."""

    def __init__(self, limit: int) -> None:
        self.push_type: type[list[Any]] = hiredis.PushNotification
        self.failure: ProtocolBroken | None = None
        self._limit = limit
        self._parser = hiredis.Reader(replyError=error_reply, notEnoughData=_NOT_ENOUGH)
        self._parser.setmaxbuf(1 << 18)  # else each chunk allocates the buffer anew
        self._carry = b"\n"  # the last byte that was fed, then what is held back
        self._size = 0  # bytes since a frame ended, less than a chunk too few
        self._declared = 0  # elements that large headers have announced since then

    def read(self, chunk: bytes) -> list[Any]:
        """Return the frames that are complete now, in order; error replies are exceptions."""
        frames: list[Any] = []
        if self.failure is not None:
            return frames
        text = self._carry + chunk
        end = len(text)
        # A header that is cut off waits for its rest, so that it can be judged.
        if cut := _CUT_HEADER.search(text, max(0, end - 22)):
            end = cut.start() + 1
        begin = 1
        for large in _LARGE.finditer(text, 0, end):
            header = large.start() + 1
            self._feed(text[begin:header], frames)
            begin = header
            # Nothing unread: hiredis expects an element here, so this is no string's content.
            if self.failure is None and not self._parser.has_data():
                self._judge(large[1])
            if self.failure is not None:
                return frames
        self._feed(text[begin:end], frames)
        self._carry = text[end - 1 :]
        self._size = 0 if frames else self._size + len(chunk)
        if self._size > self._limit and self.failure is None:
            self._fail(f"a reply is larger than the limit of {self._limit} bytes")
        return frames

    def _feed(self, data: bytes, frames: list[Any]) -> None:
        if not data:
            return
        count = len(frames)
        self._parser.feed(data)
        gets, append = self._parser.gets, frames.append
        try:
            while (frame := gets()) is not _NOT_ENOUGH:
                append(frame)
        except (hiredis.HiredisError, TypeError, ValueError, MemoryError) as error:
            self._fail(str(error) or type(error).__name__)
        if len(frames) > count:
            self._declared = 0

    def _judge(self, digits: bytes | None) -> None:
        if digits is None:
            self._fail("'|' does not begin a RESP3 frame that is supported")
            return
        self._declared += int(digits[:20])
        if self._declared * MIN_ELEMENT > self._limit:
            self._fail(f"a reply of {self._declared} elements is above the size limit")

    def _fail(self, text: str) -> None:
        self.failure = ProtocolBroken(text)


pack_hiredis = cast("Callable[[tuple[Encodable, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
