"""Keeps a connection alive, and notices a server that answers no ping.

It takes the place of the client's own pings. Those end the connection if an answer is late, and no
answer can be seen while the bus is full and reads nothing. The server must hear from the client all
the same, or it ends the connection after one and a half times the keep-alive. So this module goes
on sending pings meanwhile, and begins to count again when the transport reads again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import zmqtt
from zmqtt._internal.packets.ping import PingReq

from goevent import DriverError
from goevent.drivers import ReadWatchdog

from .transport import MqttTransport

KEEPALIVE_SECONDS = 4  # between two pings, unless the broker object or the server says otherwise
PING_REPLY_SECONDS = 10.0


async def keep_alive(protocol: Any, transport: MqttTransport, interval: float) -> DriverError:
    """Send pings; return the reason once the server is silent, or when the connection ends.

    Args:
        interval: The seconds between two pings, by the agreement with the server; 0 for none. The
            pings are sent then, too, since nothing else shows that a server is gone.
    """
    loop = asyncio.get_running_loop()
    interval = interval or KEEPALIVE_SECONDS
    watchdog = ReadWatchdog(
        "the server, which answers no ping,", limit_seconds=interval + PING_REPLY_SECONDS
    )
    next_ping = loop.time() + interval
    while True:
        now = loop.time()
        watchdog.read(now if transport.is_paused else transport.last_heard)
        if (silence := watchdog.silence(now)) is not None:
            return silence
        if now >= next_ping:
            next_ping = now + interval
            # A server that reads nothing must not hold up the watch.
            with suppress(TimeoutError, zmqtt.MQTTError):
                async with asyncio.timeout(watchdog.seconds_left(now)):
                    await protocol.send_packet(PingReq())
        now = loop.time()
        await asyncio.sleep(max(0.0, min(next_ping - now, watchdog.seconds_left(now))))
