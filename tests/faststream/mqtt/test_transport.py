"""The transport of MQTT: data are acknowledged at once, or a server holds back its next packets."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from goevent_faststream._mqtt.transport import (
    ACKNOWLEDGEMENT_SECONDS,
    QUICK_ACKNOWLEDGEMENT,
    MqttTransport,
)


class NotedSocket:
    """Notes the options that are set."""

    def __init__(self, *, is_closed: bool = False) -> None:
        self.options: list[tuple[int, int, int]] = []
        self.is_closed = is_closed

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self.is_closed:
            raise OSError("bad file descriptor")
        self.options.append((level, option, value))


class Inner:
    """A transport of the client that has data."""

    is_connected = True

    def __init__(self, noted: NotedSocket | None) -> None:
        self._writer = self
        self._noted = noted

    def get_extra_info(self, name: str) -> Any:
        return self._noted if name == "socket" else None

    async def read(self, count: int) -> bytes:
        return b"\x40\x02\x00\x01"

    async def write(self, data: bytes) -> None: ...


async def acknowledged(noted: NotedSocket | None, *steps: str) -> None:
    """Read and write, and wait until the data that were read are acknowledged."""
    transport = MqttTransport(Inner(noted))
    for step in steps:
        if step == "read":
            assert await transport.read(10) == b"\x40\x02\x00\x01"
        else:
            await transport.write(b"\x30\x00")
    for _ in range(100):
        # The clock of the loop moves at least by its resolution.
        await asyncio.sleep(ACKNOWLEDGEMENT_SECONDS)
        if transport._timer is None:
            return
    raise AssertionError("the timer has not run")


on_linux = pytest.mark.skipif(QUICK_ACKNOWLEDGEMENT is None, reason="only Linux has the option")


@on_linux
@pytest.mark.parametrize(
    ("steps", "count"),
    [
        (("read",), 1),
        (("read", "read", "read"), 1),
        (("read", "write"), 0),
        (("read", "write", "read"), 1),
    ],
)
def test_data_are_acknowledged_if_nothing_was_sent_since(
    steps: tuple[str, ...], count: int
) -> None:
    noted = NotedSocket()
    asyncio.run(acknowledged(noted, *steps))
    assert noted.options == [(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGEMENT, 1)] * count


@pytest.mark.parametrize("noted", [NotedSocket(is_closed=True), None], ids=["closed", "no socket"])
def test_a_read_does_not_fail_for_want_of_a_socket(noted: NotedSocket | None) -> None:
    asyncio.run(acknowledged(noted, "read", "read"))
