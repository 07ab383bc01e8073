"""A patch of aiokafka: it reads records with a header whose name is not UTF-8.

Any producer may write such a name. aiokafka raises on it, and the consumer asks for the same record
again, for ever: a single record would keep a group from the rest of its partition. With the patch
the name is decoded with replacement characters.

Theory of operation. `FetchedRecords` keeps the bytes of an answer, and counts the batches that were
taken from it. If aiokafka cannot read one of the records, `TolerantPartitionRecords` reads the
answer a second time, from the batch with that record on, with batches that decode tolerantly. They
use the reader in Python that aiokafka has beside its own in C. Earlier batches are not looked at
again: aiokafka would take its position back to them, and has forgotten which producers had aborted
their transactions there.

`tolerate_invalid_header_names` patches the consumers of aiokafka for the whole process. Anything
that aiokafka reads without the patch, it reads in the same way with it.
"""

# The readers in Python are private parts of aiokafka.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

from aiokafka.consumer import fetcher  # type: ignore[import-untyped]
from aiokafka.errors import CorruptRecordException  # type: ignore[import-untyped]
from aiokafka.record.default_records import (  # type: ignore[import-untyped]
    _DefaultRecordBatchPy,
)
from aiokafka.record.memory_records import (  # type: ignore[import-untyped]
    MemoryRecords,
    _MemoryRecordsPy,
)
from aiokafka.record.util import decode_varint_py  # type: ignore[import-untyped]

FIRST_MAGIC_WITH_HEADERS = 2


class TolerantBytes(bytearray):
    """Bytes, in which invalid texts are decoded as replacement characters."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TolerantBytes(memoryview(self)[index])
        return super().__getitem__(cast("int", index))

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A batch of records, in which the names of headers need not be UTF-8."""

    _buffer: Any

    def _read_msg(self, decode_varint: object = None) -> Any:
        if not isinstance(self._buffer, TolerantBytes):
            self._buffer = TolerantBytes(self._buffer)
        # The reader of numbers in C takes no subclass of `bytearray`.
        return super()._read_msg(decode_varint_py)


class TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """The records of one partition in an answer, in tolerant batches.

    Args:
        data: The bytes of the answer.
        skipped: The number of batches at its beginning to leave out.
    """

    def __init__(self, data: bytes, skipped: int) -> None:
        super().__init__(data)
        for _ in range(skipped):
            self._cache_next()

    def next_batch(self, *args: Any, **options: Any) -> Any:
        found: Any = self._next_slice
        if len(found) <= self.MAGIC_OFFSET or found[self.MAGIC_OFFSET] < FIRST_MAGIC_WITH_HEADERS:
            return super().next_batch(*args, **options)
        self._cache_next()
        return TolerantBatch(found)


class FetchedRecords:
    """The records of one partition in an answer, with the bytes that they are read from.

    Attributes:
        data: The bytes.
        taken: The number of batches that were taken, or were about to be.
    """

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data
        self.taken: int = 0
        records: Any = MemoryRecords(data)
        self.size_in_bytes: Any = records.size_in_bytes
        self.has_next: Any = records.has_next
        self._next_batch: Any = records.next_batch

    def next_batch(self) -> Any:
        """Return the next batch."""
        # Before: the batch itself may be the one that cannot be read.
        self.taken += 1
        return self._next_batch()


class TolerantPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records that a consumer takes one by one."""

    _records: Any

    def _unpack_records(self) -> Generator[Any]:
        try:
            yield from super()._unpack_records()
        except (CorruptRecordException, UnicodeDecodeError):
            # aiokafka leaves out the records of this batch that were taken before, by offset. The
            # second reader raises the same exception if the record is broken in another way.
            self._records = TolerantRecords(self._records.data, self._records.taken - 1)
            yield from super()._unpack_records()


def tolerate_invalid_header_names() -> None:
    """Replace the readers of the consumers."""
    fetcher.MemoryRecords = FetchedRecords
    fetcher.PartitionRecords = TolerantPartitionRecords
