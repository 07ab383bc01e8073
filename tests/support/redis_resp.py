"""RESP3 in pure Python: the oracle for the reader of goevent_redis, which uses hiredis.

It gives the same frames as the reader with hiredis, byte for byte, and refuses the same bytes. The
tests compare the two, and run the link with this one, too.
"""

from __future__ import annotations

import math
import re
from typing import Any

from goevent_redis._link.errors import ProtocolBroken
from goevent_redis._link.replies import error_reply
from goevent_redis._link.resp import MIN_ELEMENT_BYTES, Encodable

MAX_DEPTH = 1024
"""How deep frames may be nested; as in hiredis."""

_INTEGER = re.compile(rb"0|-?[1-9][0-9]*")
_BIG_NUMBER = re.compile(rb"-?[0-9]*")
_DOUBLE = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_DOUBLE_NAMES = {b"inf": math.inf, b"-inf": -math.inf, b"nan": math.nan, b"-nan": math.nan}
_MAX_DOUBLE_CHARS = 325
_BOOLEANS = {b"t": True, b"T": True, b"f": False, b"F": False}
_INCOMPLETE = object()
_OPENED = object()


class PythonPush(list[Any]):
    """A push frame: the server sends it without a request."""


class _OpenAggregate:
    """An aggregate whose elements are still arriving."""

    __slots__ = ("expected", "items", "kind")

    def __init__(self, kind: int, expected: int) -> None:
        self.kind = kind
        self.expected = expected
        self.items: list[Any] = []

    def close(self) -> Any:
        if self.kind == _MAP:
            items = iter(self.items)
            try:
                return dict(zip(items, items, strict=True))
            except TypeError:
                raise ProtocolBroken("a map has a key that Python cannot hash") from None
        return PythonPush(self.items) if self.kind == _PUSH else self.items


_MAP, _PUSH = ord("%"), ord(">")


class PythonReader:
    """Turns the bytes of one connection into frames, as `ReplyReader` does with hiredis."""

    push_type: type[list[Any]] = PythonPush

    def __init__(self, limit: int) -> None:
        self.failure: ProtocolBroken | None = None
        self._limit = limit
        self._buffer = bytearray()
        self._at = 0  # the position of the next element
        self._searched = 0  # no line end is before this position
        self._size = 0  # bytes of the open frame that have left the buffer
        self._declared = 0  # elements that the open frame has announced
        self._stack: list[_OpenAggregate] = []

    def read(self, chunk: bytes) -> list[Any]:
        """Return the frames that are complete now, in order; error replies are exceptions."""
        frames: list[Any] = []
        if self.failure is not None:
            return frames
        self._buffer += chunk
        start = 0
        try:
            while (frame := self._frame()) is not _INCOMPLETE:
                frames.append(frame)
                start, self._size, self._declared = self._at, 0, 0
            self._size += self._at - start
            if self._size + len(self._buffer) - self._at > self._limit:
                raise ProtocolBroken(f"a reply is larger than the limit of {self._limit} bytes")
        except ProtocolBroken as failure:
            self.failure = failure
        del self._buffer[: self._at]
        self._searched = max(0, self._searched - self._at)
        self._at = 0
        return frames

    def _frame(self) -> Any:
        stack = self._stack
        while True:
            value = self._element()
            if value is _INCOMPLETE:
                return value
            if value is _OPENED:
                continue
            while stack:
                innermost = stack[-1]
                innermost.items.append(value)
                if len(innermost.items) < innermost.expected:
                    break
                value = stack.pop().close()
            else:
                return value

    def _element(self) -> Any:
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n", max(at, self._searched))
        if end < 0:
            # The last byte may be the first half of the line end.
            self._searched = max(at, len(buffer) - 1)
            if at < len(buffer) and buffer[at] not in b"+-:_,#($=*~%>":
                raise _unknown(buffer[at])
            return _INCOMPLETE
        if end == at:
            raise _unknown(buffer[at])
        kind, line = buffer[at], bytes(buffer[at + 1 : end])
        after = end + 2
        if kind in b"$=":
            value = self._bulk(kind, line, after)
            if value is _INCOMPLETE:
                return value
        elif kind in b"*~%>":
            value = self._aggregate(kind, line)
            self._at = after
        else:
            value = _scalar(kind, line)
            self._at = after
        return value

    def _bulk(self, kind: int, line: bytes, start: int) -> Any:
        size = _length(line)
        if size > self._limit:
            raise ProtocolBroken(f"a string of {size} bytes is above the limit of {self._limit}")
        end = start + max(size, 0)
        if size >= 0:
            if len(self._buffer) < end + 2:
                return _INCOMPLETE
            self._at = end + 2
        else:
            self._at = start
            return None
        if kind == ord("="):
            # The text is preceded by its three-letter format and a colon.
            if size < 4 or self._buffer[start + 3] != ord(":"):
                raise ProtocolBroken("a verbatim string does not tell its format")
            start += 4
        return bytes(self._buffer[start:end])

    def _aggregate(self, kind: int, line: bytes) -> Any:
        count = _length(line)
        if count < 0:
            return None
        aggregate = _OpenAggregate(kind, 2 * count if kind == _MAP else count)
        if not count:
            return aggregate.close()
        self._declared += aggregate.expected
        if self._declared * MIN_ELEMENT_BYTES > self._limit:
            raise ProtocolBroken(f"a reply of {self._declared} elements is above the size limit")
        if len(self._stack) >= MAX_DEPTH:
            raise ProtocolBroken("a reply is nested too deep")
        self._stack.append(aggregate)
        return _OPENED


def _scalar(kind: int, line: bytes) -> Any:
    value: Any = None
    match chr(kind):
        case "+" | "-":
            valid = b"\r" not in line and b"\n" not in line
            value = line if kind == ord("+") else error_reply(line.decode("utf-8", "replace"))
        case ":":
            value = _integer(line)
            valid = value is not None
        case "_":
            valid = not line
        case "#":
            value = _BOOLEANS.get(line)
            valid = value is not None
        case ",":
            value = _double(line)
            valid = value is not None
        case "(":
            value = line
            valid = _BIG_NUMBER.fullmatch(line) is not None
        case _:
            raise _unknown(kind)
    if not valid:
        raise ProtocolBroken(f"not a value of type {chr(kind)!r}: {line[:40]!r}")
    return value


def _integer(line: bytes) -> int | None:
    if len(line) > 20 or not _INTEGER.fullmatch(line):
        return None
    value = int(line)
    return value if -(2**63) <= value < 2**63 else None


def _length(line: bytes) -> int:
    size = _integer(line)
    if size is None or not -1 <= size < 2**32:
        raise ProtocolBroken(f"not a length: {line[:40]!r}")
    return size


def _double(line: bytes) -> float | None:
    if (named := _DOUBLE_NAMES.get(line.lower())) is not None:
        return named
    if len(line) > _MAX_DOUBLE_CHARS or not _DOUBLE.fullmatch(line):
        return None
    value = float(line)
    return value if math.isfinite(value) else None


def _unknown(kind: int) -> ProtocolBroken:
    return ProtocolBroken(f"{chr(kind)!r} does not begin a RESP3 frame")


def pack_python(args: tuple[Encodable, ...]) -> bytes:
    """Return a command in the form in which the server reads it, as `hiredis.pack_command` does.

    Raises:
        TypeError: A part is neither text nor bytes nor a number.
    """
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, str):
            data: bytes = arg.encode()
        elif isinstance(arg, bytes):
            data = arg
        elif isinstance(arg, memoryview):
            data = arg.tobytes()
        elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
            data = repr(arg).encode()
        else:
            raise TypeError("A tuple item must be str, int, float or bytes.")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
