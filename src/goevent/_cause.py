"""The cause of an event: the ids that an event gets when a listener dispatches it.

A handle keeps the cause of its event, and the headers of the event take it to other buses. It has
ids only. A reference to the causing event would keep an endless chain of events in memory.
"""

from __future__ import annotations

from typing import TypeGuard

import msgspec

CORRELATION_ID_HEADER = "correlation_id"
CAUSATION_ID_HEADER = "causation_id"
MAX_ID_BYTES = 255
"""The longest id that is taken from another bus: AMQP carries no longer one as a property."""


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The ids that all events have in common that one event has caused.

    Attributes:
        correlation_id: The id of the first event of the chain.
        causation_id: The id of the event that was being handled.
    """

    correlation_id: str
    causation_id: str

    @property
    def headers(self) -> dict[str, str]:
        """The ids as headers, in a new dictionary."""
        return {
            CORRELATION_ID_HEADER: self.correlation_id,
            CAUSATION_ID_HEADER: self.causation_id,
        }


def is_id(value: object) -> TypeGuard[str]:
    """Tell whether a value from a header may be shown, and sent on, as an id."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID_BYTES
        and value.isprintable()
        and (value.isascii() or len(value.encode()) <= MAX_ID_BYTES)
    )
