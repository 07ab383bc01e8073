"""The size of an event in Kafka, and the largest one that a topic takes.

A broker compares each batch of records with the `max.message.bytes` of its topic, and refuses the
whole batch. So the publisher compares each event before it sends it, and counts the bytes of a
topic that are under way where a client could otherwise put too many events into one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from goevent import DriverError, EncodeError

from .._adapter.contract import Outgoing
from .._adapter.properties import CORRELATION_ID

LIMIT_OF_TOPIC = "max.message.bytes"
BATCH_HEADER_BYTES = 61
# Attributes, time and offset of the first record in a batch; the latter two are relative.
_RECORD_FIELDS_BYTES = 3
_NULL_BYTES = 1
# Upper bounds: of a character, the two lengths of a header, and all but headers, key and body.
MAX_CHAR_BYTES = 4
MAX_LENGTHS_BYTES = 10
MAX_OTHER_BYTES = 300


class BatchRefusedError(DriverError):
    """The broker refuses a batch of records, and would take some of them in other batches.

    It has written none of them.
    """


class ProducerRefusedError(BatchRefusedError):
    """The broker does not accept the producer id, or the sequence numbers, of a batch."""


class BatchTooLargeError(BatchRefusedError):
    """The broker refuses a batch because of its size."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """The limits in the settings of a client.

    Attributes:
        max_request_bytes: The largest record that the client sends.
        max_batch_bytes: The largest batch of more than one record.
        compresses: The client compresses batches, so that only the broker knows their size.
    """

    max_request_bytes: int
    max_batch_bytes: int
    compresses: bool


@dataclass(slots=True, eq=False)
class PublishedTopic:
    """A topic that exists, and its limit.

    Attributes:
        topic: The name of the topic.
        max_bytes: The largest batch that the broker takes; None if it does not tell.
        asked_at: When the broker was asked, in seconds of the loop's clock.
        is_narrow: The client could put more events into one batch than the broker takes.
        pending: The bytes of the events under way, if one batch might get too many of them.
        pending_bytes: Their sum.
    """

    topic: str
    max_bytes: int | None = None
    asked_at: float | None = None
    is_narrow: bool = False
    _ample_bytes: int = 0
    pending: dict[Outgoing, int] = field(default_factory=dict[Outgoing, int])
    pending_bytes: int = 0

    def set_limit(self, max_bytes: int | None, limits: ClientLimits) -> None:
        """Set the limit that the broker has told."""
        self.max_bytes = max_bytes
        self.is_narrow = max_bytes is not None and max_bytes < limits.max_batch_bytes
        smallest = min(limits.max_request_bytes, max_bytes or limits.max_request_bytes)
        self._ample_bytes = 0 if self.is_narrow else smallest - MAX_OTHER_BYTES

    def has_room(self, outgoing: Outgoing) -> bool:
        """Return True if an event surely fits; counting its bytes exactly takes longer."""
        size = len(outgoing.body)
        if outgoing.key:
            size += MAX_CHAR_BYTES * len(outgoing.key)
        if headers := outgoing.headers:
            chars = sum(map(len, headers)) + sum(map(len, headers.values()))
            size += MAX_CHAR_BYTES * chars + MAX_LENGTHS_BYTES * len(headers)
        return size <= self._ample_bytes

    def add(self, outgoing: Outgoing, size: int) -> None:
        """Count an event that is under way."""
        self.pending[outgoing] = size
        self.pending_bytes += size

    def remove(self, outgoing: Outgoing) -> None:
        """Count an event no more."""
        self.pending_bytes -= self.pending.pop(outgoing, 0)

    def size_error(self, name: str, size: int, limits: ClientLimits) -> EncodeError | None:
        """Return the error of an event that is too large, or None.

        Args:
            name: The event name.
            size: The bytes of its batch.
        """
        limit = limits.max_request_bytes
        if self.max_bytes is not None and size > self.max_bytes and not limits.compresses:
            return EncodeError(
                name,
                f"{size} bytes with key and headers are above the {LIMIT_OF_TOPIC} of the topic "
                f"{self.topic!r}, which is {self.max_bytes}",
            )
        if size > limit:
            return EncodeError(
                name,
                f"{size} bytes with key and headers are above the limit of Kafka's client, which "
                f"is {limit}; the topic is {self.topic!r}",
            )
        return None


def parse_limit(text: object) -> int | None:
    """Return the limit in a broker's answer, or None if it is no usable number."""
    try:
        limit = int(str(text))
    except ValueError:
        return None
    return limit if limit > 0 else None


def event_bytes(outgoing: Outgoing) -> int:
    """Return the bytes of an event in a batch of its own, as the broker counts them.

    Raises:
        EncodeError: Its key or a header is no text that UTF-8 has.
    """
    try:
        key = outgoing.key
        size = _RECORD_FIELDS_BYTES + _field_bytes(len(outgoing.body))
        size += _NULL_BYTES if key is None else _field_bytes(len(key.encode()))
        headers = outgoing.headers
        count = len(headers)
        for name, text in headers.items():
            size += _field_bytes(len(name.encode())) + _field_bytes(len(text.encode()))
        if CORRELATION_ID not in headers:
            count += 1
            size += _field_bytes(len(CORRELATION_ID)) + _field_bytes(len(outgoing.id.encode()))
    except UnicodeEncodeError as error:
        raise not_utf8(outgoing.name, error) from error
    return BATCH_HEADER_BYTES + _field_bytes(size + _varint_bytes(count))


def not_utf8(name: str, error: UnicodeEncodeError) -> EncodeError:
    """Return the error of an event whose key or header is no text that UTF-8 has."""
    return EncodeError(name, f"its key or a header cannot be written as UTF-8: {error.reason}")


def _field_bytes(length: int) -> int:
    """Return the bytes of a field and of its length."""
    return length + 1 if length < 64 else length + _varint_bytes(length)


def _varint_bytes(number: int) -> int:
    """Return the bytes of a number above -1 as a signed varint, which has seven bits per byte."""
    return max(1, ((2 * number).bit_length() + 6) // 7)
