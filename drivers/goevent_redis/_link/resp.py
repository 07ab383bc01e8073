"""RESP3 bytes to frames and back: by hiredis when it is there, else in Python.

A reader does not raise: what is wrong with the bytes stands in `failure`, and the frames that came
whole before it are returned all the same. A hostile server can make it take no more memory than a
few times the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from .errors import ProtocolBroken
from .resp_python import Encodable as Encodable, PythonReader, pack_python


class Reader(Protocol):
    """Turns the bytes of one connection into frames."""

    push_type: type[list[Any]]
    """The class of push frames; whatever is not of this class is a reply."""

    failure: ProtocolBroken | None
    """What is wrong with the bytes; the connection must be given up then."""

    def read(self, chunk: bytes) -> list[Any]:
        """Return the frames that are complete now, in order; error replies are exceptions."""
        ...


_reader: Callable[[int], Reader] = PythonReader
pack: Callable[[tuple[Encodable, ...]], bytes] = pack_python
"""Return a command as the server reads it.

Raises:
    TypeError: Something is neither text nor bytes nor a number.
    ValueError: A text holds half of a surrogate pair.
"""

with suppress(ImportError):
    from . import resp_hiredis as _resp_hiredis

    _reader, pack = _resp_hiredis.HiredisReader, _resp_hiredis.pack_hiredis


def pack_but_last(*args: Encodable) -> bytes:
    """Return a command as far as it is the same each time, for `complete`."""
    return pack((*args, b"")).removesuffix(b"0\r\n\r\n")


def complete(head: bytes, last: bytes) -> bytes:
    """Return a command with its last argument, in a third of the time that `pack` takes."""
    return b"%b%d\r\n%b\r\n" % (head, len(last), last)


def make_reader(limit: int) -> Reader:
    """Return a reader that refuses replies of more than about `limit` bytes."""
    return _reader(limit)
