"""A patch of aiokafka: it reads commits whose metadata are not UTF-8.

Kafka keeps the metadata of a commit as any client has written them. aiokafka raises on those that
are not UTF-8, closes the connection and asks again, for ever: a single commit would keep a group
from its partition. With the patch such bytes are decoded with replacement characters.

`tolerate_invalid_metadata` patches the answers of aiokafka for the whole process. Anything that
aiokafka decodes without the patch, it decodes to the same value with it.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from aiokafka.protocol.commit import (  # type: ignore[import-untyped]
    OffsetFetchResponse_v0,
    OffsetFetchResponse_v1,
    OffsetFetchResponse_v2,
    OffsetFetchResponse_v3,
)
from aiokafka.protocol.types import Array, Int16, Schema, String  # type: ignore[import-untyped]

METADATA = "metadata"


class TolerantString(String):  # type: ignore[misc]
    """A text, in which invalid bytes are decoded as replacement characters."""

    def decode(self, data: BytesIO) -> str | None:
        """Return the next text of an answer."""
        length = Int16.decode(data)
        if length < 0:
            return None
        value = data.read(length)
        if len(value) != length:
            raise ValueError("Buffer underrun decoding string")
        return value.decode(self.encoding, errors="replace")


def tolerate_invalid_metadata() -> None:
    """Replace the type of the metadata in the answers that tell commits."""
    for response in (
        OffsetFetchResponse_v0,
        OffsetFetchResponse_v1,
        OffsetFetchResponse_v2,
        OffsetFetchResponse_v3,
    ):
        _replace_type(response.SCHEMA)


def _replace_type(schema: Any) -> None:
    schema.fields = tuple(
        TolerantString() if name == METADATA else field
        for name, field in zip(schema.names, schema.fields, strict=True)
    )
    for field in schema.fields:
        if isinstance(field, Array) and isinstance(field.array_of, Schema):
            _replace_type(field.array_of)
