"""The template: the unchanging parts of the messages of one event class, written once.

`_ports/message` keeps one for each class of events that it sends. Most messages of a class differ
in the event, the handle id, the second and the sequence number only. So a template writes the event
and puts these values between parts that it has written before. The result is that of
`JsonCodec.encode`, byte for byte; it takes half of the time. Headers are written at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import Any

_LONG_NUMBER_BYTES = len(b',"seq":') + 19
"""The shortest sequence number that may be beyond int64; the codec looks at it."""


class MessageTemplate:
    """Writes the messages of one event class.

    Attributes:
        event_name: The event name of the messages.
        origin: Their origin.

    Args:
        event_name: See above.
        origin: See above.
        can_write: Tells whether `write` may write an event without further checks.
        write: Returns the JSON of a value.
        max_size: The largest message in bytes.
    """

    __slots__ = (
        "_begin",
        "_can_write",
        "_end",
        "_format",
        "_head",
        "_max_size",
        "_tail",
        "_write",
        "event_name",
        "origin",
    )

    def __init__(
        self,
        event_name: str,
        origin: str,
        *,
        can_write: Callable[[Any], bool],
        write: Callable[[Any], bytes],
        max_size: int,
    ) -> None:
        self.event_name = event_name
        self.origin = origin
        self._can_write = can_write
        self._write = write
        self._max_size = max_size
        name = write(event_name)
        self._head = b'{"event_name":%b,"event_type":%b,"event_data":' % (name, name)
        self._tail = b',"origin":%b' % write(origin) if origin else b""
        self._format = b""
        self._begin = self._end = 0  # the second that the format is for

    def render(
        self, event: object, handle_id: str, seq: int | None, headers: Mapping[str, str]
    ) -> bytes | None:
        """Return a message with the present time; None if the codec has to encode it."""
        if seq is None:
            number = b""
        elif type(seq) is int:
            number = b',"seq":%d' % seq
            if len(number) >= _LONG_NUMBER_BYTES:
                return None
        else:
            return None
        try:
            if not self._can_write(event):
                return None
            body = self._write(event)
            if headers:
                if any(type(each) is not str for pair in headers.items() for each in pair):
                    return None
                number += b',"headers":' + self._write(headers)
        except Exception:  # noqa: BLE001 - the codec raises it again, with the reason
            return None
        if not self._begin <= time() < self._end:
            self._begin_second(int(time()))
        data = self._format % (body, handle_id.encode(), number)
        return data if len(data) <= self._max_size else None

    def _begin_second(self, second: int) -> None:
        """Write the parts between the values for the messages of one second."""
        middle = b',"handle_id":"%b","timestamp":%d'
        after = middle % (b"%b", second) + self._tail.replace(b"%", b"%%")
        self._format = self._head.replace(b"%", b"%%") + b"%b" + after + b"%b}"
        self._begin, self._end = second, second + 1
