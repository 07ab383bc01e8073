"""The log of RabbitMQ's client, which is silent about the connections of a bus.

aio-pika and aiormq write two lines for each attempt to connect, and more for each loss. A program
that does not configure logging gets them on its standard error. The bus reports the same itself,
once, to its supervisor. `RabbitConnection` owns one `ClientSilence` for its thread, in which only
connections of this bus run.
"""

from __future__ import annotations

import logging
import threading

# Records pass the filters of the logger that makes them, and not those of its parents.
_LOGGERS = (
    "aio_pika.channel",
    "aio_pika.connection",
    "aio_pika.robust_channel",
    "aio_pika.robust_connection",
    "aio_pika.tools",
    "aiormq.channel",
    "aiormq.connection",
    "aiormq.tools",
)


class ClientSilence(logging.Filter):
    """Drops the client's records of one thread, unless the program has set its logger to DEBUG."""

    def __init__(self) -> None:
        super().__init__()
        self._thread: int | None = None

    def begin(self) -> None:
        """Drop the records of this thread from now on."""
        self._thread = threading.get_ident()
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)

    def end(self) -> None:
        """Drop nothing any more."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record passes."""
        is_ours = record.thread == self._thread
        return not is_ours or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
