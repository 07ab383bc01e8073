"""RESP3: the bytes of the wire to frames and back, by hiredis.

hiredis limits the nesting of frames, but allocates a list as long as its header says. So the reader
looks at headers with four or more digits before hiredis gets them. This costs a search of each
chunk, a quarter of the time that parsing takes. A hostile server can make the reader use no more
memory than a few times the limit.

A reader does not raise. It returns the frames that were complete before a damaged one, and keeps
the error in `failure`. The tests compare the reader with one in pure Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from .errors import ProtocolBroken
from .replies import error_reply

INSTALL = 'goevent_redis needs hiredis 3.5 or newer: pip install "goevent[redis]"'

try:
    import hiredis
except ImportError as error:
    raise ImportError(INSTALL) from error
if tuple(map(int, hiredis.__version__.split(".")[:2])) < (3, 5):
    # Older ones do not limit the nesting, or do not tell push frames from replies.
    raise ImportError(f"{INSTALL} (hiredis {hiredis.__version__} is installed)")

Encodable = str | bytes | int | float | memoryview
"""The types that the parts of a command may have."""

MIN_ELEMENT_BYTES = 3
"""The fewest bytes that an element of an aggregate takes, as in `_` and its line end."""

PARSER_BUFFER_BYTES = 1 << 18
"""The size of the buffer that hiredis keeps; above it, hiredis allocates anew for each chunk."""

_INCOMPLETE = object()
_LARGE_HEADER = re.compile(rb"\n(?:[*~%>]([0-9]{4,})|\|)")
_CUT_HEADER = re.compile(rb"\n[*~%>|][0-9]{0,20}\Z")
_MAX_CUT_HEADER_BYTES = 22

pack = cast("Callable[[tuple[Encodable, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
"""Return a command in the form in which the server reads it.

Raises:
    TypeError: A part is neither text nor bytes nor a number.
    ValueError: A text has a lone surrogate.
"""


def pack_prefix(*args: Encodable) -> bytes:
    """Return the unchanging beginning of a command, for `complete_command`."""
    return pack((*args, b"")).removesuffix(b"0\r\n\r\n")


def complete_command(prefix: bytes, last: bytes) -> bytes:
    """Return a command with its last argument, in a third of the time that `pack` takes."""
    return b"%b%d\r\n%b\r\n" % (prefix, len(last), last)


class ReplyReader:
    """Turns the bytes of one connection into frames.

    Args:
        limit: The size above which a reply is refused, in bytes, roughly.

    Attributes:
        push_type: The class of push frames; a frame of any other class is a reply.
        failure: The error in the bytes; the connection must be closed then.
    """

    def __init__(self, limit: int) -> None:
        self.push_type: type[list[Any]] = hiredis.PushNotification
        self.failure: ProtocolBroken | None = None
        self._limit = limit
        self._parser = hiredis.Reader(replyError=error_reply, notEnoughData=_INCOMPLETE)
        self._parser.setmaxbuf(PARSER_BUFFER_BYTES)
        self._carry = b"\n"  # the last byte that hiredis got, then the bytes that are held back
        self._size = 0  # bytes since a frame ended, short by less than a chunk
        self._declared = 0  # elements that large headers have announced since then

    def read(self, chunk: bytes) -> list[Any]:
        """Return the frames that are complete now, in order; error replies are exceptions."""
        frames: list[Any] = []
        if self.failure is not None:
            return frames
        text = self._carry + chunk
        end = len(text)
        # A header at the end may be cut off. It is held back until its number can be checked.
        if cut := _CUT_HEADER.search(text, max(0, end - _MAX_CUT_HEADER_BYTES)):
            end = cut.start() + 1
        begin = 1
        large = _LARGE_HEADER.search(text, 0, end)
        while large is not None:
            header = large.start() + 1
            self._feed(text[begin:header], frames)
            begin = header
            # The match may be inside a string. If hiredis has nothing unread, it expects an element
            # here, so the match is a header.
            if self.failure is None and not self._parser.has_data():
                self._check_header(large[1])
            if self.failure is not None:
                return frames
            large = _LARGE_HEADER.search(text, large.end(), end)
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
            while (frame := gets()) is not _INCOMPLETE:
                append(frame)
        except (hiredis.HiredisError, TypeError, ValueError, MemoryError) as error:
            self._fail(str(error) or type(error).__name__)
        if len(frames) > count:
            self._declared = 0

    def _check_header(self, digits: bytes | None) -> None:
        if digits is None:
            self._fail("'|' does not begin a RESP3 frame that is supported")
            return
        self._declared += int(digits[:20])
        if self._declared * MIN_ELEMENT_BYTES > self._limit:
            self._fail(f"a reply of {self._declared} elements is above the size limit")

    def _fail(self, text: str) -> None:
        self.failure = ProtocolBroken(text)
