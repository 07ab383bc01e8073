"""The link to MQTT: the connection of FastStream's broker, its losses, and how it comes back.

It runs on the loop side. The client of zmqtt could reconnect by itself, but tells nobody when. So
each connection is one client: when it ends, the broker is stopped and started, with its own
subscribers, and whoever has subscriptions here puts them up again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import zmqtt
from faststream.mqtt import MQTTBroker

from goevent import DriverConnectionError, DriverError

from .._adapter.connectivity import Connectivity
from .._adapter.contract import AdapterHost
from .subscription import received

DIAL = 5.0  # seconds until a connection has to be there
ANSWER = 8.0  # seconds until a server that does not answer counts as lost
KEEPALIVE = 4  # seconds between two PINGREQs; a black hole is noticed ten seconds later
PAUSES = (0.05, 0.25, 1.0)  # seconds between dials; the last one again and again
STOP = 0.6  # seconds for an orderly end
LOST = "MQTT: the connection was lost before the server replied"
CLIENT = (zmqtt.MQTTError, OSError, RuntimeError)  # all that zmqtt raises
OPTIONS = {"client_id": str, "keepalive": int, "version": str}
REFUSALS = {
    0x84: "it does not speak this version of MQTT",
    0x85: "it does not take the client id",
    0x86: "the login was refused",
    0x87: "the login was refused",
    4: "the login was refused",
    5: "the login was refused",
}


def make_broker(url: str) -> MQTTBroker:
    """Return FastStream's broker for an `mqtt://` or `mqtts://` URL.

    Raises:
        ValueError: the URL makes no sense.
    """
    plain, _, _ = url.partition("?")
    options: dict[str, Any] = {"keepalive": KEEPALIVE}
    try:
        for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            options[name] = OPTIONS[name](value)
        if options.get("version", "5.0") not in ("5.0", "3.1.1"):
            raise ValueError
        return MQTTBroker(plain, logger=None, apply_types=False, **options)
    except (KeyError, ValueError):
        # Neither it nor its cause may show the password.
        raise ValueError(
            "MQTT: the URL has to be mqtt://user:password@host:port, with no options but "
            f"goevent's and {', '.join(OPTIONS)}"
        ) from None


def mqtt_broker(broker: object) -> MQTTBroker:
    """Return the broker that was given, if it is one of MQTT.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(broker, MQTTBroker):
        raise TypeError(f"this is no MQTTBroker: {broker!r}")
    return broker


class MqttLink:
    """The connection of one broker object.

    Attributes:
        set_up: puts subscriptions up, on each new connection.
        on_lost: called when the connection is lost.
        is_modern: True for MQTT 5.
        room: for how many messages more the server has room, on this connection.
    """

    def __init__(
        self, broker: MQTTBroker, patience: float, *, prefetch: int, remembered: float
    ) -> None:
        self.broker = broker
        self.set_up: Callable[[], Awaitable[None]] = _nothing
        self.on_lost: Callable[[], object] = _ignore
        options: dict[str, Any] = self._options
        self.is_modern = options["version"] == "5.0"
        self._draws_id = not options["client_id"]
        options["reconnect"] = zmqtt.ReconnectConfig(enabled=False)
        if self.is_modern:
            options["receive_maximum"] = options["receive_maximum"] or min(prefetch, 65_535)
            if remembered and options["clean_session"]:
                # The server keeps what comes while the connection is lost, for so long.
                options["clean_session"] = False
                options["session_expiry_interval"] = max(1, int(remembered))
        self._connectivity = Connectivity("MQTT", patience)
        self._tasks: set[asyncio.Task[None]] = set()
        self.room = asyncio.Semaphore()

    @property
    def _options(self) -> dict[str, Any]:
        broker: Any = self.broker
        options: dict[str, Any] = broker._connection_kwargs
        return options

    @property
    def client(self) -> Any:
        """The client of this connection.

        Raises:
            DriverConnectionError: the bus is not open.
        """
        broker: Any = self.broker
        if broker._connection is None:
            raise DriverConnectionError("MQTT: there is no connection")
        return broker._connection

    @property
    def host(self) -> AdapterHost:
        """Where the driver is."""
        return self._connectivity.host

    @property
    def is_up(self) -> bool:
        """True while there is a connection."""
        return self._connectivity.is_up

    async def open(self, host: AdapterHost) -> None:
        """Connect, and start the broker.

        Raises:
            DriverConnectionError: there is no server, or it does not let us in.
        """
        self._connectivity.open(host)
        if self._draws_id:
            self._options["client_id"] = f"goevent{uuid.uuid4().hex[:16]}"
        try:
            await self._connect()
        except TimeoutError as error:
            raise DriverConnectionError(f"MQTT: no server answers within {DIAL:g} s") from error
        except CLIENT as error:
            raise to_driver_error(error) from error

    async def _connect(self) -> None:
        async with asyncio.timeout(DIAL):
            await self.broker.start()
        client = self.client
        # The window is a wish: Mosquitto 2.0.11 counts an acknowledgement twice, and so sends more
        # than that, and the client would cut the connection for it.
        inbound = client._protocol.inbound
        inbound._receive_maximum = None
        inbound._make_message = received
        properties = client.connection_info.properties
        most = getattr(properties, "receive_maximum", None) or 65_535
        self.room = asyncio.Semaphore(most)
        async with asyncio.timeout(ANSWER):
            await self.set_up()
        self._connectivity.mark_up()
        client._run_task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        for task in [*self._tasks]:
            task.cancel()
        self._connectivity.mark_down()
        await self._stop()

    async def _stop(self) -> None:
        broker: Any = self.broker
        client = broker._connection
        try:
            async with asyncio.timeout(STOP):
                await broker.stop()
        except (TimeoutError, *CLIENT):
            pass  # what there was to say was said before; the server sees the connection end
        finally:
            if client is not None:
                with suppress(TimeoutError, *CLIENT):
                    async with asyncio.timeout(STOP):
                        await client.disconnect()
            broker._connection = None
            broker.config.disconnect()

    async def ready(self) -> None:
        """Wait for the connection, for as long as is allowed from when it was lost.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        await self._connectivity.wait_until_up()

    async def take_room(self, most: int) -> tuple[asyncio.Semaphore, int]:
        """Return how many messages may be published now, and what each is to release once.

        The server says how many it takes without an answer, and may cut who sends more.

        Raises:
            DriverConnectionError: there was no connection in time.
        """
        while True:
            await self.ready()
            room, taken = self.room, 1
            await room.acquire()
            if room is self.room and self.is_up:
                break  # or it is the room of a connection that was lost meanwhile
        while taken < most and not room.locked():
            await room.acquire()
            taken += 1
        return room, taken

    def do(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine that ends with the bus."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what the client tells

    def _ended(self, run: asyncio.Task[None]) -> None:
        if not run.cancelled():
            run.exception()  # it is what the loss is reported for
        if self._connectivity.mark_down():
            self.on_lost()
            self.do(self._come_back())

    async def _come_back(self) -> None:
        tries, told = 0, ""
        while True:
            await self._stop()
            try:
                await self._connect()
                break
            except (TimeoutError, DriverError, *CLIENT) as error:
                # That nobody answers goes without saying.
                if isinstance(error, zmqtt.MQTTConnectError) and told != str(error):
                    told = str(error)
                    self.host.report(to_driver_error(error))
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1


def to_driver_error(error: Exception) -> DriverError:
    """Return the error of the contract for one of the client; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    if isinstance(error, zmqtt.MQTTConnectError):
        why = REFUSALS.get(error.return_code, f"return code {error.return_code}")
        mapped: DriverError = DriverConnectionError(f"MQTT: the server does not let us in: {why}")
    elif isinstance(error, TimeoutError):
        mapped = DriverConnectionError(f"MQTT: no answer within {ANSWER:g} s")
    elif isinstance(error, zmqtt.MQTTDisconnectedError):
        mapped = DriverConnectionError(LOST)
    else:
        text = str(error) or type(error).__name__
        kinds = (zmqtt.MQTTTimeoutError, OSError)
        kind = DriverConnectionError if isinstance(error, kinds) else DriverError
        mapped = kind(f"MQTT: {text}")
    mapped.__cause__ = error
    return mapped


async def _nothing() -> None:
    """Put nothing up."""


def _ignore() -> None:
    """Take no note of a loss."""
